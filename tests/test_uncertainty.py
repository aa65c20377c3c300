"""The comparison of uncertainties on digits, with few and short networks; foreign and corrupted images."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import bbinn_jax as bb
from experiments.common import config, data, prediction
from experiments.common.networks import MLP, Network
from experiments.image_classification import __main__ as image_classification
from experiments.uncertainty import __main__ as uncertainty
from experiments.uncertainty import corruptions, foreign, members, predictors
from tests.commands import read_results, refused

pytestmark = pytest.mark.long

COUNTS = ["--seeds", "2", "--ensemble", "2", "--posteriors", "2", "--eval-samples", "10"]
SHORT = ["--preset", "digits", "--epochs", "2", "--eval-images", "100", *COUNTS]
FOREIGN = ["shuffled", "rotated", "noisy"]
PREDICTORS = {
    "STE": 1,
    "STE, 2 networks": 2,
    "BayesBiNN, mode": 1,
    "BayesBiNN, mean of 1": 1,
    "BayesBiNN, mean of 5": 5,
    "BayesBiNN, mean of 10": 10,
    "BayesBiNN, 2 posteriors x 1": 2,
    "BayesBiNN, 2 posteriors x 10": 20,
}
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 8, 8, 1)), jnp.float32)
BITS = "posterior_entropy_bits_per_weight"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "uncertainty"  # which is not there: --resume starts
    return uncertainty.main([*SHORT, "--resume", "--out", str(out)]), out


def test_every_predictor_has_every_score(compared):
    """Of a posterior also its entropy; one network has no mutual information."""
    results, out = compared
    assert json.loads((out / "results.json").read_text()) == results
    assert {x["name"]: x["networks"] for x in results["predictors"]} == PREDICTORS
    scores = {"accuracy", "nll", "brier", "ece", "ece_equal_mass"}
    assert (results["dataset"], results["foreign"]) == ("digits", FOREIGN)
    for predictor in results["predictors"]:
        signals = ["entropy", "mutual_information"][: predictor["networks"]]
        tree = dict.fromkeys([*scores, "output_temperature", "risk_coverage_area", "entropy"], 0)
        tree |= {BITS: 0} if "BayesBiNN" in predictor["name"] else {}
        told_apart = {signal: {"auroc": 0, "fpr95": 0} for signal in signals}
        tree |= {"scaled": dict.fromkeys(scores, 0), "foreign": dict.fromkeys(FOREIGN, told_apart), "corrupted": {}}
        for part in (predictor["mean"], predictor["std"]):
            assert jax.tree.structure(part) == jax.tree.structure(tree)
        for path, value in jax.tree.leaves_with_path(predictor["mean"]):
            assert 0 <= value < 3 or "temperature" in str(path), (predictor["name"], path)
        assert min(jax.tree.leaves(predictor["std"])) >= 0
    assert results["predictors"][-1]["mean"]["foreign"]["shuffled"]["mutual_information"]["auroc"] > 0.8
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


def test_tables_show_each_predictor_and_mutual_information_of_several_networks(compared, monkeypatch):
    results, _ = compared
    tables = []
    monkeypatch.setattr(uncertainty.console, "write_table", lambda *table: tables.append(table))
    uncertainty.show(results)
    several = [name for name, networks in PREDICTORS.items() if networks > 1]
    assert [[row[0] for row in rows] for _, _, rows in tables] == [[*PREDICTORS], [*PREDICTORS], several]
    assert all(len(row) == len(columns) for _, columns, rows in tables for row in rows)
    mode = results["predictors"][2]
    assert tables[0][2][2][1:3] == [
        f"{mode['mean']['accuracy']:.2%} +- {mode['std']['accuracy']:.2%}",
        f"{mode['mean']['nll']:.4f} +- {mode['std']['nll']:.4f}",
    ]
    assert tables[0][2][2][-1] == f"{mode['mean'][BITS]:.3f} +- {mode['std'][BITS]:.3f}"
    assert tables[0][2][0][-1] == ""  # straight-through networks have no posterior
    one = results | {"seeds": 1, "predictors": [uncertainty.summary([run]) for run in results["runs"][:8]]}
    uncertainty.show(one)
    assert tables[3][2][0][1] == f"{results['runs'][0]['scores']['accuracy']:.2%}"


def test_networks_of_a_seed_hold_back_the_same_images_and_those_of_another_do_not(compared):
    _, out = compared
    configs = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("networks/*/config.json"))}
    split_seeds = {name: config["split_seed"] for name, config in configs.items()}
    of_seed = {
        f"{kind}-{2 * seed + member}": seed for kind in ("bayesbinn", "ste") for seed in (0, 1) for member in (0, 1)
    }
    assert split_seeds == of_seed
    dataset = data.load("digits")
    held_back = [
        members.load(out / "networks" / name / f"network-{name[-1]}.safetensors", dataset).held_back.images
        for name in ("ste-1", "bayesbinn-1", "bayesbinn-2")
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
        assert network.posterior.config["method"] == name.removesuffix("-1")
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


def parsed(*arguments):
    return config.parse(uncertainty.Config, uncertainty.PRESETS, "uncertainty", [*arguments])


def plans(*arguments):
    """The folders of networks, with the presets, methods and seeds that they are trained with."""
    chosen = parsed(*arguments)
    return {
        seed: {
            f"{kind}-{x.seed}": (x.preset, x.method.name, x.seed, x.split_seed, x.epochs)
            for kind, of_kind in uncertainty.trained(chosen, seed).items()
            for x in of_kind
        }
        for seed in range(chosen.seed, chosen.seed + chosen.seeds)
    }


@pytest.mark.parametrize(
    "preset, ste, bayesbinn, epochs",
    [
        ("digits", "digits", "digits-bayes", 200),
        ("mnist", "mnist-bayes", "mnist-bayes", 20),
        ("mnist-fast", "mnist-fast", "mnist-fast-bayes", 10),
    ],
)
def test_networks_by_folder(preset, ste, bayesbinn, epochs):
    """With one posterior it has the seed of the comparison."""
    one, several = plans("--preset", preset), plans("--preset", preset, "--posteriors", "5", "--epochs", "3")
    assert list(one) == list(several) == [0, 1, 2]
    for seed in one:
        of_ste = {f"ste-{i}": (ste, "ste", i, seed, epochs) for i in range(5 * seed, 5 * seed + 5)}
        assert one[seed] == of_ste | {f"bayesbinn-{seed}": (bayesbinn, "bayesbinn", seed, seed, epochs)}
        posteriors = {name: x for name, x in several[seed].items() if "ste" not in name}
        of_posteriors = range(5 * seed, 5 * seed + 5)
        assert posteriors == {f"bayesbinn-{i}": (bayesbinn, "bayesbinn", i, seed, 3) for i in of_posteriors}


def test_networks_of_cifar_by_folder():
    """A saturated posterior and real weights beside them; no ensemble unless it is asked for."""
    small = "cifar10-small"
    assert plans("--preset", small, "--seed", "7", "--seeds", "1", "--epochs", "2")[7] == {
        "full_precision-7": (small, "full_precision", 7, 7, 2),
        "ste-7": (small, "ste", 7, 7, 2),
        "saturated-7": (small, "bayesbinn", 7, 7, 2),
        "bayesbinn-7": (f"{small}-bayes", "bayesbinn", 7, 7, 2),
    }
    names = [*plans("--preset", small, "--seed", "7", "--seeds", "1", "--ensemble", "2")[7]]
    assert names == ["full_precision-7", "ste-14", "ste-15", "saturated-7", "bayesbinn-7"]


@pytest.mark.usefixtures("undrawn")
def test_network_that_was_trained_before_is_found(compared, tmp_path, capsys):
    """By the command of image classification, in a folder that holds no comparison yet; and it is the same network."""
    _, out = compared
    arguments = ["--preset", "digits", "--method", "ste", "--epochs", "2", "--seed", "1", "--split-seed", "0"]
    image_classification.main([*arguments, "--out", str(tmp_path / "run" / "networks" / "ste-1")])
    files = [x / "networks" / "ste-1" / "network-1.safetensors" for x in (tmp_path / "run", out)]
    before, made_here = (bb.load_posterior(file) for file in files)
    jax.tree.map(np.testing.assert_array_equal, before[:3], made_here[:3])
    assert "add --resume" in refused(capsys, uncertainty.main, [*SHORT, "--out", str(tmp_path / "run")])
    overwrite = [*SHORT, "--overwrite", "--out", str(tmp_path / "run")]
    assert "holds files that are no run's" in refused(capsys, uncertainty.main, overwrite)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members.classifier, "fit", lambda *_: pytest.fail("it must not be trained again"))
        second = uncertainty.trained(parsed(*SHORT), 0)["ste"][1]
        assert members.train(second, None, tmp_path / "run" / "networks" / "ste-1", True) == files[0]
    kept = files[0].stat().st_mtime_ns
    for name in ("ste-0", "bayesbinn-0", "bayesbinn-1"):
        (tmp_path / "run" / "networks" / name).symlink_to(out / "networks" / name)
    one = [*SHORT, "--seeds", "1", "--resume", "--out", str(tmp_path / "run")]
    assert uncertainty.main(one)["runs"] == compared[0]["runs"][: len(PREDICTORS)]
    assert files[0].stat().st_mtime_ns == kept


# Predictors -----------------------------------------------------------------------------------------------------------


def linear(seed, kind="bayesbinn", shape=(4, 3)):
    """A network that is linear in the pixels, for so many of them and classes."""
    natural = {"kernel": jax.random.normal(jax.random.key(seed), shape)}
    posterior = bb.Posterior(natural, None, None, {"method": kind})
    return prediction.Network(posterior, lambda w, x: x.reshape(len(x), -1) @ w["kernel"] / shape[0] ** 0.5, None)


def answer(network, images, weights=None):
    """Probabilities and their entropy, of NumPy, of a linear network with these weights, or with its signs."""
    natural = network.posterior.natural["kernel"]
    kernel = np.asarray(np.where(natural > 0, 1, -1) if weights is None else weights["kernel"], np.float64)
    logits = np.asarray(images, np.float64).reshape(len(images), -1) @ kernel / len(kernel) ** 0.5
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return p, -(p * np.log(p)).sum(-1)


IMAGES_OF_TWO = {"test": IMAGES[:, :2, :2], "foreign": {"a": 2 * IMAGES[:3, 2:4, :2]}, "corrupted": {}}


def test_mixture_of_posteriors_is_that_of_all_their_networks(key):
    """Against a loop over networks: the mean of probabilities, and of entropies, and what lies between."""
    posteriors = [linear(seed) for seed in range(3)]
    networks = {"ste": [linear(9)], "bayesbinn": posteriors}
    found = {x.name: x for x in predictors.ask(networks, IMAGES_OF_TWO, key, 30)}
    for each in (1, 20):
        mixture = found[f"BayesBiNN, 3 posteriors x {each}"]
        assert mixture.networks == 3 * each
        for images, said in (
            (IMAGES_OF_TWO["test"], mixture.answers["test"]),
            (IMAGES_OF_TWO["foreign"]["a"], mixture.answers["foreign"]["a"]),
        ):
            drawn = []
            for i, network in enumerate(posteriors):
                of_posterior = key if i == 0 else jax.random.fold_in(key, i)
                for of_network in jax.random.split(of_posterior, 30 if i == 0 else 20)[:each]:
                    drawn.append(answer(network, images, bb.sample(of_network, network.posterior.natural)))
            mean, expected = np.mean([p for p, _ in drawn], axis=0), np.mean([h for _, h in drawn], axis=0)
            np.testing.assert_allclose(said.probabilities, mean, rtol=1e-5)
            np.testing.assert_allclose(said.expected_entropy, expected, rtol=1e-5)
            total = -(mean * np.log(mean)).sum(-1)
            np.testing.assert_allclose(said.entropy, total, rtol=1e-5)
            np.testing.assert_allclose(said.mutual_information, total - expected, atol=1e-6)
    assert len({x.bits for x in found.values()}) == 3  # none, that of the first posterior, and the mean of all


def test_means_are_those_of_the_posterior_predictive(key):
    network = linear(0)
    found = predictors.means(network, {1, 3, 10}, key, IMAGES_OF_TWO["test"])
    for count, said in found.items():
        expected = bb.posterior_predictive(
            network.apply_fn, network.posterior.natural, key, IMAGES_OF_TWO["test"], num_samples=count
        )
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), said, expected)


def test_network_says_what_its_kind_is_shipped_as():
    """Real weights are what they are, others are their signs."""
    for kind in ("full_precision", "ste"):
        network, images = linear(0, kind), IMAGES_OF_TWO["test"]
        weights = network.posterior.natural if kind == "full_precision" else None
        said = predictors.shipped(network, images)
        np.testing.assert_allclose(said.probabilities, answer(network, images, weights)[0], rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--seeds", "0"], ["seeds", "0"]),
        (["--ensemble", "0"], ["ensemble", "0"]),
        (["--posteriors", "0"], ["posteriors", "0"]),
        (["--eval-samples", "0"], ["eval_samples", "0"]),
        (["--seed", "2000000000", "--ensemble", "1", "--posteriors", "9"], ["seed", "posteriors", "2000000000"]),
        (["--preset", "imagenet"], ["--preset", "imagenet", "mnist"]),
        (["--epochs", "0"], ["epochs", "0"]),
        (["--resume", "--overwrite"], ["resume", "overwrite"]),
    ],
)
def test_bad_argument_ends_in_one_line(tmp_path, capsys, arguments, words):
    error = refused(capsys, uncertainty.main, ["--out", str(tmp_path / "run"), *arguments])
    assert all(word in error for word in words)
    assert not (tmp_path / "run").exists()


# CIFAR-10 -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_images(monkeypatch):
    """The first images of each prepared data set."""
    if not os.environ.get("TFDS_DATA_DIR"):
        pytest.skip("TFDS_DATA_DIR names no folder of data sets")
    read = data._read
    monkeypatch.setattr(data, "_read", lambda builder, split: read(builder, f"{split}[:100]"))


def test_comparison_on_cifar_of_untrained_networks(few_images, tmp_path, monkeypatch):
    """What is said of real images by linear networks."""

    def networks_of(config, seed, dataset, folder):
        kinds = ("full_precision", "ste", "saturated", "bayesbinn")
        networks = [linear(seed, kind, (32 * 32 * 3, 10))._replace(held_back=dataset.train) for kind in kinds]
        return {kind: [network] for kind, network in zip(kinds, networks, strict=True)}

    monkeypatch.setattr(uncertainty, "networks_of", networks_of)
    tables = []
    monkeypatch.setattr(uncertainty.console, "write_table", lambda *table: tables.append(table))
    arguments = ["--preset", "cifar10-small", "--seeds", "2", "--eval-samples", "2", "--eval-images", "20"]
    results = uncertainty.main([*arguments, "--out", str(tmp_path)])
    names = ["full precision", "STE", "BayesBiNN, saturated", "BayesBiNN, mode"]
    names += [f"BayesBiNN, mean of {count}" for count in (1, 2)]
    assert [x["name"] for x in results["predictors"]] == names
    assert (results["dataset"], results["foreign"]) == ("cifar10", ["shuffled", "MNIST in colour"])
    for predictor in results["predictors"]:
        corrupted = predictor["mean"]["corrupted"]
        assert {kind: set(of_kind) for kind, of_kind in corrupted.items()} == {
            kind: {"1", "3", "5"} for kind in ("noise", "blur", "contrast")
        }
        for scored in (x for of_kind in corrupted.values() for x in of_kind.values()):
            assert {"accuracy", "nll", "ece", "entropy", "scaled"} <= set(scored)
            assert all(np.isfinite(jax.tree.leaves(scored)))
    dataset = data.load("cifar10")
    pixels = np.asarray(dataset.test.images[:20], np.float64) * dataset.std + dataset.mean
    blurred = scipy.ndimage.gaussian_filter(pixels, (0, 0.7, 0.7, 0), mode="nearest", truncate=4)
    p, _ = answer(linear(0, "ste", (32 * 32 * 3, 10)), (blurred - dataset.mean) / dataset.std)
    labels = np.asarray(dataset.test.labels[:20])
    scored = next(x for x in results["runs"] if x["predictor"] == "STE")["scores"]["corrupted"]["blur"]["3"]
    np.testing.assert_allclose(scored["accuracy"], np.mean(p.argmax(-1) == labels), rtol=1e-6)
    np.testing.assert_allclose(scored["nll"], -np.mean(np.log(p[range(20), labels])), rtol=1e-4)
    titles = [title.partition(":")[0] for title, *_ in tables]
    assert titles[3:] == ["Corrupted test images, accuracy", "Corrupted test images, NLL"]
    assert tables[4][1][1:4] == ["noise 0.04", "noise 0.08", "noise 0.1"]
    assert (tmp_path / "corrupted.png").read_bytes().startswith(b"\x89PNG")


# Foreign and corrupted images -----------------------------------------------------------------------------------------


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


def test_colour_of_a_digit_is_one_and_black_stays_black(key):
    found = np.asarray(foreign.colour(key, np.asarray(IMAGES), (8, 8)))
    assert found.shape == (6, 8, 8, 3)
    colours = found / np.asarray(IMAGES)
    np.testing.assert_allclose(colours, np.broadcast_to(colours[:, :1, :1], colours.shape), rtol=1e-4)
    assert len(np.unique(colours[:, 0, 0].round(3))) == 18
    assert colours.min() >= 0 and colours.max() <= 1
    np.testing.assert_array_equal(foreign.colour(key, np.zeros((2, 28, 28, 1), np.float32), (32, 32)), 0)


def test_foreign_images_of_cifar_have_its_shape(few_images):
    dataset = data.load("cifar10")
    found = foreign.foreign_images(dataset, "cifar10", jax.random.key(0))
    assert {title: x.shape for title, x in found.items()} == dict.fromkeys(
        ("shuffled", "MNIST in colour"), dataset.test.images.shape
    )


COLOURS = np.random.default_rng(1).uniform(size=(5, 32, 32, 3))


@pytest.mark.parametrize("std", [0.4, 0.7, 1.0])
def test_blur_is_that_of_scipy(std):
    expected = scipy.ndimage.gaussian_filter(COLOURS, (0, std, std, 0), mode="nearest", truncate=4)
    np.testing.assert_allclose(corruptions.blur(jnp.float32(COLOURS), std), expected, atol=1e-6)


def test_contrast_keeps_means_and_divides_deviations():
    found = np.asarray(corruptions.contrast(jnp.float32(COLOURS), 0.4))
    for image, result in zip(COLOURS, found, strict=True):
        for channel in range(3):
            mean = image[..., channel].mean()
            np.testing.assert_allclose(result[..., channel], 0.4 * (image[..., channel] - mean) + mean, atol=1e-6)


def test_corrupted_images_are_those_of_the_formulas():
    """Standardized; noise with the deviation that it is said to have, before it is cut off."""
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])
    pixels = np.clip(COLOURS, 0.4, 0.6)  # so that hardly any noise is cut off
    split = data.Split(jnp.float32((pixels - mean) / std), jnp.zeros(5, jnp.int32))
    found = corruptions.corrupted_images(data.Dataset(split, split, 10, mean, std), jax.random.key(0))
    found = jax.tree.map(lambda x: np.asarray(x, np.float64) * std + mean, found)
    assert {kind: tuple(of_kind) for kind, of_kind in found.items()} == dict.fromkeys(found, ("1", "3", "5"))
    noise = {severity: x - pixels for severity, x in found["noise"].items()}
    for severity, expected in (("1", 0.04), ("3", 0.08), ("5", 0.10)):
        np.testing.assert_allclose(noise[severity].std(), expected, rtol=0.03)  # of 15,360 numbers: 5 deviations
        np.testing.assert_allclose(noise[severity].mean(), 0, atol=5 * expected / 15360**0.5)
    blurred = scipy.ndimage.gaussian_filter(pixels, (0, 0.7, 0.7, 0), mode="nearest", truncate=4)
    np.testing.assert_allclose(found["blur"]["3"], blurred, atol=1e-6)
    means = pixels.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(found["contrast"]["5"], means + 0.15 * (pixels - means), atol=1e-6)
