"""How commands end: one line and an exit code, whatever the user gave and whatever the machine lacks."""

import errno
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from experiments.common import command, console, endings, full_batch, prediction, runs
from experiments.image_classification import __main__ as image_classification
from experiments.regression import __main__ as regression
from experiments.two_moons import __main__ as two_moons
from tests.commands import process_of

pytestmark = pytest.mark.long

ODD_NAME = "a[/x] :smile: \x1b[31m\né"
SHOWN = "a[/x] :smile: \\x1b[31m\\né"
QUICK = ["--steps", "100", "--hidden", "8"]
TINY = ["--preset", "digits", "--hidden", "16", "--epochs", "2", "--eval-samples", "2"]
ARGUMENTS = {
    "two_moons": QUICK,
    "regression": QUICK,
    "image_classification": TINY,
    "continual_learning": ["--hidden", "8"],
    "benchmarks": ["--preset", "quick"],
}
FILES = sorted((Path(__file__).parents[1] / "experiments").glob("*/__main__.py"))
MODULES = [importlib.import_module(f"experiments.{path.parent.name}.__main__") for path in FILES]
COMMANDS = {module: ARGUMENTS.get(module.EXPERIMENT.name, []) for module in MODULES if hasattr(module, "EXPERIMENT")}


def started(experiment, arguments, **options):
    command = [sys.executable, "-m", f"experiments.{experiment}", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], **(pipes | options))


# What the machine lacks -----------------------------------------------------------------------------------------------

LACKING = {
    "disk": (lambda: OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    "memory": (lambda: MemoryError(), "out of memory"),
    "memory of NumPy": (lambda: MemoryError("Unable to allocate 7 GiB"), "out of memory; Unable to allocate 7 GiB"),
    "memory of the device": (lambda: jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory"), "EXHAUSTED"),
    "folder": (lambda: FileNotFoundError(errno.ENOENT, "No such file or directory", "gone"), "No such file"),
}


@pytest.mark.parametrize(
    "module, case",
    [*((module, "disk") for module in COMMANDS), *((two_moons, case) for case in LACKING if case != "disk")],
    ids=lambda x: x if isinstance(x, str) else x.EXPERIMENT.name,
)
def test_what_runs_out_is_one_line_and_names_the_folder(tmp_path, module, case):
    error, expected = LACKING[case]

    def fail(*args, **kwargs):
        raise error()

    failing = module.EXPERIMENT._replace(run=fail)
    with pytest.raises(SystemExit) as stop:
        command.main(failing, [*COMMANDS[module], "--out", str(tmp_path / ODD_NAME)])
    message = stop.value.code  # text: Python prints it to stderr, and the exit code is 1
    assert message.startswith("error: ") and message.isprintable()
    assert expected in message and SHOWN in message


def test_a_mistake_of_ours_is_shown_whole(tmp_path):
    mistaken = two_moons.EXPERIMENT._replace(run=lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command.main(mistaken, [*QUICK, "--out", str(tmp_path / "run")])


def test_a_full_disk_under_a_checkpoint_is_one_line(tmp_path):
    """Threads of orbax have a hundred more to say."""
    arguments = ["--preset", "digits", "--hidden", "512", "512", "--epochs", "2", "--out", str(tmp_path / "run")]
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
    start = (
        f"{limit} os.execv(sys.executable, [sys.executable, '-m', 'experiments.image_classification', *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start, *arguments], cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True
    )
    _, error = process.communicate()
    assert process.returncode == 1
    assert error.startswith("error: checkpoint ") and error.count("\n") == 1


def test_a_folder_that_goes_away_in_a_run_is_one_line(tmp_path, monkeypatch):
    compile_and_run = full_batch.compile_and_run

    def remove_and_run(*args):
        shutil.rmtree(tmp_path / "run")
        return compile_and_run(*args)

    monkeypatch.setattr(full_batch, "compile_and_run", remove_and_run)
    with pytest.raises(SystemExit, match=r"error: .*No such file or directory.*run folder"):
        regression.main([*QUICK, "--out", str(tmp_path / "run")])


def test_no_terminal_no_home_no_backend(tmp_path):
    """An ASCII terminal that is 0 columns wide, the environment of a notebook's kernel, and no home for a cache."""
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "XDG_CACHE_HOME")}
    env |= {"PYTHONIOENCODING": "ascii", "COLUMNS": "0", "MPLBACKEND": "module://of_some.kernel"}
    program = (
        "import pwd, runpy, sys\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "sys.argv = ['-m', *sys.argv[1:]]\n"
        "from experiments.two_moons.__main__ import main\n"
        "import jax; jax.config.update('jax_compilation_cache_dir', None)\n"
        "main()\n"
    )
    start = [sys.executable, "-c", program, *QUICK, "--out", str(tmp_path / ODD_NAME)]
    done = subprocess.run(start, cwd=Path(__file__).parents[1], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "compiled programs are not kept" in done.stderr
    assert "\\n\\xe9/results.json" in done.stdout  # what ASCII lacks is escaped as well


# Readers that go away, and interrupts ---------------------------------------------------------------------------------


def test_help_whose_reader_goes_away_says_nothing():
    process = started("two_moons", ["--help"])
    process.stdout.close()
    process.stdout = None
    assert process.communicate()[1] == ""


@pytest.mark.parametrize("seconds", [0.2, 0.7, 1.5])
def test_interrupt_while_a_command_starts_is_one_line(tmp_path, seconds):
    """In the middle of imports, as a rule."""
    process = started("image_classification", ["--out", str(tmp_path / "run")])
    time.sleep(seconds)
    assert process.poll() is None
    assert_interrupted(process)


def test_interrupt_of_training_is_one_line_and_resumed(tmp_path):
    process = process_of("image_classification", [*TINY[:-2], "--epochs", "5000", "--out", str(tmp_path / "run")])
    while not (line := process.stdout.readline()).startswith("epoch"):
        assert line, process.communicate()
    assert_interrupted(process)


def assert_interrupted(process):
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.startswith("interrupted; ") and error.count("\n") == 1


# Names ----------------------------------------------------------------------------------------------------------------


def test_any_name_is_printed_as_it_is(tmp_path, capsys):
    two_moons.main([*QUICK, "--out", str(tmp_path / ODD_NAME)])
    output = capsys.readouterr().out
    assert f"results: {tmp_path / SHOWN}/results.json" in output.splitlines()
    assert "\x1b" not in output
    with pytest.raises(SystemExit):
        two_moons.main([*QUICK, "--out", str(tmp_path / ODD_NAME)])
    error = capsys.readouterr().err
    assert f"--out {tmp_path / SHOWN} holds a finished run" in error and error.count("\n") == 1


def test_names_that_are_no_text_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        two_moons.main([*QUICK, "--out", str(tmp_path / os.fsdecode(b"a\xff"))])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "a\\udcff" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_table_shows_any_text(capsys):
    console.write_table("[/x] :smile:\n", ("",), [("[red]é[/red]",)])
    output = capsys.readouterr().out
    assert "[/x] :smile:\\n" in output and "[red]é[/red]" in output


def test_printable():
    assert endings.printable("a b é\t\x1b\u202e\udcff") == "a b é\\t\\x1b\\u202e\\udcff"


# What is not finite ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], {"a": -float("inf")}])
def test_json_knows_finite_numbers_alone(value):
    with pytest.raises(FloatingPointError, match=r"loss is not finite \(epoch 3, seed 1\)"):
        runs.to_json({"epoch": 3, "seed": 1, "loss": value})


def test_evaluation_that_is_not_finite_ends_the_run_without_results(tmp_path, monkeypatch):
    scores = prediction.scores
    monkeypatch.setattr(prediction, "scores", lambda *args: scores(*args) | {"test_ece_mean": float("nan")})
    with pytest.raises(SystemExit, match="error: test_ece_mean is not finite"):
        image_classification.main([*TINY, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "results.json").exists()


def test_last_step_that_is_not_finite_ends_the_run_without_results(tmp_path):
    """One step alone: its loss and its gradient are finite, and what it makes of the weights is not."""
    one_step = ["--epochs", "1", "--train-images", "50", "--learning-rate", "3.4e38", "--temperature", "1"]
    for name, arguments in {"whole": [*TINY, *one_step, "--init-scale", "0.1"]}.items():
        with pytest.raises(SystemExit, match=r"the parameter BinaryDense_./binary_kernel is not finite in step 1"):
            image_classification.main([*arguments, "--out", str(tmp_path / name)])
        assert not (tmp_path / name / "results.json").exists()
    for module in (two_moons, regression):
        out = tmp_path / module.EXPERIMENT.name
        with pytest.raises(SystemExit, match="error: a parameter of bayesbinn is not finite after the last step"):
            module.main(["--steps", "1", "--hidden", "8", "--learning-rate", "3e38", "--out", str(out)])
        assert not (out / "results.json").exists()
