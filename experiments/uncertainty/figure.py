"""The figure of a comparison of uncertainties, as a PNG file."""

from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from bbinn_jax import Prediction, metrics
from experiments.common.colours import BLUE, GREY, ORANGE, RED


def uncertainty(path: Path, title: str, answers: dict[str, dict[str, Prediction]], labels: jax.Array) -> Path:
    """Who is as sure as right, who is wrong last, and who doubts foreign images.

    Args:
        path: of the PNG file.
        title: of the figure.
        answers: of each predictor, by the title of the images; "test" are those with the labels.
        labels: [n].
    """
    first, ensemble, mode, *means = answers
    colors = {first: ORANGE, ensemble: RED, mode: GREY, means[-1]: BLUE}
    figure = Figure(figsize=(12, 7.6), layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold")
    panels = figure.subplot_mosaic("AAABBB;CCDDEE")
    reliability, coverage = panels["A"], panels["B"]
    first_error = 1.0
    reliability.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    for name, color in colors.items():
        test = answers[name]["test"]
        curve = metrics.reliability_curve(test.probabilities, labels, num_bins=10)
        filled = np.asarray(curve.num_examples) > 0
        confidence, accuracy = curve.confidence[filled], curve.accuracy[filled]
        reliability.plot(confidence, accuracy, color=color, label=name, linewidth=1)
        share = curve.num_examples[filled] / labels.size
        reliability.scatter(confidence, accuracy, s=6 + 200 * share, color=color)
        risk = metrics.risk_coverage(test.entropy, test.probabilities.argmax(axis=-1) == labels)
        coverage.plot(100 * risk.coverage, 100 * risk.risk, color=color, label=name)
        first_error = min(first_error, float(np.min(risk.coverage, where=risk.risk > 0, initial=1)))
    reliability.set(
        xlabel="confidence",
        ylabel="accuracy",
        title="As sure as right? (above the line: too modest; area: share of images)",
    )
    coverage.set(xlabel="answered, the surest first (%)", ylabel="of them wrong (%)", title="Wrong last?")
    coverage.set_ylim(bottom=0)
    coverage.set_xlim(max(0, 100 * first_error - 5), 100)
    for axes in (reliability, coverage):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    for axes, name, what in (
        (panels["C"], first, "entropy"),
        (panels["D"], means[-1], "entropy"),
        (panels["E"], means[-1], "mutual_information"),
    ):
        shown = {kind: np.asarray(getattr(p, what)) for kind, p in answers[name].items() if kind != "validation"}
        bins = np.linspace(0, max(values.max() for values in shown.values()), 25)
        for (kind, values), color in zip(shown.items(), (BLUE, ORANGE, RED, GREY, "black"), strict=False):
            shares = np.full(len(values), 100 / len(values))
            axes.hist(values, bins.tolist(), weights=shares, histtype="step", linewidth=1.6, color=color, label=kind)
        label = what.replace("_", " ")
        axes.set(xlabel=f"{label} (nats)", title=f"{name.removeprefix('BayesBiNN, ')}: {label}")
        axes.set_yscale("symlog", linthresh=5)
        axes.set_yticks([0, 5, 10, 20, 50, 100], ["0", "5", "10", "20", "50", "100"])
        axes.minorticks_off()
    panels["C"].set_ylabel("share of images (%)")
    panels["E"].legend(frameon=False)
    figure.savefig(path, dpi=110)
    return path
