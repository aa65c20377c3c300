"""1-D regression from the command line: what the run writes, what it claims, what it refuses."""

from functools import partial

import jax
import numpy as np
import pytest
from matplotlib.image import imread

import bbinn_jax as bb
from experiments.common import networks
from experiments.regression import data as pairs
from experiments.regression.__main__ import Config, main
from experiments.regression.model import curve as curve_of
from experiments.regression.model import load_network, load_packed
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
FILES = ("train_inputs", "train_outputs", "test_inputs")


@pytest.fixture(scope="module")
def bumps_run(tmp_path_factory):
    """A whole preset."""
    out = tmp_path_factory.mktemp("runs") / "regression"
    with optimized():
        return main(["--preset", "bumps", "--seed", "2", "--out", str(out)]), out


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "quick"
    return main([*QUICK, "--out", str(out)]), out


@pytest.fixture
def folder(tmp_path):
    """50 noisy pairs in files, a number a line."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 6, 50)
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name, numbers in zip(
        FILES, (x, np.cos(x) + 0.1 * rng.standard_normal(50), np.linspace(-1, 7, 30)), strict=True
    ):
        np.savetxt(folder / name, numbers, fmt="  %.7e")
    return folder


def test_mean_fits_and_is_less_certain_in_the_gap_and_beyond_the_data(bumps_run):
    """The mean errs less than a target (0.1) and than straight-through training, and it doubts."""
    results, _ = bumps_run
    assert results["test_rmse_mean"] < 0.1
    assert results["test_rmse_mean"] < 1.3 * results["test_rmse_ste"]
    assert results["posterior_entropy_bits_per_weight"] > 0.5
    assert results["far_std_mean"] > 3 * results["near_std_mean"]
    assert results["gap_std_mean"] > 1.5 * results["near_std_mean"]


def test_results_are_flat_but_for_their_config_complete_and_on_disk(bumps_run):
    results, out = bumps_run
    promised = (
        "experiment preset dataset method seed steps device jax_version wall_seconds compile_seconds train_loss "
        "posterior_entropy_bits_per_weight num_binary_weights num_real_parameters num_train eval_samples command "
        "commit test_rmse_ste test_rmse_mode test_rmse_mean near_std_mean gap_std_mean far_std_mean"
    )
    assert_flat_and_on_disk(results, out, promised)
    assert results["num_binary_weights"] == (64 + 1) * 64 + 64 + 1


def test_run_folder_holds_config_metrics_and_a_figure(quick_run):
    _, out = quick_run
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "figure.png",
        "metrics.jsonl",
        "network-0.packed.safetensors",
        "network-0.safetensors",
        "network-ste-0.packed.safetensors",
        "network-ste-0.safetensors",
        "results.json",
    ]
    metrics = read_metrics(out)
    assert [line["step"] for line in metrics] == [100, 200, 250]
    pixels = imread(out / "figure.png")
    assert pixels.shape[1] > 1000
    assert pixels.std() > 0.1


@pytest.mark.parametrize(("run", "seed"), [("quick_run", 0), ("bumps_run", 2)])
def test_numbers_of_the_results_come_back_from_a_kept_network(run, seed, request):
    """In the units of the file's pairs, scaled back by hand."""
    results, out = request.getfixturevalue(run)
    data = pairs.generate(Config(seed=seed))
    posterior, curve, preprocess, _ = load_network(out / f"network-{seed}.safetensors")
    inputs = preprocess(data.test_inputs)
    keys = jax.random.split(jax.random.split(jax.random.key(seed))[1], posterior.config["eval_samples"])
    drawn = [curve(bb.sample(key, posterior.natural), inputs) for key in keys]
    curves = {"mode": curve(bb.mode(posterior.natural), inputs)}
    for name, file in (("mode", seed), ("ste", f"ste-{seed}")):
        network, packed_curve, *_ = load_packed(out / f"network-{file}.packed.safetensors")
        curves[name] = packed_curve((bb.unpack(network.weights), network.batch_stats), inputs)
    (mean,), (std,) = posterior.config["target_mean"], posterior.config["target_std"]
    assert (mean, std) == (pytest.approx(np.mean(data.targets)), pytest.approx(np.std(data.targets)))
    for name, predicted in (curves | {"mean": np.mean(drawn, axis=0)}).items():
        error = np.asarray(predicted, np.float64) * std + mean - data.test_targets
        assert np.sqrt(np.mean(error**2)) / std == pytest.approx(results[f"test_rmse_{name}"], rel=1e-4)


def test_the_committee_of_a_posterior_that_lives_is_of_the_networks_of_its_key(bumps_run):
    _, out = bumps_run
    posterior, curve, *_ = load_network(out / "network-2.safetensors")
    network, packed_curve, *_ = load_packed(out / "committee-2.packed.safetensors")
    third = jax.tree.map(lambda x: x[2], (bb.unpack(network.weights), network.batch_stats))
    keys = jax.random.split(jax.random.split(jax.random.key(2))[1], 16)
    inputs = np.linspace(-2, 2, 9, dtype=np.float32)
    expected = curve(bb.sample(keys[2], posterior.natural), inputs)
    np.testing.assert_allclose(packed_curve(third, inputs), expected, rtol=1e-5, atol=1e-5)


def test_same_seed_same_run_and_another_seed_another(tmp_path, quick_run):
    first = without_times(quick_run[0])
    again = without_times(main([*QUICK, "--out", str(tmp_path / "again")]))
    other = without_times(main([*QUICK, "--seed", "1", "--out", str(tmp_path / "other")]))
    assert first == again
    assert first["test_rmse_mean"] != other["test_rmse_mean"]


def test_every_network_is_normalised_by_its_own_statistics(key):
    """Output of mean 0 and variance 1 over the training inputs, and the same curve whatever else is predicted."""
    inputs = np.random.default_rng(0).normal(size=40).astype(np.float32)
    model = networks.TanhMLP((8,))
    params = model.init(key, inputs[:, None])["params"]
    for i in range(3):
        curve = partial(curve_of, model, inputs, bb.sample(jax.random.key(i), jax.tree.map(np.zeros_like, params)))
        output = np.asarray(curve(inputs))
        assert output.mean() == pytest.approx(0, abs=1e-5)
        assert output.std() == pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(curve(inputs[:5]), output[:5], atol=1e-5)


def test_generated_inputs_leave_the_gap_free():
    data = pairs.generate(Config())
    for inputs in (data.inputs, data.test_inputs):
        assert not np.any((inputs > data.gap[0]) & (inputs < data.gap[1]))
        assert 0 <= inputs.min() < inputs.max() <= 6
    scaled = pairs.standardised(data)
    assert (scaled.targets.mean(), scaled.targets.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-5))


def test_pairs_in_a_folder(tmp_path, folder):
    results = main([*QUICK, "--data", str(folder), "--out", str(tmp_path / "run")])
    assert (results["dataset"], results["num_train"]) == ("pairs", 40)
    assert results["gap_std_mean"] is None
    assert 0 < results["test_rmse_mode"] < 3


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("train_inputs", None, ["train_inputs"]),
        ("test_inputs", None, ["test_inputs"]),
        ("train_outputs", "1.0\ntwo\n", ["line 2", "train_outputs", "two"]),
        ("train_outputs", "1.0 2.0\n", ["line 1", "train_outputs"]),
        ("train_outputs", "1.0\n2.0\n", ["train_inputs has 50", "train_outputs 2"]),
        ("train_outputs", "1.0\n" * 50, ["one output"]),
        ("train_inputs", "nan\n" * 50, ["train_inputs", "finite"]),
        ("train_outputs", "1e300\n" * 50, ["train_outputs", "1e30"]),
        ("test_inputs", "", ["test_inputs"]),
    ],
)
def test_file_that_cannot_be_used_is_named_in_one_line(tmp_path, capsys, folder, name, content, expected):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    error = refused(capsys, main, ["--data", str(folder), "--out", str(tmp_path / "run")])
    assert all(text in error for text in [str(folder), *expected]), error
    assert not (tmp_path / "run").exists()


def test_finished_run_is_not_overwritten_unless_told(quick_run, capsys):
    assert_finished_run_stays(capsys, main, QUICK, quick_run)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preset", "best"], ["--preset", "best", "paper", "bumps"]),
        (["--data", "nowhere"], ["--data", "nowhere", "train_inputs"]),
        (["--data", "nowhere", "--num-train", "50"], ["num_train", "50", "data"]),
        (["--steps", "0"], ["steps", "0"]),
        (["--likelihood-std", "0"], ["likelihood_std", "0"]),
        (["--eval-samples", "1"], ["eval_samples", "1"]),
        (["--temperature", "-1"], ["temperature", "-1"]),
        (["--likelihood-std", "1e-300"], ["likelihood_std", "1e-300"]),
        (["--likelihood-std", "1e300"], ["likelihood_std", "1e+300"]),
        (["--momentum", "0.99999999999"], ["momentum", "0.99999999999"]),
    ],
)
def test_bad_argument_ends_in_one_line_and_writes_nothing(tmp_path, capsys, arguments, expected):
    error = refused(capsys, main, ["--out", str(tmp_path / "run"), *arguments])
    assert all(text in error for text in expected), error
    assert list(tmp_path.iterdir()) == []
