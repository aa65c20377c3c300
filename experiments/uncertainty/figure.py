"""The figure of a comparison of uncertainties, as a PNG file."""

from pathlib import Path

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbinn_jax import metrics
from experiments.common.colours import BLUE, GREY, ORANGE, RED
from experiments.common.methods import STE, BayesBiNN
from experiments.uncertainty.predictors import Compared, Predictor


def draw(path: Path, title: str, compared: Compared, labels: jax.Array) -> None:
    """Who is as sure as right, who is wrong last, and who doubts foreign images.

    Args:
        path: of the PNG file.
        title: of the figure.
        compared: who answered; of the means the one of most networks is shown.
        labels: of the test images, [n].
    """
    ste, mean = compared.ste, max(compared.means, key=lambda predictor: predictor.networks)
    colors = ((ste, STE.color), (compared.ensemble, "black"), (compared.mode, GREY), (mean, BayesBiNN.color))
    figure = Figure(figsize=(12, 7.6), layout="constrained")
    figure.suptitle(f"{title}: what binary networks know of what they do not know", fontsize=14, fontweight="bold")
    panels = figure.subplot_mosaic("AAABBB;CCDDEE")
    for draw_curve, axes in ((_reliability, panels["A"]), (_coverage, panels["B"])):
        for predictor, color in colors:
            draw_curve(axes, predictor, labels, color)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    _signal(panels["C"], ste, "entropy")
    _signal(panels["D"], mean, "entropy")
    _signal(panels["E"], mean, "mutual_information")
    panels["C"].set_ylabel("share of images (%)")
    panels["E"].legend(frameon=False)
    figure.savefig(path, dpi=110)


def _reliability(axes: Axes, predictor: Predictor, labels: jax.Array, color: str) -> None:
    curve = metrics.reliability_curve(predictor.answers["test"].probabilities, labels, num_bins=10)
    filled = np.asarray(curve.num_examples) > 0
    confidence, accuracy = curve.confidence[filled], curve.accuracy[filled]
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    axes.plot(confidence, accuracy, color=color, label=predictor.name, linewidth=1)
    axes.scatter(confidence, accuracy, s=6 + 200 * curve.num_examples[filled] / labels.size, color=color)
    axes.set_title("As sure as right? (above the line: too modest; area: share of images)")
    axes.set(xlabel="confidence", ylabel="accuracy")


def _coverage(axes: Axes, predictor: Predictor, labels: jax.Array, color: str) -> None:
    test = predictor.answers["test"]
    risk = metrics.risk_coverage(test.entropy, test.probabilities.argmax(axis=-1) == labels)
    wrong = np.asarray(risk.risk) > 0
    axes.plot(100 * risk.coverage[wrong], 100 * risk.risk[wrong], color=color, label=predictor.name)
    axes.set(xlabel="answered, the surest first (%)", ylabel="of them wrong (%)", title="Wrong last?", ylim=(0, None))


def _signal(axes: Axes, predictor: Predictor, signal: str) -> None:
    """How often a signal of uncertainty has which value, for images of each kind but those of validation."""
    shown = {kind: np.asarray(getattr(p, signal)) for kind, p in predictor.answers.items() if kind != "validation"}
    bins = np.linspace(0, max(values.max() for values in shown.values()), 25).tolist()
    for (kind, values), color in zip(shown.items(), (BLUE, ORANGE, RED, GREY, "black"), strict=False):
        shares = np.full(len(values), 100 / len(values))
        axes.hist(values, bins, weights=shares, histtype="step", linewidth=1.6, color=color, label=kind)
    name = signal.replace("_", " ")
    axes.set(xlabel=f"{name} (nats)", title=f"{predictor.name}: {name}")
    axes.set_yscale("symlog", linthresh=5)
    axes.set_yticks([0, 5, 10, 20, 50, 100], ["0", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
