"""Bop against a loop over steps and weights, written like the algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbinn_jax as bb

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 12)), RNG.normal(size=40)
START = RNG.choice([-1.0, 1.0], size=12)


def published_loop(gradient, weights, gammas, threshold):
    """Algorithm 1 with plain numbers: the weights after every step, and the last averages."""
    weights, averages, history = [float(w) for w in weights], [0.0] * len(weights), []
    for t, gamma in enumerate(gammas):
        g = gradient(np.array(weights), t)
        for i in range(len(weights)):
            averages[i] = (1 - gamma) * averages[i] + gamma * float(g[i])
            if abs(averages[i]) > threshold and (averages[i] > 0) == (weights[i] > 0):
                weights[i] = -weights[i]
        history.append(list(weights))
    return np.array(history), np.array(averages)


def run(tx, gradient, weights, steps):
    state, history = tx.init(weights), []
    update = jax.jit(tx.update)
    for t in range(steps):
        updates, state = update(gradient(weights, t), state, weights)
        weights = optax.apply_updates(weights, updates)
        history.append(weights)
    return np.array(history), state


def one_step(gradient, weights, gamma=1.0, threshold=0.0):
    """With gamma 1 the average is the gradient."""
    tx = bb.bop(gamma, threshold)
    updates, _ = tx.update(gradient, tx.init(weights), weights)
    return optax.apply_updates(weights, updates)


@pytest.mark.parametrize("threshold", [0.0, 1e-2, 0.3])
@pytest.mark.parametrize("gamma", [1e-3, 0.1, 1.0])
def test_training_equals_the_published_loop(gamma, threshold, x64):
    """Batches of one example: the gradients change their signs, so weights flip to and fro."""

    def gradient(weights, t):
        x = X[t % len(X)]
        return 2 * x * (x @ weights - Y[t % len(X)])

    expected, averages = published_loop(gradient, START, [gamma] * 100, threshold)
    weights, state = run(bb.bop(gamma, threshold), gradient, jnp.asarray(START), 100)
    np.testing.assert_array_equal(weights, expected)
    np.testing.assert_allclose(state.average, averages, rtol=1e-12, atol=1e-14)
    assert np.sum(weights != np.vstack([START, weights[:-1]])) >= 3  # flips


def test_gamma_may_be_a_schedule(x64):
    def gradient(weights, t):
        return X[t]

    expected, averages = published_loop(gradient, START, [0.5 / (1 + t) for t in range(20)], 0.05)
    weights, state = run(bb.bop(lambda count: 0.5 / (1 + count.astype(float)), 0.05), gradient, jnp.asarray(START), 20)
    np.testing.assert_array_equal(weights, expected)
    np.testing.assert_allclose(state.average, averages, rtol=1e-12)
    assert state.count == 20


def test_only_a_weight_of_the_sign_of_the_average_flips():
    weights = jnp.array([1.0, 1.0, -1.0, -1.0, 1.0, -1.0])
    gradient = jnp.array([2.0, -2.0, 2.0, -2.0, 0.0, 0.0])
    np.testing.assert_array_equal(one_step(gradient, weights), [-1, 1, -1, 1, 1, -1])


def test_an_average_at_the_threshold_does_not_flip():
    at, above = np.float32(0.25), np.nextafter(np.float32(0.25), np.float32(1))
    gradient = jnp.array([at, above, -at, -above])
    np.testing.assert_array_equal(one_step(gradient, jnp.array([1.0, 1, -1, -1]), threshold=0.25), [1, -1, -1, 1])


def test_a_threshold_out_of_reach_keeps_all_weights():
    """The average of gradients below 1 is below 1."""
    grads = np.tanh(X)
    weights, state = run(bb.bop(0.5, 1.0), lambda w, t: grads[t], jnp.asarray(START, jnp.float32), 40)
    np.testing.assert_array_equal(weights, np.tile(START, (40, 1)))
    assert np.all(state.average != 0)


def test_the_average_goes_on_after_a_flip():
    """It is not reset: a weight that has flipped stays until the average changes its sign."""
    grads = [1.0, 0.0, -0.2, -0.2]  # m = 0.5, 0.25, 0.025, -0.0875
    history, state = run(bb.bop(0.5, 0.0), lambda w, t: jnp.array([grads[t]]), jnp.array([1.0]), 4)
    np.testing.assert_array_equal(history[:, 0], [-1, -1, -1, 1])
    np.testing.assert_allclose(state.average, [-0.0875], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_are_exactly_plus_or_minus_one(dtype):
    rng = np.random.default_rng(1)
    weights = bb.sample(jax.random.key(0), jnp.zeros(1000, dtype))
    grads = [jnp.asarray(np.clip(rng.standard_cauchy(1000), -1e4, 1e4), dtype) for _ in range(50)]
    history, _ = run(bb.bop(0.5, 0.1), lambda w, t: grads[t], weights, 50)
    assert history.dtype == dtype
    assert set(np.unique(history).astype(float)) == {-1.0, 1.0}
    assert np.sum(history[1:] != history[:-1]) > 1000


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("gamma", [0.01, optax.constant_schedule(0.01)], ids=["float", "schedule"])
def test_the_average_is_rounded_once(dtype, gamma):
    """1 - gamma is not rounded to the dtype of the weights before it multiplies."""
    rng = np.random.default_rng(2)
    average, gradient = (jnp.asarray(rng.normal(size=1000), dtype) for _ in range(2))
    weights = jnp.ones(1000, dtype)
    tx = bb.bop(gamma, 0.0)
    _, state = tx.update(gradient, tx.init(weights)._replace(average=average), weights)
    wide = 0.99 * np.asarray(average, float) + 0.01 * np.asarray(gradient, float)
    # float32 arithmetic: a value half-way between two may round either way
    assert np.mean(np.asarray(state.average) == wide.astype(jnp.dtype(dtype))) > 0.998


def test_the_threshold_is_not_rounded():
    """The bfloat16 nearest to 0.1 is above 0.1."""
    gradient = jnp.array([0.1, -0.1], jnp.bfloat16)
    assert gradient[0].astype(float) > 0.1
    np.testing.assert_array_equal(one_step(gradient, jnp.array([1, -1], jnp.bfloat16), threshold=0.1), [-1, 1])


def test_weights_keep_their_dtype_under_wider_gradients():
    tx, weights = bb.bop(1.0, 0.0), jnp.array([1, -1], jnp.bfloat16)
    updates, state = tx.update(jnp.array([1.0, 1.0]), tx.init(weights), weights)
    assert updates.dtype == state.average.dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates, [-2, 0])
