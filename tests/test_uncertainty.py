"""The comparison of uncertainties on digits, with few and short networks; and the foreign images."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb
from experiments.common import data
from experiments.common.networks import MLP, Network
from experiments.uncertainty import __main__ as uncertainty
from experiments.uncertainty import foreign, members, predictors
from tests.commands import read_results

SHORT = ["--preset", "digits", "--epochs", "2", "--seeds", "2", "--ensemble", "2", "--eval-images", "100"]
FOREIGN = ["shuffled", "rotated", "noisy"]
PREDICTORS = ["STE", "STE, 2 networks", "BayesBiNN, mode", *(f"BayesBiNN, mean of {n}" for n in (1, 5, 10, 30, 100))]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "uncertainty"  # which is not there: --resume starts
    return uncertainty.main([*SHORT, "--resume", "--out", str(out)]), out


def test_every_predictor_has_every_score(compared):
    results, out = compared
    assert json.loads((out / "results.json").read_text()) == results
    assert [x["name"] for x in results["predictors"]] == PREDICTORS
    assert [x["networks"] for x in results["predictors"]] == [1, 2, 1, 1, 5, 10, 30, 100]
    scores = {"accuracy", "nll", "brier", "ece", "ece_equal_mass"}
    told_apart = {signal: {"auroc": 0, "fpr95": 0} for signal in ("entropy", "mutual_information")}
    tree = dict.fromkeys([*scores, "output_temperature", "risk_coverage_area"], 0)
    tree |= {"scaled": dict.fromkeys(scores, 0), "foreign": dict.fromkeys(FOREIGN, told_apart)}
    assert results["foreign"] == FOREIGN
    for predictor in results["predictors"]:
        for part in (predictor["mean"], predictor["std"]):
            assert jax.tree.structure(part) == jax.tree.structure(tree)
        for path, value in jax.tree.leaves_with_path(predictor["mean"]):
            assert 0 <= value < 3 or "temperature" in str(path), (predictor["name"], path)
        assert min(jax.tree.leaves(predictor["std"])) >= 0
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_means_and_sample_deviations_are_those_of_the_runs(compared):
    results, _ = compared
    runs = results["runs"]
    assert [(run["seed"], run["predictor"]) for run in runs] == [(seed, name) for seed in (0, 1) for name in PREDICTORS]
    for i, predictor in enumerate(results["predictors"]):
        first, second = (runs[j]["scores"] for j in (i, i + len(PREDICTORS)))
        mean, std = predictor["mean"], predictor["std"]
        for look in (
            lambda scores: scores["nll"],
            lambda scores: scores["scaled"]["ece"],
            lambda scores: scores["foreign"]["noisy"]["entropy"]["auroc"],
        ):
            values = [look(first), look(second)]
            np.testing.assert_allclose([look(mean), look(std)], [np.mean(values), np.std(values, ddof=1)], rtol=1e-9)


def test_one_network_has_no_mutual_information_and_several_have(compared):
    """So it tells nothing apart."""
    results, _ = compared
    for predictor in results["predictors"]:
        told_apart = predictor["mean"]["foreign"]["shuffled"]["mutual_information"]["auroc"]
        assert told_apart == 0.5 if predictor["networks"] == 1 else told_apart > 0.5
    assert told_apart > 0.8  # of 100 networks


def test_tables_show_each_predictor_and_mutual_information_of_several_networks(compared, monkeypatch):
    results, _ = compared
    tables = []
    monkeypatch.setattr(uncertainty.console, "write_table", lambda *table: tables.append(table))
    uncertainty.show(results)
    several = [name for name in PREDICTORS if name not in ("STE", "BayesBiNN, mode", "BayesBiNN, mean of 1")]
    assert [[row[0] for row in rows] for _, _, rows in tables] == [PREDICTORS, PREDICTORS, several]
    assert all(len(row) == len(columns) for _, columns, rows in tables for row in rows)
    mode = results["predictors"][2]
    assert tables[0][2][2][1:3] == [
        f"{mode['mean']['accuracy']:.2%} +- {mode['std']['accuracy']:.2%}",
        f"{mode['mean']['nll']:.4f} +- {mode['std']['nll']:.4f}",
    ]
    one = results | {"seeds": 1, "predictors": [uncertainty.summary([run]) for run in results["runs"][:8]]}
    uncertainty.show(one)
    assert tables[3][2][0][1] == f"{results['runs'][0]['scores']['accuracy']:.2%}"


def test_networks_of_a_seed_hold_back_the_same_images_and_those_of_another_do_not(compared):
    _, out = compared
    configs = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("networks/*/config.json"))}
    split_seeds = {name: config["split_seed"] for name, config in configs.items()}
    assert split_seeds == {"bayesbinn-0": 0, "ste-0": 0, "ste-1": 0, "bayesbinn-1": 1, "ste-2": 1, "ste-3": 1}
    dataset = data.load("digits")
    held_back = [
        members.load(out / "networks" / name / f"network-{name[-1]}.safetensors", dataset).held_back.images
        for name in ("ste-1", "bayesbinn-0", "bayesbinn-1")
    ]
    np.testing.assert_array_equal(held_back[0], held_back[1])
    assert not np.array_equal(held_back[0], held_back[2])


def test_kept_network_has_the_accuracy_of_its_run(compared):
    """Loaded from its file, it answers the test images as it did when it was trained."""
    _, out = compared
    dataset = data.load("digits")
    for name in ("ste-1", "bayesbinn-1"):
        folder = out / "networks" / name
        network = members.load(folder / "network-1.safetensors", dataset)
        p = bb.mode_predictive(network.apply_fn, network.posterior.natural, dataset.test.images).probabilities
        expected = read_results(folder)
        np.testing.assert_allclose(bb.metrics.accuracy(p, dataset.test.labels), expected["test_accuracy_mode"])
        nll = bb.metrics.negative_log_likelihood(p, dataset.test.labels)
        np.testing.assert_allclose(nll, expected["test_nll_mode"], rtol=1e-4)


def test_file_alone_has_the_accuracy_of_its_run(compared):
    """Its batch-norm statistics are those of the mode: who knows nothing of training images predicts with it."""
    _, out = compared
    dataset, folder = data.load("digits"), out / "networks" / "bayesbinn-1"
    kept = bb.load_posterior(folder / "network-1.safetensors")
    model = Network(MLP(hidden=tuple(kept.config["hidden"]), output_scale=kept.config["output_scale"]), 10)
    variables = {"params": bb.combine(bb.mode(kept.natural), kept.real), "batch_stats": kept.batch_stats}
    p = jax.nn.softmax(model.apply(variables, dataset.test.images, train=False))
    expected = read_results(folder)
    np.testing.assert_allclose(bb.metrics.accuracy(p, dataset.test.labels), expected["test_accuracy_mode"])
    nll = bb.metrics.negative_log_likelihood(p, dataset.test.labels)
    np.testing.assert_allclose(nll, expected["test_nll_mode"], rtol=1e-3)


def test_damaged_network_is_named_with_what_to_do(compared, tmp_path, capsys):
    _, out = compared
    path = tmp_path / "ste-0" / "network-0.safetensors"
    path.parent.mkdir()
    path.write_bytes((out / "networks" / "ste-0" / "network-0.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"damaged .* remove the folder .*ste-0, and --resume trains"):
        members.load(path, data.load("digits"))


def test_interrupted_comparison_goes_on_and_finished_one_is_kept(compared, capsys):
    results, out = compared
    with pytest.raises(SystemExit) as stop:
        uncertainty.main([*SHORT, "--out", str(out)])
    assert stop.value.code == 2 and "finished run" in capsys.readouterr().err
    assert uncertainty.main([*SHORT, "--resume", "--out", str(out)]) == results
    (out / "results.json").unlink()
    with pytest.raises(SystemExit) as stop:
        uncertainty.main([*SHORT, "--out", str(out)])
    assert stop.value.code == 2 and "interrupted run; add --resume" in capsys.readouterr().err
    kept = (out / "networks" / "ste-3" / "results.json").stat().st_mtime_ns
    again = uncertainty.main([*SHORT, "--resume", "--out", str(out)])
    assert (out / "networks" / "ste-3" / "results.json").stat().st_mtime_ns == kept
    assert (again["predictors"], again["runs"]) == (results["predictors"], results["runs"])


def test_average_is_the_mean_of_probabilities():
    p = [bb.mode_predictive(lambda w, x, z=z: jnp.array([[z, 0.0]]), jnp.ones(1), jnp.ones(1)) for z in (3.0, -3.0)]
    mean = predictors.average(p)
    np.testing.assert_allclose(mean.probabilities, [[0.5, 0.5]], rtol=1e-5)
    np.testing.assert_allclose(mean.entropy, np.log(2), rtol=1e-5)
    np.testing.assert_allclose(mean.mutual_information, np.log(2) - p[0].entropy, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--seeds", "0"], ["seeds", "0"]),
        (["--ensemble", "1"], ["ensemble", "1"]),
        (["--preset", "imagenet"], ["--preset", "imagenet", "mnist"]),
        (["--epochs", "0"], ["epochs", "0"]),
        (["--resume", "--overwrite"], ["resume", "overwrite"]),
    ],
)
def test_bad_argument_ends_in_one_line(tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        uncertainty.main(["--out", str(tmp_path / "run"), *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert all(word in error for word in words)
    assert not (tmp_path / "run").exists()


# Foreign images -------------------------------------------------------------------------------------------------------


IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 8, 8, 1)), jnp.float32)


def test_shuffled_images_keep_their_pixels_and_lose_their_places(key):
    shuffled = foreign.shuffle_pixels(key, IMAGES)
    np.testing.assert_array_equal(np.sort(shuffled.reshape(6, -1)), np.sort(IMAGES.reshape(6, -1)))
    orders = {tuple(np.argsort(np.argsort(x)).tolist()) for x in np.asarray(shuffled).reshape(6, -1)}
    assert len(orders) == 6
    same = foreign.shuffle_pixels(key, jnp.tile(jnp.arange(64.0).reshape(1, 8, 8, 1), (2, 1, 1, 1)))
    assert not np.array_equal(same[0], same[1])


def test_quarter_turn_is_that_of_numpy(key):
    turned = foreign.rotate(key, IMAGES, lowest=90.0, highest=90.0)
    for image, result in zip(IMAGES, turned, strict=True):
        assert any(np.allclose(result, np.rot90(image, k), atol=1e-4) for k in (1, -1))


def test_corners_of_turned_images_are_black_and_the_middle_is_kept(key):
    turned = foreign.rotate(key, jnp.ones((3, 9, 9, 2)), lowest=45.0, highest=45.0)
    np.testing.assert_allclose(turned[:, 0, 0], 0, atol=1e-6)
    np.testing.assert_allclose(turned[:, 4, 4], 1, atol=1e-6)


def test_noise_stays_between_black_and_white(key):
    noisy = foreign.add_noise(key, IMAGES, std=0.5)
    assert noisy.min() == 0 and noisy.max() == 1
    inside = (noisy > 0) & (noisy < 1)
    assert 0.1 < np.std((noisy - IMAGES)[inside]) < 0.5


def test_grey_is_the_luma_of_colours():
    colours = np.ones((1, 4, 4, 3)) * np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(foreign.grey(colours, (8, 8)), 0.299 * np.ones((1, 8, 8, 1)), rtol=1e-5)


def test_foreign_images_are_standardized_as_the_data_set_is():
    dataset = data.load("digits")
    found = foreign.foreign_images(dataset, "digits", jax.random.key(0))
    assert list(found) == FOREIGN
    for images in found.values():
        assert images.shape == dataset.test.images.shape and images.dtype == jnp.float32
        pixels = images * dataset.std + dataset.mean
        assert pixels.min() > -1e-4 and pixels.max() < 1 + 1e-4
    np.testing.assert_allclose(found["shuffled"].mean(), dataset.test.images.mean(), atol=1e-4)
