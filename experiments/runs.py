"""The run folder: config.json, metrics.jsonl (a line an epoch and seed), checkpoints, results.json, figures.

results.json appears last and whole: a folder that holds one holds a finished run.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import jax

from experiments import checkpoints

Config = TypeVar("Config")

# Fields of a config that change where a run goes, how far and on what devices, and not what it computes.
NOT_OF_THE_RUN = (
    "out",
    "overwrite",
    "resume",
    "stop_after_epochs",
    "stop_after_tasks",
    "checkpoint_seconds",
    "beside",
    "data_parallel",
    "sample_parallel",
    "distributed",
    "coordinator_address",
    "num_processes",
    "process_id",
)


def check(folder: Path, experiment: str, config: Any) -> dict[str, Any] | None:
    """Checks that the run of a config may go into a folder.

    Returns:
        With ``config.resume`` the results of the finished run that is there already, if there is one.

    Raises:
        FileExistsError: the folder holds a run that would be lost, or files that are no run's.
        ValueError: the run to resume is another one.
    """
    check_free(folder, overwrite=config.overwrite, resume=config.resume)
    if not config.resume:
        return None
    check_same(folder, experiment, config)
    return read_results(folder)


def check_free(folder: Path, *, overwrite: bool, resume: bool) -> None:
    """Raises FileExistsError if the folder holds a run that would be lost, or files that are no run's."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--out must be a folder, got the file {folder}")
    if folder.exists() and any(folder.iterdir()) and _read_config(folder) is None:
        raise FileExistsError(
            f"--out {folder} holds files that are no run's, or its config.json is damaged; choose another folder"
        )
    if overwrite or resume:
        return
    if (folder / "results.json").exists():
        raise FileExistsError(f"--out {folder} holds a finished run; choose another folder or add --overwrite")
    if checkpoints.latest(folder) is not None or (folder / "networks").exists():  # of runs that this one is made of
        raise FileExistsError(
            f"--out {folder} holds an interrupted run; add --resume to continue it, or --overwrite to start again"
        )


def check_same(folder: Path, experiment: str, config: Any) -> None:
    """Raises ValueError if the run in a folder is not the one that a config describes."""
    found = _read_config(folder)
    if found is None:
        return
    for name, value in _identity(experiment, config).items():
        if found.get(name) != value:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"--resume must continue the same run: {folder} has {flag} {found.get(name)!r}, got {value!r}"
            )


def identity(experiment: str, config: Any) -> str:
    """What tells a run from others, as text: its config without the fields that do not change what it computes."""
    return json.dumps(_identity(experiment, config), sort_keys=True)


def _identity(experiment: str, config: Any) -> dict[str, Any]:
    fields = {"experiment": experiment, **dataclasses.asdict(config)}
    fields = {name: value for name, value in fields.items() if name not in NOT_OF_THE_RUN}
    return json.loads(json.dumps(fields, default=str))  # as it will be read again: lists for tuples


def kept_config(config: Any, seed: int) -> dict[str, Any]:
    """The config that a network is kept with: that of a run of its seed alone, without paths and addresses."""
    fields = dataclasses.asdict(config) | {"resume": False, "overwrite": False, "seeds": 1, "seed": seed}
    return {name: None if name in ("out", "beside", "coordinator_address") else x for name, x in fields.items()}


def config_of(kind: type[Config], fields: dict[str, Any]) -> Config:
    """The config whose fields have been JSON, which knows lists and no tuples."""
    return kind(**{name: tuple(x) if isinstance(x, list) else x for name, x in fields.items()})


def _read_config(folder: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((folder / "config.json").read_text())
        return config if {"experiment", "preset", "seed"} <= set(config) else None
    except (OSError, ValueError, TypeError):
        return None


def start(folder: Path, experiment: str, config: Any, *, resume: bool = False) -> contextlib.ExitStack:
    """Makes the folder of a run and writes its config; an old run's files are removed, but for those to resume.

    Returns a lock: until it is closed, or the process ends however it ends, no
    other run starts in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as lock:  # closed here if anything below fails
        descriptor = os.open(folder, os.O_RDONLY)
        lock.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(f"--out {folder} is in use by another run; choose another folder") from None
        (folder / "results.json").unlink(missing_ok=True)  # first: what follows is not finished
        if not (resume and _read_config(folder)):
            (folder / "metrics.jsonl").unlink(missing_ok=True)
            checkpoints.remove(folder)
            write_json(folder / "config.json", {"experiment": experiment, **dataclasses.asdict(config)})
        return lock.pop_all()


def append_metrics(folder: Path, metrics: list[dict[str, Any]]) -> None:
    """Adds lines to metrics.jsonl, all at once."""
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in metrics))


def rewind_metrics(folder: Path, epoch: int, num_seeds: int, unit: str = "epoch") -> list[dict[str, Any]]:
    """Removes what metrics.jsonl says of later epochs (or another unit), and returns the lines that stay.

    Raises:
        ValueError: lines of earlier epochs are missing.
    """
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = text.split("\n")[:-1]  # what follows the last end of a line was not finished
    kept = lines[: epoch * num_seeds]
    try:
        metrics = [json.loads(line) for line in kept]
        epochs = [line[unit] for line in metrics]
    except (ValueError, TypeError, KeyError):
        epochs = []
    if epochs != [1 + i // num_seeds for i in range(epoch * num_seeds)]:
        raise ValueError(f"{path} is damaged: it must have a line for each seed and each of {epoch} {unit}s")
    _write_whole(path, "".join(line + "\n" for line in kept))
    return metrics


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file whole or not at all."""
    _write_whole(path, json.dumps(content, indent=2, default=str) + "\n")


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_results(folder: Path) -> dict[str, Any] | None:
    """What results.json holds; None where there is none, or a damaged one, which the checkpoint can replace."""
    try:
        return dict(json.loads((folder / "results.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of a run of one seed; of several the mean and (NAME_std) the standard deviation of what was measured.

    Lists of numbers are taken number by number. The results of each seed are then a list under "runs".
    """
    if len(results) == 1:
        return results[0]
    measured = [name for name, value in results[0].items() if isinstance(value, float | list) and "seconds" not in name]
    columns = {name: [line[name] for line in results] for name in measured}
    return {
        **results[0],
        **{name: jax.tree.map(lambda *x: statistics.fmean(x), *values) for name, values in columns.items()},
        **{f"{name}_std": jax.tree.map(lambda *x: statistics.pstdev(x), *values) for name, values in columns.items()},
        "seeds": len(results),
        "runs": results,
    }


def command() -> str:
    """The command line of this process, as somebody would type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name}" if spec else f"python {sys.argv[0]}"
    return f"{program} {shlex.join(sys.argv[1:])}"


def commit() -> str | None:
    """The git commit of the code, with "-dirty" where it was changed; None outside of a clone."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
