"""The figure of a run on images, as a PNG file."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.common.classifier import Outcome
from experiments.common.colours import BLUE, GREY, ORANGE, RED
from experiments.common.data import Dataset


def draw(path: Path, outcome: Outcome, dataset: Dataset, num_unsure: int = 10) -> None:
    """Learning curves, the entropies of right and wrong answers, and the images the network is most unsure about.

    Args:
        path: of the PNG file.
        outcome: of the run.
        dataset: its test images and labels are shown.
        num_unsure: how many images are shown.
    """
    results, history, predictions = outcome
    name = "mean" if "mean" in predictions else "mode"
    binary, real = results["num_binary_weights"], results["num_real_parameters"]
    weights = f"{binary:,} binary" if binary else f"{real:,} real"
    probabilities, entropy = np.asarray(predictions[name].probabilities), np.asarray(predictions[name].entropy)
    images, labels = np.asarray(dataset.test.images), np.asarray(dataset.test.labels)
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    title = f"{results['dataset']}: {weights} weights trained by {results['method']}, seed {results['seed']}"
    figure.suptitle(title, fontsize=14, fontweight="bold")
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
