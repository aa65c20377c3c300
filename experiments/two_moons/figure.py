"""The figure of two moons, as a PNG file."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from experiments.common import full_batch
from experiments.two_moons.data import Data, Plane


def draw(path: Path, results: dict[str, Any], plane: Plane, probabilities: dict[str, jax.Array], train: Data) -> None:
    """The probability of class 1 in the plane, as three predictors see it.

    Args:
        path: of the PNG file.
        results: of the run.
        plane: a dotted line is drawn around what is not far from the data.
        probabilities: of class 1, [y, x], for "ste", "mode" and "mean".
        train: the training points.
    """

    def caption(name: str) -> str:
        entropy = results[f"far_entropy_{name}"]
        far_away = "" if entropy is None else f", entropy far away {entropy:.2f} nats"
        return f"test accuracy {results[f'test_accuracy_{name}']:.1%}{far_away}"

    colors = LinearSegmentedColormap.from_list("class", ["#2f6fb5", "#a9c8e6", "white", "#f7c58e", "#e07b00"])
    figure = Figure(figsize=(12, 3.9), layout="compressed")
    panels = full_batch.panels(figure, results, caption)
    x, y = plane.x, plane.y
    for name, axes in panels.items():
        image = axes.pcolormesh(x, y, probabilities[name], cmap=colors, vmin=0, vmax=1, rasterized=True)
        axes.contour(x, y, probabilities[name], levels=[0.5], colors="black", linewidths=1.6)
        axes.contour(x, y, plane.far, levels=[0.5], colors="black", linewidths=0.7, linestyles=[(0, (1, 3))])
        for label, marker, color in ((0, "o", "#0b2a52"), (1, "^", "#5a2a00")):
            chosen = np.asarray(train.points)[np.asarray(train.labels) == label]
            axes.scatter(
                chosen[:, 0], chosen[:, 1], s=14, marker=marker, color=color, edgecolors="white", linewidths=0.4
            )
        axes.set(aspect="equal", xticks=range(-3, 5), yticks=range(-3, 4))
    bar = figure.colorbar(image, ax=list(panels.values()), pad=0.015, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.set_label("P(class 1)")
    figure.savefig(path, dpi=110)
