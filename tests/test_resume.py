"""Runs that survive: killed at any moment and continued, several seeds at once, stopped by what is not finite."""

import random
import re
import shutil
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbinn_jax import BinaryDense
from experiments.common import checkpoints, data, methods, reading, runs, training
from experiments.common.presets import PRESETS
from experiments.image_classification.__main__ import main
from tests import commands
from tests.commands import content_of, kill, process_of, read_metrics, results_of, state_of

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("undrawn")]
TINY = ["--preset", "digits", "--hidden", "32", "--checkpoint-seconds", "0"]


def assert_same_run(actual, expected):
    assert state_of(actual) == state_of(expected)
    assert (actual / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    assert results_of(actual) == results_of(expected)


def wait_for_the_first_epoch(process):
    while not (line := process.stdout.readline()).startswith("epoch"):
        assert line, process.communicate()


def test_run_killed_again_and_again_equals_one_that_was_not(tmp_path):
    """Killed 3 times at random: once anywhere after the start of the process (imports, compilation, reading the
    checkpoint), twice soon after the first line of output, when checkpoints are written most of the time.
    """
    arguments, out = [*TINY, "--epochs", "150"], tmp_path / "killed"
    few_checkpoints = ["--checkpoint-seconds", "1000"]
    main([*arguments, *few_checkpoints, "--out", str(tmp_path / "whole")])
    rng, reached = random.Random(0), []
    for where in ("soon", "anywhere", "soon"):
        start = time.perf_counter()
        process = process_of("image_classification", [*arguments, "--out", str(out), "--resume"])
        if where == "soon":
            wait_for_the_first_epoch(process)
            startup = time.perf_counter() - start
            time.sleep(rng.uniform(0, 0.15))
        else:
            time.sleep(rng.uniform(0, startup))
        assert process.poll() is None, process.communicate()
        kill(process)
        reached.append(checkpoints.latest(out) or 0)
    assert reached == sorted(reached)
    assert len(set(reached)) >= 2
    assert not (out / "results.json").exists()
    main([*arguments, *few_checkpoints, "--out", str(out), "--resume"])
    assert_same_run(out, tmp_path / "whole")


def test_stopped_run_continues_and_finished_one_stays(tmp_path, capsys):
    arguments = [*TINY, "--epochs", "6", "--checkpoint-seconds", "1000"]
    main([*arguments, "--out", str(tmp_path / "whole")])
    main([*arguments, "--out", str(tmp_path / "run"), "--stop-after-epochs", "2"])
    main([*arguments, "--out", str(tmp_path / "run"), "--resume"])
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    before = content_of(tmp_path / "run")
    capsys.readouterr()
    main([*arguments, "--out", str(tmp_path / "run"), "--resume"])
    assert "finished" in capsys.readouterr().out
    assert content_of(tmp_path / "run") == before


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Runs of two seeds that were killed after their second epoch and in the middle of writing a line."""
    folder = tmp_path_factory.mktemp("interrupted")
    for seed in ("0", "1"):
        main([*TINY, "--epochs", "4", "--stop-after-epochs", "2", "--seed", seed, "--out", str(folder / seed)])
        (folder / seed / "results.json").unlink()
        with open(folder / seed / "metrics.jsonl", "a") as file:
            file.write('{"epoch": 3, "se')
    return folder


@pytest.fixture
def command(interrupted, tmp_path):
    """What starts one of them again, in a folder ``run`` of its own."""
    shutil.copytree(interrupted / "0", tmp_path / "run")
    return [*TINY, "--epochs", "4", "--out", str(tmp_path / "run")]


def refused(capsys, arguments, out):
    before = content_of(out)
    error = commands.refused(capsys, main, arguments)
    assert content_of(out) == before
    return error


def test_interrupted_run_is_not_lost_without_a_word(tmp_path, capsys, command):
    error = refused(capsys, command, tmp_path / "run")
    assert "--resume" in error and "--overwrite" in error
    main([*command, "--overwrite"])
    assert [line["epoch"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_resume_of_nothing_starts(tmp_path):
    main([*TINY, "--epochs", "2", "--out", str(tmp_path / "run"), "--resume"])
    assert len(read_metrics(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    "change", [["--seed", "1"], ["--learning-rate", "0.2"], ["--hidden", "16"], ["--method", "ste"]]
)
def test_resume_of_another_run_is_refused(tmp_path, capsys, command, change):
    error = refused(capsys, [*command, "--resume", *change], tmp_path / "run")
    assert change[0] in error or "--method" in error
    assert change[1] in error


def test_truncated_checkpoint_is_refused_and_kept(tmp_path, capsys, command):
    largest = max(
        (tmp_path / "run" / "checkpoints").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    assert "damaged" in refused(capsys, [*command, "--resume"], tmp_path / "run")
    assert "--resume" in refused(capsys, command, tmp_path / "run")


def test_checkpoint_of_another_run_is_refused_and_kept(tmp_path, capsys, command, interrupted):
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.copytree(interrupted / "1" / "checkpoints", tmp_path / "run" / "checkpoints")
    assert "another run" in refused(capsys, [*command, "--resume"], tmp_path / "run")


@pytest.mark.parametrize("damage", ["lost", "digit", "gone"])
def test_damaged_metrics_are_named_and_written_again(tmp_path, capsys, command, damage):
    """The checkpoint has them, and so nothing that is in the file can end a run or get into its results."""
    path = tmp_path / "run" / "metrics.jsonl"
    whole = path.read_text().splitlines(keepends=True)[:2]
    if damage == "gone":
        path.unlink()
    else:
        changed = re.sub(r'("train_loss": 0\.\d)\d', r"\g<1>5", whole[1])
        assert changed != whole[1] or damage == "lost"
        path.write_text(whole[1] if damage == "lost" else whole[0] + changed)
    main([*command, "--resume"])
    line = 2 if damage == "digit" else 1
    assert f"metrics.jsonl was damaged in line {line}: it is written again" in capsys.readouterr().out
    assert path.read_text().splitlines(keepends=True)[:2] == whole
    assert reading.read(tmp_path / "run").verified


def test_lines_that_no_checkpoint_has_are_checked_before_training(tmp_path):
    """As in the runs of versions whose checkpoints did not keep them."""
    path = tmp_path / "metrics.jsonl"
    lines = ['{"epoch": 1, "loss": 2.0}', '{"epoch": 2, "loss": 1.0}', '{"epoch": 3, "lo']
    path.write_text("\n".join(lines))
    assert runs.rewind_metrics(tmp_path, None, 2, 1) == [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    for damaged in (lines[:1] * 2, [lines[0], '{"epoch": 2}'], [lines[0]], [lines[0], "{]"]):
        path.write_text("\n".join(damaged) + "\n")
        with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
            runs.rewind_metrics(tmp_path, None, 2, 1)


# Seeds ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bayesbinn", "bimu", "bop"])
def test_each_of_several_seeds_equals_its_own_run(tmp_path, method):
    """Over 2 epochs of 25 steps. Products of matrices are summed in another order, so in the first epoch the losses
    agree to 1e-4, and in the second to 2 %: by then a few weights have come to lie on the other side of 0.
    """
    arguments = [*TINY, "--epochs", "2", "--method", method]
    together = main([*arguments, "--seed", "4", "--seeds", "2", "--out", str(tmp_path / "together")])
    lines = read_metrics(tmp_path / "together")
    assert [(line["epoch"], line["seed"]) for line in lines] == [(e, s) for e in (1, 2) for s in (4, 5)]
    alone = []
    for i, seed in enumerate((4, 5)):
        out = tmp_path / str(seed)
        alone.append(main([*arguments, "--seed", str(seed), "--out", str(out)]))
        for one, many, tolerance in zip(read_metrics(out), lines[i::2], (1e-4, 0.02), strict=True):
            assert many["train_loss"] == pytest.approx(one["train_loss"], rel=tolerance)
        assert together["runs"][i]["seed"] == seed
        shared = set(together) - set(together["runs"][i]) - {"seeds", "runs"}
        assert together["runs"][i].keys() == alone[i].keys() - {name for name in shared if "_std" not in name}
    values = [run["test_accuracy_mode"] for run in together["runs"]]
    assert together["test_accuracy_mode"] == pytest.approx(np.mean(values))
    assert together["test_accuracy_mode_std"] == pytest.approx(np.std(values, ddof=1))
    assert len({line["train_loss"] for line in lines}) == 4  # no seed is another one


def test_several_seeds_resume(tmp_path):
    arguments = [*TINY, "--epochs", "4", "--seeds", "2"]
    main([*arguments, "--out", str(tmp_path / "whole")])
    main([*arguments, "--out", str(tmp_path / "run"), "--stop-after-epochs", "3"])
    (tmp_path / "run" / "results.json").unlink()
    main([*arguments, "--out", str(tmp_path / "run"), "--resume"])
    assert state_of(tmp_path / "run") == state_of(tmp_path / "whole")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


# What is not finite ---------------------------------------------------------------------------------------------------


def test_step_that_is_too_long_stops_the_run(tmp_path):
    """The natural parameters become infinite, and so the next loss is no number."""
    with pytest.raises(SystemExit) as stop:
        main([*TINY, "--epochs", "4", "--learning-rate", "3e38", "--out", str(tmp_path)])
    message = stop.value.code
    assert message.startswith("error: ") and "\n" not in message
    assert re.search(r"not finite in step \d \(epoch 1, seed 0\)", message)
    assert "no checkpoint yet" in message
    assert not (tmp_path / "results.json").exists()


def test_run_that_is_not_finite_stops_and_keeps_its_checkpoint(tmp_path, monkeypatch):
    """After its second epoch every image is damaged; with whole images again the run goes on from the checkpoint."""
    arguments = [*TINY, "--epochs", "4", "--out", str(tmp_path)]
    monkeypatch.setattr(data, "sha256", lambda split: "whatever it is")  # as if the damage came after the start
    main([*arguments, "--stop-after-epochs", "2"])
    files = {path: content for path, content in content_of(tmp_path).items() if "results.json" not in str(path)}
    digits = data.load("digits")
    damaged = digits._replace(train=digits.train._replace(images=jnp.full_like(digits.train.images, jnp.nan)))
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(data, "load", lambda name: damaged)
        main([*arguments, "--resume"])
    steps = 2 * (digits.train.labels.size * 9 // 10 // 50)
    assert f"the loss is not finite in step {steps + 1} (epoch 3, seed 0)" in stop.value.code
    assert stop.value.code.endswith(f"{tmp_path}/checkpoints/2 is kept")
    assert {path: content_of(tmp_path)[path] for path in files} == files
    assert main([*arguments, "--resume"])["epochs"] == 4


class Fragile(nn.Module):
    """A network whose ``bias`` has a gradient that is no number, and a finite loss, as soon as a pixel exceeds 100."""

    @nn.compact
    def __call__(self, x, *, train):
        x = x.reshape(len(x), -1)
        bias = self.param("bias", nn.initializers.zeros, ())
        return BinaryDense(3)(jnp.minimum(x, 1)) + jnp.sqrt(0 * bias + jnp.where(jnp.max(x) > 100, 0.0, 1.0))


@pytest.mark.parametrize("method, num_seeds", [(method, 1 + i % 2) for i, method in enumerate(methods.METHODS)])
def test_step_leaf_and_seed_of_a_bad_gradient_are_named(tmp_path, method, num_seeds):
    config = PRESETS["digits"](method)
    rule = methods.make(config.method, config.real_learning_rate, methods.Plan(1000, config.batch_size, config.epochs))
    keys = jax.random.split(jax.random.key(0), num_seeds)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(80, 4, 4, 1)), jnp.float32)
    labels = jnp.arange(80) % 3
    images = images.at[17].set(1000.0)
    problem = training.Problem(rule, Fragile(), batch_size=4)
    states = jax.jit(jax.vmap(lambda key: training.init(problem, key, images)))(keys)
    index = jnp.stack([jnp.arange(40) + 40 * (i == 0) for i in range(num_seeds)])  # the bad image is the last seed's
    if num_seeds == 1:
        index = index - 40
    train_epoch = jax.jit(lambda s, k: training.train_epoch(problem, s, k, data.Split(images, labels), index))
    states, _, finite = train_epoch(states, keys)
    step = int(states.step[0])
    assert 1 <= step <= 10
    with pytest.raises(SystemExit) as stop:
        runs.stop_if_not_finite(finite, 7, step, 1, tmp_path, states)
    assert f"the gradient of bias is not finite in step {step} (epoch 1, seed {7 + num_seeds - 1})" in stop.value.code
    leaves = jax.tree_util.tree_leaves_with_path(finite)
    assert sum(int(np.sum(~np.asarray(leaf))) for _, leaf in leaves) == 1
