"""The run folder: config.json, metrics.jsonl (a line an epoch), results.json, figures.

results.json appears last and whole: a folder that holds one holds a finished run.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raises FileExistsError if the folder holds a finished run, or files that are no run's."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--out must be a folder, got the file {folder}")
    if (folder / "results.json").exists() and not overwrite:
        raise FileExistsError(f"--out {folder} holds a finished run; choose another folder or add --overwrite")
    if folder.exists() and any(folder.iterdir()) and not _is_run(folder):
        raise FileExistsError(f"--out {folder} holds files that are no run's; choose another folder")


def _is_run(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text())
        return {"experiment", "preset", "seed"} <= set(config)
    except (OSError, ValueError, TypeError):
        return False


def start(folder: Path, experiment: str, config: Any) -> contextlib.ExitStack:
    """Makes the folder of a new run and writes its config; an old run's files are removed.

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
        for name in ("results.json", "metrics.jsonl"):  # results first: what follows is not finished
            (folder / name).unlink(missing_ok=True)
        write_json(folder / "config.json", {"experiment": experiment, **dataclasses.asdict(config)})
        return lock.pop_all()


def append_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Adds a line to metrics.jsonl."""
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(metrics) + "\n")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w") as file:
        json.dump(content, file, indent=2, default=str)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


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
