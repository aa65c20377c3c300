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

IMAGES = {"test": BLUE, "shuffled": ORANGE, "rotated": RED, "noisy": GREY, "CIFAR-10 in grey": "black"}
Colors = tuple[tuple[Predictor, str], ...]


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
    _reliability(panels["A"], colors, labels)
    _coverage(panels["B"], colors, labels)
    _signal(panels["C"], ste, "entropy")
    _signal(panels["D"], mean, "entropy")
    _signal(panels["E"], mean, "mutual_information")
    panels["C"].set_ylabel("share of images (%)")
    panels["E"].legend(frameon=False)
    figure.savefig(path, dpi=110)


def _reliability(axes: Axes, colors: Colors, labels: jax.Array) -> None:
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    for predictor, color in colors:
        curve = metrics.reliability_curve(predictor.answers["test"].probabilities, labels, num_bins=10)
        filled = np.asarray(curve.num_examples) > 0
        confidence, accuracy = curve.confidence[filled], curve.accuracy[filled]
        axes.plot(confidence, accuracy, color=color, label=predictor.name, linewidth=1)
        axes.scatter(confidence, accuracy, s=6 + 200 * curve.num_examples[filled] / labels.size, color=color)
    axes.set_title("As sure as right? (above the line: too modest; area: share of images)")
    axes.set(xlabel="confidence", ylabel="accuracy")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _coverage(axes: Axes, colors: Colors, labels: jax.Array) -> None:
    first_error = 1.0
    for predictor, color in colors:
        test = predictor.answers["test"]
        risk = metrics.risk_coverage(test.entropy, test.probabilities.argmax(axis=-1) == labels)
        axes.plot(100 * risk.coverage, 100 * risk.risk, color=color, label=predictor.name)
        first_error = min(first_error, float(np.min(risk.coverage, where=risk.risk > 0, initial=1)))
    axes.set(xlabel="answered, the surest first (%)", ylabel="of them wrong (%)", title="Wrong last?")
    axes.set(xlim=(max(0, 100 * first_error - 5), 100), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _signal(axes: Axes, predictor: Predictor, signal: str) -> None:
    """How often a signal of uncertainty has which value, for images of each kind but those of validation."""
    shown = {kind: np.asarray(getattr(p, signal)) for kind, p in predictor.answers.items() if kind != "validation"}
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
