"""Boltzmann machines with binary weights: against enumeration in float64, and from the command line."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb
from experiments.rbm import dual, figure, gibbs, images, learners, machine, planted, scores
from experiments.rbm.__main__ import main
from experiments.rbm.presets import METHODS, Config
from tests.commands import read_results, refused, without_times

N, P = 6, 2
QUICK = "--preset quick --seeds 2 --steps 3 --visible-units 10 --alphas 2 --test-examples 20 --eval-samples 5".split()


def states(n):
    return np.array(list(itertools.product((-1.0, 1.0), repeat=n)))


def exact_log_p_with_biases(weights, bias, scale, centre):
    """Of each visible state, by summing over all visible and hidden states."""
    v, h = states(len(weights)), states(P)
    joint = (v @ bias)[:, None] + scale * (v - centre) @ weights @ h.T / np.sqrt(len(weights))
    return np.log(np.exp(joint).sum(1)) - np.log(np.exp(joint).sum())


def exact_log_z(weights, bias):
    """By summing over all visible and hidden states."""
    v, h = states(len(weights)), states(P)
    return np.log(np.exp(v @ weights @ h.T / np.sqrt(len(weights)) + h @ bias).sum())


def exact_log_p(weights):
    """Of each visible state."""
    h = states(weights.shape[1])
    return np.log(np.exp(states(len(weights)) @ weights @ h.T / np.sqrt(len(weights))).sum(1)) - exact_log_z(
        weights, np.zeros(P)
    )


def slopes(function, x, step=1e-5):
    """The gradient, by differences."""
    found = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        change = np.zeros_like(x)
        change[place] = step
        found[place] = (function(x + change) - function(x - change)) / (2 * step)
    return found


@pytest.fixture
def weights():
    return np.random.default_rng(0).choice([-1.0, 1.0], (N, P))


@pytest.fixture
def mean():
    return np.random.default_rng(1).uniform(-0.9, 0.9, (N, P))


def test_likelihood_is_exact_and_so_is_its_gradient_between_the_weights(weights, mean):
    visible = jnp.asarray(states(N), jnp.float32)
    for w in (weights, mean):
        found = machine.log_likelihood(jnp.asarray(w, jnp.float32), visible)
        np.testing.assert_allclose(found, exact_log_p(w), atol=2e-5)
        assert np.exp(np.asarray(found, np.float64)).sum() == pytest.approx(1, abs=1e-5)
    few = [3, 17, 60]
    found = jax.grad(machine.loss_fn)(jnp.asarray(mean, jnp.float32), visible[jnp.array(few)])
    np.testing.assert_allclose(found, slopes(lambda w: -exact_log_p(w)[few].mean(), mean), atol=2e-5)


def test_likelihood_with_biases_is_exact_and_so_is_its_gradient(weights):
    visible, few = jnp.asarray(states(N), jnp.float32), [3, 17, 60]
    rng = np.random.default_rng(8)
    bias, scale, centre = rng.normal(size=N), 1.7, rng.uniform(-1, 1, N)
    real = machine.Real(*(jnp.asarray(x, jnp.float32) for x in (bias, scale, centre)))
    w = jnp.asarray(weights, jnp.float32)
    found = machine.log_likelihood(w, visible, real)
    np.testing.assert_allclose(found, exact_log_p_with_biases(weights, bias, scale, centre), atol=3e-5)
    gradient = jax.grad(machine.loss_fn, argnums=2)(w, visible[jnp.array(few)], real)

    def loss(bias, scale):
        return -exact_log_p_with_biases(weights, bias, scale[0], centre)[few].mean()

    np.testing.assert_allclose(gradient.bias, slopes(lambda b: loss(b, [scale]), bias), atol=3e-5)
    np.testing.assert_allclose(gradient.scale, slopes(lambda x: loss(bias, x), np.array([scale]))[0], atol=3e-5)


def test_chains_with_biases_sample_their_machine(weights, key):
    """Means and second moments of 20,000 chains after 60 sweeps, within 5 standard errors."""
    rng = np.random.default_rng(9)
    bias, scale, centre = rng.normal(size=N) / 2, 1.3, rng.uniform(-1, 1, N)
    real = machine.Real(*(jnp.asarray(x, jnp.float32) for x in (bias, scale, centre)))
    w = jnp.asarray(weights, jnp.float32)
    v = np.asarray(images.sampled(w, key, jnp.ones((20_000, N)), 60, real), np.float64)
    p = np.exp(exact_log_p_with_biases(weights, bias, scale, centre))
    assert np.abs(v.mean(0) - p @ states(N)).max() < 5 / np.sqrt(20_000)
    assert np.abs(v.T @ v / 20_000 - states(N).T @ (p[:, None] * states(N))).max() < 5 / np.sqrt(20_000)


def test_examples_are_those_of_the_machine(weights, key):
    """Second moments of 20,000 draws, within 5 standard errors of the exact ones."""
    drawn = np.asarray(machine.draw(key, jnp.asarray(weights, jnp.float32), 20_000), np.float64)
    exact = states(N).T @ (np.exp(exact_log_p(weights))[:, None] * states(N))
    assert np.abs(drawn.T @ drawn / 20_000 - exact).max() < 5 / np.sqrt(20_000)


def test_messages_give_ln_z_and_its_gradient(mean):
    """Of the dual machine, by enumeration; the moments of pairs are closer than the published ones."""
    z = np.random.default_rng(2).normal(size=(6, P))

    def exact(mean):
        spread = np.sqrt((1 - mean**2).mean(0) + 1e-6)
        return np.mean([exact_log_z(mean, spread * x) for x in z])

    exact_gradient, error = slopes(exact, mean), {}
    for published in (False, True):
        value, gradient = jax.value_and_grad(dual.log_partition)(
            jnp.asarray(mean, jnp.float32), jnp.asarray(z, jnp.float32), published
        )
        assert float(value) == pytest.approx(exact(mean), abs=0.01)
        error[published] = np.abs(gradient - exact_gradient).max()
    assert error[False] < 0.015 < 0.04 < np.abs(exact_gradient).max()
    assert error[True] < 0.04
    assert error[False] < error[True]


def test_expected_loss_by_samples_is_that_of_all_machines_and_by_the_mean_field_that_of_the_mean(mean):
    visible, natural = jnp.asarray(states(N)[[3, 17, 60]], jnp.float32), jnp.arctanh(jnp.asarray(mean, jnp.float32))
    weights = jnp.asarray(states(N * P).reshape(-1, N, P), jnp.float32)
    losses = np.asarray(jax.vmap(lambda w: machine.loss_fn(w, visible))(weights), np.float64)
    expected = np.sum(np.prod((1 + np.asarray(weights) * mean) / 2, axis=(1, 2)) * losses)
    config = Config(temperature=0.01, num_samples=5000)
    by_samples = learners.make(config, "bayesbinn", 3).loss(natural, jax.random.key(0), visible)
    assert float(by_samples) == pytest.approx(expected, abs=5 * losses.std() / np.sqrt(5000))
    by_mean = learners.make(Config(num_samples=0), "bayesbinn", 3).loss(natural, jax.random.key(0), visible)
    assert float(by_mean) == pytest.approx(float(machine.loss_fn(jnp.tanh(natural), visible)), rel=1e-5)


def test_gibbs_sampling_is_exact_bayes(key):
    """What no change of hidden units alters, E[w_ip w_jp], by enumeration of all weights and by 3,000 sweeps."""
    n = 4
    rng = np.random.default_rng(3)
    visible = rng.choice([-1.0, 1.0], (10, 1)) * rng.choice([-1.0, 1.0], (10, n), p=(0.2, 0.8))
    every = states(n * P).reshape(-1, n, P)
    log_p = np.array(
        [exact_log_p(w)[[np.flatnonzero((states(n) == s).all(1))[0] for s in visible]].sum() for w in every]
    )
    posterior = np.exp(log_p - log_p.max()) / np.exp(log_p - log_p.max()).sum()
    exact = np.einsum("k,kip,kjp->ij", posterior, every, every) / P

    def step(chain, k):
        chain, _ = gibbs.sweep(chain, k, jnp.asarray(visible, jnp.float32))
        return chain, chain.weights

    start = gibbs.start(jnp.asarray(every[0], jnp.float32), jnp.asarray(visible, jnp.float32))
    _, drawn = jax.jit(lambda: jax.lax.scan(step, start, jax.random.split(key, 3000)))()
    found = np.einsum("kip,kjp->ij", *[np.asarray(drawn, np.float64)] * 2) / (3000 * P)
    assert np.abs(exact - np.eye(n)).max() > 0.3
    assert np.abs(found - exact).max() < 0.08


def test_contrastive_divergence_has_the_gradient_of_the_likelihood(weights, key):
    """Where 50,000 chains are draws of the machine; within 5 standard errors of about 1 / sqrt N each."""
    w, visible = jnp.asarray(weights, jnp.float32), jnp.asarray(states(N)[[3, 17, 60]], jnp.float32)
    chains = machine.draw(key, w, 50_000)
    by_chains = jax.grad(images.contrast)(w, visible, machine.NONE, chains)
    np.testing.assert_allclose(by_chains, jax.grad(machine.loss_fn)(w, visible), atol=5 / np.sqrt(50_000 * N))
    again = images.sampled(w, key, chains, 3)  # the chains stay where they are
    moments = [np.asarray(x.T @ x) / 50_000 for x in (chains, again)]
    assert np.abs(moments[0] - moments[1]).max() < 5 * np.sqrt(2 / 50_000)


def test_hidden_units_are_matched_whatever_their_order_and_signs():
    rng = np.random.default_rng(4)
    true = rng.choice([-1.0, 1.0], (50, 3))
    mean = true * rng.uniform(0.3, 1, (50, 3))
    mean[:5] *= -1
    found = scores.match(mean[:, [2, 0, 1]] * [-1, 1, -1], true)
    np.testing.assert_allclose(found.mean, mean)
    assert found.overlap == pytest.approx(0.8)


def test_weights_drawn_from_a_posterior_find_it_calibrated_and_one_that_is_certain_not():
    rng = np.random.default_rng(5)
    mean = rng.uniform(-1, 1, (20_000, 1))
    true = np.where(2 * rng.uniform(size=mean.shape) - 1 < mean, 1.0, -1.0)
    honest, certain = scores.match(mean, true), scores.match(np.sign(mean), true)
    assert scores.calibration([honest])["weight_ece"] < 0.02
    assert abs(scores.of_machine(honest)["nishimori_gap"]) < 0.02
    wrong = np.mean(np.sign(mean) != true)
    assert scores.calibration([certain])["weight_ece"] == pytest.approx(wrong, abs=1e-6)
    assert scores.of_machine(certain)["nishimori_gap"] == pytest.approx(2 * wrong, abs=1e-6)


def test_mixture_has_the_mean_of_the_probabilities(weights, key):
    drawn = planted.draw(key, jnp.zeros((N, P)), 7)
    assert set(np.unique(drawn)) == {-1, 1}
    visible = states(N)[:5]
    expected = np.log(np.mean([np.exp(exact_log_p(np.asarray(w, np.float64))[:5]) for w in drawn], axis=0)).mean()
    found = planted.mixture_log_likelihood(drawn, jnp.asarray(visible, jnp.float32))
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_clipped_means_stay_inside():
    learner = learners.make(Config(mean_learning_rate=5.0), "clipped_mean", 10)
    mean, state = jnp.array([[0.9, -0.9]]), learner.optimizer.init(jnp.zeros((1, 2)))
    updates, _ = learner.optimizer.update(jnp.array([[-1.0, 1.0]]), state, mean)
    np.testing.assert_allclose(mean + updates, [[learners.CLIP, -learners.CLIP]], rtol=1e-6)
    natural = jnp.array([0.3, -1.2])
    expected = bb.bernoulli.kl_divergence(natural, jnp.zeros(2))
    np.testing.assert_allclose(learners.divergence(jnp.tanh(natural)), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "rbm"
    return main([*QUICK, "--out", str(out)]), out


def test_rows_say_what_was_measured(quick_run):
    results, out = quick_run
    assert [row["method"] for row in results["rows"]] == list(METHODS)
    assert [row["method"] for row in results["bayes"]] == ["bayes"]
    measured = "overlap weight_ece nishimori_gap test_log_likelihood".split()
    for row in results["rows"]:
        assert {"method", "hidden_units", "alpha", *measured, *(f"{x}_std" for x in measured)} <= set(row)
        machines = row["machines"]
        assert len(machines) == 2
        for name in measured:
            values = [line[name] for line in machines]
            assert row[name] == pytest.approx(np.mean(values), abs=1e-5)
            assert row[f"{name}_std"] == pytest.approx(np.std(values, ddof=1), abs=2e-5)
        assert row["test_log_likelihood_planted"] == results["rows"][0]["test_log_likelihood_planted"]
        assert row["nishimori_gap"] == pytest.approx(row["mean_square"] - row["mean_agreement"])
    assert all(row["mean_square"] == 1 for row in results["rows"] if row["method"] in ("ste", "real_sign"))
    assert read_results(out) == results
    assert (out / "figure.png").exists()


def test_interrupted_run_goes_on_to_the_same_result(quick_run, tmp_path):
    results, out = quick_run
    again = tmp_path / "run"
    again.mkdir()
    (again / "config.json").write_text((out / "config.json").read_text())
    lines = (out / "pieces.jsonl").read_text().splitlines(keepends=True)
    (again / "pieces.jsonl").write_text("".join(lines[:5]))
    resumed = main([*QUICK, "--out", str(again), "--resume"])
    assert without_times(resumed) | {"command": None} == without_times(results) | {"command": None}


@pytest.mark.parametrize(("hidden_units", "methods"), [("3", ["bayesbinn", "real_sign"]), ("13", ["ste"])])
def test_machines_learn_images_exactly_and_by_chains(tmp_path, hidden_units, methods):
    """Digits take the one way or the other by their number of hidden units; here chains are asked for as MNIST does."""
    config = Config(data="mnist", hidden_units=(int(hidden_units),), steps=2, batch_size=4, chains=4, sweeps=1)
    of = images.Images(*(jnp.asarray(np.random.default_rng(i).choice([-1.0, 1.0], (12, 16))) for i in (6, 7)))
    rows = [images.learn(config, of, method, 0)[0] for method in methods]
    assert all(("test_log_likelihood" in row) == (hidden_units == "3") for row in rows)
    assert all(0 <= row["reconstruction_error"] <= 1 for row in rows)
    assert all(row["scale"] != 1 for row in rows)
    (plain,) = images.learn(dataclasses.replace(config, biases=False), of, methods[0], 0)
    assert plain["scale"] == 1
    figure.images(tmp_path / "figure.png", json.loads(json.dumps(rows)), 4)
    assert (tmp_path / "figure.png").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preset", "best"], ["--preset", "best", "planted", "mnist"]),
        (["--methods", "bop"], ["methods", "bop"]),
        (["--methods", "ste", "ste"], ["methods", "('ste', 'ste')"]),
        (["--hidden-units", "13"], ["hidden_units", "(13,)"]),
        (["--hidden-units", "0"], ["hidden_units", "(0,)"]),
        (["--preset", "digits", "--hidden-units", "2", "3"], ["hidden_units", "(2, 3)"]),
        (["--alphas", "0.001"], ["alphas", "(0.001,)"]),
        (["--alphas", "nan"], ["alphas", "(nan,)"]),
        (["--seeds", "0"], ["seeds", "0"]),
        (["--steps", "0"], ["steps", "0"]),
        (["--learning-rate", "1.5"], ["learning_rate", "1.5"]),
        (["--temperature", "0"], ["temperature", "0"]),
        (["--num-samples", "-1"], ["num_samples", "-1"]),
        (["--kl-weight", "-1"], ["kl_weight", "-1"]),
        (["--eval-samples", "0"], ["eval_samples", "0"]),
        (["--scale", "-1"], ["scale", "-1"]),
        (["--real-learning-rate", "nan"], ["real_learning_rate", "nan"]),
        (["--preset", "digits", "--batch-size", "5000"], ["batch_size", "5000"]),
        (["--resume", "--overwrite"], ["resume", "overwrite"]),
    ],
)
def test_bad_argument_ends_in_one_line_and_writes_nothing(tmp_path, capsys, arguments, expected):
    error = refused(capsys, main, ["--out", str(tmp_path / "run"), *arguments])
    assert all(text in error for text in expected), error
    assert list(tmp_path.iterdir()) == []
