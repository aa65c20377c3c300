"""The relaxed sample and its derivative: closed form, float64 finite differences and enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bbinn_jax as bb
from tests import reference

NATURAL = np.array([-2.0, -0.3, 0.0, 0.1, 0.8, 3.0])
NOISE = np.array([0.5, -0.1, 0.2, 0.0, -1.5, 1.0])


def relax_sum(natural, noise, temperature, eps=1e-10):
    return jnp.sum(bb.relax(natural, noise, temperature=temperature, eps=eps))


def derivative(natural, noise, temperature, eps=1e-10):
    return jax.grad(relax_sum)(jnp.asarray(natural), jnp.asarray(noise), temperature, eps)


# The value -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [10.0, 1.0, 0.1, 1e-10])
def test_relax_equals_its_formula(temperature, x64):
    w = bb.relax(jnp.asarray(NATURAL), jnp.asarray(NOISE), temperature=temperature)
    np.testing.assert_allclose(w, reference.relaxed_sample(NATURAL, NOISE, temperature), rtol=1e-14)


def test_relax_maps_over_trees(natural):
    noise = jax.tree.map(lambda x: 0.5 - x, natural)
    w = bb.relax(natural, noise, temperature=0.5)
    assert jax.tree.structure(w) == jax.tree.structure(natural)
    for leaf, x in zip(jax.tree.leaves(w), jax.tree.leaves(natural), strict=True):
        assert leaf.shape == x.shape
        np.testing.assert_allclose(leaf, np.tanh(1.0), rtol=1e-6)


def test_relaxed_sample_is_relax_of_logistic_noise(natural, key):
    @jax.jit
    def both(key, natural):
        noise = bb.logistic_noise(key, natural)
        return bb.relaxed_sample(key, natural, temperature=0.5), bb.relax(natural, noise, temperature=0.5)

    w, expected = both(key, natural)
    assert jax.tree.structure(w) == jax.tree.structure(natural)
    for a, b in zip(jax.tree.leaves(w), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_relaxed_sample_passes_eps_on(key):
    def slope(eps):
        return jax.grad(lambda x: bb.relaxed_sample(key, x, temperature=0.5, eps=eps))(0.3)

    np.testing.assert_allclose(slope(0.25) - slope(0.0), 0.25 / 0.5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_value_and_derivative_keep_the_dtype(dtype, x64):
    natural = np.asarray(NATURAL, jnp.dtype(dtype))

    def value_and_slope(temperature):
        return bb.relax(natural, natural, temperature=temperature), derivative(natural, natural, temperature)

    for temperature in (0.5, np.float64(0.5)):
        value, slope = jax.eval_shape(value_and_slope, temperature)
        assert (value.dtype, slope.dtype) == (dtype, dtype)


def test_bfloat16_is_accurate_at_small_temperatures():
    """The quotient by the temperature is formed in float32: its derivative is not rounded to 8 bits twice."""
    natural = jnp.asarray(NATURAL, jnp.bfloat16)
    slope = derivative(natural, jnp.zeros_like(natural), 0.5)
    w = np.tanh(np.asarray(natural, np.float64) / 0.5)
    np.testing.assert_allclose(np.asarray(slope, np.float64), (1 - w**2) / 0.5, rtol=2**-8)


# The derivative, three ways ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [10.0, 1.0, 0.1])
@pytest.mark.parametrize("eps", [0.0, 1e-10, 0.1])
def test_derivative_equals_its_closed_form(temperature, eps, x64):
    w = reference.relaxed_sample(NATURAL, NOISE, temperature)
    slope = derivative(NATURAL, NOISE, temperature, eps)
    # 1 - w^2 cancels in the closed form: its error is 2e-16 / temperature
    np.testing.assert_allclose(slope, (1 - w**2 + eps) / temperature, rtol=1e-12, atol=1e-14)


def test_derivative_equals_finite_differences(x64):
    """Central differences of step 1e-5 at temperature 1: their error is h^2 / 6 f''' < 4e-11, and rounding 1e-11."""
    h = 1e-5
    above, below = (bb.relax(jnp.asarray(NATURAL + d), jnp.asarray(NOISE), temperature=1.0) for d in (h, -h))
    slope = derivative(NATURAL, NOISE, 1.0, eps=0.0)
    np.testing.assert_allclose(slope, (above - below) / (2 * h), atol=1e-10)


def multilinear_loss(w):
    """w1 w2 - 2 w2 w3 w4 + w1 + 0.5 w4: linear in every weight."""
    return w[0] * w[1] - 2 * w[1] * w[2] * w[3] + w[0] + 0.5 * w[3]


def enumerated_loss(natural):
    """E_q of the multilinear loss over all 16 networks, differentiable."""
    weights = jnp.asarray(reference.all_weights(4))
    p = jnp.prod((1 + weights * jnp.tanh(natural)[None]) / 2, axis=1)
    return p @ jax.vmap(multilinear_loss)(weights)


def relaxed_loss(natural, temperature):
    """E of the loss of relaxed weights. The noise of different weights is independent and the loss multilinear, so
    E loss(w) = loss(E w), and E w is one quadrature over u (the midpoints of 4,000 cells) instead of a Monte Carlo
    estimate.
    """
    noise = jnp.asarray(reference.half_logistic((np.arange(4000) + 0.5) / 4000))
    w = jax.vmap(lambda d: bb.relax(natural, jnp.full(4, d), temperature=temperature))(noise)
    return multilinear_loss(w.mean(axis=0))


def test_derivative_approaches_that_of_the_enumerated_loss(x64):
    """The bias of the relaxed gradient is 31 % at temperature 1 and falls with its square: 0.7 %, 0.007 %."""
    natural = jnp.array([-0.7, 0.2, 0.5, -0.1])
    exact = jax.grad(enumerated_loss)(natural)
    relaxed = jax.jit(jax.vmap(jax.grad(relaxed_loss), (None, 0)))(natural, jnp.array([1.0, 0.1, 0.01]))
    bias = np.max(np.abs(relaxed - exact[None]), axis=1) / np.max(np.abs(exact))
    np.testing.assert_allclose(bias, [0.31, 0.007, 0.00007], rtol=0.05)


def test_forward_mode_equals_reverse_mode(x64):
    forward = jax.jacfwd(bb.relax)(jnp.asarray(NATURAL), jnp.asarray(NOISE), temperature=0.7)
    reverse = jax.jacrev(bb.relax)(jnp.asarray(NATURAL), jnp.asarray(NOISE), temperature=0.7)
    np.testing.assert_allclose(forward, reverse, rtol=1e-14)
    np.testing.assert_array_equal(forward - np.diag(np.diag(forward)), 0)


@pytest.mark.parametrize("temperature", [1.0, 1e-10])
def test_derivative_wrt_noise_is_that_wrt_natural(temperature, x64):
    args = jnp.asarray(NATURAL), jnp.asarray(NOISE), temperature
    wrt_natural, wrt_noise = jax.grad(relax_sum, (0, 1))(*args)
    np.testing.assert_array_equal(wrt_natural, wrt_noise)


def test_derivative_wrt_temperature_equals_finite_differences(x64):
    def f(temperature):
        return relax_sum(jnp.asarray(NATURAL), jnp.asarray(NOISE), temperature)

    h = 1e-5
    np.testing.assert_allclose(jax.grad(f)(0.7), (f(0.7 + h) - f(0.7 - h)) / (2 * h), atol=1e-8)


# The edge: float32, temperature 1e-10 --------------------------------------------------------------------------------


def test_derivative_is_one_where_saturated():
    """eps / temperature = 1, with 1 - w^2 = 0: straight-through training."""
    x = np.array([-1e10, -1e4, -10.0, -0.1, -1e-6, 1e-6, 0.1, 10.0, 1e4, 1e10], np.float32)
    slope = jax.jit(derivative)(x, np.zeros_like(x), 1e-10)
    np.testing.assert_allclose(slope, 1.0, rtol=3e-7)


def test_derivative_is_steep_at_zero():
    slope = derivative(np.array([0.0, 1e-10], np.float32), np.zeros(2, np.float32), 1e-10)
    np.testing.assert_allclose(slope, 1e10 * (1 - np.tanh([0.0, 1.0]) ** 2), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1e-10, 1e-3, 1.0])
def test_derivative_is_never_negative_or_nan(temperature, key):
    """1 - tanh(x)^2 of float32, written literally, is sometimes -6e-8: with temperature 1e-10 that is -600."""
    x = jnp.concatenate([jnp.linspace(-12, 12, 100_001) * temperature, jnp.linspace(-12, 12, 100_001)])
    x = jnp.concatenate([x, jnp.logspace(-10, 10, 1001), -jnp.logspace(-10, 10, 1001)])
    slope = jax.jit(derivative)(x, bb.logistic_noise(key, x), temperature)
    assert np.all(slope >= 0)
    slope = jax.jit(derivative)(x, jnp.zeros_like(x), temperature)
    assert np.all(slope >= 0)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    natural=st.floats(-(2.0**33), 2.0**33, width=32),
    noise=st.floats(-12, 12, width=32),
    temperature=st.floats(1e-10, 100),
)
def test_weight_is_in_range_and_derivative_finite(natural, noise, temperature):
    w, slope = value_and_slope(jnp.float32(natural), jnp.float32(noise), jnp.float32(temperature))
    assert -1 <= w <= 1
    assert np.isfinite(slope)
    assert slope >= 0


@jax.jit
def value_and_slope(natural, noise, temperature):
    return jax.value_and_grad(relax_sum)(natural, noise, temperature)


# Transformations -----------------------------------------------------------------------------------------------------


def test_temperature_may_be_traced(x64):
    natural, noise = jnp.asarray(NATURAL), jnp.asarray(NOISE)
    traced = jax.jit(jax.value_and_grad(relax_sum))(natural, noise, 0.3)
    static = jax.value_and_grad(relax_sum)(natural, noise, 0.3)
    np.testing.assert_allclose(traced[0], static[0], rtol=1e-14)
    np.testing.assert_allclose(traced[1], static[1], rtol=1e-14)


def test_vmap_over_temperatures_equals_a_loop(x64):
    natural, noise = jnp.asarray(NATURAL), jnp.asarray(NOISE)
    temperatures = jnp.array([1.0, 0.1, 1e-10])
    together = jax.vmap(jax.grad(relax_sum), (None, None, 0))(natural, noise, temperatures)
    alone = [derivative(NATURAL, NOISE, float(temperature)) for temperature in temperatures]
    np.testing.assert_allclose(together, alone, rtol=1e-14)


def test_eps_may_be_traced(x64):
    slope = jax.jit(derivative)(jnp.array([50.0]), jnp.zeros(1), 0.5, 0.25)
    np.testing.assert_allclose(slope, 0.5, rtol=1e-14)
