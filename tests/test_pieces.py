"""Runs that are made of independent pieces, killed and damaged in between."""

import json
from dataclasses import dataclass

import pytest

from experiments.common import pieces, runs
from experiments.common.config import Run


@dataclass(frozen=True)
class Config(Run):
    resume: bool = False


def work_of(asked, fail=None):
    def rows(name):
        asked.append(name)
        if name == fail:
            raise KeyboardInterrupt
        return [{"name": name, "third": len(name) / 3, "none": None}, {"name": name, "third": 0.1 + 0.2}]

    return {name: (lambda name=name: rows(name)) for name in ("a", "bb", "cccc")}


@pytest.fixture
def interrupted(tmp_path):
    """A folder whose run was stopped in its third piece."""
    with runs.start(tmp_path, "mine", Config()), pytest.raises(KeyboardInterrupt):
        pieces.done(tmp_path, work_of([], fail="cccc"))
    return tmp_path


def test_an_interrupted_run_computes_what_is_missing_and_nothing_else(interrupted, tmp_path_factory):
    asked = []
    rows, seconds = pieces.done(interrupted, work_of(asked))
    assert asked == ["cccc"] and seconds > 0
    never_interrupted = tmp_path_factory.mktemp("whole")
    assert pieces.done(never_interrupted, work_of([]))[0] == rows
    assert [row["name"] for row in rows] == ["a", "a", "bb", "bb", "cccc", "cccc"]
    assert rows[0] == {"name": "a", "third": 1 / 3, "none": None}


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:-5] + "\n",
        lambda line: line.replace('"third": 0.6', '"third": 0.7'),
        lambda line: line.replace('{"piece": "bb"', '{"piece": "dd"'),
        lambda line: "[1]\n",
        lambda line: "null\n",
    ],
    ids=["torn", "a digit", "a name", "no object", "null"],
)
def test_what_is_damaged_is_named_and_computed_again_and_nothing_else(interrupted, damage, capsys):
    path, expected = interrupted / runs.PIECES, pieces.done(interrupted, work_of([]))[0]
    first, second, third = path.read_text().splitlines(keepends=True)
    path.write_text(first + damage(second) + third)
    capsys.readouterr()
    asked = []
    assert pieces.done(interrupted, work_of(asked))[0] == expected
    assert asked == ["bb"]
    assert f"{path} is damaged in line 2: that piece is computed again" in capsys.readouterr().out
    assert sorted(json.loads(line)["piece"] for line in path.read_text().splitlines()) == ["a", "bb", "cccc"]


def test_an_interrupted_run_is_neither_lost_nor_mixed_with_another(interrupted):
    with pytest.raises(FileExistsError, match="holds an interrupted run; add --resume"):
        runs.start(interrupted, "mine", Config())
    with pytest.raises(ValueError, match=r"must continue the same run: .* --seed 0, got 1"):
        runs.start(interrupted, "mine", Config(seed=1, resume=True))
    with runs.start(interrupted, "mine", Config(resume=True)):
        assert len((interrupted / runs.PIECES).read_text().splitlines()) == 2
    with runs.start(interrupted, "mine", Config(overwrite=True)):
        assert not (interrupted / runs.PIECES).exists()


def test_what_is_not_finite_is_named_and_not_kept(tmp_path):
    work = {"a": lambda: [{"accuracy": 1.0}], "b": lambda: [{"accuracy": float("nan")}]}
    with pytest.raises(FloatingPointError, match="accuracy is not finite"):
        pieces.done(tmp_path, work)
    assert len((tmp_path / runs.PIECES).read_text().splitlines()) == 1


def test_what_has_lost_its_files_is_computed_again(interrupted):
    asked = []
    rows, _ = pieces.done(interrupted, work_of(asked), lambda piece: piece != "bb")
    assert asked == ["bb", "cccc"]
    assert [row["name"] for row in rows] == ["a", "a", "bb", "bb", "cccc", "cccc"]
