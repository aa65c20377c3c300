"""What tests of commands have in common."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


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


def without_times(results):
    """Results without what differs from run to run: times, and what says where the folder is."""
    of_folder = ("command", "config", "sha256", "sha256_of_config", "sha256_of_metrics")
    return {name: value for name, value in results.items() if "seconds" not in name and name not in of_folder}
