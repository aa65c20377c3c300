"""The main job from its command line: what it writes, what it reaches, what it refuses."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
import safetensors
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import bbinn_jax as bb
from experiments.common import data, reading, runs
from experiments.common.classifier import load_network, load_packed
from experiments.common.image_config import Config
from experiments.image_classification.__main__ import main
from tests.commands import assert_flat_and_on_disk, content_of, optimized, read_metrics

pytestmark = pytest.mark.long

QUICK = ["--preset", "digits", "--hidden", "32", "--epochs", "4", "--eval-samples", "3"]


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """The demo: the whole preset."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    with optimized():
        return main(["--preset", "digits-bayes", "--out", str(out)]), out


def test_digits_reaches_96_percent(digits_run):
    results, _ = digits_run
    assert results["test_accuracy_mode"] >= 0.96
    assert results["test_accuracy_mean"] >= 0.96


def test_digits_posterior_is_alive_and_scored(digits_run):
    results, _ = digits_run
    assert results["posterior_entropy_bits_per_weight"] > 0.1
    for name in ("mode", "mean"):
        assert 0 < results[f"test_nll_{name}"] < 0.3
        assert 0 < results[f"test_ece_{name}"] < 0.1
    assert results["test_nll_mode"] != results["test_nll_mean"]


def test_results_are_flat_and_complete(digits_run):
    results, out = digits_run
    promised = (
        "experiment preset dataset method seed epochs device jax_version wall_seconds compile_seconds train_accuracy "
        "validation_accuracy test_accuracy_mode test_accuracy_mean test_nll_mode test_nll_mean test_ece_mode "
        "test_ece_mean posterior_entropy_bits_per_weight num_binary_weights num_real_parameters"
    )
    assert_flat_and_on_disk(results, out, promised)


def test_run_folder_holds_config_metrics_and_figure(digits_run):
    results, out = digits_run
    config = json.loads((out / "config.json").read_text())
    metrics = read_metrics(out)
    assert config["preset"] == "digits-bayes"
    assert [line["epoch"] for line in metrics] == list(range(1, config["epochs"] + 1))
    assert metrics[-1]["test_accuracy_mode"] == pytest.approx(results["test_accuracy_mode"], abs=1e-6)
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "checkpoints",
        "committee-0.packed.safetensors",
        "config.json",
        "figure.png",
        "metrics.jsonl",
        "network-0.packed.safetensors",
        "network-0.safetensors",
        "results.json",
    ]


def test_packed_files_have_the_numbers_of_the_run_and_need_no_training_images(digits_run):
    """Of the mode those of the results; the committee is the first 16 networks of the mean."""
    results, out = digits_run
    test = data.load("digits").test
    predictions = {
        name: jax.jit(load_packed(out / f"{name}-0.packed.safetensors").predict)(test.images)
        for name in ("network", "committee")
    }
    p = predictions["network"].probabilities
    assert float(bb.metrics.accuracy(p, test.labels)) == results["test_accuracy_mode"]
    nll = float(bb.metrics.negative_log_likelihood(p, test.labels))
    assert nll == pytest.approx(results["test_nll_mode"], rel=1e-6)
    posterior, apply_fn, *_ = load_network(out / "network-0.safetensors")
    key = jax.random.split(jax.random.key(0), 3)[2]
    mean = jax.jit(partial(bb.posterior_predictive, apply_fn, num_samples=16, chunk_size=1))
    expected = mean(posterior.natural, key, test.images)
    for a, b in zip(predictions["committee"], expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    committee = bb.load_packed(out / "committee-0.packed.safetensors")
    mean = committee.batch_stats["BatchNorm_0"]["mean"]
    assert mean.shape[0] == 16 and np.all(np.std(mean, axis=0).max() > 0.1)
    size = (out / "network-0.packed.safetensors").stat().st_size
    assert size < 37_504 + 4 + 2 * 4 * (512 + 512 + 10) + 4_000  # bits, scale, statistics, header


@pytest.mark.parametrize(
    "settings", [[], ["--batch-norm-images", "0"], ["--method", "ste"], ["--seeds", "2", "--eval-samples", "10"]]
)
def test_numbers_of_the_results_come_back_from_a_kept_network(tmp_path, digits_run, settings):
    """Mode and mean, each network with its own batch-norm statistics."""
    if settings:
        arguments = ["--preset", "digits-bayes", "--hidden", "32", "--epochs", "8", *settings]
        main([*arguments, "--out", str(tmp_path / "run")])
    out = tmp_path / "run" if settings else digits_run[1]
    results = reading.read(out).results
    for run in results.get("runs", [results]):
        lives = (run["posterior_entropy_bits_per_weight"] or 0) >= 0.01  # narrow networks saturate at that rate
        assert (out / f"network-{run['seed']}.packed.safetensors").exists()
        assert (out / f"committee-{run['seed']}.packed.safetensors").exists() == lives
        posterior, apply_fn, preprocess, _ = load_network(out / f"network-{run['seed']}.safetensors")
        test = data.load("digits").test
        pixels = np.asarray(test.images) * posterior.config["input_std"] + posterior.config["input_mean"]
        images = preprocess(pixels)
        np.testing.assert_allclose(images, test.images, atol=1e-5)
        predictions = {"mode": bb.mode_predictive(apply_fn, posterior.natural, images)}
        if run["test_accuracy_mean"] is not None:
            key = jax.random.split(jax.random.key(run["seed"]), 3)[2]
            num_samples = posterior.config["eval_samples"]
            predictions["mean"] = bb.posterior_predictive(
                apply_fn, posterior.natural, key, images, num_samples=num_samples, chunk_size=1
            )
        for name, predicted in predictions.items():
            p = np.asarray(predicted.probabilities, np.float64)[np.arange(len(test.labels)), test.labels]
            accuracy = np.mean(np.argmax(predicted.probabilities, axis=1) == test.labels)
            assert accuracy == pytest.approx(run[f"test_accuracy_{name}"], abs=1e-6)
            assert np.mean(-np.log(p)) == pytest.approx(run[f"test_nll_{name}"], rel=1e-3)


def test_a_service_without_jax_has_the_accuracy_of_the_mode(digits_run):
    """NumPy, safetensors and the file: weights, statistics, output scale, and what scales the pixels."""
    results, out = digits_run
    with safetensors.safe_open(out / "network-0.safetensors", framework="numpy") as file:
        config = json.loads(file.metadata()["config"])
        leaves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    images, labels = load_digits(return_X_y=True)
    _, x, _, labels = train_test_split(images / 16, labels, test_size=0.2, stratify=labels, random_state=0)
    x = (x - config["input_mean"]) / config["input_std"]
    last = len(config["hidden"])
    for i in range(last + 1):
        x = x @ np.where(leaves[f"natural/BinaryDense_{i}/binary_kernel"] > 0, 1.0, -1.0)
        mean, var = (leaves[f"batch_stats/BatchNorm_{i}/{name}"] for name in ("mean", "var"))
        x = (x - mean) / np.sqrt(var + config["batch_norm_eps"])
        x = np.maximum(x, 0) if i < last else x * leaves["real/output_scale"]
    assert np.mean(np.argmax(x, axis=1) == labels) == pytest.approx(results["test_accuracy_mode"], abs=1e-6)
    log_normalizer = np.log(np.sum(np.exp(x - x.max(1, keepdims=True)), axis=1)) + x.max(1)
    nll = np.mean(log_normalizer - x[np.arange(len(labels)), labels])
    assert nll == pytest.approx(results["test_nll_mode"], rel=1e-3)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "quick"
    return main([*QUICK, "--out", str(out)]), out


def test_same_seed_same_run_and_another_seed_another(tmp_path, quick_run):
    for seed in (0, 1):
        main([*QUICK, "--seed", str(seed), "--out", str(tmp_path / str(seed))])
        assert (read_metrics(tmp_path / str(seed)) == read_metrics(quick_run[1])) == (seed == 0)


def test_stopping_early_keeps_the_schedule_of_the_full_run(tmp_path, quick_run):
    results = main([*QUICK, "--stop-after-epochs", "2", "--out", str(tmp_path / "short")])
    assert read_metrics(tmp_path / "short") == read_metrics(quick_run[1])[:2]
    assert results["epochs"] == 2


def test_ste_has_a_mode_and_no_posterior(tmp_path):
    results = main(["--preset", "digits", "--method", "ste", "--epochs", "30", "--out", str(tmp_path / "ste")])
    assert results["test_accuracy_mode"] > 0.9
    assert results["test_accuracy_mean"] is None
    assert results["posterior_entropy_bits_per_weight"] is None


needs_mnist = pytest.mark.skipif(
    not list(data.data_dir().glob("mnist/*/dataset_info.json")), reason="no prepared MNIST in TFDS_DATA_DIR"
)


@needs_mnist
def test_mnist_learns_in_one_epoch(tmp_path):
    arguments = ["--preset", "mnist", "--hidden", "256", "--stop-after-epochs", "1", "--eval-samples", "2"]
    limits = ["--train-images", "20000", "--eval-images", "2000"]
    results = main([*arguments, *limits, "--out", str(tmp_path / "mnist")])
    assert results["test_accuracy_mode"] > 0.88
    assert results["num_binary_weights"] == 784 * 256 + 256 * 10


@needs_mnist
@pytest.mark.parametrize("preset, entropy", [("mnist-fast", (0, 0.05)), ("mnist-fast-bayes", (0.5, 1))])
def test_mnist_is_learned_from_few_images_in_the_fast_presets(tmp_path, preset, entropy):
    """2 epochs of 3,000 images: 93 and 90 % by the mean were seen."""
    limits = ["--epochs", "2", "--train-images", "3000", "--eval-images", "500", "--batch-norm-images", "500"]
    with optimized():
        results = main(["--preset", preset, *limits, "--eval-samples", "3", "--out", str(tmp_path / "run")])
    assert results["test_accuracy_mean"] > 0.8
    assert entropy[0] <= results["posterior_entropy_bits_per_weight"] < entropy[1]
    assert results["num_binary_weights"] == 421_408


def test_convolutions_learn_on_fewer_images(tmp_path, capsys):
    """VGG on digits, 80 steps: a network that has learned nothing has a loss of log 10 = 2.3."""
    arguments = ["--method", "ste", "--network", "vgg", "--channels", "4", "8", "--hidden", "32", "--epochs", "4"]
    limits = ["--train-images", "1000", "--eval-images", "100"]
    out = tmp_path / "run"
    results = main([*arguments, *limits, "--out", str(out)])
    assert "1,000 training, 100 validation, 100 test images" in capsys.readouterr().out
    losses = [line["train_loss"] for line in read_metrics(out)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1.9
    assert results["num_binary_weights"] == 9 * (4 + 16 + 4 * 8 + 64) + 8 * 4 * 32 + 320


def test_finished_run_is_not_overwritten_unless_told(tmp_path, capsys, quick_run):
    out = tmp_path / "run"
    shutil.copytree(quick_run[1], out)
    before = content_of(out)
    with pytest.raises(SystemExit) as stop:
        main([*QUICK, "--seed", "1", "--out", str(out)])
    assert stop.value.code == 2
    assert str(out) in capsys.readouterr().err
    assert content_of(out) == before
    second = main([*QUICK, "--seed", "1", "--out", str(out), "--overwrite"])
    assert (quick_run[0]["seed"], second["seed"]) == (0, 1)
    assert len(read_metrics(out)) == 4


def test_folder_with_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(SystemExit):
        main([*QUICK, "--out", str(tmp_path), "--overwrite"])
    assert "no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_folder_with_the_config_of_another_program_is_left_alone(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"my": "project"}')
    (tmp_path / "metrics.jsonl").write_text("mine")
    with pytest.raises(SystemExit):
        main([*QUICK, "--out", str(tmp_path)])
    assert "no run" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text() == "mine"


def test_folder_of_a_run_that_goes_on_is_refused(tmp_path, capsys):
    with runs.start(tmp_path / "run", "image_classification", Config()):
        runs.append_metrics(tmp_path / "run", [{"epoch": 1}])
        with pytest.raises(SystemExit):
            main([*QUICK, "--out", str(tmp_path / "run")])
    assert "in use" in capsys.readouterr().err
    assert len(read_metrics(tmp_path / "run")) == 1


BAD_ARGUMENTS = {
    "unknown preset": (["--preset", "imagenet"], ["--preset", "imagenet", "digits"]),
    "unknown method": (["--method", "sgd"], ["--method", "sgd", "bayesbinn"]),
    "unknown data set": (["--dataset", "svhn"], ["dataset", "svhn"]),
    "preset without a value": (["--preset"], ["--preset"]),
    "unknown flag": (["--learning-rat", "0.1"], ["--learning-rat"]),
    "not a number": (["--learning-rate", "fast"], ["--learning-rate", "fast"]),
    "negative learning rate": (["--learning-rate", "-0.1"], ["learning_rate", "-0.1"]),
    "learning rate not a number": (["--learning-rate", "nan"], ["learning_rate", "nan"]),
    "negative real learning rate": (["--real-learning-rate", "-1"], ["real_learning_rate", "-1"]),
    "momentum": (["--momentum", "1.0"], ["momentum", "1.0"]),
    "temperature": (["--temperature", "0"], ["temperature", "0"]),
    "number of samples": (["--num-samples", "-1"], ["num_samples", "-1"]),
    "KL weight": (["--kl-weight", "-2"], ["kl_weight", "-2"]),
    "initial scale": (["--init-scale", "-3"], ["init_scale", "-3"]),
    "epochs": (["--epochs", "0"], ["epochs", "0"]),
    "stop after more than all": (["--epochs", "3", "--stop-after-epochs", "4"], ["stop_after_epochs", "4"]),
    "batch size": (["--batch-size", "0"], ["batch_size", "0"]),
    "batch larger than the data": (["--batch-size", "2000"], ["batch_size", "2000"]),
    "dropout": (["--dropout", "1"], ["dropout", "1"]),
    "validation fraction": (["--validation-fraction", "1.5"], ["validation_fraction", "1.5"]),
    "no validation images": (["--validation-fraction", "0"], ["validation_fraction", "0.0"]),
    "infinite scale": (["--init-scale", "inf"], ["init_scale", "inf"]),
    "flag of another noise": (
        ["--noise", "activations", "--temperature", "5"],
        ["--temperature", "--noise activations"],
    ),
    "another method's flag": (["--method", "ste", "--temperature", "5"], ["--temperature", "5", "--method ste"]),
    "hidden width": (["--hidden", "16", "0"], ["hidden", "(16, 0)"]),
    "seed": (["--seed", "-1"], ["seed", "-1"]),
    "seeds": (["--seeds", "0"], ["seeds", "0"]),
    "seeds past the last": (["--seed", str(2**32 - 2), "--seeds", "3"], ["seeds", "3"]),
    "training images": (["--train-images", "0"], ["train_images", "0"]),
    "scored images": (["--eval-images", "0"], ["eval_images", "0"]),
    "batch larger than the training images": (["--train-images", "20"], ["batch_size", "20"]),
    "few images for the batch norms": (["--batch-norm-images", "1"], ["batch_norm_images", "1"]),
    "checkpoint interval": (["--checkpoint-seconds", "-1"], ["checkpoint_seconds", "-1"]),
    "resume and overwrite": (["--resume", "--overwrite"], ["resume", "overwrite"]),
    "network": (["--network", "resnet"], ["--network", "resnet"]),
    "too many poolings": (["--network", "vgg", "--channels", "4", "4", "4", "4"], ["channels", "(4, 4, 4, 4)"]),
    "channels": (["--network", "vgg", "--channels", "0"], ["channels", "(0,)"]),
    "channels without convolutions": (["--channels", "4"], ["--channels", "--network mlp"]),
    "threshold": (["--method", "bop", "--threshold", "-1"], ["threshold", "-1"]),
    "threshold of bayesbinn": (["--threshold", "1e-3"], ["--threshold", "1e-3", "--method bayesbinn"]),
    "gamma": (["--method", "bop", "--gamma", "2"], ["gamma", "2"]),
    "final beta": (["--method", "pmf", "--final-beta", "0.5"], ["final_beta", "0.5"]),
    "train set factor": (["--train-set-factor", "0"], ["train_set_factor", "0"]),
    "batch norm eps": (["--batch-norm-eps", "-1"], ["batch_norm_eps", "-1"]),
    # what float32 cannot tell from a bound that is excluded, or cannot hold
    "batch norm decay 1": (["--batch-norm-decay", "1"], ["batch_norm_decay", "1.0"]),
    "batch norm decay": (["--batch-norm-decay", "0.999999999999"], ["batch_norm_decay", "0.999999999999"]),
    "momentum that rounds to 1": (["--momentum", "0.99999999999"], ["momentum", "0.99999999999"]),
    "dropout that rounds to 1": (["--dropout", "0.9999999999"], ["dropout", "0.9999999999"]),
    "learning rate beyond float32": (["--learning-rate", "1e300"], ["learning_rate", "1e+300"]),
    "learning rate below float32": (["--learning-rate", "1e-300"], ["learning_rate", "1e-300"]),
    "real learning rate": (["--real-learning-rate", "4e38"], ["real_learning_rate", "4e+38"]),
    "temperature below float32": (["--temperature", "1e-300"], ["temperature", "1e-300"]),
    "KL weight beyond float32": (["--kl-weight", "1e300"], ["kl_weight", "1e+300"]),
    "epsilon beyond float32": (["--batch-norm-eps", "1e39"], ["batch_norm_eps", "1e+39"]),
    "gain beyond float32": (["--method", "pmf", "--final-beta", "1e300"], ["final_beta", "1e+300"]),
    "validation fraction that rounds": (
        ["--validation-fraction", "0.99999999999"],
        ["validation_fraction", "0.99999999999"],
    ),
    # more than any memory has
    "a billion seeds": (["--seeds", "1000000000"], ["seeds", "1000000000"]),
    "networks of the mean": (["--eval-samples", "3000000000"], ["eval_samples", "3000000000"]),
    "relaxed samples": (["--num-samples", "1000000000"], ["num_samples", "1000000000"]),
    "width": (["--hidden", "1000000000"], ["hidden", "(1000000000,)"]),
    "images beyond 32 bits": (["--train-images", "99999999999"], ["train_images", "99999999999"]),
    "epochs beyond 32 bits": (["--epochs", "1000000000000"], ["epochs", "1000000000000"]),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_argument_ends_in_one_line_and_writes_nothing(tmp_path, capsys, case):
    arguments, expected = BAD_ARGUMENTS[case]
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(out), *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert all(text in error for text in expected), error
    assert not out.exists()


def test_unprepared_mnist_ends_in_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(SystemExit) as stop:
        main(["--preset", "mnist", "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert "python -m experiments.prepare mnist" in error
    assert list(tmp_path.iterdir()) == []
