"""The figure of two moons, as a PNG file."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure


def two_moons(
    path: Path,
    results: dict[str, Any],
    x: np.ndarray,
    y: np.ndarray,
    probabilities: dict[str, jax.Array],
    far: jax.Array,
    points: jax.Array,
    labels: jax.Array,
) -> Path:
    """The probability of class 1 in the plane, as three predictors see it.

    Args:
        path: of the PNG file.
        results: of the run.
        x, y: the coordinates of the plane.
        probabilities: of class 1, [y, x], for "ste", "mode" and "mean".
        far: [y, x], where the plane counts as far from the data; a dotted line is drawn around the rest.
        points: of training, [n, 2].
        labels: of the points, 0 or 1.
    """
    titles = {
        "ste": "Straight-through training",
        "mode": "BayesBiNN, mode",
        "mean": f"BayesBiNN, mean of {results['eval_samples']} networks",
    }
    colors = LinearSegmentedColormap.from_list("class", ["#2f6fb5", "#a9c8e6", "white", "#f7c58e", "#e07b00"])
    figure = Figure(figsize=(12, 3.9), layout="compressed")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        image = axes.pcolormesh(x, y, probabilities[name], cmap=colors, vmin=0, vmax=1, rasterized=True)
        axes.contour(x, y, probabilities[name], levels=[0.5], colors="black", linewidths=1.6)
        axes.contour(x, y, far, levels=[0.5], colors="black", linewidths=0.7, linestyles=[(0, (1, 3))])
        for label, marker, color in ((0, "o", "#0b2a52"), (1, "^", "#5a2a00")):
            chosen = np.asarray(points)[np.asarray(labels) == label]
            axes.scatter(*chosen.T, s=14, marker=marker, color=color, edgecolors="white", linewidths=0.4)
        accuracy, entropy = results[f"test_accuracy_{name}"], results[f"far_entropy_{name}"]
        axes.set_title(title, fontsize=12, fontweight="bold", pad=20)
        caption = f"test accuracy {accuracy:.1%}" + (
            "" if entropy is None else f", entropy far away {entropy:.2f} nats"
        )
        axes.text(0.5, 1.03, caption, transform=axes.transAxes, ha="center", fontsize=9)
        axes.set(aspect="equal", xticks=range(-3, 5), yticks=range(-3, 4))
        axes.tick_params(length=2, labelsize=8)
    bar = figure.colorbar(image, ax=panels, pad=0.015, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.set_label("P(class 1)")
    figure.savefig(path, dpi=110)
    return path
