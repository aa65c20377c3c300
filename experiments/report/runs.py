"""The image runs below some folders: run folders, and the lines of results files (NAME.jsonl).

They may be those of strangers: what is damaged is told in one line that names the file, and hides no other run.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import changes, reading
from experiments.common.endings import printable

EXPERIMENT = "image_classification"


class Run(NamedTuple):
    """What the run of one seed left behind."""

    path: str
    seed: int
    dataset: str
    method: str
    epochs: int
    total_epochs: int  # of the schedule
    device: str
    changes: str  # of the preset's settings
    minutes: float | None
    mode: float  # test accuracies in percent
    mean: float | None
    errors: dict[int, float]  # test error of the mode in percent after each epoch


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
    "seeds": lambda value: type(value) is int and 1 <= value <= 10**9,
    "seed": lambda value: type(value) is int and 0 <= value < 2**32,
    "wall_seconds": lambda value: _is_number(value, 0, 1e12),
}
RESULTS = ("experiment", "dataset", "method", "seed", "epochs", "test_accuracy_mode")  # must be there
SHARED = ("experiment", "dataset", "method", "epochs", "preset", "device", "wall_seconds")  # by seeds of one program
EPOCH = ("epoch", "test_accuracy_mode")


def find(folders: list[Path]) -> tuple[list[Run], list[str]]:
    """The finished runs below the folders, and a line for each that is not finished or cannot be read.

    Raises:
        ValueError: no such folder, or no finished run in any of them.
    """
    finished: dict[str, list[Run]] = {}  # by real path: folders may overlap
    told: dict[str | Path, str] = {}

    def tell(error: OSError, real: str | None = None) -> None:
        told[real or os.path.realpath(error.filename)] = f"left out: {error.filename} cannot be read: {error.strerror}"

    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"no such folder: {printable(str(folder))}")
        walk = os.walk(folder, onerror=tell)
        names = {Path(here): {*dirs, *files} for here, dirs, files in walk}
        paths = [here for here in names if names[here] & {"results.json", "config.json"}]
        paths += [here / x for here in names for x in names[here] if x.endswith(".jsonl") and x != "metrics.jsonl"]
        for path in sorted(paths):
            real = os.path.realpath(path)
            try:
                finished[real], unfinished = read_lines(path) if path.suffix == ".jsonl" else read_folder(path)
                told |= {real: unfinished} if unfinished else {}
            except OSError as error:
                tell(error, real)
            except ValueError as error:
                told[real] = f"left out: {error}"
        if not any(finished.get(os.path.realpath(path)) for path in paths):
            told[folder] = f"no finished runs of {EXPERIMENT} in {folder}"
    runs = [run for several in finished.values() for run in several]
    if not runs:
        raise ValueError(printable("; ".join(sorted(told.values(), key=lambda line: line.startswith("left out")))))
    return runs, list(told.values())


def read_folder(folder: Path) -> tuple[list[Run], str | None]:
    """The runs in a run folder, one for each seed; of one that is not finished, how far it has come.

    Raises:
        ValueError: a file is damaged, or lacks fields.
        OSError: a file cannot be read.
    """
    results, config, metrics = (folder / name for name in reading.DIGESTS.values())
    for path in (results, config, metrics):
        if os.path.lexists(path):
            _must_be_a_file(path)
    run = reading.read(folder)
    experiment = (run.results or run.config).get("experiment")
    if experiment != EXPERIMENT and (isinstance(experiment, str) or run.results is None):
        return [], None
    epochs = [(f"{metrics}: line {i}", line) for i, line in enumerate(run.metrics, 1)]
    if run.results is not None:
        within = run.results.get("config", {})
        return _runs(results, run.results, epochs, *((config, run.config) if run.config else (results, within))), None
    settings_of_it = _checked(config, run.config)
    epoch = max((_checked(*x, EPOCH)["epoch"] for x in epochs), default=0)
    stop = settings_of_it.get("stop_after_epochs")  # after which a resumed run goes on
    total = stop if stop and epoch <= stop else settings_of_it.get("epochs")
    return [], f"not finished: {folder}, epoch {epoch} of {total}" if metrics.exists() else None


def read_lines(path: Path) -> tuple[list[Run], None]:
    """The runs in a results file, a line each, which may hold the metrics of its epochs; raises as `read_folder`."""
    _must_be_a_file(path)
    found = []
    for i, line in enumerate(reading.read_lines(path), 1):
        if line.get("experiment") == EXPERIMENT:
            where, metrics = f"{path}: line {i}", line.get("metrics", [])
            epochs = [(f"{where}: metrics", x) for x in (metrics if isinstance(metrics, list) else [metrics])]
            found += _runs(where, line, epochs, f"{where}: config", line.get("config", {}))
    return found, None


def _must_be_a_file(path: Path) -> None:
    if not path.is_file():  # but a folder, or a pipe whose end may never come
        raise ValueError(f"{path} cannot be read: not a file")


def _runs(where: Path | str, results: dict[str, Any], epochs: list[Any], where_config: Any, config: Any) -> list[Run]:
    """A run for each seed in results; epochs are pairs of the place of their metrics and the metrics."""
    seeds = results.get("runs", [results])
    if not (isinstance(seeds, list) and seeds and all(isinstance(seed, dict) for seed in seeds)):
        raise ValueError(f"{where} lacks runs, or they are of the wrong type")
    shared = {name: results.get(name) for name in SHARED}
    known = ("seed", "test_accuracy_mode", "test_accuracy_mean", *SHARED)
    lines = [_checked(where, {x: (shared | seed).get(x) for x in known}, RESULTS) for seed in seeds]
    config = _checked(where_config, config)
    metrics = [_checked(place, line, EPOCH) for place, line in epochs]
    together = len(seeds) if len(seeds) > 1 else config.get("seeds", 1)
    return [
        Run(
            path=str(where),
            **{name: line[name] for name in ("seed", "dataset", "method", "epochs")},
            total_epochs=config.get("epochs") or line["epochs"],
            device=line["device"] or "",
            changes=_changes(line, config),
            minutes=line["wall_seconds"] / 60 / together if line["wall_seconds"] else None,
            mode=100 * line["test_accuracy_mode"],
            mean=None if line["test_accuracy_mean"] is None else 100 * line["test_accuracy_mean"],
            errors={
                x["epoch"]: 100 - 100 * x["test_accuracy_mode"]
                for x in metrics
                if x.get("seed") in (None, line["seed"])  # None where the program has one
            },
        )
        for line in lines
    ]


def _changes(results: dict[str, Any], config: dict[str, Any]) -> str:
    """What a run's settings change of its preset, and its preset where that is not one of the paper."""
    preset = changes.of_preset(results["preset"], results["method"])
    of_the_paper = preset and results["preset"] in (results["dataset"], f"{results['dataset']}-short")
    texts = [] if of_the_paper else [f"preset {results['preset']}"]
    of_the_row = ("dataset", "method", "epochs")
    changed = {x: value for x, value in changes.changes(config, preset, every=True).items() if x not in of_the_row}
    texts += [f"{x}={value}" for x, value in changed.items()] if config else ["settings unknown"]
    return printable(", ".join(texts))


def _checked(where: Path | str, fields: Any, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields, each of which is what it must be, or None where it need not be there."""
    if not isinstance(fields, dict):
        raise ValueError(f"{where} is not a JSON object")
    known = dict.fromkeys(required) | fields
    bad = [x for x in known if not (KINDS.get(x, _is_setting)(known[x]) or (known[x] is None and x not in required))]
    if bad:
        raise ValueError(f"{where} lacks {', '.join(bad)}, or they are of the wrong type")
    return fields
