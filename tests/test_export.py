"""The command that exports kept networks, on a small run of digits."""

import json
import math
import re
import shutil
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb
from experiments.common import classifier, data, kept, runs
from experiments.common.presets import PRESETS
from experiments.export import __main__ as command
from experiments.export import compare, forms, functions
from experiments.image_classification import __main__ as image_classification
from experiments.uncertainty.foreign import foreign_images
from tests.commands import refused

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
ort = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("jax2onnx", reason="needs the extra 'export'")
SHORT = "--preset digits-bayes --epochs 30 --hidden 128 --learning-rate 0.02 --eval-samples 16 --eval-images 200"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of digits of two seeds, long enough to know shuffled digits from digits."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.image_classification.figure.draw", lambda path, *_: path.touch())
        image_classification.main([*SHORT.split(), "--seeds", "2", "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Networks of methods without a posterior, and with real weights: of them the configs alone."""
    folder = tmp_path_factory.mktemp("others")
    for method in ("ste", "full_precision"):
        config = runs.kept_config(PRESETS["digits"](method), 0, 0.0, 1.0)
        (folder / method).mkdir()
        kept.save(folder / method, 0, classifier.EXPERIMENT, bb.Posterior({"w": jnp.ones(3)}, config=config))
    return folder


def answers(path, pixels):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"inputs": np.asarray(pixels, np.float32)})
    return dict(zip([x.name for x in session.get_outputs()], found, strict=True))


def pixels_of(images, dataset):
    return np.asarray(images) * dataset.std + dataset.mean


def test_mode_in_onnx_has_the_accuracy_of_the_run_from_pixels(run, tmp_path, capsys):
    path = tmp_path / "mode.onnx"
    command.main([str(run), "--seed", "1", "--to", "onnx", "--out", str(path)])
    shown = capsys.readouterr().out
    assert "weights/BinaryDense_0/binary_kernel" in shown and "pixels in [0, 1]" in shown
    assert "largest difference from JAX on 100 test images" in shown and "one input takes" in shown
    dataset = data.load("digits")
    found = answers(path, pixels_of(dataset.test.images[:200], dataset))
    assert list(found) == ["logits", "probabilities"]
    accuracy = np.mean(found["probabilities"].argmax(1) == dataset.test.labels[:200])
    results = json.loads((run / "results.json").read_text())["runs"][1]
    np.testing.assert_allclose(accuracy, results["test_accuracy_mode"], atol=1e-6)
    text = {x.key: x.value for x in onnx.load(path).metadata_props}
    assert json.loads(text["config"])["seed"] == 1 and "before they are standardized" in text["input"]


def test_committee_of_16_knows_shuffled_digits_as_jax_does(run, tmp_path):
    """Its networks are those that the run's own mean is of, each with the batch-norm statistics of its own."""
    path = tmp_path / "committee.onnx"
    command.main([str(run), "--seed", "0", "--to", "onnx", "--committee", "16", "--out", str(path)])
    dataset = data.load("digits")
    shuffled = foreign_images(dataset, "digits", jax.random.key(0))["shuffled"][:200]
    images = jnp.concatenate([dataset.test.images[:200], shuffled])
    found = answers(path, pixels_of(images, dataset))
    assert list(found) == ["probabilities", "entropy", "mutual_information", "networks"]
    np.testing.assert_allclose(found.pop("networks").mean(1), found["probabilities"], atol=1e-6)
    network = classifier.load_network(run / "network-0.safetensors", dataset)
    key = jax.random.split(jax.random.key(0), 3)[2]
    wanted = jax.jit(
        lambda x: bb.posterior_predictive(
            network.apply_fn, network.posterior.natural, key, x, num_samples=16, chunk_size=4
        )
    )(images)
    for name in found:
        np.testing.assert_allclose(found[name], getattr(wanted, name), atol=2e-4)
    for signal in ("entropy", "mutual_information"):
        in_onnx, in_jax = (
            float(bb.metrics.auroc(jnp.asarray(x[200:]), jnp.asarray(x[:200])))
            for x in (found[signal], getattr(wanted, signal))
        )
        assert abs(in_onnx - in_jax) < 1e-4 and in_onnx > 0.85
    results = json.loads((run / "results.json").read_text())["runs"][0]
    accuracy = np.mean(found["probabilities"][:200].argmax(1) == dataset.test.labels[:200])
    np.testing.assert_allclose(accuracy, results["test_accuracy_mean"], atol=1e-6)


def test_npz_is_read_with_numpy_alone(run, tmp_path, capsys):
    """A process of NumPy reads it as the docstring says and computes the network."""
    command.main([str(run / "network-0.safetensors"), "--to", "npz", "--out", str(tmp_path / "network_0.npz")])
    assert "1.00" in capsys.readouterr().out
    program = """
import json, math, sys, numpy as np
weights = {}
with np.load("network_0.npz") as file:
    about = json.loads(str(file["about"]))
    for name, shape in about["shapes"].items():
        bits = np.unpackbits(file[name], axis=-1, bitorder="little", count=math.prod(shape))
        weights[name] = 2.0 * bits.reshape(*bits.shape[:-1], *shape) - 1
    rest = {name: file[name] for name in file.files}
x = ((np.load("pixels.npy") - rest["input_mean"]) / rest["input_std"]).reshape(-1, 64)
for i in range(2):
    x = x @ weights[f"weights/BinaryDense_{i}/binary_kernel"]
    mean, var = (rest[f"batch_stats/BatchNorm_{i}/{name}"] for name in ("mean", "var"))
    x = (x - mean) / np.sqrt(var + 1e-4)
    x = np.maximum(x, 0) if i == 0 else x * rest["real/output_scale"]
np.save("logits.npy", x)
assert not {"jax", "bbinn_jax", "onnx"} & set(sys.modules)
"""
    dataset = data.load("digits")
    np.save(tmp_path / "pixels.npy", pixels_of(dataset.test.images[:50], dataset))
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    exported = functions.load(run / "network-0.safetensors", None)
    wanted = exported.fn(bb.unpack(exported.weights), exported.pixels[:50]).logits
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), wanted, rtol=1e-4, atol=1e-4)


def test_file_lies_beside_the_network_where_nobody_says_where(run, capsys):
    command.main([str(run), "--seed", "0", "--to", "npz", "--committee", "3"])
    with np.load(run / "committee_0.npz") as file:
        shapes = json.loads(str(file["about"]))["shapes"]
        for name, shape in shapes.items():
            assert file[name].shape == (3, -(-math.prod(shape) // 8))
        assert file["batch_stats/BatchNorm_0/mean"].shape == (3, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}/nowhere"], "there is no run folder or network"),
        (["{run}"], "--seed must say which network of .*: 0, 1"),
        (["{run}", "--seed", "7"], "--seed must be that of a network of .*: 0, 1; got 7"),
        (["{run}/checkpoints"], r"must hold a network-SEED\.safetensors of image_classification, found none"),
        (["{run}/config.json"], "damaged or no safetensors file"),
        (["{run}", "--seed", "0", "--committee", "0"], r"--committee must be in \[1, 1000\], got 0"),
        (["{others}/full_precision"], "must have binary weights to be exported as bits, got method full_precision"),
        (["{others}/ste", "--committee", "4"], "--committee needs a posterior, and the method ste of .* has none"),
        (["{run}", "--seed", "0", "--out", "{run}"], "--out must end in .(onnx|c|npz), got"),
        (["{run}", "--seed", "0", "--out", "{run}/no/x.onnx"], "--out must (be in a folder that is there|end in)"),
        (["{run}/network-0.packed.safetensors"], "packed already: give the network-SEED.safetensors beside it"),
        (["{run}/network-0.safetensors", "--seed", "0"], "--seed is for run folders"),
    ],
)
def test_bad_input_is_one_line(run, others, capsys, arguments, message):
    before = sorted(run.iterdir())
    filled = [x.format(run=run, others=others) for x in arguments]
    for to in ("onnx", "c", "npz"):
        assert re.search(message, refused(capsys, command.main, [*filled, "--to", to]))
    assert sorted(run.iterdir()) == before


def test_networks_of_other_experiments_are_refused(tmp_path, capsys):
    config = {"experiment": "language_model", "preset": "german"}
    bb.save_posterior(tmp_path / "network-0.safetensors", bb.Posterior({"w": jnp.ones(3)}, config=config))
    error = refused(capsys, command.main, [str(tmp_path), "--to", "onnx"])
    assert "must be a network of image_classification, got one of language_model" in error


def test_without_the_extra_one_line_says_what_to_install(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(SystemExit) as stop:
        command.main([str(run), "--seed", "0", "--to", "onnx"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "pip install '.[export]'" in error and error.count("\n") == 1


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("flags", [[], ["--committee", "2"]], ids=["mode", "committee"])
def test_c_answers_one_input_as_jax_does(run, tmp_path, capsys, flags):
    path = tmp_path / "digits.c"
    command.main([str(run), "--seed", "0", "--to", "c", *flags, "--out", str(path)])
    shown = capsys.readouterr().out
    assert "bytes of weights" in shown and "one input takes" in shown and path.with_suffix(".h").exists()
    exported = functions.load(run / "network-0.safetensors", 2 if flags else None)
    found = forms.compiled(path, exported, ())()
    wanted = exported.fn(bb.unpack(exported.weights), exported.pixels[:1])
    for one, many in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-4)


def test_all_forms_are_written_and_timed_in_turn(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "run", partial(compare.run, seconds=0.0))
    command.main([str(run), "--seed", "0", "--to", "all", "--committee", "2", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["network"] == "64-128-10" and results["num_binary_weights"] == 2 * 128 * 74
    rows = {row["program"]: row for row in results["rows"]}
    assert list(rows) == [name for name, *_ in compare.FORMS]
    assert all(row["ratio"] > 0 and row["seconds"] > 0 for row in rows.values() if row["ratio"] is not None)
    assert rows["ONNX, bits"]["bytes"] == (tmp_path / "committee_0.onnx").stat().st_size
    assert rows["safetensors, bits, in JAX"]["bytes"] < rows["safetensors, float32, in JAX"]["bytes"] / 4
    shown = capsys.readouterr().out
    assert "64-128-10, 18,944 weights, 2 networks" in shown and all(name in shown for name in rows)
    loaded = bb.load_packed(tmp_path / "committee_0.packed.safetensors")
    exported = functions.load(run / "network-0.safetensors", 2)
    np.testing.assert_array_equal(jax.tree.leaves(loaded.weights)[0], jax.tree.leaves(exported.weights)[0])
