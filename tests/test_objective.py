"""The expected loss against enumeration of all 2^n networks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbinn_jax as bb
from tests import reference


def random_loss(n):
    """A random non-linear loss of n weights, a sum of softplus of random projections, and natural parameters.

    The loss takes weights [..., n] of NumPy as well.
    """
    rng = np.random.default_rng(n)
    matrix, natural = rng.normal(size=(n, 5)), 0.7 * rng.normal(size=n)

    def loss_fn(w):
        xp = np if isinstance(w, np.ndarray) else jnp
        return xp.logaddexp(0, w @ matrix).sum(axis=-1)

    return loss_fn, natural


# Enumeration ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 7, 10])
def test_many_samples_at_low_temperature_approach_the_enumerated_loss(n, key, x64):
    """Within 5 standard errors of 2^14 samples. At temperature 1e-4 the bias, about 1e-5, is far below them."""
    num_samples = 2**14
    loss_fn, natural = random_loss(n)
    estimate = jax.jit(bb.expected_loss(loss_fn, temperature=1e-4, num_samples=num_samples))(natural, key)

    weights = reference.all_weights(n)
    p, losses = reference.probabilities(natural, weights), loss_fn(weights)
    standard_error = np.sqrt(p @ (losses - p @ losses) ** 2 / num_samples)
    assert abs(estimate - p @ losses) < 5 * standard_error


def test_bias_of_the_relaxed_loss_vanishes_with_the_temperature(key, x64):
    """Relaxed weights are smaller than 1, so a convex loss is underestimated: by 25 % at temperature 1, and the bias
    falls linearly.

    It is the mean difference from the loss of the signs of the same weights. The values are those of 2^18 samples and
    another key; here 2^14 samples are within 5 standard errors, 0.41, 0.15 and 0.048 over sqrt(2^14).
    """
    loss_fn, natural = random_loss(6)
    weights = reference.all_weights(6)
    exact = reference.probabilities(natural, weights) @ loss_fn(weights)

    @jax.jit
    def bias(temperature):
        def difference(w):
            return loss_fn(w) - loss_fn(bb.mode(w))

        return bb.expected_loss(difference, temperature=temperature, num_samples=2**14)(natural, key) / exact

    biases = np.array([bias(temperature) for temperature in (1.0, 0.1, 0.01)])
    deviation = np.abs(biases - [-0.253, -0.0384, -0.0039])
    assert np.all(deviation < 5 * np.array([0.41, 0.15, 0.048]) / np.sqrt(2**14))


def test_gradient_approaches_that_of_the_enumerated_loss(key, x64):
    """At temperature 0.1, for 2^16 samples, within 5 standard errors and a bias of 2 % of the largest component."""
    num_samples = 2**16
    loss_fn, natural = random_loss(4)
    weights = reference.all_weights(4)
    p, mu = reference.probabilities(natural, weights), np.tanh(natural)
    exact = (p * loss_fn(weights)) @ (weights - mu)  # d log p / d lambda = w - mu
    one = bb.expected_loss(loss_fn, temperature=0.1)
    grads = jax.jit(jax.vmap(jax.grad(one), (None, 0)))(natural, jax.random.split(key, num_samples))
    standard_error = np.std(grads, axis=0) / np.sqrt(num_samples)
    assert np.all(np.abs(np.mean(grads, axis=0) - exact) < 5 * standard_error + 0.02 * np.max(np.abs(exact)))


# Definition ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 3])
def test_loss_is_the_mean_over_the_split_keys(num_samples, key):
    natural = {"a": np.array([0.5, -0.2, 0.1], np.float32), "b": [None, np.float32(-0.3)]}

    def loss_fn(weights):
        return jnp.sum(jnp.sin(weights["a"])) * weights["b"][1]

    @jax.jit
    def both(natural, key):
        together = bb.expected_loss(loss_fn, temperature=0.5, num_samples=num_samples)(natural, key)
        keys = jax.random.split(key, num_samples)
        return together, [loss_fn(bb.relaxed_sample(k, natural, temperature=0.5)) for k in keys]

    together, separate = both(natural, key)
    np.testing.assert_allclose(together, np.mean(separate), rtol=1e-5)


@pytest.mark.parametrize("num_samples, slope", [(0, 0.25), (2, 0.5)])
def test_eps_reaches_the_derivative(num_samples, slope, key):
    """That of a saturated weight is eps / temperature, and eps at the expectation, where temperature plays no part."""
    loss = bb.expected_loss(jnp.sum, temperature=0.5, num_samples=num_samples, eps=0.25)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(np.float32([50.0]), key), slope, rtol=1e-5)


def test_without_samples_it_is_the_loss_at_the_expectation(key, x64):
    loss_fn, natural = random_loss(6)
    loss = bb.expected_loss(loss_fn, temperature=1e-3, num_samples=0)
    value, grad = jax.jit(jax.value_and_grad(loss))(natural, key)
    mu = np.tanh(natural)
    np.testing.assert_allclose(value, loss_fn(mu), rtol=1e-14)
    np.testing.assert_allclose(grad, (1 - mu**2 + 1e-10) * jax.jit(jax.grad(loss_fn))(mu), rtol=1e-12)


# Signature -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [0, 3])
def test_auxiliary_output_is_averaged(num_samples, key):
    natural = {"a": jnp.array([0.2, -0.5])}

    def loss_fn(weights):
        return jnp.sum(weights["a"]), {"weights": weights["a"], "count": jnp.array(2), "none": None}

    loss = bb.expected_loss(loss_fn, temperature=0.5, num_samples=num_samples, has_aux=True)
    (value, aux), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(natural, key)
    assert set(aux) == {"weights", "count", "none"}
    assert aux["weights"].shape == (2,)
    np.testing.assert_allclose(aux["weights"].sum(), value, rtol=1e-6)
    np.testing.assert_allclose(aux["count"], 2)
    assert grad["a"].shape == (2,)


def test_arguments_are_passed_on_and_differentiated(key):
    """One backward pass for the binary and the real parameters, the pattern of partition."""

    def loss_fn(weights, real, x, y):
        return jnp.mean((real * (x @ weights) - y) ** 2)

    natural, real = np.array([0.5, -1.0], np.float32), np.float32(0.8)
    x, y = np.array([[1.0, 2.0], [0.5, -1.0]], np.float32), np.array([1.0, -1.0], np.float32)
    loss = bb.expected_loss(loss_fn, temperature=0.5, num_samples=2)

    @jax.jit
    def together_and_separate(natural, key, real):
        samples = [bb.relaxed_sample(k, natural, temperature=0.5) for k in jax.random.split(key, 2)]
        separate = [(w, jax.value_and_grad(loss_fn, argnums=(0, 1))(w, real, x, y)) for w in samples]
        return jax.value_and_grad(loss, argnums=(0, 2))(natural, key, real, x, y), separate

    (value, (natural_grad, real_grad)), separate = together_and_separate(natural, key, real)
    np.testing.assert_allclose(value, np.mean([v for _, (v, _) in separate]), rtol=1e-6)
    np.testing.assert_allclose(real_grad, np.mean([g for _, (_, (_, g)) in separate]), rtol=1e-5)
    natural_grads = [g * (1 - w**2) / 0.5 for w, (_, (g, _)) in separate]
    np.testing.assert_allclose(natural_grad, np.mean(natural_grads, axis=0), rtol=1e-5)


@pytest.mark.parametrize("num_samples", [0, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_loss_that_is_not_a_scalar_is_refused(num_samples, size, key):
    loss = bb.expected_loss(lambda w: w, temperature=1.0, num_samples=num_samples)
    with pytest.raises(ValueError, match=rf"loss_fn must return a scalar, got shape \({size},\)"):
        jax.eval_shape(loss, jnp.zeros(size), key)


# Transformations -----------------------------------------------------------------------------------------------------


def test_jit_with_traced_temperature_equals_no_jit(key):
    loss_fn, natural = random_loss(4)

    def f(natural, temperature):
        return bb.expected_loss(loss_fn, temperature=temperature, num_samples=2)(natural, key)

    value, grad = jax.jit(jax.value_and_grad(f))(natural, 0.5)  # traced
    expected_value, expected_grad = jax.value_and_grad(f)(natural, 0.5)
    np.testing.assert_allclose(value, expected_value, rtol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5)


def test_vmap_equals_a_loop(key):
    loss_fn, natural = random_loss(4)
    grad = jax.jit(jax.grad(bb.expected_loss(loss_fn, temperature=0.5, num_samples=2)))
    stack, keys = np.stack([natural, -natural, 2 * natural]), jax.random.split(key, 3)
    together = jax.vmap(grad)(stack, keys)
    for i in range(3):
        np.testing.assert_allclose(together[i], grad(stack[i], keys[i]), rtol=1e-5)


def test_scan_equals_a_loop(key):
    loss_fn, start = random_loss(4)
    tx = optax.sgd(0.1)
    value_and_grad = jax.jit(jax.value_and_grad(bb.expected_loss(loss_fn, temperature=0.5)))

    def step(natural, t):
        loss, grads = value_and_grad(natural, jax.random.fold_in(key, t))
        updates, _ = tx.update(grads, tx.init(natural))
        return optax.apply_updates(natural, updates), loss

    scanned, losses = jax.lax.scan(step, jnp.asarray(start), jnp.arange(5))
    looped = jnp.asarray(start)
    for t in range(5):
        looped, loss = step(looped, t)
        np.testing.assert_allclose(losses[t], loss, rtol=1e-6)
    np.testing.assert_allclose(scanned, looped, rtol=1e-6)


# By moments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 7.0])
def test_moments_are_those_of_the_weights(scale, key):
    """Against tanh and 1 / cosh^2 in float64, and with the derivatives of both."""
    natural = np.linspace(-scale, scale, 9)
    a, b = np.random.default_rng(0).normal(size=(2, 9))
    loss = bb.moment_loss(lambda mean, variance, key: mean @ a + variance @ b)
    value, grad = jax.value_and_grad(loss)(jnp.asarray(natural, jnp.float32), key)
    mean, variance = np.tanh(natural), np.cosh(natural) ** -2.0
    np.testing.assert_allclose(value, mean @ a + variance @ b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grad, variance * a - 2 * mean * variance * b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_weight_whose_mean_is_one_is_certain(dtype, key):
    """And its gradient is that of its mean alone, whatever its variance is worth."""
    natural = jnp.asarray([20.0, -20.0], dtype)
    loss = bb.moment_loss(
        lambda mean, variance, key: mean.sum().astype("float32") + 1e6 * variance.sum().astype("float32")
    )
    value, grad = jax.value_and_grad(loss)(natural, key)
    assert value == 0
    assert np.all(np.abs(np.asarray(grad, np.float64)) < 1e-9)


def test_moment_loss_gives_auxiliary_output_and_passes_arguments_on(key):
    def loss_fn(mean, variance, key, x, name):
        assert name == "not an array"
        return jnp.sum(x * (mean + variance)) + 0 * jax.random.normal(key), {"x": x}

    loss = bb.moment_loss(loss_fn, has_aux=True)
    value_and_grad = jax.value_and_grad(lambda natural, x: loss(natural, key, x, "not an array"), has_aux=True)
    (value, aux), grad = jax.jit(value_and_grad)(jnp.zeros(3), jnp.arange(3.0))
    assert value == 3
    np.testing.assert_array_equal(aux["x"], np.arange(3.0))
    np.testing.assert_array_equal(grad, np.arange(3.0))


def test_moment_loss_works_under_vmap_and_scan(key):
    def loss_fn(mean, variance, key, x):
        return jnp.sum((mean * x + jnp.sqrt(variance) * jax.random.normal(key, (4,))) ** 2)

    loss, natural, xs = bb.moment_loss(loss_fn), jnp.linspace(-1, 1, 4), jnp.arange(12.0).reshape(3, 4)
    expected = [jax.grad(loss)(natural, key, x) for x in xs]
    mapped = jax.vmap(jax.grad(loss), (None, None, 0))(natural, key, xs)
    _, scanned = jax.lax.scan(lambda carry, x: (carry, jax.grad(loss)(natural, key, x)), None, xs)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5)
    np.testing.assert_allclose(scanned, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "loss_fn, has_aux, error, message",
    [
        (lambda mean, variance, key: mean + variance, False, ValueError, r"loss_fn must return a scalar, got shape"),
        (lambda mean, variance, key: (mean + variance).sum(), True, TypeError, r"must return a pair \(loss, aux\)"),
        (lambda mean, variance, key: mean.sum(), False, ValueError, "must use the variance of each weight"),
        (lambda mean, variance, key: mean.sum() + 0 * jnp.sum(jnp.ones_like(variance)), False, ValueError, "variance"),
    ],
)
def test_moment_loss_refuses_what_is_no_loss_of_moments(loss_fn, has_aux, error, message, key):
    with pytest.raises(error, match=message):
        bb.moment_loss(loss_fn, has_aux=has_aux)(jnp.zeros(2), key)
