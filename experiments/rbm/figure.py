"""The figures of Boltzmann machines, as PNG files.

    python -m experiments.rbm.figure

draws that of the published planted machines into results/.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.colours import GREY
from experiments.common.tables import read
from experiments.rbm.images import SHOWN
from experiments.rbm.presets import LABELS
from experiments.rbm.published import OVERLAPS

Row = dict[str, Any]
POSTERIORS = ("bayesbinn", "message_passing", "clipped_mean", "bayes")


def planted(path: Path, rows: list[Row]) -> None:
    """Overlap against examples, a panel for each number of hidden units; below, how far posteriors can be trusted."""
    rows = sorted(rows, key=lambda row: float(row["alpha"]))
    hidden_units = sorted({row["hidden_units"] for row in rows})
    figure = Figure(figsize=(14, 9), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.05))[:, 0]
    panels = upper.subplots(1, len(hidden_units), sharey=True, squeeze=False)[0]
    for axes, p in zip(panels, hidden_units, strict=True):
        _overlaps(axes, [row for row in rows if row["hidden_units"] == p], p)
    panels[0].set_ylabel("overlap of the mode with the true weights")
    known = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    upper.legend(list(known.values()), list(known), loc="outside right upper", frameon=False)
    reliability, nishimori = lower.subplots(1, 2)
    last = hidden_units[min(1, len(hidden_units) - 1)]
    of_posteriors = [row for row in rows if row["method"] in POSTERIORS]
    _reliability(reliability, [row for row in of_posteriors if row["hidden_units"] == last], last)
    _nishimori(nishimori, of_posteriors)
    figure.savefig(path, dpi=100)


def _overlaps(axes: Axes, rows: list[Row], hidden_units: int) -> None:
    for method in dict.fromkeys(row["method"] for row in rows):
        label, color = LABELS[method]
        of_method = [row for row in rows if row["method"] == method]
        x, y, std = (np.array([row[name] for row in of_method]) for name in ("alpha", "overlap", "overlap_std"))
        style: Any = {"linestyle": "--", "linewidth": 2.5, "zorder": 1} if method == "bayes" else {"marker": "o"}
        axes.plot(x, y, color=color, label=label, markersize=4, **style)
        if method == "bayesbinn":
            axes.fill_between(x, y - std, y + std, color=color, alpha=0.15, lw=0)
    if hidden_units == 2:
        axes.plot(*zip(*OVERLAPS.items(), strict=True), "x", color="#c0282d", label="published", markersize=8, mew=2)
    plural = "s" * (hidden_units > 1)
    axes.set(title=f"{hidden_units} hidden unit{plural}", xlabel="examples for each visible unit", ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def _reliability(axes: Axes, rows: list[Row], hidden_units: int) -> None:
    """All points of a method together, in the bins of their rows."""
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linestyle=":", linewidth=1.5)
    for method in dict.fromkeys(row["method"] for row in rows):
        label, color = LABELS[method]
        confidence, right, weights = (
            np.array([row[name] for row in rows if row["method"] == method])
            for name in ("confidence", "right", "weights")
        )
        count = weights.sum(axis=0)
        filled = count >= 50
        x, y = ((values * weights).sum(axis=0)[filled] / count[filled] for values in (confidence, right))
        style = "--" if method == "bayes" else "o-"
        axes.plot(x, y, style, color=color, label=label, markersize=5)
    axes.set(
        title=f"Calibration of the weights, {hidden_units} hidden unit{'s' * (hidden_units > 1)}, all points together",
        xlabel="probability that the posterior gives to its sign of a weight",
        ylabel="share of signs that are right",
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _nishimori(axes: Axes, rows: list[Row]) -> None:
    """A dot for each machine."""
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.5)
    for method in POSTERIORS:
        of_method = [row for row in rows if row["method"] == method]
        if of_method:
            label, color = LABELS[method]
            machines = [machine for row in of_method for machine in row["machines"]]
            x, y = ([machine[name] for machine in machines] for name in ("mean_square", "mean_agreement"))
            axes.scatter(x, y, s=9, color=color, label=label, alpha=0.45, linewidths=0)
    axes.set(
        title="Nishimori identity, a dot for each machine: below the line is too sure",
        xlabel="mean of mu^2, what the posterior thinks that it knows",
        ylabel="mean of mu W*, what it knows",
        xlim=(-0.02, 1.02),
        ylim=(-0.1, 1.02),
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, markerscale=2)


def images(path: Path, rows: list[Row], side: int) -> None:
    """Filters, samples and reconstructions of the first seed, a part of the figure for each method."""
    rows = [row for row in rows if row["seed"] == rows[0]["seed"]]
    figure = Figure(figsize=(11.5, 4 * len(rows)), layout="constrained")
    for part, row in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        label = LABELS[row["method"]][0]
        error = f"{row['reconstruction_error']:.1%} of the pixels of a test image come back wrong"
        part.suptitle(f"{label}, P = {row['hidden_units']}, seed {row['seed']}: {error}", fontweight="bold")
        filters, samples, pairs = (np.array(row[name]) for name in SHOWN)
        noisy, restored = np.split(pairs, 2)
        kinds = {"filters (means)": filters, "samples": samples, "test, 10 % flipped": noisy, "restored": restored}
        for axes, (title, pictures) in zip(part.subplots(len(kinds)), kinds.items(), strict=True):
            gap = max(1, side // 10)
            tiles = np.pad(pictures.reshape(-1, side, side), ((0, 0), (0, 0), (0, gap)), constant_values=np.nan)
            axes.imshow(np.concatenate(tiles, axis=1), cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.set_ylabel(title, rotation=0, ha="right", va="center")
            for spine in axes.spines.values():
                spine.set_visible(False)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    RESULTS = Path(__file__).with_name("results")
    planted(
        RESULTS / "planted.png",
        [row for line in read(RESULTS / "planted.jsonl") for row in line["rows"] + line["bayes"]],
    )
