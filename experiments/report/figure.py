"""The learning curves of image runs, a panel for each data set."""

import textwrap
import warnings
from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.common import paper
from experiments.common.methods import METHODS
from experiments.common.paper import PAPER
from experiments.common.runs import whole

# In the order of the rows; no two look alike to the colour-blind.
COLORS = {name: METHODS[name].color for name in (*paper.METHODS, *METHODS) if name in METHODS}


def names(group: pd.DataFrame) -> tuple[str, str]:
    """The method of a row and what was changed of its preset; and its epochs, of those of a schedule cut short."""
    first = group.iloc[0]
    name = f"{first['method']} ({first['changes']})" if first["changes"] else first["method"]
    done, total = first["epochs"], first["total_epochs"]
    return name, str(done) if done == total else f"{done} of {total}"


def draw(path: Path, rows: list[pd.DataFrame], against: str = "epochs") -> str:
    """Draws learning curves as a PNG file, against epochs or minutes of training; returns a line that says where."""
    rows = [row for row in rows if any(row["errors"]) and (against == "epochs" or row["minutes"].notna().any())]
    datasets = list(dict.fromkeys(row.iloc[0]["dataset"] for row in rows))
    if not datasets:
        return "no figure: no metrics beside the results"
    figure = Figure(figsize=(7 * len(datasets), 6.5 + 0.15 * len(rows) / len(datasets)), layout="constrained")
    figure.suptitle(
        "Test error of the most probable network (the mode)\nline: mean over seeds, band: best to worst seed"
    )
    panels = figure.subplots(1, len(datasets), squeeze=False).flat
    for axes, dataset in zip(panels, datasets, strict=True):
        learning_curves(axes, dataset, [row for row in rows if row.iloc[0]["dataset"] == dataset], against)
    with whole(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for a sign that the font lacks
        figure.savefig(file, format="png", dpi=min(120, 60_000 / max(figure.get_size_inches())))
    return f"figure: {path}"


def learning_curves(axes: Axes, dataset: str, rows: list[pd.DataFrame], against: str) -> None:
    """One panel."""
    methods = [row.iloc[0]["method"] for row in rows]
    styles = {method: cycle(("-", "--", ":", "-.")) for method in methods}
    shown: list[float] = []
    lines, labels, lengths = [], [], []
    for row, method in zip(rows, methods, strict=True):
        curves = pd.DataFrame([errors for errors in row["errors"] if errors]).T.sort_index()  # [epoch, seed]
        if against == "minutes":  # every epoch takes as long
            curves.index = curves.index * (row["minutes"].mean() / row["epochs"].iloc[0])
        lengths.append(curves.index[-1])
        means, color = curves.mean(axis=1), COLORS.get(method, "#e69f00")
        seeds = "1 seed" if curves.shape[1] == 1 else f"{curves.shape[1]} seeds"
        name, length = names(row)
        labels.append(textwrap.fill(f"{name}, {length} epochs, {seeds}", 70, max_lines=8))
        lines += axes.plot(means.index, means, next(styles[method]), color=color, label=labels[-1])
        axes.plot(means.index[-1], means.iloc[-1], "o", color=color, markersize=5)
        axes.fill_between(means.index, curves.min(axis=1), curves.max(axis=1), color=color, alpha=0.2, lw=0)
        shown += [curves.min().min(), curves.max().max()]
    edge = axes.get_yaxis_transform()
    published = {method: 100 - PAPER[dataset, method][0] for method in styles if (dataset, method) in PAPER}
    for method, error in published.items():
        axes.plot([0.98, 1.03], [error, error], color=COLORS[method], transform=edge, clip_on=False, linewidth=2)
    if published:
        axes.text(1.04, sum(published.values()) / len(published), "paper,\n500 epochs", transform=edge, va="center")
    shown += published.values()

    if max(lengths) >= 5 * min(lengths):  # else the short curves are a stroke at the left
        axes.set_xscale("log")
        first, last = axes.get_xlim()
        axes.set_xticks([x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if first <= x <= last])
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(*((0.5, max(lengths) + 0.5) if against == "epochs" else (0, 1.02 * max(lengths))))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yscale("symlog", linthresh=1)  # a logarithm that has room for 0
    axes.set_yticks([0, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0.85 * min(shown), max(1.1 * max(shown), 1))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set(xlabel="epoch" if against == "epochs" else "minutes of training", ylabel="test error (%)")
    axes.set_title(dataset, parse_math=False)
    legend = axes.legend(lines, ["-"] * len(lines), loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)
    for text, label in zip(legend.get_texts(), labels, strict=True):  # as it is, be it "_" or "$" that it holds
        text.set(text=label, parse_math=False)
