"""The grid of rates and momenta: against runs written out by hand, its ranks on a toy, and from the command line."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.image import imread

from experiments.common import data, networks, training
from experiments.learning_rates import figure, grid, rules
from experiments.learning_rates.__main__ import main, summarize
from experiments.learning_rates.presets import CLAIMED, MOMENTA, RATES, Config
from experiments.learning_rates.standing import standing
from tests.commands import assert_finished_run_stays, read_results, refused, without_times

CELLS = ((0.3, 0.0), (0.05, 0.9), (0.016, 0.874), (1e30, 0.5))
SETTING = rules.Setting(train_set_size=70, steps=12, kl_weight=0.1, init_scale=1.0, has_norm=False)
PROBLEM = grid.Problem(networks.Network(networks.MLP(hidden=(7,), norm="none"), 4), SETTING, 16, 3, 4)
KEY = jax.random.key(3)
SMALL = [
    *("--train-images", "64", "--eval-images", "50", "--hidden", "8", "--epochs", "2", "--batch-size", "16"),
    *("--seeds", "2", "--rates", "0.016", "0.3", "1e30", "--momenta", "0", "0.874", "--cells-at-once", "4"),
    *("--methods", "sgd", "bayesbinn"),
]


def random_split(seed, count):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    images = rng.normal(size=(count, 3, 2, 1)) + labels[:, None, None, None] * 0.7
    return data.Split(jnp.asarray(images, jnp.float32), jnp.asarray(labels, jnp.int32))


PARTS = random_split(0, 70), random_split(1, 40)


def program(name, cells_at_once=4):
    run = jax.jit(lambda key, parts, cells: grid.run(PROBLEM, name, cells_at_once, key, parts, cells))
    return run(KEY, PARTS, tuple(jnp.asarray(x, jnp.float32) for x in zip(*CELLS, strict=True)))


# Against runs by hand ---------------------------------------------------------------------------------------------


def start(name):
    """The weights that the program starts with, float64."""
    method = rules.make(name, SETTING, 0.1, 0.0)
    of_cell = training.Problem(method, PROBLEM.model, PROBLEM.batch_size)
    natural = training.init(of_cell, jax.random.split(KEY, 4)[0], PARTS[0].images).params[0]
    return [np.asarray(natural[f"BinaryDense_{i}"]["binary_kernel"], np.float64) for i in range(2)]


def probabilities(weights, images):
    """Of a network with one hidden layer of ReLU; and its hidden layer."""
    hidden = np.maximum(images @ weights[0], 0)
    logits = hidden @ weights[1]
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), hidden


def gradients(weights, images, labels):
    """Of the mean cross-entropy, by the chain rule."""
    p, hidden = probabilities(weights, images)
    error = (p - np.eye(4)[labels]) / len(labels)
    return [images.T @ (error @ weights[1].T * (hidden > 0)), hidden.T @ error]


def scores(weights, split):
    labels = np.asarray(split.labels)
    p, _ = probabilities(weights, np.asarray(split.images, np.float64).reshape(len(labels), -1))
    return np.mean(p.argmax(1) == labels), -np.mean(np.log(p[np.arange(len(labels)), labels]))


def by_hand(params, weights_of, optimizer, after=lambda params: params):
    """A Python loop over the steps, in which optax changes NumPy arrays."""
    images, labels = (np.asarray(x) for x in PARTS[0])
    images = images.reshape(len(images), -1).astype(np.float64)
    state = optimizer.init(params)
    for batch in np.asarray(grid.orders(jax.random.split(KEY, 4)[1], 70, 16, 3)):
        grads = gradients(weights_of(params), images[batch], labels[batch])
        updates, state = optimizer.update(grads, state)
        params = after([np.asarray(x + u, np.float64) for x, u in zip(params, updates, strict=True)])
    return scores(weights_of(params), PARTS[1])


def test_sgd_on_the_grid_is_sgd_on_the_usual_weights_cell_by_cell(x64):
    """The network multiplies by sqrt(2 / inputs); the rate is that of weights that are not multiplied by anything."""
    found = jax.tree.map(np.asarray, program("sgd"))
    theta = [w * (2 / len(w)) ** 0.5 for w in start("sgd")]
    assert all(np.abs(x).max() <= (6 / len(x)) ** 0.5 for x in theta)  # Kaiming
    for i, (rate, momentum) in enumerate(CELLS[:3]):
        accuracy, nll = by_hand(theta, lambda params: params, optax.sgd(rate, momentum))
        assert found.accuracy[i] == pytest.approx(accuracy, abs=1e-6)
        assert found.nll[i] == pytest.approx(nll, rel=1e-4)
    assert found.diverged.tolist() == [False, False, False, True]
    assert len({round(x, 3) for x in found.nll[:3].tolist()}) == 3
    assert np.isnan(found.accuracy_mean).all()


def test_ste_on_the_grid_is_sgd_on_clipped_latent_weights(x64):
    found = jax.tree.map(np.asarray, program("ste"))
    latent = start("ste")

    class Straight:
        """SGD whose gradients, of the weights that multiply inputs, are made those of latent weights."""

        def __init__(self, rate, momentum):
            self.init, self.inner = optax.sgd(rate, momentum).init, optax.sgd(rate, momentum)

        def update(self, grads, state):
            return self.inner.update([g * (2 / len(g)) ** 0.5 for g in grads], state)

    def signs(params):
        return [np.where(x > 0, 1.0, -1.0) * (2 / len(x)) ** 0.5 for x in params]

    for i, cell in enumerate(CELLS[:3]):
        accuracy, nll = by_hand(latent, signs, Straight(*cell), lambda params: [np.clip(x, -1, 1) for x in params])
        assert found.accuracy[i] == pytest.approx(accuracy, abs=1e-6)
        assert found.nll[i] == pytest.approx(nll, rel=1e-4)


@pytest.mark.parametrize("name", ["bayesbinn", "bayesbinn_heavy_ball"])
def test_optimizer_of_the_rule_with_traced_rate_and_momentum(name, x64):
    """m <- momentum m + (1 - momentum) (N g / F + kl_weight lambda), in NumPy."""
    rng = np.random.default_rng(0)
    natural, grads = rng.normal(size=5), rng.normal(size=(4, 5)) * 1e-3

    @jax.jit
    def steps(rate, momentum):
        optimizer = rules.make(name, SETTING, rate, momentum).optimizer
        params = jnp.asarray(natural), None
        state = optimizer.init(params)
        for g in jnp.asarray(grads):
            updates, state = optimizer.update((g, None), state, params)
            params = optax.apply_updates(params, updates)
        return params[0]

    for rate, momentum in ((0.1, 0.8), (0.02, 0.0)):
        expected, m = natural, 0.0
        effective = rate / (1 - momentum) if name == "bayesbinn_heavy_ball" else rate
        for t, g in enumerate(grads, 1):
            m = momentum * m + (1 - momentum) * (70 * g / (1 - np.tanh(expected) ** 2) + 0.1 * expected)
            expected = expected - effective * m / (1 - momentum**t)
        np.testing.assert_allclose(steps(rate, momentum), expected, rtol=1e-6)


def test_momentum_multiplies_the_rate_of_sgd_and_not_that_of_the_rule():
    """A gradient that never changes, after 200 steps: of a weight that no prior pulls."""
    setting = SETTING._replace(kl_weight=0.0, train_set_size=1, has_norm=True)

    def last_step(name):
        optimizer = rules.make(name, setting, 0.01, 0.9).optimizer
        params = jnp.zeros((1, 1)), None
        state = optimizer.init(params)
        for _ in range(200):
            updates, state = optimizer.update((jnp.ones((1, 1)), None), state, params)
        return -float(updates[0][0, 0])

    steps = [last_step(name) for name in ("sgd", "bayesbinn", "bayesbinn_heavy_ball")]
    np.testing.assert_allclose(steps, [0.1, 0.01, 0.1], rtol=1e-4)


def test_numbers_do_not_depend_on_how_many_cells_run_at_once():
    """At a high rate the rule is chaotic, and rounding grows."""
    some, one = program("bayesbinn"), program("bayesbinn", 1)
    np.testing.assert_array_equal(some.diverged, one.diverged)
    for field in ("nll", "nll_mean", "entropy_bits"):
        np.testing.assert_allclose(getattr(some, field)[1:3], getattr(one, field)[1:3], rtol=1e-3)
    assert 0 < float(some.entropy_bits[0]) < 1


def test_every_epoch_has_each_image_once_but_for_the_last_batch():
    order = np.asarray(grid.orders(KEY, 70, 16, 3)).reshape(3, 64)
    assert all(len(set(epoch)) == 64 for epoch in order.tolist())
    assert not np.array_equal(order[0], order[1])


# Ranks ------------------------------------------------------------------------------------------------------------


def test_the_grid_is_the_published_one_and_has_the_claimed_cell():
    golden = (5**0.5 - 1) / 2
    assert len(RATES) * len(MOMENTA) == 60
    assert CLAIMED in itertools.product(RATES, MOMENTA)
    assert pytest.approx(((1 - 2**0.5 * golden) ** 2, 2**0.5 * golden), abs=2e-4) == CLAIMED


def test_rank_ties_and_distance_on_a_toy():
    scores = np.array([[0.8, 0.9, 1.0], [0.84, 0.86, 0.85], [1.0, 0.9, 0.65], [0.5, 0.5, 0.5], [1.0, 1.0, np.nan]])
    found = standing(scores, claimed=2)
    # means .9, .85, .85, .5, none; the deviation of the best is .1, its standard error .058
    assert (found["best"], found["rank"], found["tied"], found["within"]) == (0, 2, 1, 3)
    assert found["claimed_within"] is True
    np.testing.assert_allclose(found["distance"], [-0.2, 0.0, 0.35])
    assert standing(scores, claimed=3)["rank"] == 4
    assert standing(scores, claimed=3)["claimed_within"] is False
    best = standing(scores, claimed=0)
    assert (best["rank"], best["tied"], best["distance"]) == (1, 0, [0.0, 0.0, 0.0])


def test_a_diverged_cell_has_no_rank_and_one_seed_no_error():
    scores = np.array([[np.nan], [0.5], [0.7]])
    assert standing(scores, 0) == {"best": 2, "rank": None, "tied": None, "distance": None} | dict.fromkeys(
        ("within", "claimed_within")
    )
    assert (standing(scores, 1)["rank"], standing(scores, 1)["within"]) == (2, None)
    assert set(standing(scores[:1], 0).values()) == {None}


def test_a_cell_of_which_one_seed_diverged_has_no_mean():
    line = {"method": "ste", "rate": 0.1, "momentum": 0.5, "diverged": False}
    line |= dict.fromkeys(("accuracy", "nll"), 0.5) | dict.fromkeys(("accuracy_mean", "nll_mean", "entropy_bits"))
    lost = line | {"accuracy": None, "nll": None, "diverged": True}
    [row] = summarize([line, lost])
    assert (row["accuracy"], row["accuracy_std"], row["diverged"]) == (None, None, 1)
    assert row["accuracy_of_seeds"] == [0.5, None]
    [row] = summarize([line, line | {"accuracy": 0.7}])
    assert (row["accuracy"], row["effective_rate"]) == (pytest.approx(0.6), 0.2)
    assert row["accuracy_std"] == pytest.approx(0.02**0.5)


# The command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "rates"
    return main([*SMALL, "--out", str(out)]), out


def test_results_have_a_row_for_each_method_and_cell_and_are_on_disk(small_run):
    results, out = small_run
    assert read_results(out) == json.loads(json.dumps(results))
    cells = list(itertools.product((0.016, 0.3, 1e30), (0.0, 0.874)))
    assert [(row["method"], row["rate"], row["momentum"]) for row in results["rows"]] == [
        (name, *cell) for name in ("sgd", "bayesbinn") for cell in cells
    ]
    diverged = {(row["method"], row["rate"]) for row in results["rows"] if row["diverged"] == 2}
    assert diverged == {("sgd", 1e30), ("bayesbinn", 1e30)}
    for row in results["rows"]:
        assert (row["accuracy"] is None) == (row["nll"] is None) == (row["diverged"] > 0)
        assert (row["accuracy_mean"] is None) == (row["method"] == "sgd" or row["diverged"] > 0)
        if not row["diverged"]:
            assert row["accuracy"] == pytest.approx(np.mean(row["accuracy_of_seeds"]))
            assert row["nll_std"] == pytest.approx(np.std(row["nll_of_seeds"], ddof=1))
    for found in results["standings"]:
        assert found["diverged_cells"] == 2
        assert 1 <= found["accuracy_rank"] <= 4
        assert len(found["nll_distance"]) == 2
    best = next(row for row in results["rows"] if row["method"] == "sgd" and row["rate"] == 0.3)
    assert best["nll"] < results["rows"][0]["nll"]  # it learns
    assert imread(out / "figure.png").std() > 0.1


def test_an_interrupted_run_goes_on_to_the_same_rows(small_run, tmp_path, capsys):
    results, out = small_run
    again = tmp_path / "again"
    again.mkdir()
    (again / "config.json").write_text((out / "config.json").read_text())
    lines = (out / "pieces.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 4
    (again / "pieces.jsonl").write_text("".join(lines[:3]) + lines[3][:40])  # a last line that is not whole
    resumed = main([*SMALL, "--resume", "--out", str(again)])
    assert "3 of 4 pieces" in capsys.readouterr().out
    assert without_times(resumed) == without_times(results)


def test_a_finished_run_stays(small_run, capsys):
    assert_finished_run_stays(capsys, main, SMALL, small_run)


@pytest.mark.parametrize("value", [None, 0.5])
def test_grids_without_an_answer_or_with_one_are_drawn(value, tmp_path):
    row = {"method": "sgd", "rate": 0.1, "momentum": 0.5, "effective_rate": 0.2, "accuracy_mean": None}
    row |= {"accuracy": value, "nll": value}
    figure.draw(
        tmp_path / "figure.png",
        {"dataset": "digits", "rows": [row]},
        Config(methods=("sgd",), rates=(0.1,), momenta=(0.5,)),
    )
    assert imread(tmp_path / "figure.png").std() > 0.05


def test_a_grid_without_the_claimed_cell_has_no_rank(tmp_path, capsys):
    arguments = [*SMALL, "--rates", "0.1", "--momenta", "0.5", "--methods", "pmf", "--seeds", "1"]
    results = main([*arguments, "--out", str(tmp_path / "run")])
    [found] = results["standings"]
    assert not found["in_grid"]
    assert "accuracy_rank" not in found
    assert found["accuracy_claimed"] is None
    assert found["accuracy_best_cell"] == [0.1, 0.5]
    assert "PMF" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--rates", "0.1", "0"], "rates must be different numbers above 0"),
        (["--rates", "0.1", "0.1"], "rates must be different numbers above 0"),
        (["--rates", "nan"], "rates must be different numbers above 0"),
        (["--momenta", "0.5", "1"], "momenta must be different numbers at least 0"),
        (["--momenta", "0.99999999"], "below 1, got (0.99999999,)"),
        (["--momenta", "-0.1"], "got (-0.1,)"),
        (["--methods", "ste", "ste"], "methods must be one or more, each once, got ('ste', 'ste')"),
        (["--methods", "bop"], "bop"),
        (["--seeds", "0"], "seeds must be between 1"),
        (["--cells-at-once", "0"], "cells_at_once must be between 1"),
        (["--validation-fraction", "1"], "validation_fraction must be between 0"),
        (["--batch-size", "100", "--train-images", "99"], "batch_size must be at most 99, got 100"),
        (["--network", "cnn", "--channels", "4", "4", "4", "4"], "channels must leave something of images 8 pixels"),
        (["--resume", "--overwrite"], "resume must not be given together with overwrite"),
        (["--dataset", "letters"], "dataset must be one of"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, named, tmp_path, capsys):
    assert named in refused(capsys, main, [*arguments, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
