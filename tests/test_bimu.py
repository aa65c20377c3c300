"""BiMU against its formula in NumPy float64, weight by weight, and what the formula promises."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbinn_jax as bb

RNG = np.random.default_rng(0)
NATURAL = np.concatenate([[0.0, 0.0, 8.0, -8.0], RNG.normal(scale=2, size=20)])
GRADS = RNG.normal(size=(30, 24)) * np.array([0, *10.0 ** RNG.uniform(-3, 1, 23)])
SETTINGS = {"learning_rate": 0.7, "likelihood_weight": 3.0, "kl_weight": 0.4}


def published_loop(
    natural, grads, max_steps, memory_window, *, learning_rate=1.0, likelihood_weight=1.0, kl_weight=1.0, prior=0.0
):
    """The formula with plain numbers, as it is printed: lambda after every step."""
    priors = np.broadcast_to(prior, np.shape(natural))
    natural, history = [float(x) for x in natural], []
    for g_of_weights, max_step in zip(grads, max_steps, strict=True):
        for i, g in enumerate(g_of_weights):
            g, mu = likelihood_weight * float(g), math.tanh(natural[i])
            fisher = 1 - mu**2
            step = 1 / (kl_weight * fisher + 2 * g * mu + 2 * abs(g) + 1 / max_step)
            away = natural[i] - float(priors[i])
            natural[i] -= step * (learning_rate * g + away * kl_weight * fisher / memory_window)
        history.append(list(natural))
    return np.array(history)


def run(tx, natural, grads):
    natural, history = jnp.asarray(natural), []
    state, update = tx.init(natural), jax.jit(tx.update)
    for g in grads:
        updates, state = update(jnp.asarray(g), state, natural)
        natural = optax.apply_updates(natural, updates)
        history.append(natural)
    return np.array(history), state


def one_step(natural, gradient, max_step=1.0, memory_window=100.0, **settings):
    natural, gradient = jnp.asarray(natural), jnp.asarray(gradient)
    tx = bb.bimu(max_step, memory_window, **settings)
    return tx.update(gradient, tx.init(natural), natural)[0]


@pytest.mark.parametrize("settings", [{}, SETTINGS], ids=["defaults", "all"])
@pytest.mark.parametrize("memory_window", [1.0, 50.0, 60_000.0])
@pytest.mark.parametrize("max_step", [1e-3, 1.0, 100.0])
def test_training_equals_the_published_formula(max_step, memory_window, settings, x64):
    expected = published_loop(NATURAL, GRADS, [max_step] * len(GRADS), memory_window, **settings)
    natural, state = run(bb.bimu(max_step, memory_window, **settings), NATURAL, GRADS)
    np.testing.assert_allclose(natural, expected, rtol=1e-9, atol=1e-9)
    assert state.count == len(GRADS)


@pytest.mark.parametrize("prior", [0.3, RNG.normal(size=24)], ids=["number", "tree"])
def test_another_prior_is_what_a_weight_nears(prior, x64):
    """Whether it is given with the rule, or with the update to one part of the pair of a partition."""
    expected = published_loop(NATURAL, GRADS, [1.0] * len(GRADS), 5.0, **SETTINGS, prior=prior)
    natural, _ = run(bb.bimu(1.0, 5.0, **SETTINGS, prior_natural=prior), NATURAL, GRADS)
    np.testing.assert_allclose(natural, expected, rtol=1e-9, atol=1e-9)
    tx = optax.partition({"binary": bb.bimu(1.0, 5.0, **SETTINGS), "real": optax.set_to_zero()}, ("binary", "real"))
    pair = jnp.asarray(NATURAL), jnp.ones(2)
    state, update = tx.init(pair), jax.jit(tx.update)
    for g in GRADS:
        updates, state = update(
            (jnp.asarray(g), jnp.ones(2)), state, pair, prior_natural=(np.broadcast_to(prior, 24), None)
        )
        pair = optax.apply_updates(pair, updates)
    np.testing.assert_allclose(pair[0], expected[-1], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(pair[1], 1)


def test_max_step_may_be_a_schedule(x64):
    expected = published_loop(NATURAL, GRADS, [2 * 0.5 ** (t // 8) for t in range(len(GRADS))], 50.0)
    natural, _ = run(bb.bimu(lambda count: 2 * 0.5 ** (count // 8).astype(float), 50.0), NATURAL, GRADS)
    np.testing.assert_allclose(natural, expected, rtol=1e-9, atol=1e-9)


def test_a_weight_without_gradient_forgets_and_keeps_its_sign():
    """At lambda = 2 the window of 10 steps is that many of size 1 / (F + 1), each with a pull of F."""
    start = jnp.array([2.0, -2.0, 0.0])
    natural, _ = run(bb.bimu(1.0, 10.0), start, np.zeros((2000, 3), np.float32))
    assert np.all(np.diff(np.abs(natural[:, 0])) <= 0)
    np.testing.assert_allclose(natural[-1], 0, atol=1e-6)
    assert np.all(natural[:100, 0] > 0) and np.all(natural[:100, 1] < 0)
    np.testing.assert_array_equal(natural[:, 2], 0)


def test_the_longer_the_window_the_slower_it_forgets():
    steps = np.zeros((50, 1), np.float32)
    left = [run(bb.bimu(1.0, window), jnp.array([1.0]), steps)[0][-1, 0] for window in (10.0, 100.0, 1e6)]
    assert left == sorted(left)
    assert left[0] < 0.2 and left[2] > 0.999


def test_a_sure_weight_is_harder_to_turn_than_an_undecided_one():
    """Per unit of gradient, against the sign of lambda."""
    gradient = jnp.full(3, 2.0)
    moved = -one_step(jnp.array([0.0, 1.0, 3.0]), gradient, max_step=10.0, memory_window=1e9)
    assert moved[0] > 0.38
    np.testing.assert_allclose(moved[2], 1 / 4, atol=0.01)


def test_a_step_against_the_sign_is_bounded_whatever_the_gradient():
    gradient = jnp.array([1.0, 1e3, 1e30])
    moved = -one_step(jnp.ones(3), gradient, max_step=1e6, memory_window=1e9)
    assert np.all(moved <= 0.5) and np.all(np.isfinite(moved))


def test_the_mean_gradient_of_a_batch_times_its_size_is_the_gradient_of_the_sum():
    np.testing.assert_allclose(
        one_step(NATURAL, GRADS[0] / 8, likelihood_weight=8.0), one_step(NATURAL, GRADS[0]), rtol=1e-6
    )


@pytest.mark.parametrize("natural", [50.0, -50.0, 1e4, -1e4])
@pytest.mark.parametrize("gradient", [0.0, 1e-30, 1e-3, -1e-3, 1e10, -1e10])
def test_saturated_weights_stay_finite(natural, gradient):
    assert np.isfinite(one_step(jnp.array([natural]), jnp.array([gradient]))[0])


def test_weights_keep_their_dtype_under_wider_gradients():
    assert one_step(jnp.ones(2, jnp.bfloat16), jnp.ones(2)).dtype == jnp.bfloat16
