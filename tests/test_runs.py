"""Run folders: who may use one, what is left of an old run, and what a reader believes."""

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.common import checkpoints, reading, runs
from experiments.common.config import of_flat
from experiments.common.image_config import Config
from experiments.image_classification.__main__ import main
from tests.commands import content_of, without_times

pytestmark = pytest.mark.usefixtures("undrawn")
TINY = ["--preset", "digits", "--hidden", "16", "--epochs", "2", "--eval-samples", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    main([*TINY, "--out", str(out)])
    return out


# Reading --------------------------------------------------------------------------------------------------------------


def test_reader_gives_what_the_run_wrote(finished):
    run = reading.read(finished)
    assert run.verified
    assert run.results == json.loads((finished / "results.json").read_text())
    assert run.config == json.loads((finished / "config.json").read_text())
    assert [line["epoch"] for line in run.metrics] == [1, 2]


def says(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_reader_needs_no_jax():
    program = "import sys; from experiments.common import reading; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=True)


def test_results_from_before_there_were_digests_are_read_unverified(tmp_path):
    (tmp_path / "results.json").write_text('{"experiment": "image_classification", "test_accuracy_mode": 0.97}')
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n')
    run = reading.read(tmp_path)
    assert not run.verified
    assert (run.config, len(run.metrics)) == ({}, 3)
    assert (
        run.results["test_accuracy_mode"] == json.loads((tmp_path / "results.json").read_text())["test_accuracy_mode"]
    )


def test_unfinished_run_is_read_without_its_torn_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2, "lo')
    assert reading.read(tmp_path) == reading.Run({}, [{"epoch": 1}], None, False)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "results.json"])
def test_no_changed_or_lost_byte_goes_on_unnoticed(finished, tmp_path, name):
    """Wherever it is, but where the JSON in results.json says the same as before: 1E-05, or no end of its last line."""
    shutil.copytree(finished, tmp_path / "run")
    path, rng = tmp_path / "run" / name, random.Random(name)
    content, expected = path.read_bytes(), reading.read(finished)
    for damaged in (
        *(content[:i] + bytes([content[i] ^ 1 << rng.randrange(8)]) + content[i + 1 :] for i in range(len(content))),
        *(content[: rng.randrange(len(content))] for _ in range(20)),
    ):
        path.write_bytes(damaged)
        if name == "results.json" and says(damaged) == expected.results:
            assert reading.read(tmp_path / "run") == expected
            continue
        with pytest.raises(ValueError) as error:
            reading.read(tmp_path / "run")
        assert re.match(rf"\S*/run/({name}|results.json) is damaged", str(error.value))
        assert "\n" not in str(error.value)
    path.unlink()
    if name == "results.json":
        assert reading.read(tmp_path / "run").results is None
    else:
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            reading.read(tmp_path / "run")


@pytest.mark.parametrize("text", ["[" * 100_000, "1" + "0" * 400, "[1]", "null", "{", '{"a": 1e400}x', "", b"\xff"])
def test_what_is_no_object_is_one_line_that_names_the_file(tmp_path, text):
    text = text if isinstance(text, bytes) else text.encode()
    for content in (text, b'{"a": ' + text if text.isdigit() else text):
        (tmp_path / "results.json").write_bytes(content)
        (tmp_path / "lines.jsonl").write_bytes(b'{"a": 1}\n' + content + b"\n")
        with pytest.raises(ValueError, match=r"results\.json is damaged: .*\S") as error:
            reading.read(tmp_path)
        with pytest.raises(ValueError, match=r"lines\.jsonl is damaged in line 2: ") as error_in_line:
            reading.read_lines(tmp_path / "lines.jsonl")
        assert "\n" not in f"{error.value}{error_in_line.value}"


# Damage and --resume --------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("is_finished", [True, False])
def test_resume_of_a_damaged_run_is_refused_or_gives_the_same(finished, tmp_path, capsys, is_finished):
    """Each file is damaged in turn (but for the figure and the network, which are not read)."""
    rng, expected = random.Random(0), reading.read(finished)
    names = [path.relative_to(finished) for path in sorted(finished.rglob("*")) if path.is_file()]
    outcomes = set()
    for i, name in enumerate(name for name in names if name.suffix not in (".png", ".safetensors")):
        both = is_finished and name.suffix in (".json", ".jsonl")
        for kind in ("flip", "cut") if both else ("flip", "cut")[i % 2 :][:1]:
            out = tmp_path / f"{i}-{kind}"
            shutil.copytree(finished, out)
            content = bytearray((out / name).read_bytes())
            place = rng.randrange(len(content)) if content else 0
            if kind == "flip" and content:
                content[place] ^= 1 << rng.randrange(8)
            (out / name).write_bytes(content if kind == "flip" else content[:place])
            if not is_finished:
                (out / "results.json").unlink()
            try:
                main([*TINY, "--out", str(out), "--resume"])
            except SystemExit as stop:
                error = capsys.readouterr().err
                assert stop.code == 2 and error.count("\n") == 1 and str(out) in error
                outcomes.add("refused")
            else:
                run = reading.read(out)
                assert run.metrics == expected.metrics
                assert without_times(run.results) == without_times(expected.results)
                outcomes.add("the same")
    assert outcomes == {"refused", "the same"}


# Who may use a folder -------------------------------------------------------------------------------------------------


def test_a_run_that_another_one_has_finished_meanwhile_is_not_destroyed(finished, tmp_path):
    """Both have looked into the empty folder; then one runs, and ends before the other starts."""
    out = tmp_path / "run"
    assert runs.check(out, "image_classification", Config()) is None
    shutil.copytree(finished, out)
    before = content_of(out)
    with pytest.raises(FileExistsError, match="holds a finished run"):
        runs.start(out, "image_classification", Config())
    assert content_of(out) == before
    runs.start(out, "image_classification", Config(overwrite=True)).close()  # nobody holds the lock


def test_overwrite_leaves_nothing_of_the_old_run_and_all_else(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "networks" / "ste-0").mkdir(parents=True)
    for name in (
        "weights.png",
        "network-7.safetensors",
        "network-7.packed.safetensors",
        "committee-7.packed.safetensors",
        "committee-7.packed.safetensors.12.unfinished",
        "network-7.safetensors.12.unfinished",
        "metrics.jsonl.partial",
    ):
        (out / name).write_text("old")
    (out / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()
    (out / "checkpoints.removed" / "2").mkdir(parents=True)
    (out / "thesis.tex").write_text("mine")
    runs.start(out, "image_classification", Config(overwrite=True)).close()
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "thesis.tex"]


def test_unfinished_files_of_dead_processes_are_cleared_by_resume(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = content_of(out)
    for name in ("network-0.safetensors.12.unfinished", "results.json.partial"):
        (out / name).write_text("half")
    (out / "checkpoints" / "3.orbax-checkpoint-tmp-12").mkdir()
    (out / "checkpoints.removed" / "2").mkdir(parents=True)
    config = of_flat(Config, json.loads((out / "config.json").read_text()) | {"out": None, "resume": True})
    runs.start(out, "image_classification", config).close()
    left = content_of(out)
    left[Path("results.json")] = before[Path("results.json")]  # goes: the run is not finished any more
    assert left == before
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["2"]


@pytest.mark.parametrize("left", [[], ["config.json.partial"], ["config.json.partial", "checkpoints.removed"]])
@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_of_a_run_killed_while_it_wrote_its_config_is_used_again(tmp_path, left, overwrite):
    out = tmp_path / "run"
    out.mkdir()
    for name in left:
        (out / name).write_text('{"experiment": "two_mo')
    runs.start(out, "image_classification", Config(overwrite=overwrite)).close()
    assert json.loads((out / "config.json").read_text())["experiment"] == "image_classification"
    assert len(list(out.iterdir())) == 1


def test_refused_run_changes_nothing(finished, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = content_of(out)
    for flags in ([], ["--resume", "--seed", "1"], ["--overwrite", "--momentum", "2"]):
        with pytest.raises(SystemExit):
            main([*TINY, "--out", str(out), *flags])
        assert content_of(out) == before
    assert checkpoints.latest(out) == 2
