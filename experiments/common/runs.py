"""The run folder: config.json, metrics.jsonl (a line an epoch and seed), checkpoints, results.json, figures.

results.json appears last and whole: a folder that holds one holds a finished run.
"""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import checkpoints, console, devices, reading
from experiments.common.config import flat
from experiments.common.endings import printable, user_errors
from experiments.common.training import Finite

State = TypeVar("State")

# Fields of a config that change where a run goes, how far and on what devices, and not what it computes.
NOT_OF_THE_RUN = (
    "out overwrite resume stop_after_epochs stop_after_tasks checkpoint_seconds beside data_parallel sample_parallel "
    "distributed coordinator_address num_processes process_id"
).split()
# What runs leave in their folder: all of it goes with --overwrite, and what else lies there stays.
UNFINISHED = ("*.partial", "*.unfinished", "checkpoints.removed", "checkpoints/*.orbax-checkpoint-tmp*")
NETWORKS = ("network-*.safetensors", "committee-*.safetensors")
PIECES = "pieces.jsonl"  # of a run that is made of some, see pieces.py
FIGURES = ("figure.png", "weights.png", "stored.png", "corrupted.png")
RESULTS = ("results.json", "metrics.jsonl", PIECES, *FIGURES, "samples.txt", *NETWORKS)
FOLDERS = ("checkpoints", "networks")
FILES = (*RESULTS, *FOLDERS, *UNFINISHED)


def check(folder: Path, experiment: str, config: Any) -> dict[str, Any] | None:
    """Checks that the run of a config may go into a folder.

    Returns:
        With ``config.resume`` the results of the finished run that is there already, if there is one; what is damaged
        is none, and the checkpoint can replace it.

    Raises:
        FileExistsError: it is no folder, or holds a run that would be lost, or files that are no run's.
        ValueError: the run to resume is another one.
    """
    resume = getattr(config, "resume", False)
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise FileExistsError(f"--out must be a folder, got the file {nearest}")
    if not os.fsencode(folder).decode(errors="replace") == str(folder):
        raise ValueError(f"--out must be a name in UTF-8, as checkpoints are kept by, got {folder}")
    # Networks may be trained before the run that compares them starts: it may find them, and not remove them.
    ours = UNFINISHED if config.overwrite else (*UNFINISHED, "networks")
    there = set(folder.iterdir()) - _found(folder, ours) if folder.exists() else ()
    if there and _read_config(folder) is None:
        raise FileExistsError(
            f"--out {folder} holds files that are no run's, or its config.json is damaged; choose another folder"
        )
    if resume and folder.exists():
        for path in sorted(_found(folder, (*RESULTS, *FOLDERS))):
            if path.is_dir() == (path.name not in FOLDERS):
                raise FileExistsError(f"--resume: {path} must be a {'file' if path.is_dir() else 'folder'}")
        check_same(folder, experiment, config)
        try:
            return reading.read(folder).results
        except ValueError:
            return None
    if config.overwrite:
        return None
    if (folder / "results.json").exists():
        raise FileExistsError(f"--out {folder} holds a finished run; choose another folder or add --overwrite")
    begun = (folder / PIECES, folder / "networks")  # of runs that this one is made of
    if checkpoints.latest(folder) is not None or any(path.exists() for path in begun):
        raise FileExistsError(
            f"--out {folder} holds an interrupted run; add --resume to continue it, or --overwrite to start again"
        )
    return None


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


def identity(experiment: str, config: Any, data_sha256: str) -> str:
    """What tells a run from others, as text: its config without the fields that do not change what it computes."""
    return json.dumps(_identity(experiment, config) | {"data_sha256": data_sha256}, sort_keys=True)


def _identity(experiment: str, config: Any) -> dict[str, Any]:
    fields = {"experiment": experiment, **flat(config)}
    return {name: value for name, value in fields.items() if name not in NOT_OF_THE_RUN}


def kept_config(config: Any, seed: int, input_mean: Any, input_std: Any) -> dict[str, Any]:
    """The config that a network is kept with: that of a run of its seed alone, without paths and addresses.

    A network sees ``(input - input_mean) / input_std``, and so these two, lists [channel], are kept with it.
    """
    fields = flat(config) | {"input_mean": np.ravel(input_mean).tolist(), "input_std": np.ravel(input_std).tolist()}
    of_one = {"resume": False, "overwrite": False, "seeds": 1, "seed": seed}
    nowhere = dict.fromkeys(("out", "beside", "data", "text", "coordinator_address"))
    return fields | {name: value for name, value in (of_one | nowhere).items() if name in fields}


def _read_config(folder: Path) -> dict[str, Any] | None:
    try:
        config = reading.read_object(folder / "config.json")
        return config if {"experiment", "preset", "seed"} <= set(config) else None
    except (OSError, ValueError):
        return None


def start(folder: Path, experiment: str, config: Any) -> contextlib.ExitStack:
    """Makes the folder of a run and writes its config; an old run's files are removed, but for those to resume.

    Returns a lock: until it is closed, or the process ends however it ends, no other run starts in the folder. An
    error that passes through it says which folder it was.

    Raises:
        FileExistsError, ValueError: as `check`, which is asked again: another run may have ended just now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    resume = getattr(config, "resume", False)
    with contextlib.ExitStack() as lock:  # closed here if anything below fails
        descriptor = os.open(folder, os.O_RDONLY)
        lock.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(f"--out {folder} is in use by another run; choose another folder") from None
        check(folder, experiment, config)
        (folder / "results.json").unlink(missing_ok=True)  # first: what follows is not finished
        for path in _found(folder, UNFINISHED if resume else FILES):
            _remove(path)
        if not (resume and _read_config(folder)):
            write_json(folder / "config.json", {"experiment": experiment, **flat(config)})
        lock.push(partial(_say_where, folder, hasattr(config, "resume")))
        return lock.pop_all()


def _say_where(folder: Path, can_resume: bool, kind: Any, error: BaseException | None, trace: Any) -> None:
    if error is not None:
        advice = ", where --resume goes on from what is kept" if can_resume else ", which holds no results"
        error.add_note(printable(f"run folder {folder}{advice}"))


def _found(folder: Path, patterns: tuple[str, ...]) -> set[Path]:
    return {path for pattern in patterns for path in folder.glob(pattern)}


def _remove(path: Path) -> None:
    """Removes a file, or a folder: at once, so that no half of a checkpoint is ever found."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    trash = path.with_name(f"{path.name}.partial")
    if path.suffix != ".partial":
        shutil.rmtree(trash, ignore_errors=True)
        path = path.rename(trash)
    shutil.rmtree(path)


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        done: epochs (or tasks) that are done.
        seconds: spent on them.
        history: a line of metrics for each of them and each seed.
    """

    done: int
    seconds: float
    history: list[dict[str, Any]]


def goes_on(
    folder: Path, experiment: str, config: Any, data_sha256: str, state: State, unit: str = "epoch"
) -> tuple[State, Progress]:
    """The state of the last checkpoint in a folder, and what led to it; the state itself where there is none.

    Ends the program, with one line, where the checkpoint or the metrics are damaged, or of other settings or data.
    """
    done, seconds, lines = devices.on_first(partial(checkpoints.latest, folder)) or 0, 0.0, ""
    with user_errors():
        if done:
            restore = partial(checkpoints.restore, folder, done, state, identity(experiment, config, data_sha256))
            state, seconds, lines = devices.state_on_first(restore, state)
        rewind = partial(rewind_metrics, folder, lines, done, config.seeds, unit)
        history = devices.on_first(rewind)
    if done:
        console.write(f"continuing after {unit} {done}")
    elif config.resume:
        console.write(f"no checkpoint to continue from: starting at the first {unit}")
    return state, Progress(done, seconds, history)


def save_checkpoint(
    folder: Path, experiment: str, config: Any, data_sha256: str, state: Any, progress: Progress
) -> None:
    """Keeps the state of a run, and what led to it."""
    of_run = identity(experiment, config, data_sha256), metrics_text(progress.history)
    devices.on_first(partial(checkpoints.save, folder, progress.done, state, progress.seconds, *of_run))


def stop_if_not_finite(finite: Finite, first_seed: int, step: Any, epoch: int, folder: Path, state: Any) -> None:
    """Ends the program if a loss, a gradient or (in the state) what the last step made of them is not finite.

    Args:
        finite: of each seed.
        first_seed: of the run.
        step, epoch: at which it is, for the message.
        folder: of the run.
        state: of each seed, after the step.
    """
    after = {"parameter": bb.combine(*state.params), "batch-norm statistic": state.batch_stats}
    for what, tree in {"loss": finite.loss, "gradient of": finite.gradient, **_are_finite(after)}.items():
        for path, is_finite in jax.tree_util.tree_leaves_with_path(tree):
            for i in np.flatnonzero(~np.asarray(is_finite)):
                checkpoint = checkpoints.latest(folder)
                kept = f"{folder}/checkpoints/{checkpoint} is kept" if checkpoint else "there is no checkpoint yet"
                name = f"the {what} {jax.tree_util.keystr(path, simple=True, separator='/')}".rstrip()
                where = f"in step {step} (epoch {epoch}, seed {first_seed + i})"
                raise SystemExit(printable(f"error: {name} is not finite {where}; {kept}"))


@jax.jit
def _are_finite(tree: Any) -> Any:
    """Whether all numbers of each seed, the first axis, are finite."""
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))), tree)


def append_metrics(folder: Path, metrics: list[dict[str, Any]]) -> None:
    """Adds lines to metrics.jsonl, all at once."""
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(metrics_text(metrics))


def metrics_text(metrics: list[dict[str, Any]]) -> str:
    """The lines of metrics.jsonl."""
    return "".join(to_json(line) + "\n" for line in metrics)


def rewind_metrics(
    folder: Path, kept: str | None, epoch: int, num_seeds: int, unit: str = "epoch"
) -> list[dict[str, Any]]:
    """Makes metrics.jsonl what it was after an epoch (or another unit), and returns its lines.

    Args:
        folder: of the run.
        kept: the text that the checkpoint has, which replaces a damaged one; None for a checkpoint without it.
        epoch: of the checkpoint, or 0.
        num_seeds: lines of an epoch.
        unit: what is counted.

    Raises:
        ValueError: the checkpoint has no text, and lines of earlier epochs are damaged or missing.
    """
    path = folder / "metrics.jsonl"
    if kept is None:  # as checkpoints were before they kept it
        metrics = (reading.read_lines(path) if path.exists() else [])[: epoch * num_seeds]
        wanted = [1 + i // num_seeds for i in range(epoch * num_seeds)]
        if [line.get(unit) for line in metrics] != wanted or any(line.keys() != metrics[0].keys() for line in metrics):
            raise ValueError(f"{path} is damaged: it must have a line for each seed and each of {epoch} {unit}s")
        kept = metrics_text(metrics)
    lines = kept.splitlines()
    found = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for i, line in enumerate(lines):
        if i >= len(found) or found[i] != line.encode():
            console.write(f"{path} was damaged in line {i + 1}: it is written again as the checkpoint has it")
            break
    with whole(path) as file:
        file.write(kept.encode())
    return [json.loads(line) for line in lines]


def write_results(folder: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Writes results.json with the digests that `reading.read` asks for, and returns all that it holds."""
    results = results | reading.digests_beside(folder)
    results |= {"sha256": reading.digest_of(results)}
    write_json(folder / "results.json", results)
    return results


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file whole or not at all."""
    text = to_json(content, indent=2) + "\n"
    with whole(path) as file:
        file.write(text.encode())


def to_json(content: dict[str, Any], indent: int | None = None) -> str:
    """The one writer of JSON, which knows no NaN and no infinity.

    Raises:
        FloatingPointError: a number is not finite; it is named.
    """
    for name, value in content.items():
        try:
            json.dumps(value, default=str, allow_nan=False)
        except ValueError:
            where = [f"{key} {content[key]}" for key in ("task", "epoch", "step", "seed") if key in content]
            raise FloatingPointError(f"{name} is not finite ({', '.join(where)})") from None
    return json.dumps(content, indent=indent, default=str)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of path when all of it is written, and is gone where that fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of a run of one seed; of several the mean and (NAME_std) the sample deviation of what was measured.

    Lists of numbers are taken number by number. The results of each seed are then a list under "runs".

    Raises:
        FloatingPointError: a number is not finite.
    """
    for line in results:
        to_json(line)
    if len(results) == 1:
        return results[0]
    measured = [name for name, value in results[0].items() if isinstance(value, float | list) and "seconds" not in name]
    columns = {name: [line[name] for line in results] for name in measured}
    return {
        **results[0],
        **{name: jax.tree.map(lambda *x: statistics.fmean(x), *values) for name, values in columns.items()},
        **{f"{name}_std": jax.tree.map(lambda *x: statistics.stdev(x), *values) for name, values in columns.items()},
        "seeds": len(results),
        "runs": results,
    }


def record(experiment: str, config: Any) -> dict[str, Any]:
    """What results.json of every run says of where its numbers come from."""
    versions = {f"{name}_version": metadata.version(name) for name in ("jax", "flax", "optax", "numpy", "bbinn_jax")}
    return {
        "experiment": experiment,
        "preset": config.preset,
        "seed": config.seed,
        "device": jax.devices()[0].device_kind,
        **versions,
        "command": command(),
        "commit": commit(),
        "config": flat(config),
    }


def command() -> str:
    """The command line of this process, as somebody would type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name.removesuffix('.__main__')}" if spec else f"python {sys.argv[0]}"
    return f"{program} {shlex.join(sys.argv[1:])}"


def commit() -> str | None:
    """The git commit of the code, with "-dirty" where it was changed; None outside of a clone."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
