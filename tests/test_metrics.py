"""Against scikit-learn, and a NumPy loop for the calibration error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from bbinn_jax import metrics

METRICS = [
    metrics.accuracy,
    metrics.negative_log_likelihood,
    metrics.brier_score,
    metrics.expected_calibration_error,
]


@pytest.fixture(params=[2, 10])
def predictions(request):
    """(probabilities, labels). Whatever the confidence, about 3 of 4 are right: too sure here, not enough there."""
    num_classes = request.param
    rng = np.random.default_rng(num_classes)
    p = np.exp(2 * rng.normal(size=(500, num_classes)))
    p = p / p.sum(axis=1, keepdims=True)
    return p, np.where(rng.uniform(size=500) < 0.75, p.argmax(axis=1), rng.integers(num_classes, size=500))


def calibration_error(probabilities, labels, num_bins):
    """Bin b holds the confidences in (b / num_bins, (b + 1) / num_bins]."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for b in range(num_bins):
        inside = (confidence > b / num_bins) & (confidence <= (b + 1) / num_bins)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


# Definitions ---------------------------------------------------------------------------------------------------------


def test_accuracy_equals_scikit_learn(predictions):
    p, y = predictions
    np.testing.assert_allclose(metrics.accuracy(p, y), sklearn.metrics.accuracy_score(y, p.argmax(axis=1)), rtol=1e-6)


def test_negative_log_likelihood_equals_scikit_learn(predictions):
    p, y = predictions
    expected = sklearn.metrics.log_loss(y, p, labels=range(p.shape[1]))
    np.testing.assert_allclose(metrics.negative_log_likelihood(p, y), expected, rtol=1e-5)


def test_brier_score_equals_scikit_learn(predictions):
    """scikit-learn's score of two classes looks at one of them: it is half of the sum over both."""
    p, y = predictions
    one_against_rest = [sklearn.metrics.brier_score_loss(y == k, p[:, k]) for k in range(p.shape[1])]
    np.testing.assert_allclose(metrics.brier_score(p, y), sum(one_against_rest), rtol=1e-5)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_calibration_error_equals_a_loop(predictions, num_bins):
    p, y = predictions
    value = metrics.expected_calibration_error(p, y, num_bins=num_bins)
    np.testing.assert_allclose(value, calibration_error(p, y, num_bins), rtol=1e-4)
    assert value > 0.02


def test_calibration_error_has_15_bins_by_default(predictions):
    p, y = predictions
    assert metrics.expected_calibration_error(p, y) == metrics.expected_calibration_error(p, y, num_bins=15)


# Edges ---------------------------------------------------------------------------------------------------------------


CERTAIN = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)


def test_certain_and_right():
    y = np.array([0, 1])
    assert [float(metric(CERTAIN, y)) for metric in METRICS] == [1, 0, 0, 0]


def test_certain_and_wrong():
    """A probability of 0 counts as the smallest normal float32, 1.2e-38: the loss is finite."""
    y = np.array([1, 0])
    values = [float(metric(CERTAIN, y)) for metric in METRICS]
    np.testing.assert_allclose(values, [0, -np.log(np.finfo(np.float32).tiny), 2, 1], rtol=1e-6)


def test_first_of_equal_probabilities_is_predicted():
    p = np.full((2, 4), 0.25, np.float32)
    assert metrics.accuracy(p, np.array([0, 3])) == 0.5


@pytest.mark.parametrize("num_bins", [10, 15])
def test_confidence_on_a_bin_edge_belongs_to_the_bin_below(num_bins):
    """Two examples at b / num_bins and just above it, one right and one wrong: their gaps do not cancel."""
    for b in range(num_bins // 2 + 1, num_bins):
        edge = np.float32(b / num_bins)
        above = np.float32(b / num_bins + 1e-3)
        p = np.array([[edge, 1 - edge], [above, 1 - above]], np.float32)
        value = metrics.expected_calibration_error(p, np.array([0, 1]), num_bins=num_bins)
        np.testing.assert_allclose(value, ((1 - edge) + above) / 2, rtol=1e-5)


@pytest.mark.parametrize("num_bins", [10, 15])
def test_confidence_on_a_bin_edge_is_together_with_those_below(num_bins):
    for b in range(num_bins // 2 + 1, num_bins + 1):
        edge = np.float32(b / num_bins)
        below = np.float32(b / num_bins - 1e-3)
        p = np.array([[edge, 1 - edge], [below, 1 - below]], np.float32)
        value = metrics.expected_calibration_error(p, np.array([0, 1]), num_bins=num_bins)
        np.testing.assert_allclose(value, abs(1 - edge - below) / 2, rtol=1e-5, atol=1e-7)


def test_one_example():
    p, y = np.array([[0.2, 0.8]], np.float32), np.array([1])
    np.testing.assert_allclose(
        [metric(p, y) for metric in METRICS], [1, -np.log(0.8), 2 * 0.2**2, 0.2], rtol=1e-5, atol=1e-7
    )


# Form ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_jit_equals_no_jit(metric):
    p, y = np.array([[0.2, 0.8], [0.6, 0.4]], np.float32), np.array([1, 1])
    np.testing.assert_allclose(jax.jit(metric)(p, y), metric(p, y), rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_value_is_one_float32_scalar(metric, dtype):
    """Of 1000 examples with probability 3/4, which every float has exactly: half of them are right."""
    p = jnp.tile(jnp.array([0.75, 0.25], dtype), (1000, 1))
    value = metric(p, jnp.arange(1000) % 2)
    assert value.shape == ()
    assert value.dtype == jnp.float32
    expected = {
        "accuracy": 0.5,
        "negative_log_likelihood": -(np.log(0.75) + np.log(0.25)) / 2,
        "brier_score": (2 * 0.25**2 + 2 * 0.75**2) / 2,
        "expected_calibration_error": 0.25,
    }[metric.__name__]
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_labels_may_be_any_integers(metric, dtype):
    p = np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)
    assert metric(p, np.array([1, 1], dtype)) == metric(p, jnp.array([1, 1]))
