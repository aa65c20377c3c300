"""The figure of a regression, as a PNG file."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common.colours import BLUE, ORANGE


def regression(
    path: Path,
    results: dict[str, Any],
    line: np.ndarray,
    curves: dict[str, np.ndarray],
    inputs: np.ndarray,
    targets: np.ndarray,
) -> Path:
    """The curve of three predictors, that of the mean with a band of two standard deviations.

    Args:
        path: of the PNG file.
        results: of the run.
        line: inputs, [n].
        curves: "ste", "mode", "mean" and "std" [n], "samples" [sample, n].
        inputs, targets: of training.
    """
    titles = {
        "ste": "Straight-through training",
        "mode": "BayesBiNN, mode",
        "mean": f"BayesBiNN, mean of {len(curves['samples'])} networks",
    }
    figure = Figure(figsize=(12, 3.7), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        if name == "mean":
            low, high = curves["mean"] - 2 * curves["std"], curves["mean"] + 2 * curves["std"]
            axes.fill_between(line, low, high, color=BLUE, alpha=0.22, linewidth=0, label="+- 2 standard deviations")
            axes.plot(line, curves["samples"].T, color=BLUE, linewidth=0.5, alpha=0.5)
        axes.scatter(inputs, targets, s=7, color="#555753", linewidths=0, label="training pairs")
        axes.plot(line, curves[name], color=ORANGE if name == "ste" else BLUE, linewidth=2.2)
        axes.set_title(title, fontsize=12, fontweight="bold", pad=20)
        caption = f"test error {results[f'test_rmse_{name}']:.2f} (root mean square)"
        axes.text(0.5, 1.03, caption, transform=axes.transAxes, ha="center", fontsize=9)
        axes.set(xlabel="input (standardised)", xlim=(line.min(), line.max()), ylim=(-3.5, 3.5))
        axes.tick_params(length=2, labelsize=8)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("target (standardised)")
    panels[2].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    return path
