"""The figures of a comparison of uncertainties, as PNG files."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbinn_jax import metrics
from experiments.common.colours import BLUE, GREY, ORANGE, RED
from experiments.common.methods import STE, BayesBiNN
from experiments.uncertainty.corruptions import STRENGTHS
from experiments.uncertainty.predictors import Predictor

IMAGES = {
    "test": BLUE,
    "shuffled": ORANGE,
    "rotated": RED,
    "noisy": GREY,
    "CIFAR-10 in grey": "black",
    "MNIST in colour": "black",
}
UNITS = {"noise": "standard deviation", "blur": "standard deviation (pixels)", "contrast": "contrast that is left"}


def draw(path: Path, title: str, predictors: list[Predictor], labels: jax.Array) -> None:
    """Who is as sure as right, who is wrong last, and who doubts foreign images.

    Args:
        path: of the PNG file.
        title: of the figure.
        predictors: who answered; those without a look are not shown.
        labels: of the test images, [n].
    """
    shown = [predictor for predictor in predictors if predictor.look]
    ste, mean = (next(x for x in shown if x.look == (method.color, "-")) for method in (STE, BayesBiNN))
    figure = Figure(figsize=(12, 7.6), layout="constrained")
    figure.suptitle(f"{title}: what binary networks know of what they do not know", fontsize=14, fontweight="bold")
    panels = figure.subplot_mosaic("AAABBB;CCDDEE")
    _reliability(panels["A"], shown, labels)
    _coverage(panels["B"], shown, labels)
    _signal(panels["C"], ste, "entropy")
    _signal(panels["D"], mean, "entropy")
    _signal(panels["E"], mean, "mutual_information")
    panels["C"].set_ylabel("share of images (%)")
    panels["E"].legend(frameon=False)
    figure.savefig(path, dpi=110)


def draw_corrupted(path: Path, title: str, summaries: list[dict[str, Any]], looks: dict[str, Any]) -> None:
    """Who is still right, and likely, when test images get worse.

    Args:
        path: of the PNG file.
        title: of the figure.
        summaries: of predictors, with their mean scores and deviations.
        looks: colour and line by name; the others are not shown.
    """
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    figure.suptitle(f"{title}: test images that get worse", fontsize=14, fontweight="bold")
    panels = figure.subplots(2, len(STRENGTHS), sharex="col", sharey="row")
    for column, (kind, strengths) in enumerate(STRENGTHS.items()):
        for axes, (score, scale) in zip(panels[:, column], (("accuracy", 100), ("nll", 1)), strict=True):
            for summary in (x for x in summaries if x["name"] in looks):
                mean, std = (
                    [scale * x[score] for x in (scores, *scores["corrupted"][kind].values())] if scores else None
                    for scores in (summary["mean"], summary["std"])
                )
                color, line = looks[summary["name"]]
                style = {"color": color, "linestyle": line, "marker": ".", "capsize": 2, "label": summary["name"]}
                axes.errorbar(range(len(strengths) + 1), mean, std, **style)
            axes.grid(alpha=0.3)
        panels[0, column].set_title(kind)
        panels[1, column].set_xticks(range(len(strengths) + 1), ["none", *(f"{x:g}" for x in strengths.values())])
        panels[1, column].set_xlabel(UNITS[kind])
    panels[0, 0].set_ylabel("accuracy (%)")
    panels[1, 0].set_ylabel("NLL (nats)")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=110)


def _reliability(axes: Axes, shown: list[Predictor], labels: jax.Array) -> None:
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    for predictor in shown:
        color, line = predictor.look or ("", "")
        curve = metrics.reliability_curve(predictor.answers["test"].probabilities, labels, num_bins=10)
        filled = np.asarray(curve.num_examples) > 0
        confidence, accuracy = curve.confidence[filled], curve.accuracy[filled]
        axes.plot(confidence, accuracy, line, color=color, label=predictor.name, linewidth=1)
        axes.scatter(confidence, accuracy, s=6 + 200 * curve.num_examples[filled] / labels.size, color=color)
    axes.set_title("As sure as right? (above the line: too modest; area: share of images)")
    axes.set(xlabel="confidence", ylabel="accuracy")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _coverage(axes: Axes, shown: list[Predictor], labels: jax.Array) -> None:
    first_error = 1.0
    for predictor in shown:
        color, line = predictor.look or ("", "")
        test = predictor.answers["test"]
        risk = metrics.risk_coverage(test.entropy, test.probabilities.argmax(axis=-1) == labels)
        axes.plot(100 * risk.coverage, 100 * risk.risk, line, color=color, label=predictor.name)
        first_error = min(first_error, float(np.min(risk.coverage, where=risk.risk > 0, initial=1)))
    axes.set(xlabel="answered, the surest first (%)", ylabel="of them wrong (%)", title="Wrong last?")
    axes.set(xlim=(max(0, 100 * first_error - 5), 100), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _signal(axes: Axes, predictor: Predictor, signal: str) -> None:
    """How often a signal of uncertainty has which value, for test images and foreign ones."""
    answers = {"test": predictor.answers["test"], **predictor.answers["foreign"]}
    shown = {kind: np.asarray(getattr(answers[kind], signal)) for kind in IMAGES if kind in answers}
    bins = np.linspace(0, max(values.max() for values in shown.values()), 25).tolist()
    for kind, values in shown.items():
        shares = np.full(len(values), 100 / len(values))
        axes.hist(values, bins, weights=shares, histtype="step", linewidth=1.6, color=IMAGES[kind], label=kind)
    name = signal.replace("_", " ")
    axes.set_title(f"{predictor.name}: {name}", fontsize=11)
    axes.set_xlabel(f"{name} (nats)")
    axes.set_yscale("symlog", linthresh=5)
    axes.set_yticks([0, 5, 10, 20, 50, 100], ["0", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
