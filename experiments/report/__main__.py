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
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table

from experiments.common import endings, reading
from experiments.common.console import PLAIN
from experiments.common.endings import printable
from experiments.common.presets import METHODS, PRESETS

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
SHARED = ("experiment", "preset", "dataset", "method", "epochs", "device", "command")  # by the seeds of one program
# Of a config or command, what does not change what a run computes, or has a column of its own.
NOT_SETTINGS = (
    "experiment preset dataset method seed seeds epochs out overwrite resume stop_after_epochs checkpoint_seconds"
).split()


class Results(NamedTuple):
    """What results.json says of the run of one seed."""

    experiment: str
    dataset: str
    method: str
    seed: int
    epochs: int
    test_accuracy_mode: float
    test_accuracy_mean: float | None = None
    preset: str | None = None
    device: str | None = None
    command: str | None = None
    wall_seconds: float | None = None  # of all seeds of a program


class Epoch(NamedTuple):
    """A line of metrics.jsonl."""

    epoch: int
    test_accuracy_mode: float
    seed: int | None = None  # where the program has several


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high  # neither a bool nor a NaN


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= 100


def _is_setting(value: Any) -> bool:
    several = value if isinstance(value, list) else [value]
    return all(x is None or isinstance(x, bool | str) or _is_number(x, -1e300, 1e300) for x in several)


# What these fields may hold, and a setting elsewhere: JSON knows NaN, integers beyond every float, and any nesting.
KINDS: dict[str, Callable[[Any], bool]] = {
    "experiment": lambda value: value == EXPERIMENT,
    **dict.fromkeys(("dataset", "method", "preset", "device"), _is_name),
    **dict.fromkeys(("test_accuracy_mode", "test_accuracy_mean"), lambda value: _is_number(value, 0, 1)),
    **dict.fromkeys(("epoch", "epochs", "stop_after_epochs"), lambda x: type(x) is int and 1 <= x <= 10**9),
    "seed": lambda value: type(value) is int and 0 <= value < 2**32,
    "command": lambda value: isinstance(value, str),
    "wall_seconds": lambda value: _is_number(value, 0, 1e12),
}


Record = TypeVar("Record", Results, Epoch)


class Run(NamedTuple):
    """What the run of one seed left behind."""

    path: Path
    results: Results
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


@endings.command
def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m experiments.report", description="Table and figure of image runs.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="holds run folders or results (NAME.json)")
    parser.add_argument("--out", type=Path, help="the figure (default: report.png in the first DIR)")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    arguments = parser.parse_args(argv)
    figure_path = arguments.out or arguments.folders[0] / "report.png"
    with endings.user_errors():
        if figure_path.suffix != ".png":
            raise ValueError(f"--out must name a .png file, got {printable(str(figure_path))}")
        runs, told = find(arguments.folders)
        rows, repeats = average(runs)
        table = [cells(row) for row in rows]
        figure = draw(figure_path, rows)
        if arguments.markdown:
            lines = [COLUMNS, ["---"] * len(COLUMNS), *([cell.replace("|", "\\|") for cell in row] for row in table)]
            print("\n".join(f"| {' | '.join(line)} |" for line in lines))
        else:
            write(table)
        print("\n".join((EXPLANATION, *map(printable, (*repeats, *told, figure)))))


def find(folders: list[Path]) -> tuple[list[Run], list[str]]:
    """The finished runs below the folders, and a line for each that is not finished or cannot be read.

    Raises:
        ValueError: no such folder, or no finished run in any of them.
    """
    finished: dict[str, list[Run]] = {}  # by real path: folders may overlap
    told: dict[str | Path, str] = {}

    def tell_folder(error: OSError) -> None:
        told[os.path.realpath(error.filename)] = f"left out: {error.filename} cannot be read: {error.strerror}"

    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"no such folder: {printable(str(folder))}")
        walk = os.walk(folder, onerror=tell_folder)
        paths = sorted(Path(here, x) for here, dirs, files in walk for x in dirs + files if x.endswith(".json"))
        for path in paths:
            real = os.path.realpath(path)
            try:
                finished[real] = read(path)
                line = progress(path)
            except ValueError as error:
                line = f"left out: {error}"
            if line:
                told[real] = line
        if not any(finished.get(os.path.realpath(path)) for path in paths):
            told[folder] = f"no finished runs of {EXPERIMENT} in {folder}"
    runs = [run for several in finished.values() for run in several]
    if not runs:
        raise ValueError(printable("; ".join(sorted(told.values(), key=lambda line: line.startswith("left out")))))
    return runs, list(told.values())


def read(path: Path) -> list[Run]:
    """The runs in a results.json, or in a NAME.json of the same kind, one for each seed; none in other files.

    Raises:
        ValueError: a results.json is broken or lacks fields, or a NAME.json of this experiment, or what lies beside it.
    """
    in_run_folder = path.name == "results.json"
    if path.name == "config.json":
        return []
    try:
        content = _object(path, _content(path))
    except ValueError:
        if in_run_folder:
            raise
        return []
    experiment = content.get("experiment")
    if experiment != EXPERIMENT and (isinstance(experiment, str) or not in_run_folder):
        return []
    seeds = content.get("runs", [content])
    if not (isinstance(seeds, list) and seeds and all(isinstance(seed, dict) for seed in seeds)):
        raise ValueError(f"{path} lacks runs, or they are of the wrong type")
    shared = {name: content.get(name) for name in SHARED}
    wall_seconds = {"wall_seconds": content.get("wall_seconds")}
    records = [_typed(Results, path, shared | seed | wall_seconds) for seed in seeds]
    names = ("metrics.jsonl",) if in_run_folder else (f"{path.stem}.jsonl", f"{path.stem}.metrics.jsonl")
    metrics = [line for name in names for line in read_metrics(path.with_name(name))]
    saved = None
    if in_run_folder and os.path.lexists(config := path.with_name("config.json")):
        saved = _settings(config, _object(config, _content(config)))
    runs = []
    for results in records:
        changes, total_epochs = _changes(results, saved or _flags(path, results.command or ""))
        minutes = results.wall_seconds / 60 / len(records) if results.wall_seconds else None
        errors = {x.epoch: 100 - 100 * x.test_accuracy_mode for x in metrics if x.seed in (None, results.seed)}
        runs.append(Run(path, results, changes, total_epochs, minutes, errors))
    if in_run_folder:
        reading.verify(path.parent, content)
    return runs


def read_metrics(path: Path) -> list[Epoch]:
    """The lines of a metrics.jsonl, without a torn last one; none where there is no such file.

    Raises:
        ValueError: the file cannot be read, or a line is not the metrics of an epoch.
    """
    if not os.path.lexists(path):
        return []
    *lines, torn = _content(path).split(b"\n")
    metrics = [_typed(Epoch, f"{path}: line {i}", _object(f"{path}: line {i}", x)) for i, x in enumerate(lines, 1)]
    try:
        return [*metrics, _typed(Epoch, path, _object(path, torn))]  # whole, and the end of the line alone is missing
    except ValueError:
        return metrics


def progress(path: Path) -> str | None:
    """How far an unfinished run has come, from its config.json; None for all else.

    Raises:
        ValueError: the config or the metrics are damaged.
    """
    metrics = path.with_name("metrics.jsonl")
    if path.name != "config.json" or not os.path.lexists(metrics) or os.path.lexists(path.with_name("results.json")):
        return None
    config = _object(path, _content(path))
    if isinstance(experiment := config.get("experiment"), str) and experiment != EXPERIMENT:
        return None
    settings = _settings(path, config)
    epoch = max((line.epoch for line in read_metrics(metrics)), default=0)
    stop = settings.get("stop_after_epochs")
    total = stop if stop and epoch <= stop else settings.get("epochs")  # a resumed run goes on after its first stop
    return f"not finished: {path.parent}, epoch {epoch} of {total}"


def average(runs: list[Run]) -> tuple[list[Row], list[str]]:
    """Rows of runs that agree in all but the seed, and a line for each seed that comes again."""
    kinds: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        dataset, method, epochs = run.results.dataset, run.results.method, run.results.epochs
        kinds.setdefault((dataset, [*COLORS, method].index(method), method, -epochs), []).append(run)
    rows, repeats = [], []
    for (dataset, _, method, epochs), peers in sorted(kinds.items()):
        seen: Counter[tuple[Any, ...]] = Counter()
        groups: dict[tuple[Any, ...], list[Run]] = {}
        for run in peers:
            changes, seed, device = run.changes, run.results.seed, run.results.device or ""
            again = seen[changes, run.total_epochs, device, seed]
            seen[changes, run.total_epochs, device, seed] += 1
            if again:
                repeats.append(f"seed {seed} again, not averaged with the first: {run.path}")
                changes = f"{changes}, repeat {again}".removeprefix(", ")
            groups.setdefault((changes, run.total_epochs, device), []).append(run)
        for (changes, *_), members in sorted(groups.items()):
            rows.append(Row(dataset, method, -epochs, changes, members))
    return rows, repeats


def _changes(results: Results, settings: dict[str, Any]) -> tuple[str, int]:
    """What a run's settings (config.json, or the flags of its command) change of its preset; and its planned epochs."""
    name, method = results.preset, results.method
    preset = dataclasses.asdict(PRESETS[name](method)) if name in PRESETS and method in METHODS else {}
    of_the_paper = name in (results.dataset, f"{results.dataset}-short")
    texts = [] if preset and of_the_paper else [f"preset {name}"]
    for field, value in settings.items():
        if field not in NOT_SETTINGS and _text(value) != _text(preset.get(field)):
            texts.append(f"{field}={_text(value)}")
    return printable(", ".join(texts)), int(settings.get("epochs") or preset.get("epochs", results.epochs))


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
        accuracies = [getattr(run.results, f"test_accuracy_{name}") for run in row.runs]
        measured = [100 * x for x in accuracies if x is not None]
        spread = f" +- {pstdev(measured):.2f}" if len(measured) > 1 else ""
        scores.append(f"{fmean(measured):.2f}{spread}" if measured else "")
    minutes = [run.minutes for run in row.runs if run.minutes is not None]
    time = f"{fmean(minutes):.1f}" if minutes else ""
    return [row.dataset, row.name, *scores, str(len(row.runs)), row.length, row.runs[0].results.device or "", time]


def write(table: list[list[str]]) -> None:
    """Prints the table for people; a narrow terminal breaks its lines, but nothing is cut off."""
    view = Table(*COLUMNS)
    for line in table:
        view.add_row(*line)
    console = Console(**PLAIN)
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
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for a sign that the font lacks
            figure.savefig(partial, format="png", dpi=min(120, 60_000 / max(figure.get_size_inches())))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return f"figure: {path}"


def _learning_curves(axes: Axes, dataset: str, rows: list[Row]) -> None:
    styles = {row.method: cycle(("-", "--", ":", "-.")) for row in rows}
    shown: list[float] = []
    lines, labels = [], []
    for row in rows:
        curves = [run.errors for run in row.runs if run.errors]
        epochs = sorted(set().union(*curves))
        errors = [[curve[epoch] for curve in curves if epoch in curve] for epoch in epochs]
        means, color = [fmean(several) for several in errors], COLORS.get(row.method, "#e69f00")
        seeds = "1 seed" if len(curves) == 1 else f"{len(curves)} seeds"
        labels.append(textwrap.fill(f"{row.name}, {row.length} epochs, {seeds}", 70, max_lines=8))
        lines += axes.plot(epochs, means, next(styles[row.method]), color=color, label=labels[-1])
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
    axes.set(xlabel="epoch", ylabel="test error (%)")
    axes.set_title(dataset, parse_math=False)
    legend = axes.legend(lines, ["-"] * len(lines), loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)
    for text, label in zip(legend.get_texts(), labels, strict=True):  # as it is, be it "_" or "$" that it holds
        text.set(text=label, parse_math=False)


def _content(path: Path) -> bytes:
    try:
        if path.is_file():
            return path.read_bytes()
        reason = "not a file"  # but a folder, or a pipe whose end may never come
    except OSError as error:
        reason = str(error.strerror)
    raise ValueError(f"{path} cannot be read: {reason}")


def _object(where: Path | str, text: bytes) -> dict[str, Any]:
    try:
        return {**json.loads(text)}
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{where} is not a JSON object: {error}") from None


def _typed(kind: type[Record], where: Path | str, content: dict[str, Any]) -> Record:
    fields: dict[str, Any] = {name: content.get(name) for name in kind._fields}
    return kind(**_checked(where, fields, [x for x in fields if x not in kind._field_defaults]))


def _checked(where: Path | str, fields: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """The fields, each of which is what it must be, or None where it need not be there."""
    known = dict.fromkeys(required) | fields
    bad = [x for x in known if not (KINDS.get(x, _is_setting)(known[x]) or (known[x] is None and x not in required))]
    if bad:
        raise ValueError(f"{where} lacks {', '.join(bad)}, or they are of the wrong type")
    return fields


def _settings(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of the experiment, its length, and how it trains."""
    used = [x for x in config if x in ("experiment", "epochs", "stop_after_epochs") or x not in NOT_SETTINGS]
    return _checked(path, {name: config[name] for name in used}, ["experiment"])


def _flags(where: Path, command: str) -> dict[str, Any]:
    """The flags in a command line and their values."""
    words = (flag.replace("=", " ", 1).partition(" ") for flag in f" {command}".split(" --")[1:])
    flags: dict[str, Any] = {name.replace("-", "_"): value.strip() for name, _, value in words}
    if "epochs" in flags:
        epochs = int(flags["epochs"][:11]) if flags["epochs"].isdecimal() else None
        flags |= _checked(f"the command in {where}", {"epochs": epochs}, ["epochs"])
    return flags


if __name__ == "__main__":
    main()
