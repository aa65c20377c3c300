"""Continual learning by stored posteriors: sharing, storage and the search for the task by hand, and a run on disk."""

import itertools
import re
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

import bbinn_jax as bb
from experiments.common import checkpoints, data, prediction
from experiments.common.data import Split
from experiments.common.training import State
from experiments.continual_learning import stored, tasks
from experiments.continual_learning.__main__ import main
from experiments.continual_learning.learner import load_network, load_packed
from experiments.continual_learning.summary import show
from tests.commands import assert_finished_run_stays, kill, process_of, read_metrics, refused

pytestmark = pytest.mark.long

# Sharing --------------------------------------------------------------------------------------------------------------

NATURAL = np.random.default_rng(0).normal(scale=1.5, size=(4, 3, 5)).astype(np.float32)  # of 4 tasks


def by_hand(natural, share_below):
    """In float64, a weight at a time: what is stored, and how far the nearest decision was from the threshold."""
    kept, margin = np.zeros(natural.shape), np.inf
    for task, place in np.ndindex(natural.shape[0], natural[0].size):
        i = np.unravel_index(place, natural[0].shape)
        x = float(natural[(task, *i)])
        x = np.sign(x) * (min(np.floor(4 * abs(x)), 15) + 0.5) / 4
        q, closest = 1 / (1 + np.exp(-2 * x)), (np.inf, x)
        for old in kept[:task, *i]:
            p = 1 / (1 + np.exp(-2 * old))
            kl = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
            closest = min(closest, (kl, old), key=lambda pair: pair[0])
            margin = min(margin, abs(kl - share_below))
        kept[(task, *i)] = closest[1] if closest[0] <= share_below else x
    return kept, margin


def store_all(natural, share_below):
    """As a run does it: task after task, each stored a second time as well, as at every point of a curve."""
    keep = jax.jit(partial(stored.store, share_below))
    kept = {"w": jnp.zeros(natural.shape)}, {"scale": jnp.zeros(len(natural))}
    for task, of_task in enumerate(natural):
        for x in (-of_task, of_task):
            kept = keep(kept, jnp.int32(task), ({"w": jnp.asarray(x)}, {"scale": jnp.float32(task)}))
    np.testing.assert_array_equal(kept[1]["scale"], np.arange(len(natural)))
    return np.asarray(kept[0]["w"])


@pytest.mark.parametrize("share_below", [0.003, 0.1, 0.7])
def test_a_weight_shares_the_closest_stored_posterior_below_the_threshold(share_below):
    expected, margin = by_hand(NATURAL, share_below)
    assert margin > 1e-5  # no decision hangs on rounding
    np.testing.assert_allclose(store_all(NATURAL, share_below), expected)


def test_the_threshold_from_sharing_what_is_equal_to_sharing_everything():
    kept = store_all(np.concatenate([NATURAL, NATURAL + 1e-4]), 0.0)
    np.testing.assert_array_equal(kept[:4], stored.rounded(NATURAL))
    np.testing.assert_array_equal(kept, stored.rounded(np.concatenate([NATURAL, NATURAL + 1e-4])))
    everything = store_all(NATURAL, 1e3)
    np.testing.assert_array_equal(everything, np.broadcast_to(stored.rounded(NATURAL[0]), NATURAL.shape))


def test_what_is_stored_has_the_mode_and_a_probability_close_by():
    natural = jnp.linspace(-5, 5, 1001)
    rounded = stored.rounded(natural)
    np.testing.assert_array_equal(bb.mode(rounded), bb.mode(natural))
    assert len(np.unique(rounded)) == 2 * 2**stored.CERTAINTY_BITS
    np.testing.assert_allclose(jax.nn.sigmoid(2 * rounded), jax.nn.sigmoid(2 * natural), atol=0.0625)


def test_bits_by_hand():
    """Two weights, three tasks: a, a, a and a, b, a."""
    natural = np.array([[0.125, 0.125], [0.125, -0.375], [0.125, 0.125]])
    bits = stored.bits(natural, num_real=3)
    assert bits["components_per_weight"] == bits["mode_bits_per_weight"] == 1.5
    assert bits["certainty_bits_per_weight"] == 6.0
    assert bits["index_bits_per_weight"] == pytest.approx(1.0)  # of the second task, half of the weights are new
    assert bits["real_bits_per_weight"] == pytest.approx(32 * 3 * 3 / 2)
    assert bits["bits_per_weight"] == pytest.approx(1.5 + 6 + 1 + 144)


# Which task it is -----------------------------------------------------------------------------------------------------


def test_the_posterior_that_knows_its_pixel_is_found():
    """The posterior of a task is certain of the weights of one pixel, which its images have; labels are its sign."""
    natural = 9.0 * np.eye(3)[:, :, None] * np.array([1, -1]) + 0.0 * np.zeros((3, 3, 2))
    apply_fn = lambda w, x: 5 * x @ w["w"]  # noqa: E731
    signs = np.where(np.arange(20) % 3 == 0, -1.0, 1.0)
    images = np.eye(3)[:, None] * signs[:, None]  # [task, image, pixel]
    labels = np.broadcast_to(signs < 0, (3, 20)).astype(np.int32)
    of_tasks = {"w": jnp.asarray(natural, jnp.float32)}, {}
    learned = tasks.Learned(State((None, None), None, {}, 0), {}, jnp.arange(3), of_tasks)
    predictors = {
        "mode": lambda f, state, key, x: bb.mode_predictive(f, state.params[0], x),
        "mean": lambda f, state, key, x: bb.posterior_predictive(f, state.params[0], key, x, num_samples=20),
    }
    test = Split(jnp.asarray(images, jnp.float32), jnp.asarray(labels))
    program = partial(stored.compare, predictors, lambda *_: apply_fn, test)
    found = jax.device_get(jax.jit(program)(jnp.int32(3), learned, jax.random.key(0)))
    chosen = stored.choose(found, 3)
    assert chosen["task_rate_mutual_information"] == [1.0, 1.0, None]
    assert chosen["untold_accuracy_mutual_information"] == [1.0, 1.0, None]
    assert chosen["chosen_mutual_information"][1] == np.eye(3).tolist()
    assert found["mutual_information"][0, 1].min() > 0.3  # nats: the networks of another task contradict each other
    two = jax.device_get(jax.jit(program)(jnp.int32(2), learned, jax.random.key(0)))
    assert stored.choose(two, 2)["task_rate_mutual_information"] == [1.0, 1.0, None]
    assert not two["mutual_information"][2].any()  # nothing is asked of a task that has not come


def test_choices_equal_a_loop_over_batches():
    rng = np.random.default_rng(0)
    found = {name: rng.uniform(size=(4, 4, 57)) for name in stored.RULES}
    found |= {name: rng.uniform(size=(4, 4, 57)) < 0.5 for name in ("mode", "mean")}
    chosen = stored.choose(found, 3)
    for rule, predictor in stored.RULES.items():
        for place, size in enumerate(stored.BATCHES[:2]):
            shares, right = np.zeros((3, 3)), []
            for task in range(3):
                for first in range(0, 57 // size * size, size):
                    batch = slice(first, first + size)
                    posterior = min(range(3), key=lambda k: found[rule][task, k, batch].mean())
                    shares[task, posterior] += 1 / (57 // size)
                    right += found[predictor][task, posterior, batch].tolist()
            np.testing.assert_allclose(chosen[f"chosen_{rule}"][place], shares)
            assert chosen[f"task_rate_{rule}"][place] == pytest.approx(np.trace(shares) / 3)
            assert chosen[f"untold_accuracy_{rule}"][place] == pytest.approx(np.mean(right))
        assert chosen[f"task_rate_{rule}"][2] is None


# Split tasks ----------------------------------------------------------------------------------------------------------


def test_split_tasks_have_two_labels_each_and_as_many_images():
    digits = data.load("digits").train
    flat = Split(digits.images.reshape(len(digits.labels), -1), digits.labels)
    parts = tasks.split(flat, 5)
    assert parts.images.shape == (*parts.labels.shape, 64)
    counts = np.bincount(np.asarray(digits.labels) // 2)
    assert parts.labels.shape == (5, counts.min())
    for task, order in enumerate(tasks.orders(0, 5, parts)):
        images, labels = tasks.examples(parts, order)
        rows = np.flatnonzero(np.isin(digits.labels, (2 * task, 2 * task + 1)))[: counts.min()]
        np.testing.assert_array_equal(labels, digits.labels[rows])
        np.testing.assert_array_equal(images, flat.images[rows])
        np.testing.assert_array_equal(tasks.examples(parts, order, 7).images, images[:7])
    orders = tasks.orders(3, 2, flat)
    np.testing.assert_array_equal(orders, tasks.permutations(3, 2, 64))
    np.testing.assert_array_equal(tasks.examples(flat, orders[1], 7).images, flat.images[:7, orders[1]])


# A run ----------------------------------------------------------------------------------------------------------------

RUN = ["--preset", "split-digits", "--method", "cbln", "--epochs", "6", "--hidden", "16", "--curve-points", "1"]
RUN += ["--eval-samples", "5", "--batch-norm", "per-task", "--seed", "3", "--tasks", "4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("stored") / "run"
    return main([*RUN, "--out", str(out)]), out


def test_a_run_has_what_it_promises(run, capsys):
    results, out = run
    assert (results["method"], results["prior"], results["dataset"]) == ("cbln", None, "split-digits")
    assert imread(out / "stored.png").std() > 0.1
    last = read_metrics(out)[-1]
    assert all(results[f"{name}_after_task"][-1] == last[name] for name in stored.NAMES)
    assert [len(results[f"{name}_after_task"]) for name in stored.NAMES] == [4] * len(stored.NAMES)
    components = results["components_per_weight_after_task"]
    assert components[0] == 1 and all(0 <= b - a <= 1 for a, b in itertools.pairwise(components))
    assert results["task_rate_entropy_after_task"][0][:2] == [1.0, 1.0]  # of one
    assert results["forgetting_mean"] == results["forgetting_mode"] == 0
    capsys.readouterr()
    show(results)
    printed = capsys.readouterr().out
    assert "not told" in printed and "bits a weight" in printed
    assert len(re.findall("each task, told the task|cbln, told the task", printed)) == 2  # both heads
    assert not re.search("forgetting|backward|capacity", printed)
    show(results | {"tasks": 1})
    assert "given to their task" not in capsys.readouterr().out  # of one task there is no choice


def test_networks_of_the_files_have_the_numbers_of_the_results(run):
    """The modes, and the drawn networks by which the task is found: at one bit a weight, without the posteriors."""
    results, out = run
    modes = [load_packed(out / "network-3.packed.safetensors", task) for task in (1, 2, 3, 4)]
    drawn = [load_packed(out / "committee-3.packed.safetensors", task) for task in (1, 2, 3, 4)]
    found = {name: np.zeros((4, 4, 71)) for name in (*stored.RULES, "mode", "mean")}
    for task in range(4):
        kept, apply_fn, (images, labels) = load_network(out / "network-3.safetensors", task + 1)
        assert set(np.unique(labels)) == {2 * task, 2 * task + 1}
        mean = bb.posterior_predictive(apply_fn, kept.natural, tasks.keys(3)[2], images, num_samples=5)
        np.testing.assert_allclose(drawn[task].predict(images).probabilities, mean.probabilities, atol=1e-5)
        for posterior in range(4):
            of_mode, of_mean = (x[posterior].predict(images) for x in (modes, drawn))
            place = task, posterior
            found["mutual_information"][place] = of_mean.mutual_information
            found["entropy"][place] = of_mean.entropy
            found["mode_entropy"][place] = of_mode.entropy
            for name, said in (("mode", of_mode), ("mean", of_mean)):
                found[name][place] = np.argmax(said.probabilities, axis=1) == labels
        for name in ("mode", "mean"):
            accuracy = results[f"accuracy_matrix_{name}"][-1][task]
            assert found[name][task, task].mean() == pytest.approx(accuracy, abs=0.015)  # an image
    for name, values in stored.choose(found, 4).items():
        if name.startswith(("task_rate", "untold")):
            expected = results[f"{name}_after_task"][-1]
            assert values[:2] == pytest.approx(expected[:2], abs=0.015) and values[2] is expected[2] is None
    with pytest.raises(ValueError, match="task must be a whole number from 1 to 4, got 5"):
        load_packed(out / "network-3.packed.safetensors", 5)


def test_the_file_holds_as_many_components_as_the_results_say(run):
    results, out = run
    natural = bb.load_posterior(out / "network-3.safetensors").natural
    flat = np.concatenate([np.reshape(x, (4, -1)) for x in jax.tree.leaves(natural)], axis=1)
    np.testing.assert_array_equal(flat, stored.rounded(jnp.asarray(flat)))
    distinct = np.mean([len(set(weight)) for weight in flat.T])
    assert distinct == pytest.approx(results["components_per_weight_after_task"][-1])
    packed = bb.load_packed(out / "network-3.packed.safetensors")
    for a, b in zip(jax.tree.leaves(bb.unpack(packed.weights)), jax.tree.leaves(natural), strict=True):
        np.testing.assert_array_equal(a, np.sign(b))
    assert prediction.part(packed.batch_stats, 0)["BatchNorm_0"]["mean"].shape == (16,)


def test_a_run_that_was_killed_equals_one_that_was_not(run, tmp_path):
    """It stops after task 3, of which the whole run has the same, bit for bit."""
    results, whole = run
    out = tmp_path / "killed"
    process = process_of("continual_learning", [*RUN, "--out", str(out), "--stop-after-tasks", "3"])
    while checkpoints.latest(out) is None:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    kill(process)
    stopped = main([*RUN, "--out", str(out), "--resume", "--stop-after-tasks", "3"])
    assert read_metrics(out) == read_metrics(whole)[:3]
    for name in ("natural", "real", "batch_stats"):
        here, there = (getattr(bb.load_posterior(x / "network-3.safetensors"), name) for x in (out, whole))
        assert_same_bits(here, prediction.part(there, slice(3)))
    for name, number in (("network", 3), ("committee", 3 * 5)):
        here, there = (bb.load_packed(x / f"{name}-3.packed.safetensors").weights for x in (out, whole))
        assert_same_bits(here, prediction.part(there, slice(number)))
    assert all(stopped[f"{name}_after_task"] == results[f"{name}_after_task"][:3] for name in stored.NAMES)
    assert load_packed(out / "network-3.packed.safetensors", 3).predict(np.zeros((1, 64), np.float32))
    with pytest.raises(ValueError, match="task must be a whole number from 1 to 3, got 4"):
        load_network(out / "network-3.safetensors", 4)


def assert_same_bits(tree, expected):
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("load", "name"), [(load_network, "network-3"), (load_packed, "network-3.packed")])
@pytest.mark.parametrize("task", [1.5, "1", None])
def test_a_task_that_is_no_whole_number_is_refused_by_name(run, load, name, task):
    with pytest.raises(ValueError, match=f"task must be a whole number from 1 to 4, got {task!r}"):
        load(run[1] / f"{name}.safetensors", task)


@pytest.mark.parametrize(
    ("arguments", "wanted", "got"),
    [
        (["--tasks", "4"], "4 of digits", "4 of split-digits"),
        (["--preset", "split-digits", "--tasks", "3"], "3 of split-digits", "4 of split-digits"),
        (["--preset", "split-digits", "--stop-after-tasks", "2"], "2 of split-digits", "4 of split-digits"),
    ],
)
def test_a_run_beside_of_other_tasks_is_refused(run, tmp_path, capsys, arguments, wanted, got):
    error = refused(capsys, main, [*arguments, "--beside", str(run[1]), "--out", str(tmp_path / "run")])
    assert f"beside must be a run with the tasks of this one, {wanted}, got {got}" in error
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_stays(run, capsys):
    assert_finished_run_stays(capsys, main, RUN, run)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method", "cbln", "--share-below", "-1"], ["share_below", "-1"]),
        (["--method", "cbln", "--share-below", "nan"], ["share_below", "nan"]),
        (["--method", "cbln", "--eval-samples", "1"], ["eval_samples must be at least 2 with --method cbln, got 1"]),
        (["--share-below", "0.1"], ["--share-below", "--method bayesbinn"]),
        (["--method", "cbln", "--prior", "none"], ["--prior", "--method cbln"]),
        (["--method", "cbln", "--batch-norm", "shared"], ["batch_norm", "'shared'", "--method cbln", "per-task"]),
        (["--method", "cbln", "--batch-norm", "reestimated"], ["batch_norm", "'reestimated'", "--method cbln"]),
        (["--preset", "split-digits", "--tasks", "6"], ["tasks", "5", "split-digits", "6"]),
        (["--preset", "split-digits", "--batch-size", "300"], ["batch_size", "300", "283 training images of a task"]),
        (["--preset", "split-digits", "--eval-images", "3"], ["eval_images", "3 images"]),
        (["--dataset", "split-letters"], ["dataset", "split-letters", "split-mnist"]),
    ],
)
def test_bad_argument_ends_in_one_line_and_writes_nothing(tmp_path, capsys, arguments, expected):
    error = refused(capsys, main, ["--out", str(tmp_path / "run"), *arguments])
    assert all(text in error for text in expected), error
    assert list(tmp_path.iterdir()) == []
