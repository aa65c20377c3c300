"""Continual learning from the command line: what it claims, what it writes, how it survives, what it refuses."""

import json
import re
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

import bbinn_jax as bb
from experiments.common import checkpoints, data
from experiments.continual_learning import tasks
from experiments.continual_learning.__main__ import main
from experiments.continual_learning.learner import load_network, load_packed
from experiments.continual_learning.presets import METHODS
from experiments.continual_learning.summary import show
from tests import commands
from tests.commands import kill, process_of, read_metrics, read_results, refused, results_of, state_of

pytestmark = pytest.mark.long

QUICK = ["--tasks", "3", "--epochs", "4", "--hidden", "16", "--curve-points", "2", "--eval-samples", "5"]


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick")  # which is empty: --resume starts
    return main([*QUICK, "--resume", "--out", str(out)]), out


# What it claims -------------------------------------------------------------------------------------------------------


def test_with_the_prior_the_first_task_is_forgotten_less_than_half_as_much(tmp_path):
    """Measured with 3 seeds, in points: 30.8, 25.6, 16.9 with the prior, 81.1, 81.7, 67.8 without."""
    lost = {}
    for prior in ("previous", "none"):
        arguments = ["--tasks", "3", "--curve-points", "1", "--prior", prior]
        with commands.optimized():
            results = main([*arguments, "--out", str(tmp_path / prior)])
        for predictor, least in {"mean": 0.85, "mode": 0.8}.items():  # every task is learned
            assert min(row[-1] for row in results[f"accuracy_matrix_{predictor}"]) > least
        lost[prior] = results["first_task_lost_mean"]
    assert lost["previous"] < lost["none"] / 2


# What it writes -------------------------------------------------------------------------------------------------------


def test_run_folder_holds_config_metrics_checkpoint_network_and_figures(quick_run):
    _, out = quick_run
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoints",
        "committee-0.packed.safetensors",
        "config.json",
        "figure.png",
        "metrics.jsonl",
        "network-0.packed.safetensors",
        "network-0.safetensors",
        "results.json",
        "weights.png",
    ]
    assert json.loads((out / "config.json").read_text())["tasks"] == 3
    assert checkpoints.latest(out) == 3
    for name in ("figure.png", "weights.png"):
        assert imread(out / name).std() > 0.1
    lines = read_metrics(out)
    assert [line["task"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert len(line["accuracy_mode"]) == len(line["accuracy_mean"]) == line["task"]
        assert np.shape(line["curve_accuracy"]) == (2, line["task"])
        assert sum(line["weight_probability_histogram"]) == pytest.approx(1)


def test_results_are_complete_and_on_disk(quick_run):
    results, out = quick_run
    assert read_results(out) == results
    promised = (
        "experiment preset dataset method prior seed tasks epochs device jax_version wall_seconds compile_seconds "
        "train_loss train_accuracy test_accuracy_mode test_accuracy_mean test_nll_mode test_nll_mean "
        "forgetting_mode forgetting_mean backward_transfer_mode backward_transfer_mean first_task_lost_mode "
        "accuracy_matrix_mode accuracy_matrix_mean average_accuracy_after_task_mode average_accuracy_after_task_mean "
        "posterior_entropy_after_task certain_share posterior_entropy_bits_per_weight weight_probability_histograms "
        "num_binary_weights num_real_parameters eval_samples command commit"
    ).split()
    assert set(promised) <= set(results)
    assert results["num_binary_weights"] == 64 * 16 + 16 * 10
    matrix = results["accuracy_matrix_mean"]
    assert [len(row) for row in matrix] == [1, 2, 3]
    assert results["test_accuracy_mean"] == pytest.approx(np.mean(matrix[-1]))
    assert results["average_accuracy_after_task_mean"] == pytest.approx([np.mean(row) for row in matrix])
    assert results["first_task_lost_mean"] == pytest.approx(matrix[0][0] - matrix[-1][0])
    assert results["posterior_entropy_after_task"][-1] == results["posterior_entropy_bits_per_weight"]


def test_curves_are_of_as_many_networks_at_the_end_of_a_task_as_within_it(tmp_path, quick_run):
    """So nothing jumps where a task ends. With as many networks as the table has, the end is that of the table."""
    runs = {n: main([*QUICK[:-2], "--eval-samples", n, "--out", str(tmp_path / n)]) for n in ("10", "12")}
    runs |= {"5": quick_run[0]}
    assert [runs[n]["curve_samples"] for n in runs] == [10, 10, 5]
    assert runs["10"]["curve_accuracy"] == runs["12"]["curve_accuracy"] != runs["5"]["curve_accuracy"]
    for n in ("5", "10"):
        assert [rows[-1] for rows in runs[n]["curve_accuracy"]] == runs[n]["accuracy_matrix_mean"]
    assert runs["10"]["accuracy_matrix_mean"] != runs["12"]["accuracy_matrix_mean"]


def test_a_run_beside_is_drawn_next_to_it(tmp_path, quick_run):
    main([*QUICK, "--prior", "none", "--beside", str(quick_run[1]), "--out", str(tmp_path / "run")])
    assert imread(tmp_path / "run" / "figure.png").shape[1] > 1.5 * imread(quick_run[1] / "figure.png").shape[1]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "bayesbinn"])  # which is the first test's
def test_every_method_learns_the_task_at_hand(tmp_path, method):
    results = main(["--tasks", "2", "--method", method, "--out", str(tmp_path / "run")])
    matrix = results["accuracy_matrix_mode"]
    assert matrix[0][0] > 0.8
    assert matrix[1][1] > 0.8 or method == "pmf"  # whose latent weights have become too large to follow
    no_posterior = method not in ("bimu", "cbln")
    assert (results["test_accuracy_mean"] is None) == no_posterior
    assert (results["eval_samples"] is None) == no_posterior
    assert (results["posterior_entropy_bits_per_weight"] is None) == no_posterior


TREATMENTS = ("shared", "per-task", "reestimated", "layer", "none")


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A run for each treatment of batch norms: (results, folder)."""
    folder = tmp_path_factory.mktemp("treatments")
    arguments = [*QUICK, "--output-scale", "--seed", "3"]
    return cache(lambda kind: (main([*arguments, "--batch-norm", kind, "--out", str(folder / kind)]), folder / kind))


def test_a_task_that_is_not_told_apart_has_shared_statistics(run_of, capsys):
    """The network is told the task only where its batch norms depend on it, and the output says so."""
    accuracies = {}
    for batch_norm in TREATMENTS:
        results, out = run_of(batch_norm)
        told = batch_norm in ("per-task", "reestimated")
        assert results["needs_task_identity"] == told
        capsys.readouterr()
        show(results)
        assert ("which task" in capsys.readouterr().out) == told
        accuracies[batch_norm] = results["accuracy_matrix_mode"]
        kept = bb.load_posterior(out / "network-3.safetensors")
        if batch_norm in ("shared", "per-task", "reestimated"):
            mean = kept.batch_stats["BatchNorm_0"]["mean"]
            assert mean.shape == ((3, 16) if batch_norm == "per-task" else (16,))
    # the same training, and right after it the same statistics
    assert accuracies["shared"][1][1] == accuracies["per-task"][1][1]
    assert accuracies["shared"][1][0] != accuracies["per-task"][1][0]
    assert len({str(matrix) for matrix in accuracies.values()}) == 5


def test_a_kept_network_and_its_permutations_have_the_accuracy_of_the_results(run_of):
    """Put together by hand: one statistic for each task, and the pixels in the order of a run with this seed."""
    results, out = run_of("per-task")
    kept = bb.load_posterior(out / "network-3.safetensors")
    test = data.load("digits").test
    images = test.images.reshape(len(test.labels), -1)
    weights = bb.mode(kept.natural)
    for task, order in enumerate(tasks.permutations(3, 3, images.shape[1])):
        x = images[:, order]
        for layer in (0, 1):
            stats = {name: value[task] for name, value in kept.batch_stats[f"BatchNorm_{layer}"].items()}
            x = x @ weights[f"BinaryDense_{layer}"]["binary_kernel"]
            x = (x - stats["mean"]) / jnp.sqrt(stats["var"] + kept.config["batch_norm_eps"])
            x = jnp.maximum(x, 0) if layer == 0 else x
        accuracy = np.mean(np.argmax(x, axis=1) == test.labels)
        assert accuracy == pytest.approx(results["accuracy_matrix_mode"][-1][task], abs=0.006)  # two images


@pytest.mark.parametrize("batch_norm", TREATMENTS)
def test_a_network_is_loaded_as_it_was_tested(run_of, batch_norm):
    results, out = run_of(batch_norm)
    for task in (1, 2, 3):
        kept, apply_fn, test = load_network(out / "network-3.safetensors", task)
        accuracy = np.mean(np.argmax(apply_fn(bb.mode(kept.natural), test.images), axis=1) == test.labels)
        assert accuracy == pytest.approx(results["accuracy_matrix_mode"][-1][task - 1], abs=0.003)  # an image
        mean = bb.posterior_predictive(apply_fn, kept.natural, tasks.keys(3)[2], test.images, num_samples=5)
        accuracy = np.mean(np.argmax(mean.probabilities, axis=1) == test.labels)
        assert accuracy == pytest.approx(results["accuracy_matrix_mean"][-1][task - 1], abs=0.003)
        packed = load_packed(out / "network-3.packed.safetensors", task).predict(test.images)
        accuracy = np.mean(np.argmax(packed.probabilities, axis=1) == test.labels)
        assert accuracy == pytest.approx(results["accuracy_matrix_mode"][-1][task - 1], abs=0.003)
        drawn = bb.posterior_predictive(apply_fn, kept.natural, tasks.keys(3)[2], test.images, num_samples=16)
        committee = load_packed(out / "committee-3.packed.safetensors", task).predict(test.images)
        np.testing.assert_allclose(committee.probabilities, drawn.probabilities, atol=1e-4)
        scale = kept.config["input_std"], kept.config["input_mean"]
        assert scale == (data.load("digits").std.tolist(), data.load("digits").mean.tolist())
    with pytest.raises(ValueError, match="task must be a whole number from 1 to 3, got 4"):
        load_network(out / "network-3.safetensors", 4)
    with pytest.raises(ValueError, match="task must be a whole number from 1 to 3, got 0"):
        load_packed(out / "network-3.packed.safetensors", 0)


def test_a_single_task_forgets_nothing_and_says_so(tmp_path, capsys):
    results = main([*QUICK, "--tasks", "1", "--seeds", "2", "--out", str(tmp_path / "run")])
    for name in ("forgetting", "backward_transfer", "first_task_lost"):
        assert results[f"{name}_mean"] is results[f"{name}_mode"] is None
    assert re.search(r"forgetting \(.*?\)\W+ - ", capsys.readouterr().out)


def test_learning_continues_from_the_weights_of_the_task_before(tmp_path):
    """With a learning rate near 0 hardly a weight changes its sign in any task, whatever it starts with."""
    results = main([*QUICK, "--learning-rate", "1e-9", "--out", str(tmp_path / "run")])
    assert max(results["flip_rate"]) < 0.01
    entropies = results["posterior_entropy_after_task"]
    assert max(entropies) - min(entropies) < 1e-4


def test_validation_images_take_the_place_of_the_test_images(tmp_path):
    results = main([*QUICK, "--validation-fraction", "0.2", "--out", str(tmp_path / "run")])
    assert results["tested_on"] == "validation"
    assert results["test_accuracy_mode"] * 3 * 287 == pytest.approx(round(results["test_accuracy_mode"] * 3 * 287))


# How it survives ------------------------------------------------------------------------------------------------------


def test_several_seeds_are_their_own_runs(tmp_path):
    """To rounding, which leads further astray with each step: 2 epochs of each task."""
    short = [*QUICK, "--epochs", "2"]
    alone = main([*short, "--out", str(tmp_path / "alone")])
    together = main([*short, "--seeds", "2", "--out", str(tmp_path / "run")])
    lines = read_metrics(tmp_path / "run")
    assert [(line["task"], line["seed"]) for line in lines] == [(t, s) for t in (1, 2, 3) for s in (0, 1)]
    first = together["runs"][0]
    entropy, entropy_alone = (results["posterior_entropy_after_task"][0] for results in (first, alone))
    np.testing.assert_allclose(entropy, entropy_alone, rtol=1e-3)
    np.testing.assert_allclose(first["accuracy_matrix_mean"][0], alone["accuracy_matrix_mean"][0], atol=0.01)
    for name in ("test_accuracy_mean", "posterior_entropy_after_task"):
        values = [run[name] for run in together["runs"]]
        np.testing.assert_allclose(together[name], np.mean(values, axis=0))
        np.testing.assert_allclose(together[f"{name}_std"], np.std(values, axis=0, ddof=1), atol=1e-12)
    assert [len(row) for row in together["accuracy_matrix_mean"]] == [1, 2, 3]
    assert together["accuracy_matrix_mean"][1][0] == pytest.approx(
        np.mean([run["accuracy_matrix_mean"][1][0] for run in together["runs"]])
    )


def test_run_that_was_killed_equals_one_that_was_not(tmp_path):
    arguments = [*QUICK, "--tasks", "6", "--epochs", "25", "--seeds", "2", "--batch-norm", "per-task"]
    out, whole = tmp_path / "killed", tmp_path / "whole"
    process = process_of("continual_learning", [*arguments, "--out", str(out)])
    while not (line := process.stdout.readline()).startswith("task "):
        assert line, process.communicate()
    kill(process)
    assert 1 <= checkpoints.latest(out) < 6
    main([*arguments, "--out", str(out), "--resume"])
    main([*arguments, "--out", str(whole)])
    assert state_of(out) == state_of(whole)
    assert (out / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert_same_results(out, whole)


def assert_same_results(out, expected):
    """But for the times, of each seed too."""
    actual, expected = results_of(out), results_of(expected)
    runs = [[commands.without_times(run) for run in results.pop("runs", [])] for results in (actual, expected)]
    assert [run | {"command": None} for run in runs[0]] == [run | {"command": None} for run in runs[1]]
    assert actual == expected


def test_stopped_run_continues_and_finished_one_stays(tmp_path, capsys, quick_run):
    out = tmp_path / "run"
    main([*QUICK, "--out", str(out), "--stop-after-tasks", "1"])
    assert "finished run" in refused(capsys, main, [*QUICK, "--out", str(out)])
    main([*QUICK, "--out", str(out), "--resume"])
    assert_same_results(out, quick_run[1])
    before = (out / "results.json").read_bytes()
    capsys.readouterr()
    main([*QUICK, "--out", str(out), "--resume"])
    assert "holds a finished run" in capsys.readouterr().out
    assert imread(out / "figure.png").std() > 0.1
    assert (out / "results.json").read_bytes() == before
    assert "--seed" in refused(capsys, main, [*QUICK, "--out", str(out), "--resume", "--seed", "1"])


def test_loss_that_is_not_finite_ends_the_run_without_results(tmp_path):
    with pytest.raises(SystemExit, match="not finite in step"):
        main([*QUICK, "--learning-rate", "1e38", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "results.json").exists()


# What it refuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preset", "rotated-mnist"], ["--preset", "rotated-mnist", "permuted-digits", "permuted-mnist"]),
        (["--method", "vcl"], ["--method", "vcl", "bayesbinn", "ste", "bop", "bimu"]),
        (["--prior", "next"], ["--prior", "next"]),
        (["--method", "ste", "--prior", "none"], ["--prior", "--method ste"]),
        (["--method", "bimu", "--momentum", "0.9"], ["--momentum", "--method bimu"]),
        (["--memory-window", "10"], ["--memory-window", "--method bayesbinn"]),
        (["--method", "bimu", "--memory-window", "0"], ["memory_window", "0"]),
        (["--method", "bimu", "--likelihood-weight", "-1"], ["likelihood_weight", "-1"]),
        (["--method", "bop", "--gamma", "2"], ["gamma", "2"]),
        (["--batch-norm", "group"], ["--batch-norm", "group"]),
        (["--tasks", "0"], ["tasks", "0"]),
        (["--seeds", "1000000000"], ["seeds", "1000000000"]),
        (["--curve-points", "1000000000"], ["curve_points", "1000000000"]),
        (["--batch-norm", "shared", "--batch-norm-decay", "1"], ["batch_norm_decay", "1.0"]),
        (["--momentum", "0.99999999999"], ["momentum", "0.99999999999"]),
        (["--learning-rate", "1e300"], ["learning_rate", "1e+300"]),
        (["--epochs", "0"], ["epochs", "0"]),
        (["--stop-after-tasks", "6"], ["stop_after_tasks", "6"]),
        (["--batch-size", "2000"], ["batch_size", "1437 training images", "2000"]),
        (["--hidden", "0"], ["hidden", "0"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--seeds", "0"], ["seeds", "0"]),
        (["--temperature", "0.1"], ["--temperature", "--noise activations", "0.1"]),
        (["--num-samples", "5"], ["--num-samples", "--noise activations", "5"]),
        (["--noise", "weights", "--temperature", "0"], ["temperature", "0"]),
        (["--noise", "weights", "--num-samples", "-1"], ["num_samples", "-1"]),
        (["--kl-weight", "-1"], ["kl_weight", "-1"]),
        (["--momentum", "1"], ["momentum", "1"]),
        (["--learning-rate", "nan"], ["learning_rate", "nan"]),
        (["--init-scale", "-1"], ["init_scale", "-1"]),
        (["--eval-samples", "0"], ["eval_samples", "0"]),
        (["--curve-points", "0"], ["curve_points", "0"]),
        (["--batch-norm", "reestimated", "--batch-norm-images", "10"], ["batch_norm_images", "10"]),
        (["--validation-fraction", "1"], ["validation_fraction", "1"]),
        (["--batch-norm-decay", "0.9"], ["batch_norm_decay", "0.9", "--batch-norm none"]),
        (["--batch-norm-eps", "0.1"], ["batch_norm_eps", "0.1", "--batch-norm none"]),
        (["--batch-norm", "layer", "--batch-norm-images", "90"], ["batch_norm_images", "90", "reestimated"]),
        (["--beside", "nowhere"], ["beside", "nowhere"]),
        (["--resume", "--overwrite"], ["resume", "overwrite"]),
    ],
)
def test_bad_argument_ends_in_one_line_and_writes_nothing(tmp_path, capsys, arguments, expected):
    error = refused(capsys, main, ["--out", str(tmp_path / "run"), *arguments])
    assert all(text in error for text in expected), error
    assert list(tmp_path.iterdir()) == []
