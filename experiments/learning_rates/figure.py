"""The figure of a grid, as a PNG file: accuracy over rate and momentum, and NLL over the effective rate."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.common.colours import RED
from experiments.learning_rates.presets import CLAIMED, Config
from experiments.learning_rates.rules import RULES

SHOWN = 0.1  # of accuracy: what is further below the best has the darkest colour


def draw(path: Path, results: dict[str, Any], config: Config) -> None:
    """Two panels for each method, side by side.

    Args:
        path: of the PNG file.
        results: of the run.
        config: has the axes of the grid.
    """
    count = len(config.methods)
    height = max(2.6, 0.36 * len(config.rates) + 0.9)
    size = (4.2 + max(3.5, 0.68 * len(config.momenta)), 0.8 + count * height)
    panels = Figure(figsize=size, layout="constrained")
    axes = panels.subplots(count, 2, squeeze=False, width_ratios=(size[0] - 4.2, 3.6))
    for (left, right), name in zip(axes, config.methods, strict=True):
        rows = [row for row in results["rows"] if row["method"] == name]
        of = "_mean" if any(row["accuracy_mean"] is not None for row in rows) else ""
        drawn = f", mean of {config.eval_samples} networks" if of else ""
        _heat_map(left, [row[f"accuracy{of}"] for row in rows], config)
        left.set_title(f"{RULES[name].label}{drawn}: accuracy in %", fontsize=10, fontweight="bold")
        _over_effective_rate(right, rows, f"nll{of}")
    of_seeds = f"mean of {config.seeds} seeds" if config.seeds > 1 else "one seed"
    panels.suptitle(
        f"{config.dataset}, {config.epochs} epochs, images held back, {of_seeds}\n"
        "black frame: the best pair; red: the claimed pair; x: diverged; bright: high momentum",
        fontsize=10,
    )
    panels.savefig(path, dpi=110)


def _heat_map(axes: Axes, accuracies: list[float | None], config: Config) -> None:
    shape = len(config.rates), len(config.momenta)
    values = np.array(accuracies, np.float64).reshape(shape)  # of None it makes NaN
    finite = np.isfinite(values)
    best = np.nanmax(values) if finite.any() else 1.0
    axes.set_facecolor("#d9d9d9")
    axes.imshow(values, cmap="viridis", vmin=best - SHOWN, vmax=best, aspect="auto", origin="lower")
    for (y, x), value in np.ndenumerate(values):
        dark = finite[y, x] and value < best - SHOWN / 2
        text = f"{100 * value:.1f}" if finite[y, x] else "x"
        axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
    marks: list[tuple[Any, str, float]] = []
    if finite.any():
        marks.append((np.unravel_index(np.nanargmax(values), shape), "black", 0.0))
    if CLAIMED[0] in config.rates and CLAIMED[1] in config.momenta:
        marks.append(((config.rates.index(CLAIMED[0]), config.momenta.index(CLAIMED[1])), RED, 0.07))
    for (y, x), colour, inset in marks:
        side = 1 - 2 * inset
        corner = x - 0.5 + inset, y - 0.5 + inset
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=2.6))
    axes.set_xticks(range(shape[1]), [f"{x:g}" for x in config.momenta], fontsize=7.5)
    axes.set_yticks(range(shape[0]), [f"{x:g}" for x in config.rates], fontsize=7.5)
    axes.set_xlabel("momentum", fontsize=9)
    axes.set_ylabel("rate", fontsize=9)


def _over_effective_rate(axes: Axes, rows: list[dict[str, Any]], field: str) -> None:
    finite = [row for row in rows if row[field] is not None]
    if not finite:
        axes.text(0.5, 0.5, "all cells diverged", transform=axes.transAxes, ha="center", fontsize=9)
        axes.set_axis_off()
        return
    x, y, momentum = ([row[name] for row in finite] for name in ("effective_rate", field, "momentum"))
    axes.scatter(x, y, c=momentum, cmap="plasma", vmin=0, vmax=1, s=26, edgecolors="black", linewidths=0.4)
    claimed = [row for row in finite if (row["rate"], row["momentum"]) == CLAIMED]
    for row in claimed:
        axes.scatter(row["effective_rate"], row[field], s=150, facecolors="none", edgecolors=RED, linewidths=2.2)
    axes.set(xscale="log", yscale="log")
    of_rule = all(row["effective_rate"] == row["rate"] for row in rows) and rows[0]["method"] == "bayesbinn"
    axes.set_xlabel("rate" if of_rule else "rate / (1 - momentum)", fontsize=9)
    axes.set_ylabel("NLL (nats)", fontsize=9)
    axes.tick_params(labelsize=8)
    low, high = min(y), max(y)
    ticks = [tick for tick in (0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100) if low / 1.2 <= tick <= 1.2 * high]
    if len(ticks) < 2:
        ticks = sorted({low, high})
    axes.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
