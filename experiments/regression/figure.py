"""The figure of a regression, as a PNG file."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common import full_batch
from experiments.common.methods import STE, BayesBiNN
from experiments.regression.data import Data


def draw(path: Path, results: dict[str, Any], data: Data, curves: dict[str, np.ndarray]) -> None:
    """The curve of three predictors, that of the mean with a band of two standard deviations.

    Args:
        path: of the PNG file.
        results: of the run.
        data: standardised.
        curves: on the line: "ste", "mode", "mean" and "std" [n], "samples" [sample, n] (ten are drawn).
    """
    line = data.line
    figure = Figure(figsize=(12, 3.7), layout="constrained")
    panels = full_batch.panels(
        figure, results, lambda name: f"test error {results[f'test_rmse_{name}']:.2f} (root mean square)"
    )
    for name, axes in panels.items():
        if name == "mean":
            low, high = curves["mean"] - 2 * curves["std"], curves["mean"] + 2 * curves["std"]
            axes.fill_between(
                line, low, high, color=BayesBiNN.color, alpha=0.22, linewidth=0, label="+- 2 standard deviations"
            )
            axes.plot(line, curves["samples"][:10].T, color=BayesBiNN.color, linewidth=0.5, alpha=0.5)
        axes.scatter(data.inputs, data.targets, s=7, color="#555753", linewidths=0, label="training pairs")
        axes.plot(line, curves[name], color=STE.color if name == "ste" else BayesBiNN.color, linewidth=2.2)
        axes.set(xlabel="input (standardised)", xlim=(line.min(), line.max()), ylim=(-3.5, 3.5))
        axes.grid(alpha=0.25)
    panels["ste"].set_ylabel("target (standardised)")
    panels["mean"].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
