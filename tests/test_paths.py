"""Paths that users give: a folder in place of a file, a file in place of a folder, a missing one, an empty one."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb
from experiments.common import classifier, command, kept
from experiments.continual_learning import learner
from experiments.regression import model as regression
from experiments.two_moons import model as two_moons
from tests.commands import content_of, refused
from tests.test_endings import COMMANDS

RESUMABLE = [module for module in COMMANDS if hasattr(module.EXPERIMENT.config, "resume")]
LOADERS = {
    "image_classification": classifier.load_network,
    "continual_learning": lambda path: learner.load_network(path, task=1),
    "two_moons": two_moons.load_network,
    "regression": regression.load_network,
}


def name_of(module):
    return module.EXPERIMENT.name


def starting(module, started):
    """The experiment, which ends where its run starts."""
    return module.EXPERIMENT._replace(run=lambda *of_run: started.append(of_run[2]) or {}, show=lambda results: None)


# --out ----------------------------------------------------------------------------------------------------------------

NO_FOLDERS = {
    "file": lambda path: (path.parent.mkdir(), path.write_text("mine")),
    "file above": lambda path: path.parent.write_text("mine"),
    "link to nothing": lambda path: (path.parent.mkdir(), path.symlink_to(path.parent / "nothing")),
}


@pytest.mark.parametrize("module", COMMANDS, ids=name_of)
@pytest.mark.parametrize("kind", NO_FOLDERS)
@pytest.mark.parametrize("with_flag", [False, True])
def test_out_that_is_no_folder_is_refused_and_nothing_is_written(tmp_path, capsys, module, kind, with_flag):
    flag = "--resume" if module in RESUMABLE else "--overwrite"
    out, started = tmp_path / "above" / "run", []
    NO_FOLDERS[kind](out)
    before = content_of(tmp_path)
    arguments = [*COMMANDS[module], *[flag] * with_flag, "--out", str(out)]
    error = refused(capsys, partial(command.main, starting(module, started)), arguments)
    assert f"--out must be a folder, got the file {out.parent if kind == 'file above' else out}" in error
    assert (content_of(tmp_path), started) == (before, [])


@pytest.mark.parametrize("module", RESUMABLE, ids=name_of)
@pytest.mark.parametrize("kind", ["missing", "empty", "nested"])
def test_resume_of_a_folder_without_a_run_starts_one(tmp_path, module, kind):
    out, started = tmp_path / ("a/b/run" if kind == "nested" else "run"), []
    if kind == "empty":
        out.mkdir()
    command.main(starting(module, started), [*COMMANDS[module], "--resume", "--out", str(out)])
    assert started == [out]
    assert json.loads((out / "config.json").read_text())["experiment"] == module.EXPERIMENT.name


@pytest.mark.parametrize("module", RESUMABLE, ids=name_of)
@pytest.mark.parametrize(
    "name", ["results.json", "metrics.jsonl", "figure.png", "network-0.packed.safetensors", "checkpoints", "networks"]
)
def test_resume_of_a_run_with_a_folder_for_a_file_is_refused(tmp_path, capsys, module, name):
    arguments, started = [*COMMANDS[module], "--resume", "--out", str(tmp_path / "run")], []
    main = partial(command.main, starting(module, started))
    main(arguments)
    path = tmp_path / "run" / name
    path.unlink(missing_ok=True)
    path.mkdir() if path.suffix else path.write_text("")
    before = content_of(tmp_path)
    error = refused(capsys, main, arguments)
    assert f"--resume: {path} must be a {'file' if path.suffix else 'folder'}" in error
    assert (content_of(tmp_path), len(started)) == (before, 1)


# Networks -------------------------------------------------------------------------------------------------------------


def save(folder, experiment, name=0):
    config = {"preset": "paper", "seed": 0, "hidden": [4], "input_mean": [0.0], "input_std": [1.0]}
    network = bb.Posterior({"kernel": jnp.ones((2, 2))}, None, {"train_inputs": jnp.ones(3)}, config)
    if experiment is None:  # as they were kept before they said it
        bb.save_posterior(folder / f"network-{name}.safetensors", network)
    else:
        kept.save(folder, name, experiment, network)
    return folder / f"network-{name}.safetensors"


@pytest.mark.parametrize("experiment", LOADERS)
@pytest.mark.parametrize("other", [*LOADERS, "mine"])
def test_a_network_of_another_experiment_is_refused_by_both_names(tmp_path, experiment, other):
    path = save(tmp_path, other)
    if experiment == other:
        assert kept.load(path, experiment).config["experiment"] == experiment
        return
    with pytest.raises(ValueError) as caught:
        LOADERS[experiment](path)
    assert str(caught.value) == f"{path} must be a network of {experiment}, got one of {other}"


@pytest.mark.parametrize("experiment", ["two_moons", "regression"])
def test_a_network_that_does_not_say_whose_it_is_is_read_as_before(tmp_path, experiment):
    network = LOADERS[experiment](save(tmp_path, None))
    assert network.posterior.config["hidden"] == [4]
    assert float(network.preprocess(2.0)[0]) == 2


@pytest.mark.parametrize("experiment", LOADERS)
@pytest.mark.parametrize("config", [None, {}, [1], {"hidden": [4]}])
def test_a_posterior_of_no_run_is_refused(tmp_path, experiment, config):
    bb.save_posterior(tmp_path / "mine", bb.Posterior({"kernel": jnp.ones(2)}, config=config))
    with pytest.raises(ValueError, match=f"mine must be a network of {experiment}, got one of no experiment$"):
        LOADERS[experiment](tmp_path / "mine")


@pytest.mark.parametrize("load", [*LOADERS.values(), bb.load_posterior], ids=[*LOADERS, "load_posterior"])
def test_what_is_no_network_is_one_line_that_names_it(tmp_path, load):
    (tmp_path / "empty").write_text("")
    (tmp_path / "folder").mkdir()
    for path, error in (
        ("empty", ValueError),
        ("folder", IsADirectoryError),
        ("missing", FileNotFoundError),
        ("missing/too", FileNotFoundError),
        ("empty/below", NotADirectoryError),
    ):
        with pytest.raises(error) as caught:
            load(str(tmp_path / path))
        assert str(tmp_path / path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_is_refused_with_the_networks_in_it(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"a network-SEED\.safetensors, got the folder .*, which has none$"):
        two_moons.load_network(tmp_path)
    for name in (0, "ste-0"):
        save(tmp_path, "two_moons", name)
    with pytest.raises(IsADirectoryError, match=r"which has network-0\.safetensors, network-ste-0\.safetensors$"):
        two_moons.load_network(tmp_path)


@pytest.mark.parametrize("natural, lives", [(0.0, True), (3.5, True), (3.8, False), (20.0, False)])
def test_a_committee_is_kept_of_a_posterior_that_lives(tmp_path, natural, lives):
    """Of lambda = 3.5 the entropy is 0.0105 bits a weight, of 3.8 it is 0.0062. Without draws there is none."""
    config = {"input_mean": [0.0], "input_std": [1.0]}
    network = bb.Posterior({"kernel": jnp.full((3, 3), natural)}, None, {"mean": jnp.arange(2.0)}, config)
    draw = partial(kept.committee, lambda w: {"mean": jnp.sum(w["kernel"])}, jax.random.key(0), network.natural)
    for name, of in (("0", draw), ("1", None)):
        packed = kept.packed(network.natural, network.batch_stats, of)
        kept.save(tmp_path, name, "mine", network, packed)
    kinds = ["committee-0"] * lives + ["network-0", "network-1"]
    assert sorted(x.name for x in tmp_path.glob("*.packed.*")) == [f"{x}.packed.safetensors" for x in kinds]
    mode = kept.load_packed(tmp_path / "network-0.packed.safetensors", "mine")
    np.testing.assert_array_equal(bb.unpack(mode.weights)["kernel"], bb.mode(network.natural)["kernel"])
    np.testing.assert_array_equal(mode.batch_stats["mean"], [0, 1])
    if lives:
        drawn = kept.load_packed(tmp_path / "committee-0.packed.safetensors", "mine")
        weights = bb.unpack(drawn.weights)["kernel"]
        expected = jax.vmap(bb.sample, (0, None))(jax.random.split(jax.random.key(0), 16), network.natural)["kernel"]
        np.testing.assert_array_equal(weights, expected)
        np.testing.assert_array_equal(drawn.batch_stats["mean"], weights.sum((1, 2)))
    with pytest.raises(ValueError, match=r"packed.safetensors must be a network of two_moons, got one of mine$"):
        two_moons.load_packed(tmp_path / "network-0.packed.safetensors")
    inside = ", ".join(f"{x}.packed.safetensors" for x in kinds)
    wanted = rf"a network-SEED\.packed\.safetensors, got the folder .*, which has {inside}$"
    with pytest.raises(IsADirectoryError, match=wanted):
        two_moons.load_packed(tmp_path)


@pytest.mark.parametrize("path", [".", "", "folder"])
def test_a_posterior_is_not_saved_into_a_folder(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=f"^path must name a file, got the folder {Path(path)}$"):
        bb.save_posterior(path, bb.Posterior({"coin": jnp.ones(1)}))
    assert content_of(tmp_path) == {}
