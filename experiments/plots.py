"""Figures of the experiments, as PNG files."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bbinn_jax import Prediction, metrics
from experiments.data import Dataset

BLUE, ORANGE, GREY, RED = "#3465a4", "#e07b00", "#8a8d88", "#c0282d"


def image_classification(
    path: Path,
    results: dict[str, Any],
    history: list[dict[str, Any]],
    dataset: Dataset,
    predictions: dict[str, Prediction],
    num_unsure: int = 10,
) -> Path:
    """Learning curves, the entropies of right and wrong answers, and the images the network is most unsure about.

    Args:
        path: of the PNG file.
        results: of the run.
        history: metrics of each epoch.
        dataset: its test images and labels are shown.
        predictions: for the test images, "mode" and where there is one "mean".
        num_unsure: how many images are shown.
    """
    name = "mean" if "mean" in predictions else "mode"
    binary, real = results["num_binary_weights"], results["num_real_parameters"]
    weights = f"{binary:,} binary" if binary else f"{real:,} real"
    probabilities, entropy = np.asarray(predictions[name].probabilities), np.asarray(predictions[name].entropy)
    images, labels = np.asarray(dataset.test.images), np.asarray(dataset.test.labels)
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    figure.suptitle(
        f"{results['dataset']}: {weights} weights trained by {results['method']}, seed {results['seed']}",
        fontsize=14,
        fontweight="bold",
    )
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.35)).flat  # type: ignore[union-attr]
    curves, entropies = top.subplots(1, 2, width_ratios=(1.3, 1))
    _learning_curves(curves, history)
    _entropies(entropies, entropy, probabilities.argmax(axis=-1) == labels, name)

    bottom.suptitle(
        f"The {num_unsure} test images the {name} is most unsure about (blue: the label, red: a wrong first choice)"
    )
    cells = bottom.subplots(2, num_unsure, height_ratios=(1, 1.3))
    for column, i in enumerate(np.argsort(-entropy)[:num_unsure]):
        pixels = np.clip(images[i] * dataset.std + dataset.mean, 0, 1)
        _image(cells[0, column], pixels, f"label {labels[i]}")
        _probabilities(cells[1, column], probabilities[i], labels[i], first=column == 0)
    figure.savefig(path, dpi=120)
    return path


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


def regression(
    path: Path,
    results: dict[str, Any],
    line: np.ndarray,
    curves: dict[str, np.ndarray],
    inputs: np.ndarray,
    targets: np.ndarray,
) -> Path:
    """The curve of three predictors, that of the mean with a band of two standard deviations.

    Args:
        path: of the PNG file.
        results: of the run.
        line: inputs, [n].
        curves: "ste", "mode", "mean" and "std" [n], "samples" [sample, n].
        inputs, targets: of training.
    """
    titles = {
        "ste": "Straight-through training",
        "mode": "BayesBiNN, mode",
        "mean": f"BayesBiNN, mean of {len(curves['samples'])} networks",
    }
    figure = Figure(figsize=(12, 3.7), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        if name == "mean":
            low, high = curves["mean"] - 2 * curves["std"], curves["mean"] + 2 * curves["std"]
            axes.fill_between(line, low, high, color=BLUE, alpha=0.22, linewidth=0, label="+- 2 standard deviations")
            axes.plot(line, curves["samples"].T, color=BLUE, linewidth=0.5, alpha=0.5)
        axes.scatter(inputs, targets, s=7, color="#555753", linewidths=0, label="training pairs")
        axes.plot(line, curves[name], color=ORANGE if name == "ste" else BLUE, linewidth=2.2)
        axes.set_title(title, fontsize=12, fontweight="bold", pad=20)
        caption = f"test error {results[f'test_rmse_{name}']:.2f} (root mean square)"
        axes.text(0.5, 1.03, caption, transform=axes.transAxes, ha="center", fontsize=9)
        axes.set(xlabel="input (standardised)", xlim=(line.min(), line.max()), ylim=(-3.5, 3.5))
        axes.tick_params(length=2, labelsize=8)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("target (standardised)")
    panels[2].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    return path


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


def _learning_curves(axes: Axes, history: list[dict[str, Any]]) -> None:
    epochs = [metrics["epoch"] for metrics in history]
    marker = "o" if len(epochs) < 10 else None
    highest = 0.0
    for key, label, color in (
        ("train_accuracy", "training (batches as they pass)", GREY),
        ("validation_accuracy", "validation", ORANGE),
        ("test_accuracy_mode", "test", BLUE),
    ):
        errors = [100 * (1 - metrics[key]) for metrics in history]
        highest = max(highest, *errors)
        axes.plot(epochs, errors, color=color, label=label, marker=marker, linewidth=1.4)
    axes.set(xlabel="epoch", ylabel="error (%)", title="Learning curves of the mode")
    axes.set_yscale("symlog", linthresh=1)  # a logarithm that has room for 0
    axes.set_yticks([0, 0.5, 1, 2, 5, 10, 20, 50])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, max(1.2 * highest, 1))
    axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _entropies(axes: Axes, entropy: np.ndarray, right: np.ndarray, name: str) -> None:
    bins = np.linspace(0, max(entropy.max(), 0.1), 24).tolist()
    for mask, label, color in ((right, "right", BLUE), (~right, "wrong", RED)):
        shares = np.full(mask.sum(), 100 / max(int(mask.sum()), 1))
        label = f"{label} answers ({mask.sum():,})"
        axes.hist(entropy[mask], bins, weights=shares, alpha=0.6, color=color, label=label)
    axes.set(xlabel="predictive entropy (nats)", ylabel="share (%)", title=f"Does the {name} know when it is wrong?")
    axes.margins(y=0.3)  # room for the legend
    axes.legend(frameon=False)


def _image(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image.squeeze(), cmap="gray_r")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _probabilities(axes: Axes, probabilities: np.ndarray, label: int, *, first: bool) -> None:
    """Bars of the class probabilities, the label's in blue and a wrong favourite in red."""
    classes = np.arange(len(probabilities))
    colors = [GREY] * len(classes)
    colors[probabilities.argmax()] = RED
    colors[label] = BLUE
    axes.barh(classes, probabilities, color=colors)
    axes.set(xlim=(0, 1), xticks=(0, 1))
    ticks = classes[:: -(-len(classes) // 10)]
    axes.set_yticks(ticks, ticks if first else [""] * len(ticks), fontsize=8)
    axes.tick_params(labelsize=8, length=2)
    axes.invert_yaxis()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if first:
        axes.set_ylabel("class", fontsize=9)
        axes.set_xlabel("probability", fontsize=9, loc="left")
