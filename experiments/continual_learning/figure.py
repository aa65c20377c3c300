"""Figures of continual learning, as PNG files."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.common.colours import BLUE
from experiments.continual_learning.presets import METHODS
from experiments.continual_learning.stored import BATCHES

_RULES = {
    "mutual_information": "least mutual information",
    "entropy": "least entropy of the mean",
    "mode_entropy": "least entropy of the mode",
}
MOST_TASKS = 10  # with curves and histograms of their own


def accuracy_of_tasks(path: Path, results: dict[str, Any], beside: dict[str, Any] | None) -> Path:
    """The accuracy on each task while the tasks are learned, one after the other.

    Args:
        path: of the PNG file.
        results: of the run.
        beside: of another run, for a second panel, or None.
    """
    shown = [results] if beside is None else [results, beside]
    figure = Figure(figsize=(7.2 * len(shown), 4.2), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, run in zip(panels, shown, strict=True):
        _curves(axes, run)
        predictor = "mode" if run["curve_samples"] is None else f"mean of {run['curve_samples']} networks"
        axes.set_ylabel(f"{run['tested_on']} accuracy (%) of the {predictor}")
        axes.legend(frameon=False, fontsize=8, loc="lower left", ncols=2)
    figure.savefig(path, dpi=110)
    return path


def describe(results: dict[str, Any]) -> str:
    """A run in a few words."""
    priors = {None: "", "previous": ", yesterday is the prior", "none": ", no prior"}
    told = ", told the task" if results["needs_task_identity"] else ""
    return f"{METHODS[results['method']].label}{priors[results['prior']]}{told}"


def weight_probabilities(path: Path, results: dict[str, Any]) -> Path:
    """How decided the weights are after each task: histograms of P(w = +1).

    Args:
        path: of the PNG file.
        results: of the run, with a histogram for each task.
    """
    histograms = np.asarray(results["weight_probability_histograms"])
    tasks = _chosen(len(histograms))
    edges = np.linspace(0, 1, histograms.shape[1] + 1)
    figure = Figure(figsize=(max(2.3 * len(tasks), 6), 3.2), layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        axes.stairs(100 * histograms[task], edges, fill=True, color=BLUE)
        certain = results["certain_share"][task]
        axes.set(title=f"after task {task + 1}\n{certain:.0%} certain", xlabel="P(weight = +1)", xticks=(0, 0.5, 1))
        axes.title.set_fontsize(10)
        axes.set_yscale("log")
        axes.set_yticks([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100])
        axes.set_ylim(max(50 * histograms[histograms > 0].min(), 0.1), 100)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    panels[0].set_ylabel("share of weights (%)")
    figure.savefig(path, dpi=110)
    return path


def stored_posteriors(path: Path, results: dict[str, Any], beside: dict[str, Any] | None) -> Path:
    """Which stored posterior answers for which task, how that depends on the batch, and what comes of it.

    Args:
        path: of the PNG file.
        results: of the run.
        beside: of another run, for its accuracy after each task, or None.
    """
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    of_shares, of_sizes, of_tasks = figure.subplots(1, 3)
    shares = 100 * np.asarray(results["chosen_mutual_information_after_task"][-1][0])
    image = of_shares.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (task, posterior), share in np.ndenumerate(shares) if len(shares) <= MOST_TASKS else ():
        color = "white" if share > 60 else "black"
        of_shares.text(posterior, task, f"{share:.0f}", ha="center", va="center", color=color, fontsize=9)
    ticks = _chosen(len(shares))
    of_shares.set(xticks=ticks, yticks=ticks, xticklabels=[t + 1 for t in ticks], yticklabels=[t + 1 for t in ticks])
    title = "single images, least mutual information:\nwhose posterior answers (%)"
    of_shares.set(xlabel="posterior stored after task", ylabel="task of the image", title=title)
    figure.colorbar(image, ax=of_shares, shrink=0.85)

    for (rule, label), color in zip(_RULES.items(), (BLUE, "#e69f00", "#009e73"), strict=True):
        rates = results[f"task_rate_{rule}_after_task"][-1]
        sizes = [size for size, rate in zip(BATCHES, rates, strict=True) if rate is not None]
        of_sizes.plot(sizes, [100 * x for x in rates if x is not None], "o-", color=color, label=label)
    of_sizes.axhline(100 / len(shares), color="black", linewidth=0.8, linestyle=":", label="chance")
    of_sizes.set(xscale="log", xlabel="images of one task in a batch", ylabel="batches given to their task (%)")
    of_sizes.set(ylim=(0, 103), xticks=BATCHES, xticklabels=BATCHES, title=f"after task {len(shares)}")

    curves = {"told the task": results["average_accuracy_after_task_mean"]}
    untold = results["untold_accuracy_mutual_information_after_task"]
    curves |= {f"not told, batches of {size}": [row[i] for row in untold] for i, size in enumerate(BATCHES)}
    colors = ["black", "#9ecae1", "#4292c6", "#08519c"]
    if beside is not None:
        name = "mode" if beside["test_accuracy_mean"] is None else "mean"
        curves[describe(beside)] = beside[f"average_accuracy_after_task_{name}"]
        colors.append("#d55e00")
    for (label, values), color in zip(curves.items(), colors, strict=True):
        if None not in values:
            style = "--" if label == "told the task" else "-"
            of_tasks.plot(
                range(1, len(values) + 1), [100 * x for x in values], style, marker=".", color=color, label=label
            )
    of_tasks.set(xlabel="tasks learned", ylabel=f"{results['tested_on']} accuracy, all so far (%)", ylim=(0, 103))
    of_tasks.set_title("accuracy on all tasks so far")
    of_tasks.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (of_sizes, of_tasks):
        axes.legend(frameon=False, fontsize=8, loc="center right" if axes is of_sizes else "lower left")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path


def _curves(axes: Axes, run: dict[str, Any]) -> None:
    num_tasks = len(run["curve_accuracy"][-1][-1])
    epochs = np.concatenate([(t + np.asarray(x)) * run["epochs"] for t, x in enumerate(run["curve_progress"])])
    rows = [row for of_task in run["curve_accuracy"] for row in of_task]
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, num_tasks))
    for task in _chosen(num_tasks):
        times = [i for i, row in enumerate(rows) if len(row) > task]
        values = [100 * rows[i][task] for i in times]
        axes.plot(epochs[times], values, color=colors[task], label=f"task {task + 1}", marker=".", linewidth=1.5)
    if num_tasks <= MOST_TASKS:
        for border in range(1, num_tasks):
            axes.axvline(border * run["epochs"], color="black", linewidth=0.6, linestyle=":")
    predictor = "mode" if run["test_accuracy_mean"] is None else "mean"
    average = f"{100 * run[f'test_accuracy_{predictor}']:.1f} % after task {num_tasks} ({predictor})"
    axes.set(xlabel="epoch", title=f"{describe(run)}: {average}", ylim=(0, 100))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _chosen(num_tasks: int) -> list[int]:
    """All tasks, or some of them."""
    return sorted({round(x) for x in np.linspace(0, num_tasks - 1, min(num_tasks, MOST_TASKS))})
