"""One table and one figure of the image runs below some folders, beside the paper's numbers.

    python -m experiments.report runs
    python -m experiments.report experiments/results --markdown

Reads what the runs wrote and nothing else, so it starts without JAX.
"""

import argparse
import dataclasses
import json
import os
import textwrap
from collections import Counter
from itertools import cycle
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table

from experiments import cli
from experiments.presets import METHODS, PRESETS

# Test accuracy in percent, mean and standard deviation of 5 runs: arXiv 2002.10778, table 10.
PAPER_COLUMNS = ("ste", "bop", "pmf", "bayesbinn", "bayesbinn mean", "full_precision")
PAPER_ROWS = {
    "mnist": ((98.85, 0.09), (98.47, 0.02), (98.80, 0.06), (98.86, 0.05), (98.86, 0.05), (99.01, 0.06)),
    "cifar10": ((93.55, 0.15), (93.00, 0.11), (91.43, 0.14), (93.72, 0.16), (93.72, 0.15), (93.90, 0.17)),
    "cifar100": ((72.89, 0.21), (69.58, 0.15), (70.45, 0.25), (73.68, 0.31), (73.65, 0.41), (74.83, 0.26)),
}
PAPER = {(data, name): x for data, row in PAPER_ROWS.items() for name, x in zip(PAPER_COLUMNS, row, strict=True)}
# In the order of the rows; no two look alike to the colour-blind.
COLORS = {"ste": "#d55e00", "bop": "#009e73", "pmf": "#cc79a7", "bayesbinn": "#0072b2", "full_precision": "#000000"}
COLUMNS = ("dataset", "method", "paper: mode", "mode", "paper: mean", "mean", "seeds", "epochs", "device", "min a run")
EXPLANATION = """
Test accuracy in percent after the last epoch, mean +- population standard deviation over seeds.
Paper: arXiv 2002.10778, table 10, 5 runs of 500 epochs, each at its best validation epoch; not beside changed settings.
"""
EXPERIMENT = "image_classification"
REQUIRED = dict(experiment=str, dataset=str, method=str, seed=int, epochs=int, test_accuracy_mode=float | int)
SHARED = ("experiment", "preset", "dataset", "method", "epochs", "device", "command")  # by the seeds of one program
# Of a config or command, what does not change what a run computes, or has a column of its own.
NOT_SETTINGS = (
    "experiment preset dataset method seed seeds epochs out overwrite resume stop_after_epochs checkpoint_seconds"
).split()


class Run(NamedTuple):
    """What the run of one seed left behind."""

    path: Path
    results: dict[str, Any]
    changes: str  # of the preset's settings
    total_epochs: int  # of the schedule
    minutes: float | None
    errors: dict[int, float]  # test error of the mode in percent after each epoch


class Row(NamedTuple):
    """Runs that agree in all but the seed."""

    dataset: str
    method: str
    epochs: int
    changes: str  # of the preset's settings
    runs: list[Run]

    @property
    def name(self) -> str:
        """The method, and what was changed of its preset."""
        return f"{self.method} ({self.changes})" if self.changes else self.method

    @property
    def length(self) -> str:
        """Epochs done, and those of the schedule where it was not finished."""
        total = self.runs[0].total_epochs
        return str(self.epochs) if self.epochs == total else f"{self.epochs} of {total}"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m experiments.report", description="Table and figure of image runs.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="holds run folders or results (NAME.json)")
    parser.add_argument("--out", type=Path, help="the figure (default: report.png in the first DIR)")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    arguments = parser.parse_args(argv)
    figure_path = arguments.out or arguments.folders[0] / "report.png"
    with cli.user_errors():
        if figure_path.suffix != ".png":
            raise ValueError(f"--out must name a .png file, got {figure_path}")
        runs, unfinished = find(arguments.folders)
        rows, repeats = average(runs)
        table = [cells(row) for row in rows]
        figure = draw(figure_path, rows)
    if arguments.markdown:
        print("\n".join(f"| {' | '.join(line)} |" for line in (COLUMNS, ["---"] * len(COLUMNS), *table)))
    else:
        write(table)
    print("\n".join((EXPLANATION, *repeats, *unfinished, figure)))


def find(folders: list[Path]) -> tuple[list[Run], list[str]]:
    """The finished runs below the folders, and a line for each that is not finished."""
    finished: dict[Path, list[Run]] = {}  # by real path: folders may overlap
    unfinished: dict[Path, str] = {}

    def read_or_tell(path: Path) -> list[Run]:
        try:
            return read(path)
        except ValueError as error:
            unfinished[path.resolve()] = f"left out: {error}"
            return []

    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"no such folder: {folder}")
        paths = sorted(folder.rglob("*.json"))
        here = {path.resolve(): read_or_tell(path) for path in paths}
        unfinished |= {path.resolve(): line for path in paths if (line := progress(path))}
        if not any(here.values()):
            told = [unfinished[path] for path in here if path in unfinished]
            raise ValueError("; ".join((f"no finished runs of {EXPERIMENT} in {folder}", *told)))
        finished |= here
    return [run for runs in finished.values() for run in runs], list(unfinished.values())


def read(path: Path) -> list[Run]:
    """The runs in a results.json, or in a NAME.json of the same kind, one for each seed; none in other files.

    Raises:
        ValueError: for a results.json that is broken or lacks fields.
    """
    in_run_folder = path.name == "results.json"
    try:
        content = _read_object(path)
    except ValueError:
        if in_run_folder:
            raise
        return []
    if content.get("experiment", EXPERIMENT) != EXPERIMENT:
        return []
    seeds = content.get("runs", [content])
    if not (isinstance(seeds, list) and seeds and all(isinstance(seed, dict) for seed in seeds)):
        seeds = [{}]
    seeds = [{name: content.get(name) for name in SHARED} | seed for seed in seeds]
    missing = [
        name
        for name, kind in REQUIRED.items()
        if not all(isinstance(x := seed.get(name), kind) and x == x for seed in seeds)  # a NaN is not itself
    ]
    if missing and in_run_folder:
        raise ValueError(f"{path} lacks {', '.join(missing)}, or they are of the wrong type")
    if missing:
        return []
    saved = _read_object(config) if in_run_folder and (config := path.with_name("config.json")).exists() else None
    names = ("metrics.jsonl",) if in_run_folder else (f"{path.stem}.jsonl", f"{path.stem}.metrics.jsonl")
    metrics = [line for name in names for line in read_metrics(path.with_name(name))]
    minutes = content["wall_seconds"] / 60 / len(seeds) if content.get("wall_seconds") else None
    runs = []
    for results in seeds:
        changes, total_epochs = _changes(results, saved or _flags(results["command"] or ""))
        errors = {epoch: error for epoch, seed, error in metrics if seed in (None, results["seed"])}
        runs.append(Run(path, results, changes, total_epochs, minutes, errors))
    return runs


def read_metrics(path: Path) -> list[tuple[int, int | None, float]]:
    """Epoch, seed (None if there is but one) and test error in percent of each line, without a torn last line."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    metrics = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            metrics.append((int(entry["epoch"]), entry.get("seed"), 100 - 100 * float(entry["test_accuracy_mode"])))
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not the metrics of an epoch") from None
    return metrics


def progress(path: Path) -> str | None:
    """How far an unfinished run has come, from its config.json; None for all else."""
    metrics = path.with_name("metrics.jsonl")
    if path.name != "config.json" or not metrics.exists() or path.with_name("results.json").exists():
        return None
    config = _read_object(path)
    if config.get("experiment") != EXPERIMENT:
        return None
    epoch, stop = max((epoch for epoch, *_ in read_metrics(metrics)), default=0), config.get("stop_after_epochs")
    total = stop if stop and epoch <= stop else config.get("epochs")  # a resumed run goes on after its first stop
    return f"not finished: {path.parent}, epoch {epoch} of {total}"


def average(runs: list[Run]) -> tuple[list[Row], list[str]]:
    """Rows of runs that agree in all but the seed, and a line for each seed that comes again."""
    kinds: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        dataset, method, epochs = (run.results[name] for name in ("dataset", "method", "epochs"))
        kinds.setdefault((dataset, [*COLORS, method].index(method), method, -epochs), []).append(run)
    rows, repeats = [], []
    for (dataset, _, method, epochs), peers in sorted(kinds.items()):
        seen: Counter[tuple[Any, ...]] = Counter()
        groups: dict[tuple[Any, ...], list[Run]] = {}
        for run in peers:
            changes, seed, device = run.changes, run.results["seed"], str(run.results["device"])
            again = seen[changes, run.total_epochs, device, seed]
            seen[changes, run.total_epochs, device, seed] += 1
            if again:
                repeats.append(f"seed {seed} again, not averaged with the first: {run.path}")
                changes = f"{changes}, repeat {again}".removeprefix(", ")
            groups.setdefault((changes, run.total_epochs, device), []).append(run)
        for (changes, *_), members in sorted(groups.items()):
            rows.append(Row(dataset, method, -epochs, changes, members))
    return rows, repeats


def _changes(results: dict[str, Any], settings: dict[str, Any]) -> tuple[str, int]:
    """What a run's settings (config.json, or the flags of its command) change of its preset; and its planned epochs."""
    name, method = results["preset"], results["method"]
    preset = dataclasses.asdict(PRESETS[name](method)) if name in PRESETS and method in METHODS else {}
    of_the_paper = name in (results["dataset"], f"{results['dataset']}-short")
    texts = [] if preset and of_the_paper else [f"preset {name}"]
    for field, value in settings.items():
        if field not in NOT_SETTINGS and _text(value) != _text(preset.get(field)):
            texts.append(f"{field}={_text(value)}")
    return ", ".join(texts), int(settings.get("epochs", preset.get("epochs", results["epochs"])))


def _text(value: Any) -> str:
    """A setting as one would type it, the same from a config and from a command line."""
    if isinstance(value, list | tuple):
        return " ".join(_text(item) for item in value)
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value)


def cells(row: Row) -> list[str]:
    """The text of a row, in the order of COLUMNS."""
    scores = []
    for name, paper in (("mode", row.method), ("mean", f"{row.method} mean")):
        published = None if row.changes else PAPER.get((row.dataset, paper))
        scores.append("{:.2f} +- {:.2f}".format(*published) if published else "")
        measured = [100 * x for run in row.runs if (x := run.results.get(f"test_accuracy_{name}")) is not None]
        spread = f" +- {pstdev(measured):.2f}" if len(measured) > 1 else ""
        scores.append(f"{fmean(measured):.2f}{spread}" if measured else "")
    minutes = [run.minutes for run in row.runs if run.minutes is not None]
    time = f"{fmean(minutes):.1f}" if minutes else ""
    device = str(row.runs[0].results["device"] or "")
    return [row.dataset, row.name, *scores, str(len(row.runs)), row.length, device, time]


def write(table: list[list[str]]) -> None:
    """Prints the table for people; a narrow terminal breaks its lines, but nothing is cut off."""
    view = Table(*COLUMNS)
    for line in table:
        view.add_row(*line)
    console = Console(markup=False, emoji=False, highlight=False)
    console.width = max(console.width, 140)
    console.print(view)


def draw(path: Path, rows: list[Row]) -> str:
    """Draws learning curves as a PNG file, a panel for each data set; returns a line that says where."""
    rows = [row for row in rows if any(run.errors for run in row.runs)]
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    if not datasets:
        return "no figure: no metrics.jsonl beside the results"
    figure = Figure(figsize=(7 * len(datasets), 6.5 + 0.15 * len(rows) / len(datasets)), layout="constrained")
    figure.suptitle(
        "Test error of the most probable network (the mode)\nline: mean over seeds, band: best to worst seed"
    )
    panels = figure.subplots(1, len(datasets), squeeze=False).flat
    for axes, dataset in zip(panels, datasets, strict=True):
        _learning_curves(axes, dataset, [row for row in rows if row.dataset == dataset])
    partial = path.with_name(path.name + ".partial")
    try:
        figure.savefig(partial, format="png", dpi=120)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return f"figure: {path}"


def _learning_curves(axes: Axes, dataset: str, rows: list[Row]) -> None:
    styles = {row.method: cycle(("-", "--", ":", "-.")) for row in rows}
    shown: list[float] = []
    for row in rows:
        curves = [run.errors for run in row.runs if run.errors]
        epochs = sorted(set().union(*curves))
        errors = [[curve[epoch] for curve in curves if epoch in curve] for epoch in epochs]
        means, color = [fmean(several) for several in errors], COLORS.get(row.method, "#e69f00")
        seeds = "1 seed" if len(curves) == 1 else f"{len(curves)} seeds"
        label = textwrap.fill(f"{row.name}, {row.length} epochs, {seeds}", 70)
        axes.plot(epochs, means, next(styles[row.method]), color=color, label=label)
        axes.plot(epochs[-1], means[-1], "o", color=color, markersize=5)
        axes.fill_between(epochs, [min(x) for x in errors], [max(x) for x in errors], color=color, alpha=0.2, lw=0)
        shown += [error for several in errors for error in several]
    edge = axes.get_yaxis_transform()
    paper = {method: 100 - PAPER[dataset, method][0] for method in styles if (dataset, method) in PAPER}
    for method, error in paper.items():
        axes.plot([0.98, 1.03], [error, error], color=COLORS[method], transform=edge, clip_on=False, linewidth=2)
    if paper:
        axes.text(1.04, fmean(paper.values()), "paper,\n500 epochs", transform=edge, va="center")
    shown += paper.values()

    lengths = [row.epochs for row in rows]
    if max(lengths) >= 5 * min(lengths):  # else the short curves are a stroke at the left
        axes.set_xscale("log")
        axes.set_xticks([x for x in (1, 2, 5, 10, 20, 50, 100, 200, 500) if x <= max(lengths)])
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(0.5, max(lengths) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yscale("symlog", linthresh=1)  # a logarithm that has room for 0
    axes.set_yticks([0, 0.5, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0.85 * min(shown), max(1.1 * max(shown), 1))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set(title=dataset, xlabel="epoch", ylabel="test error (%)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return {**json.loads(path.read_text())}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a JSON object: {error}") from None


def _flags(command: str) -> dict[str, str]:
    """The flags in a command line and their values."""
    words = (flag.replace("=", " ", 1).partition(" ") for flag in f" {command}".split(" --")[1:])
    return {name.replace("-", "_"): value.strip() for name, _, value in words}


if __name__ == "__main__":
    main()
