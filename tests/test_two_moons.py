"""Two half moons from the command line: what the run writes, what it claims, what it refuses."""

import json
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from matplotlib.image import imread

import bbinn_jax as bb
from experiments.common import runs
from experiments.two_moons.__main__ import Config, main
from experiments.two_moons.data import moons
from experiments.two_moons.model import load_network, load_packed
from tests.commands import (
    assert_finished_run_stays,
    assert_flat_and_on_disk,
    optimized,
    read_metrics,
    refused,
    without_times,
)

pytestmark = pytest.mark.long

QUICK = ["--steps", "250", "--hidden", "8"]


@pytest.fixture(scope="module")
def paper_run(tmp_path_factory):
    """The paper's setting, all of it."""
    out = tmp_path_factory.mktemp("runs") / "moons"
    with optimized():
        return main(["--out", str(out)]), out


@pytest.fixture(scope="module")
def bumps_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "bumps"
    with optimized():
        return main(["--preset", "bumps", "--out", str(out)]), out


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "quick"
    return main([*QUICK, "--out", str(out)]), out


def test_far_from_the_data_the_mean_is_less_certain_than_straight_through_training(paper_run):
    results, _ = paper_run
    assert results["far_entropy_mean"] > 2 * results["far_entropy_ste"]
    assert results["far_mutual_information_mean"] > results["far_entropy_ste"]
    assert results["posterior_entropy_bits_per_weight"] > 0.1
    assert results["test_accuracy_ste"] > 0.97
    assert results["test_accuracy_mean"] > 0.85


def test_of_bumps_the_mean_is_accurate_and_doubts_more_the_further_from_the_data(bumps_run):
    """What RESULTS.md says of five seeds; see there what they have."""
    results, _ = bumps_run
    assert results["test_accuracy_mean"] >= 0.99
    of_ste = max(results["far_entropy_ste"], 0.022)  # or that of STE in the paper's network
    assert results["far_entropy_mean"] > 5 * of_ste
    assert 4 * results["test_entropy_mean"] < 2 * results["near_entropy_mean"] < results["far_entropy_mean"]
    assert results["far_mutual_information_mean"] > 0.5 * results["far_entropy_mean"]
    assert results["num_binary_weights"] == (64 + 1) * 64 + 64 + 1  # the paper's has 4,417


def test_mean_is_the_more_certain_the_closer_the_posterior_is_to_one_network(tmp_path, paper_run):
    """A saturated posterior has one network: its mean is its mode, and nothing is left to be unsure of."""
    saturated = [*QUICK, "--learning-rate", "0", "--init-scale", "50"]
    results = main([*saturated, "--out", str(tmp_path / "run")])
    assert results["posterior_entropy_bits_per_weight"] == 0
    assert results["far_mutual_information_mean"] < 1e-5
    assert results["far_entropy_mean"] == pytest.approx(results["far_entropy_mode"], abs=1e-5)
    assert paper_run[0]["far_mutual_information_mean"] > 0.01


def test_results_are_flat_but_for_their_config_complete_and_on_disk(paper_run):
    results, out = paper_run
    promised = (
        "experiment preset dataset method seed steps device jax_version wall_seconds compile_seconds train_loss "
        "posterior_entropy_bits_per_weight num_binary_weights num_real_parameters eval_samples command commit "
        "test_accuracy_ste test_accuracy_mode test_accuracy_mean test_nll_ste test_nll_mode test_nll_mean "
        "near_entropy_ste near_entropy_mode near_entropy_mean far_entropy_ste far_entropy_mode far_entropy_mean"
    )
    assert_flat_and_on_disk(results, out, promised)
    assert results["num_binary_weights"] == (2 + 1) * 64 + (64 + 1) * 64 + 64 + 1
    assert results["num_real_parameters"] == 0


def test_run_folder_holds_config_metrics_and_a_figure(quick_run):
    _, out = quick_run
    assert sorted(path.name for path in out.iterdir()) == [
        "committee-0.packed.safetensors",
        "config.json",
        "figure.png",
        "metrics.jsonl",
        "network-0.packed.safetensors",
        "network-0.safetensors",
        "network-ste-0.packed.safetensors",
        "network-ste-0.safetensors",
        "results.json",
    ]
    assert json.loads((out / "config.json").read_text())["steps"] == 250
    metrics = read_metrics(out)
    assert [line["step"] for line in metrics] == [100, 200, 250]
    assert set(metrics[0]) == {"step", "loss", "posterior_entropy_bits_per_weight", "ste_loss"}
    pixels = imread(out / "figure.png")
    assert pixels.shape[1] > 1000
    assert pixels.std() > 0.1


@pytest.mark.parametrize("run", ["quick_run", "bumps_run"])
def test_numbers_of_the_results_come_back_from_a_kept_network(run, request):
    results, out = request.getfixturevalue(run)
    test = moons(Config(), 1000, 1)
    posterior, apply_fn, preprocess, _ = load_network(out / "network-0.safetensors")
    points = preprocess(test.points)
    key = jax.random.split(jax.random.key(0))[1]
    natural = posterior.natural
    predictions = {
        "mode": bb.mode_predictive(apply_fn, natural, points),
        "mean": bb.posterior_predictive(apply_fn, natural, key, points, num_samples=posterior.config["eval_samples"]),
        "ste": load_packed(out / "network-ste-0.packed.safetensors").predict(points),
    }
    packed = load_packed(out / "network-0.packed.safetensors").predict(points)
    np.testing.assert_allclose(packed.probabilities, predictions["mode"].probabilities, rtol=1e-5)
    drawn = bb.posterior_predictive(apply_fn, natural, key, points, num_samples=16)
    committee = load_packed(out / "committee-0.packed.safetensors").predict(points)
    np.testing.assert_allclose(committee.mutual_information, drawn.mutual_information, rtol=1e-3, atol=1e-5)
    for name, predicted in predictions.items():
        p = np.asarray(predicted.probabilities, np.float64)
        assert np.mean(p.argmax(1) == test.labels) == pytest.approx(results[f"test_accuracy_{name}"], abs=1e-6)
        nll = -np.mean(np.log(p[np.arange(1000), test.labels]))
        assert nll == pytest.approx(results[f"test_nll_{name}"], rel=1e-4)


def test_same_seed_same_run_and_another_seed_another(tmp_path, quick_run):
    first = without_times(quick_run[0])
    again = without_times(main([*QUICK, "--out", str(tmp_path / "again")]))
    other = without_times(main([*QUICK, "--seed", "1", "--out", str(tmp_path / "other")]))
    assert first == again
    assert first["test_nll_mean"] != other["test_nll_mean"]


def test_points_everywhere_leave_no_place_far_away_and_no_nan(tmp_path, capsys):
    """A mean of nothing is none."""
    results = main([*QUICK, "--noise", "2", "--num-train", "20000", "--steps", "2", "--out", str(tmp_path / "run")])
    assert results["far_entropy_mean"] is results["far_mutual_information_mean"] is None
    assert results["near_entropy_mean"] > 0
    assert "NaN" not in (tmp_path / "run" / "results.json").read_text()


def test_training_and_test_points_are_different_draws_of_a_seed():
    train, test = moons(Config(), 50, 0), moons(Config(), 50, 1)
    assert not np.isin(np.asarray(test.points), np.asarray(train.points)).any()
    np.testing.assert_array_equal(train.points, moons(Config(), 50, 0).points)
    assert sorted(np.bincount(train.labels)) == [25, 25]


def test_command_is_kept_as_somebody_types_it(monkeypatch):
    """Python knows the command of a folder as its __main__."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="experiments.two_moons.__main__"))
    monkeypatch.setattr(sys, "argv", ["-m", "--steps", "3", "--out", "a b"])
    assert runs.command() == "python -m experiments.two_moons --steps 3 --out 'a b'"


def test_finished_run_is_not_overwritten_unless_told(quick_run, capsys):
    assert_finished_run_stays(capsys, main, QUICK, quick_run)


def test_loss_that_is_not_finite_ends_the_run_without_results(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match="loss of bayesbinn is not finite in step"):
        main([*QUICK, "--learning-rate", "1e38", "--out", str(out)])
    assert not (out / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preset", "best"], ["--preset", "best", "paper", "bumps"]),
        (["--method", "ste"], ["--method"]),
        (["--resume"], ["--resume"]),
        (["--steps", "0"], ["steps", "0"]),
        (["--steps", "many"], ["--steps", "many"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--num-train", "2"], ["num_train", "2"]),
        (["--noise", "-0.1"], ["noise", "-0.1"]),
        (["--noise", "nan"], ["noise", "nan"]),
        (["--hidden", "8", "0"], ["hidden", "(8, 0)"]),
        (["--learning-rate", "-1"], ["learning_rate", "-1"]),
        (["--ste-learning-rate", "-1"], ["ste_learning_rate", "-1"]),
        (["--temperature", "0"], ["temperature", "0"]),
        (["--num-samples", "-1"], ["num_samples", "-1"]),
        (["--momentum", "1"], ["momentum", "1"]),
        (["--kl-weight", "-1"], ["kl_weight", "-1"]),
        (["--init-scale", "inf"], ["init_scale", "inf"]),
        (["--bump-width", "-1"], ["bump_width", "-1"]),
        (["--bump-width", "1e-300"], ["bump_width", "1e-300"]),
        (["--bump-width", "1e7"], ["bump_width", "10000000"]),
        (["--bump-width", "1", "--output-scale", "0"], ["output_scale", "0"]),
        (["--bump-width", "1e-20"], ["bump_width must be 0 or from 0.01 to 100", "1e-20"]),
        (["--output-scale", "2"], ["output_scale must be 1 where bump_width is 0", "2"]),
        (["--eval-samples", "0"], ["eval_samples", "0"]),
        (["--eval-samples", "3000000000"], ["eval_samples", "3000000000"]),
        (["--momentum", "0.99999999999"], ["momentum", "0.99999999999"]),
        (["--learning-rate", "1e300"], ["learning_rate", "1e+300"]),
        (["--temperature", "1e-300"], ["temperature", "1e-300"]),
        (["--noise", "1e300"], ["noise", "1e+300"]),
        (["--ste-learning-rate", "1e39"], ["ste_learning_rate", "1e+39"]),
    ],
)
def test_bad_argument_ends_in_one_line_and_writes_nothing(tmp_path, capsys, arguments, expected):
    error = refused(capsys, main, ["--out", str(tmp_path / "run"), *arguments])
    assert all(text in error for text in expected), error
    assert list(tmp_path.iterdir()) == []
