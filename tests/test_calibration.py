"""The output temperature, against SciPy's search and sums done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from bbinn_jax import calibration, metrics


def logits_and_labels(sharpness, num_classes=10, size=2000):
    """Labels drawn from softmax(z), and logits sharpness * z: their output temperature is near sharpness."""
    rng = np.random.default_rng(num_classes)
    z = 2 * rng.normal(size=(size, num_classes))
    return sharpness * z, np.argmax(z + rng.gumbel(size=z.shape), axis=1)


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("prior_std", [0.3, 1.0, 1e6])
def test_fit_equals_that_of_scipy(sharpness, num_classes, prior_std):
    logits, labels = logits_and_labels(sharpness, num_classes)

    def nll(log_t):
        log_p = scipy.special.log_softmax(logits / np.exp(log_t), axis=1)
        return -np.mean(log_p[np.arange(len(labels)), labels])

    def objective(log_t):
        return nll(log_t) + (log_t / prior_std) ** 2 / (2 * len(labels))

    expected = np.exp(scipy.optimize.minimize_scalar(objective, bounds=(-4, 4), method="bounded").x)
    p = jax.nn.softmax(jnp.asarray(logits, jnp.float32))
    value = calibration.fit_output_temperature(p, labels, prior_std=prior_std)
    np.testing.assert_allclose(value, expected, rtol=2e-3)
    assert 0.85 < value / sharpness < 1.15
    after = metrics.negative_log_likelihood(calibration.apply_output_temperature(p, value), labels)
    np.testing.assert_allclose(after, nll(np.log(expected)), rtol=1e-4)


def test_apply_divides_the_logits():
    logits, _ = logits_and_labels(1.0)
    p = calibration.apply_output_temperature(jax.nn.softmax(jnp.asarray(logits, jnp.float32)), 3.0)
    np.testing.assert_allclose(p, scipy.special.softmax(logits / 3, axis=1), rtol=1e-4)


@pytest.mark.parametrize("output_temperature", [1e-30, 0.1, 1.0, 30.0])
def test_answers_stay_the_same(output_temperature):
    logits, _ = logits_and_labels(1.0)
    p = calibration.apply_output_temperature(jax.nn.softmax(jnp.asarray(logits, jnp.float32)), output_temperature)
    np.testing.assert_array_equal(np.argmax(p, axis=1), np.argmax(logits, axis=1))


@pytest.mark.parametrize("right", [True, False])
def test_answers_that_are_all_right_or_all_wrong_do_not_lead_to_infinity(right):
    p = np.tile(np.array([[0.7, 0.3]], np.float32), (5, 1))
    labels = np.zeros(5, int) if right else np.ones(5, int)
    by_likelihood = calibration.fit_output_temperature(p, labels, prior_std=1e6)
    assert 0.01 <= by_likelihood < 0.05 if right else by_likelihood == 100
    log_t = abs(np.log(calibration.fit_output_temperature(p, labels)))
    assert 0.5 < log_t < 2  # 5 examples against a prior of standard deviation 1


@pytest.mark.parametrize("prior_std", [0.3, 1.0, 1e3])
@pytest.mark.parametrize("size", [1, 3, 30])
def test_fit_is_never_worse_than_no_temperature_on_its_own_examples(x64, size, prior_std):
    """On 300 sets of few examples, from unsure to sure beyond float64, right as often as not."""
    rng = np.random.default_rng(size)
    logits = 10 ** rng.uniform(-2, 2, (300, 1, 1)) * rng.normal(size=(300, size, 3))
    labels = rng.integers(3, size=(300, size))
    log_p = np.maximum(scipy.special.log_softmax(logits, axis=-1), np.log(np.finfo(np.float32).tiny))
    p = np.exp(log_p) / np.exp(log_p).sum(-1, keepdims=True)
    fitted = jax.jit(jax.vmap(lambda p, y: calibration.fit_output_temperature(p, y, prior_std=prior_std)))(p, labels)

    def nll(t):
        scaled = scipy.special.log_softmax(np.log(p) / np.reshape(t, (-1, 1, 1)), axis=-1)
        return -np.take_along_axis(scaled, labels[..., None], axis=-1).mean(axis=(1, 2))

    assert np.all(nll(fitted) <= nll(np.ones(300)) + 1e-9)
    assert np.mean(nll(fitted) < nll(np.ones(300)) - 1e-3) > 0.5


def test_probability_of_zero_is_finite():
    p = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    value = calibration.fit_output_temperature(p, np.array([0, 1, 0, 1]), prior_std=1e6)
    log_tiny = np.log(np.finfo(np.float32).tiny)
    np.testing.assert_allclose(value, -log_tiny / np.log(3), rtol=1e-4)  # sure answers right three times of four
    assert np.all(np.isfinite(calibration.apply_output_temperature(p, value)))


def test_jit_equals_no_jit():
    logits, labels = logits_and_labels(3.0, size=100)
    p = jax.nn.softmax(jnp.asarray(logits, jnp.float32))
    fit = calibration.fit_output_temperature
    np.testing.assert_allclose(jax.jit(fit)(p, labels), fit(p, labels), rtol=1e-5)
