"""Straight-through training, and that it is the limit of the learning rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bbinn_jax as bb

LATENT = np.array([-1.0, -0.3, -0.0, 0.0, 1e-30, 0.7, 1.0], np.float32)


def test_straight_through_is_the_sign():
    np.testing.assert_array_equal(bb.straight_through(LATENT), [-1, -1, -1, -1, 1, 1, 1])


def test_straight_through_has_derivative_one(x64):
    slope = np.arange(7, dtype=LATENT.dtype)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(slope * bb.straight_through(x)))(LATENT), slope)
    _, tangent = jax.jvp(bb.straight_through, (jnp.asarray(LATENT),), (jnp.asarray(slope),))
    np.testing.assert_array_equal(tangent, slope)


def test_straight_through_is_evaluated_at_the_sign():
    """The derivative of w^2 at w = -1, not at the latent -0.3."""
    assert jax.grad(lambda x: bb.straight_through(x) ** 2)(jnp.float32(-0.3)) == -2


def test_straight_through_maps_over_trees(natural):
    weights = jax.jit(bb.straight_through)(natural)
    assert jax.tree.structure(weights) == jax.tree.structure(natural)
    total = jax.jit(jax.grad(lambda x: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(bb.straight_through(x)))))
    for leaf, x in zip(jax.tree.leaves(total(natural)), jax.tree.leaves(natural), strict=True):
        np.testing.assert_array_equal(leaf, np.ones(x.shape))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_straight_through_keeps_the_dtype(dtype, x64):
    latent = jnp.asarray(LATENT, dtype)
    assert bb.straight_through(latent).dtype == dtype
    assert jax.grad(lambda x: jnp.sum(bb.straight_through(x)))(latent).dtype == dtype


def test_relax_is_straight_through_in_the_limit():
    """At temperature = eps = 1e-10 and without noise: the sign, with derivative 1."""
    latent = jnp.array([-1.0, -0.3, -1e-6, 1e-6, 0.7, 1.0])
    w, slope = jax.vmap(jax.value_and_grad(lambda x: bb.relax(x, 0 * x, temperature=1e-10, eps=1e-10)))(latent)
    np.testing.assert_array_equal(w, bb.straight_through(latent))
    np.testing.assert_allclose(slope, 1, rtol=3e-7)


# The optimizer -------------------------------------------------------------------------------------------------------


@jax.jit
def sgd_step(latent, grads):
    tx = bb.ste(optax.sgd(1.0))
    updates, _ = tx.update(grads, tx.init(latent), latent)
    return optax.apply_updates(latent, updates)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_latent_weights_never_leave_the_interval(dtype):
    """Not by a rounding error either: the update is a difference that is added again."""
    rng = np.random.default_rng(0)
    latent = jnp.asarray(rng.uniform(-1, 1, 200_000), dtype)
    grads = jnp.asarray(np.clip(rng.standard_cauchy(200_000), -1e4, 1e4), dtype)
    latent = sgd_step(latent, grads)
    assert jnp.max(jnp.abs(latent)) == 1  # it is reached and not exceeded
    assert jnp.mean(jnp.abs(latent) < 1) > 0.1


@settings(deadline=None, derandomize=True, max_examples=200)
@given(latent=st.floats(-1, 1, width=32), grad=st.floats(-(2.0**100), 2.0**100, width=32))
def test_latent_weight_is_clipped(latent, grad):
    new = sgd_step(jnp.float32(latent), jnp.float32(grad))
    assert -1 <= new <= 1
    np.testing.assert_allclose(new, np.clip(latent - grad, -1, 1), rtol=1e-6, atol=1e-7)


def test_latent_weights_from_outside_are_brought_back():
    np.testing.assert_array_equal(sgd_step(jnp.array([3.0, -3.0, 3.0]), jnp.array([1.0, 0.0, 2.5])), [1, -1, 0.5])


@pytest.mark.parametrize("learning_rate", [0.1, 1.0])
def test_training_equals_a_hand_written_loop(learning_rate):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 4)).astype(np.float32), rng.normal(size=20).astype(np.float32)
    latent = rng.uniform(-1, 1, size=4).astype(np.float32)

    expected = latent
    for _ in range(10):
        w = np.where(expected > 0, 1, -1)
        grad = 2 * x.T @ (x @ w - y) / len(y)
        expected = np.clip(expected - learning_rate * grad, -1, 1)

    tx = bb.ste(optax.sgd(learning_rate))
    grad_fn = jax.grad(lambda latent: jnp.mean((x @ bb.straight_through(latent) - y) ** 2))

    @jax.jit
    def train(latent):
        def body(carry, _):
            latent, state = carry
            updates, state = tx.update(grad_fn(latent), state, latent)
            return (optax.apply_updates(latent, updates), state), None

        (latent, _), _ = jax.lax.scan(body, (latent, tx.init(latent)), length=10)
        return latent

    np.testing.assert_allclose(train(jnp.asarray(latent)), expected, rtol=1e-4, atol=1e-5)


def test_the_optimizer_inside_sees_the_latent_weights():
    """Weight decay of the latent weights."""
    tx = bb.ste(optax.chain(optax.add_decayed_weights(0.5), optax.scale(-1.0)))
    latent = jnp.array([0.8, -0.4])
    updates, _ = tx.update(jnp.zeros(2), tx.init(latent), latent)
    np.testing.assert_allclose(optax.apply_updates(latent, updates), [0.4, -0.2], rtol=1e-6)


def test_extra_arguments_reach_the_optimizer_inside():
    def scale(updates, state, params, *, factor):
        return jax.tree.map(lambda u: factor * u, updates), state

    tx = bb.ste(optax.GradientTransformationExtraArgs(optax.init_empty_state, scale))
    latent = jnp.array([0.5, -0.5])
    updates, _ = tx.update(jnp.array([0.1, 0.1]), tx.init(latent), latent, factor=-2.0)
    np.testing.assert_allclose(optax.apply_updates(latent, updates), [0.3, -0.7], rtol=1e-6)
