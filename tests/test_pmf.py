"""Proximal mean-field against the published algorithm, a softmax over two labels for each weight."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbinn_jax as bb

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 6)), RNG.normal(size=40)
START = RNG.uniform(-0.9, 0.9, size=6)
LABELS = np.array([-1.0, 1.0])


def loss_fn(weights):
    return jnp.mean((X @ weights - Y) ** 2)


def loss_grad(weights):
    return 2 * X.T @ (X @ weights - Y) / len(Y)


def published_loop(weights, betas, learning_rate):
    """Algorithm 1: u [weight, label], its softmax, and gradient descent through the softmax's matrix of derivatives."""
    u = np.stack([-np.arctanh(weights), np.arctanh(weights)], axis=1) / betas[0]
    history = []
    for beta, beta_next in itertools.pairwise(betas):
        p = softmax(beta * u)
        g = loss_grad(p @ LABELS)
        for i in range(len(u)):
            derivative = beta * (np.diag(p[i]) - np.outer(p[i], p[i]))  # of p[i] by u[i]
            u[i] = u[i] - learning_rate * derivative @ (g[i] * LABELS)
        history.append(softmax(beta_next * u) @ LABELS)
    return np.array(history)


def published_adam_loop(weights, betas, learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """Adam on u, with w = tanh(beta u)."""
    u = np.arctanh(weights) / betas[0]
    m, v, history = np.zeros_like(u), np.zeros_like(u), []
    for t in range(len(betas) - 1):
        w = np.tanh(betas[t] * u)
        g = loss_grad(w) * betas[t] / np.cosh(betas[t] * u) ** 2
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        u = u - learning_rate * (m / (1 - b1 ** (t + 1))) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
        history.append(np.tanh(betas[t + 1] * u))
    return np.array(history)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def run(tx, weights, steps, loss_fn=loss_fn):
    """The weights after every step, and the last state."""

    @jax.jit
    def train(weights):
        def body(carry, _):
            weights, state = carry
            updates, state = tx.update(jax.grad(loss_fn)(weights), state, weights)
            weights = optax.apply_updates(weights, updates)
            return (weights, state), weights

        (_, state), history = jax.lax.scan(body, (weights, tx.init(weights)), length=steps)
        return history, state

    return train(jnp.asarray(weights))


def update(tx, weights, grads, latent=None):
    state = tx.init(weights)
    if latent is not None:
        state = state._replace(latent=latent)
    updates, state = jax.jit(tx.update)(grads, state, weights)
    return optax.apply_updates(weights, updates), state


# name: the schedule and its value at step t
BETAS = {
    "constant": (2.5, lambda t: 2.5),
    "rising": (lambda count: 1 + 0.1 * count, lambda t: 1 + 0.1 * t),
    "steps": (lambda count: 1 + 2 * (count // 10), lambda t: 1 + 2 * (t // 10)),
}


@pytest.mark.parametrize("name", BETAS)
def test_gradient_descent_equals_the_published_loop(name, x64):
    """Two auxiliary variables for a weight move its difference by twice the learning rate."""
    beta, value = BETAS[name]
    expected = published_loop(START, [value(t) for t in range(41)], 0.02)
    weights, state = run(bb.pmf(optax.sgd(0.01), beta), START, 40)
    np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-12)
    assert np.max(np.abs(expected[-1] - START)) > 0.3
    assert state.count == 40


@pytest.mark.parametrize("name", BETAS)
def test_adam_equals_a_hand_written_loop(name, x64):
    beta, value = BETAS[name]
    expected = published_adam_loop(START, [value(t) for t in range(41)], 0.01)
    weights, _ = run(bb.pmf(optax.adam(0.01), beta), START, 40)
    np.testing.assert_allclose(weights, expected, rtol=1e-7, atol=1e-9)


def test_the_gradient_is_that_of_the_loss_by_the_latent(x64):
    u = jnp.linspace(-3, 3, 6)
    _, state = update(bb.pmf(optax.sgd(1.0), 1.7), jnp.zeros(6), jax.grad(loss_fn)(jnp.tanh(1.7 * u)), latent=u)
    np.testing.assert_allclose(u - state.latent, jax.grad(lambda u: loss_fn(jnp.tanh(1.7 * u)))(u), rtol=1e-10)


def test_the_start_is_kept(x64):
    """u_0 is chosen so that w = tanh(beta_0 u_0)."""
    tx = bb.pmf(optax.sgd(0.1), lambda count: 3.0 + count)
    np.testing.assert_allclose(np.tanh(3 * tx.init(START).latent), START, rtol=1e-12)


def test_rising_beta_binarizes():
    """Without a gradient no weight changes its sign, and all become exactly +-1."""
    tx = bb.pmf(optax.sgd(0.1), optax.exponential_decay(1.0, transition_steps=1, decay_rate=1.5, end_value=1e4))
    history, _ = run(tx, jnp.asarray(START, jnp.float32), 30, lambda w: 0.0 * jnp.sum(w))
    distance = np.abs(np.asarray(history) - np.sign(START))
    assert np.all(distance[1:] <= distance[:-1])
    np.testing.assert_array_equal(history[-1], np.sign(START))


@pytest.mark.parametrize("optimizer", [optax.sgd(0.05), optax.adam(0.02)], ids=["sgd", "adam"])
def test_rising_beta_solves_a_binary_problem(optimizer):
    target = np.array([1.0, -1.0, 1.0, -1.0, -1.0, 1.0])
    beta = optax.exponential_decay(1.0, transition_steps=10, decay_rate=1.15, staircase=True, end_value=1e4)
    start = jnp.asarray(-0.1 * target, jnp.float32)
    history, _ = run(bb.pmf(optimizer, beta), start, 800, lambda w: jnp.mean((X @ (w - target)) ** 2))
    assert np.all(np.isfinite(history))
    np.testing.assert_array_equal(bb.mode(history[-1]), target)
    np.testing.assert_array_equal(history[-1], target)  # to the last bit


# Numerics ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "x"), [("bfloat16", 50), ("float16", 50), ("float32", 50), ("float32", 1e3), ("float64", 1e3)]
)
def test_saturated_weights_are_exactly_binary_and_have_no_gradient(dtype, x, x64):
    """At abs(beta u) = x. The optimizer inside does nothing and keeps the gradient that it got."""
    weights = jnp.array([0.9, -0.9, 0.0], dtype)
    latent = jnp.array([x, -x, 0.0], jnp.promote_types(dtype, jnp.float32)) / 10
    keep = optax.chain(optax.trace(0.0), optax.scale(0.0))
    new, state = update(bb.pmf(keep, 10.0), weights, jnp.array([3.0, -3.0, 3.0], dtype), latent)
    np.testing.assert_array_equal(new, [1, -1, 0])
    np.testing.assert_array_equal(state.latent, latent)
    np.testing.assert_array_equal(state.inner_state[0].trace, [0, 0, 30])


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1)], ids=["sgd", "adam"])
def test_saturated_weights_stay_finite_through_training(optimizer):
    history, state = run(bb.pmf(optimizer, lambda count: 1e4), jnp.asarray(START, jnp.float32), 50)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((history, state)))
    assert np.all(np.abs(history) <= 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("x", [0.5, 5.0, 12.0, 30.0])
def test_the_derivative_does_not_cancel(x, dtype):
    """In float32 tanh(12)^2 is 1; 1 - tanh(12)^2 is 1.5e-10. u and its gradient are float32."""
    grad = jnp.array([1e3 * math.cosh(x) ** 2], dtype)
    keep = optax.chain(optax.trace(0.0), optax.scale(0.0))
    _, state = update(bb.pmf(keep, 1.0), jnp.zeros(1, dtype), grad, latent=jnp.array([x], jnp.float32))
    np.testing.assert_allclose(state.inner_state[0].trace, grad.astype(float) / math.cosh(x) ** 2, rtol=1e-5)


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_never_leave_the_interval(dtype, jit):
    """Not by a rounding error either: the update is a difference that is added again."""

    def step(weights, grads):
        tx = bb.pmf(optax.sgd(1.0), lambda count: 1.0 + count)
        updates, state = tx.update(grads, tx.init(weights), weights)
        return optax.apply_updates(weights, updates), jnp.tanh(2 * state.latent)

    rng, eps = np.random.default_rng(0), float(jnp.finfo(dtype).eps)
    weights = jnp.clip(jnp.asarray(rng.uniform(-1, 1, 200_000), dtype), -1 + eps, 1 - eps)
    grads = jnp.asarray(np.clip(rng.standard_cauchy(200_000), -1e4, 1e4), dtype)
    new, aim = (jax.jit(step) if jit else step)(weights, grads)
    assert jnp.max(jnp.abs(new)) == 1  # it is reached and not exceeded
    assert jnp.mean(jnp.abs(new) < 1) > 0.1
    np.testing.assert_allclose(new.astype(float), aim, rtol=0, atol=2 * eps)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_steps_of_low_precision_weights_are_not_lost(dtype):
    """1000 steps, each of them far below the rounding of w: u is kept in float32."""
    tx, weights = bb.pmf(optax.sgd(1e-4), 1.0), jnp.full(1, 0.5, dtype)
    history, state = run(tx, weights, 1000, lambda w: -jnp.sum(w))
    expected, _ = run(tx, weights.astype(float), 1000, lambda w: -jnp.sum(w))
    assert history.dtype == dtype
    assert state.latent.dtype == jnp.float32
    assert expected[-1, 0] > 0.55
    np.testing.assert_allclose(history[-1].astype(float), expected[-1], atol=float(jnp.finfo(dtype).eps))


# The optimizer inside ------------------------------------------------------------------------------------------------


def test_the_optimizer_inside_sees_the_latent_weights():
    """Weight decay of u."""
    tx = bb.pmf(optax.chain(optax.add_decayed_weights(0.5), optax.scale(-1.0)), 2.0)
    weights = jnp.array([0.8, -0.4])
    new, _ = update(tx, weights, jnp.zeros(2))
    np.testing.assert_allclose(new, np.tanh(0.5 * np.arctanh([0.8, -0.4])), rtol=1e-6)


def test_extra_arguments_reach_the_optimizer_inside():
    def scale(updates, state, params, *, factor):
        return jax.tree.map(lambda u: factor * u, updates), state

    tx, weights = bb.pmf(optax.GradientTransformationExtraArgs(optax.init_empty_state, scale), 1.0), jnp.zeros(2)
    updates, _ = tx.update(jnp.array([0.1, -0.2]), tx.init(weights), weights, factor=-2.0)
    np.testing.assert_allclose(updates, np.tanh([-0.2, 0.4]), rtol=1e-6)


# The start -----------------------------------------------------------------------------------------------------------


def test_a_traced_start_is_not_checked():
    tx, outside = bb.pmf(optax.sgd(0.1), 1.0), {"a": jnp.array([0.5, 1.0])}
    assert np.isinf(jax.jit(tx.init)(outside).latent["a"][1])
    assert jax.eval_shape(tx.init, outside).latent["a"].shape == (2,)


def test_a_constant_start_inside_jit_is_checked():
    tx, inside, outside = bb.pmf(optax.sgd(0.1), 1.0), jnp.array([0.5, -0.5]), jnp.array([0.5, 1.0])
    np.testing.assert_allclose(jax.jit(partial(tx.init, inside))().latent, np.arctanh([0.5, -0.5]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"weights must be in \(-1, 1\), got 1.0"):
        jax.jit(partial(tx.init, outside))()
