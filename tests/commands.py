"""What tests of commands have in common."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.common import checkpoints


@contextmanager
def optimized():
    """Programs are compiled as those of users: for what runs longer than it compiles."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def refused(capsys, main, arguments):
    """The one line that a refused command prints."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def process_of(experiment, arguments):
    """An experiment as a process of its own, of which output and errors can be read."""
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{experiment}", *arguments],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(process):
    """Ends a process at once, and it can do nothing about it."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def read_results(out):
    return json.loads((out / "results.json").read_text())


def without_times(results):
    """Results without what differs from run to run: times, and what says where the folder is."""
    of_folder = ("command", "config", "sha256", "sha256_of_config", "sha256_of_metrics")
    return {name: value for name, value in results.items() if "seconds" not in name and name not in of_folder}


def results_of(out):
    """The results of a run, without what differs from those of the same run by another command."""
    return without_times(read_results(out)) | {"command": None}


def read_metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def state_of(out):
    """Every leaf of the last checkpoint, as bytes."""
    path = (out / "checkpoints" / str(checkpoints.latest(out))).resolve()
    return {
        name: np.asarray(leaf).tobytes() for name, leaf in checkpoints._checkpointer().restore(path)["state"].items()
    }


def assert_flat_and_on_disk(results, out, promised):
    """The results are those of the file, have all fields that are promised, and hold no lists and one object."""
    assert read_results(out) == results
    assert set(promised.split()) <= set(results)
    assert [name for name, value in results.items() if isinstance(value, dict | list)] == ["config"]
    assert {"experiment": results["experiment"]} | results["config"] == json.loads((out / "config.json").read_text())


def assert_finished_run_stays(capsys, main, arguments, run):
    """A second run into its folder is refused, and its results are as they were."""
    results, out = run
    assert "--overwrite" in refused(capsys, main, [*arguments, "--out", str(out)])
    assert read_results(out) == results
