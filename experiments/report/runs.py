"""The image runs below some folders: run folders, and the lines of results files (NAME.jsonl).

They may be those of strangers: what is damaged is told in one line that names the file, and hides no other run.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import reading
from experiments.common.endings import printable
from experiments.report import settings

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
    "seed": lambda value: type(value) is int and 0 <= value < 2**32,
    "wall_seconds": lambda value: _is_number(value, 0, 1e12),
}
RESULTS = ["experiment", "dataset", "method", "seed", "epochs", "test_accuracy_mode"]
OPTIONAL = ["preset", "device", "wall_seconds", "test_accuracy_mean"]


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
        names = {Path(here): {*dirs, *files} for here, dirs, files in walk}
        paths = [here for here in names if names[here] & {"results.json", "config.json"}]
        paths += [here / x for here in names for x in names[here] if x.endswith(".jsonl") and x != "metrics.jsonl"]
        here = [os.path.realpath(path) for path in paths]
        for path, real in sorted(zip(paths, here, strict=True)):
            try:
                finished[real], unfinished = read_lines(path) if path.suffix == ".jsonl" else read_folder(path)
            except (ValueError, OSError) as error:
                unfinished = f"left out: {_cannot_be_read(error) if isinstance(error, OSError) else error}"
            if unfinished:
                told[real] = unfinished
        if not any(finished.get(real) for real in here):
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
    for path in (folder / name for name in reading.DIGESTS.values()):
        if os.path.lexists(path) and not path.is_file():  # but a folder, or a pipe whose end may never come
            raise ValueError(f"{path} cannot be read: not a file")
    run = reading.read(folder)
    experiment = (run.results or run.config).get("experiment")
    if isinstance(experiment, str) and experiment != EXPERIMENT:
        return [], None
    metrics = [_epoch(f"{folder / 'metrics.jsonl'}: line {i}", line) for i, line in enumerate(run.metrics, 1)]
    if run.results is not None:
        return _runs(folder / "results.json", run.results, metrics, folder / "config.json", run.config), None
    config = _config(folder / "config.json", run.config)
    if not run.config or not (folder / "metrics.jsonl").exists():
        return [], None
    epoch, stop = max((line["epoch"] for line in metrics), default=0), config.get("stop_after_epochs")
    total = stop if stop and epoch <= stop else config.get("epochs")  # a resumed run goes on after its first stop
    return [], f"not finished: {folder}, epoch {epoch} of {total}"


def read_lines(path: Path) -> tuple[list[Run], None]:
    """The runs in a results file, a line each, which may hold the metrics of its epochs; raises as `read_folder`."""
    if not path.is_file():
        raise ValueError(f"{path} cannot be read: not a file")
    found = []
    for i, line in enumerate(reading.read_lines(path), 1):
        if line.get("experiment") == EXPERIMENT:
            metrics = line.get("metrics", [])
            if not isinstance(metrics, list):
                raise ValueError(f"{path}: line {i} lacks metrics, or they are of the wrong type")
            found += _runs(f"{path}: line {i}", line, [_epoch(f"{path}: line {i}", x) for x in metrics])
    return found, None


def _runs(
    where: Path | str,
    results: dict[str, Any],
    metrics: list[dict[str, Any]],
    where_config: Path | None = None,
    config: dict[str, Any] | None = None,
) -> list[Run]:
    """A run for each seed in results, which may hold the config."""
    seeds = results.get("runs", [results])
    if not (isinstance(seeds, list) and seeds and all(isinstance(seed, dict) for seed in seeds)):
        raise ValueError(f"{where} lacks runs, or they are of the wrong type")
    names = [*RESULTS, *OPTIONAL]
    shared = {name: results.get(name) for name in names if name != "seed" and not name.startswith("test_")}
    lines = [_checked(where, {name: (shared | seed).get(name) for name in names}, RESULTS) for seed in seeds]
    if where_config and config:
        config = _config(where_config, config)
    else:
        config = _config(f"{where}: config", results.get("config", {}))
    runs = []
    for line in lines:
        together = len(seeds) if len(seeds) > 1 else config.get("seeds")
        seconds, mean = line["wall_seconds"], line["test_accuracy_mean"]
        runs.append(
            Run(
                path=str(where),
                **{name: line[name] for name in ("seed", "dataset", "method", "epochs")},
                total_epochs=config.get("epochs") or line["epochs"],
                device=line["device"] or "",
                changes=_changes(line, config),
                minutes=seconds / 60 / (together if _is_number(together, 1, 1e9) else 1) if seconds else None,
                mode=100 * line["test_accuracy_mode"],
                mean=None if mean is None else 100 * mean,
                errors={
                    x["epoch"]: 100 - 100 * x["test_accuracy_mode"]
                    for x in metrics
                    if x["seed"] is None or x["seed"] == line["seed"]
                },
            )
        )
    return runs


def _changes(results: dict[str, Any], config: dict[str, Any]) -> str:
    """What a run's settings change of its preset, or that they cannot be compared with one of the paper."""
    name = results["preset"]
    preset = settings.of_preset(name, results["method"])
    of_the_paper = preset and name in (results["dataset"], f"{results['dataset']}-short")
    texts = [] if of_the_paper else [f"preset {name}"]
    unknown = {x: settings.as_typed(value) for x, value in config.items() if x not in preset}
    changed = settings.changes(config, preset) | unknown
    of_the_run = (*settings.NOT_SETTINGS, "dataset", "method", "epochs")
    texts += [f"{x}={value}" for x, value in changed.items() if x not in of_the_run] if config else ["settings unknown"]
    return printable(", ".join(texts))


def _epoch(where: str, line: Any) -> dict[str, Any]:
    if not isinstance(line, dict):
        raise ValueError(f"{where} is not a JSON object")
    fields = {name: line.get(name) for name in ("epoch", "test_accuracy_mode", "seed")}
    return _checked(where, fields, ["epoch", "test_accuracy_mode"])


def _config(where: Path | str, config: Any) -> dict[str, Any]:
    """The settings in a config that a run has, or none."""
    if not isinstance(config, dict):
        raise ValueError(f"{where} is not a JSON object")
    skipped = {*settings.NOT_SETTINGS, "dataset", "method"} - {"experiment", "stop_after_epochs", "seeds"}
    is_file = isinstance(where, Path) and config
    return _checked(where, {x: config[x] for x in config if x not in skipped}, ["experiment"] if is_file else [])


def _checked(where: Path | str, fields: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """The fields, each of which is what it must be, or None where it need not be there."""
    known = dict.fromkeys(required) | fields
    bad = [x for x in known if not (KINDS.get(x, _is_setting)(known[x]) or (known[x] is None and x not in required))]
    if bad:
        raise ValueError(f"{where} lacks {', '.join(bad)}, or they are of the wrong type")
    return fields


def _cannot_be_read(error: OSError) -> str:
    return f"{error.filename} cannot be read: {error.strerror}"
