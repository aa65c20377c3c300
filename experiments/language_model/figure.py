"""The figures of a language model, as PNG files.

    python -m experiments.language_model.figure

draws the learning curves of the published runs into results/.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import bbinn_jax as bb
from experiments.common.colours import BLUE, GREY, ORANGE
from experiments.common.tables import Line, read
from experiments.language_model.published import name_of

LINES, COLUMNS = 30, 72


def draw(path: Path, results: dict[str, Any], history: list[dict[str, Any]], page: str, said: bb.Prediction) -> None:
    """A page of held-out text with each character shaded by what the networks do not know of it, and learning curves.

    Args:
        path: of the PNG file.
        results, history: of the run, the latter a line an epoch.
        page: held-out text.
        said: of each of its characters; where one network alone was asked the total uncertainty is shown.
    """
    binary, real = results["num_binary_weights"], results["num_real_parameters"]
    size = f"{binary:,} binary weights and {real:,} real parameters" if binary else f"{real:,} real parameters"
    figure = Figure(figsize=(14, 7.6), layout="constrained")
    figure.suptitle(f"{size}, {results['method']}, seed {results['seed']}", fontsize=14, fontweight="bold")
    text, curves = figure.subplots(1, 2, width_ratios=(2.6, 1))
    signal = "mutual_information" if results["eval_samples"] else "entropy"
    _page(text, page, np.asarray(getattr(said, signal)) / np.log(2), signal.replace("_", " "))
    _learning_curves(curves, history)
    figure.savefig(path, dpi=110)


def _page(axes: Axes, page: str, bits: np.ndarray, signal: str) -> None:
    """Text as it stands, lines broken after 72 characters, each character on a ground of its colour."""
    ground = np.full((LINES, COLUMNS), np.nan)
    row = column = 0
    for character, value in zip(page, bits, strict=True):
        if character == "\n" or column == COLUMNS:
            row, column = row + 1, 0
        if row == LINES:
            break
        if character != "\n":
            ground[row, column] = value
            axes.text(
                column, row, character, family="monospace", fontsize=9, ha="center", va="center", parse_math=False
            )
            column += 1
    highest = max(float(np.nanquantile(ground, 0.99)), 1e-3)
    image = axes.imshow(ground, cmap="Oranges", vmin=0, vmax=highest, aspect="auto")
    axes.figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=40, label=f"{signal} (bits)")
    axes.set_title("Held-out text: how unsure the network was of each character before it saw it")
    axes.set_axis_off()


def _learning_curves(axes: Axes, history: list[dict[str, Any]]) -> None:
    epochs = [line["epoch"] for line in history]
    for key, label, color in (
        ("train_loss", "training (batches as they pass)", GREY),
        ("validation_nll_mode", "validation", ORANGE),
        ("test_nll_mode", "held-out", BLUE),
    ):
        axes.plot(epochs, [line[key] / np.log(2) for line in history], "o-", color=color, label=label, markersize=4)
    _label(axes, "bits per character")
    axes.legend(frameon=False)


def _label(axes: Axes, ylabel: str) -> None:
    axes.set(xlabel="epoch", ylabel=ylabel, title="Learning curves of the mode")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)


def compare(path: Path, lines: list[Line]) -> None:
    """Learning curves on the validation text: mean over the seeds of a row, and a band from the best to the worst."""
    rows: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line["epochs"] == lines[0]["epochs"]:
            rows.setdefault(name_of(line), []).append(line)
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    for (title, color), members in rows.items():
        bits = np.array([[x["validation_nll_mode"] / np.log(2) for x in line["metrics"]] for line in members])
        epochs = np.arange(1, bits.shape[1] + 1)
        axes.plot(epochs, bits.mean(axis=0), "o-", color=color, label=title, markersize=4)
        axes.fill_between(epochs, bits.min(axis=0), bits.max(axis=0), color=color, alpha=0.2, lw=0)
    _label(axes, "bits per character of validation text")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    RESULTS = Path(__file__).with_name("results")
    compare(RESULTS / "curves.png", read(RESULTS / "topics.jsonl"))
