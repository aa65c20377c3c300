"""Against scikit-learn, NumPy loops where it has no such function, and values found by hand."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.calibration
import sklearn.metrics

import bbinn_jax as bb
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


def test_bins_of_equal_mass_are_those_of_a_sorted_array_split(predictions):
    """500 examples in 15 bins: 33 or 34 in each."""
    p, y = predictions
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    order = np.argsort(confidence)
    curve = metrics.reliability_curve(p, y, equal_mass=True)
    assert set(np.asarray(curve.num_examples).tolist()) == {33, 34}
    first, gaps = 0, []
    for b, count in enumerate(np.asarray(curve.num_examples)):
        inside = order[first : first + count]
        np.testing.assert_allclose(curve.confidence[b], confidence[inside].mean(), rtol=1e-5)
        np.testing.assert_allclose(curve.accuracy[b], correct[inside].mean(), rtol=1e-5)
        gaps.append(count * abs(confidence[inside].mean() - correct[inside].mean()))
        first += count
    assert first == 500
    value = metrics.expected_calibration_error(p, y, equal_mass=True)
    np.testing.assert_allclose(value, sum(gaps) / 500, rtol=1e-4)


def test_order_of_equally_confident_examples_does_not_matter():
    """80 of 100 are right, whichever: with bins of equal mass, too, they are as sure as right."""
    p = np.tile(np.array([[0.8, 0.2]], np.float32), (100, 1))
    y = (np.arange(100) >= 80).astype(int)
    for labels in (y, np.random.default_rng(0).permutation(y)):
        np.testing.assert_allclose(metrics.expected_calibration_error(p, labels, equal_mass=True), 0, atol=1e-6)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_reliability_curve_equals_scikit_learn(predictions, strategy):
    """Which leaves out empty bins, and of equal mass makes 10 bins of exactly 50."""
    p, y = predictions
    accuracy, confidence = sklearn.calibration.calibration_curve(
        p.argmax(axis=1) == y, p.max(axis=1), n_bins=10, strategy=strategy
    )
    curve = metrics.reliability_curve(p, y, num_bins=10, equal_mass=strategy == "quantile")
    filled = np.asarray(curve.num_examples) > 0
    np.testing.assert_allclose(curve.accuracy[filled], accuracy, rtol=1e-5)
    np.testing.assert_allclose(curve.confidence[filled], confidence, rtol=1e-5)


@pytest.fixture(params=["continuous", "with ties"])
def scores(request):
    """(positives, negatives): the higher ones tend to be positives."""
    rng = np.random.default_rng(7)
    positives, negatives = rng.normal(1, 1, 300).astype(np.float32), rng.normal(0, 1.5, 700).astype(np.float32)
    return (positives, negatives) if request.param == "continuous" else (positives.round(), negatives.round())


def test_auroc_equals_scikit_learn(scores):
    positives, negatives = scores
    is_positive = np.repeat([1, 0], [300, 700])
    expected = sklearn.metrics.roc_auc_score(is_positive, np.concatenate(scores))
    np.testing.assert_allclose(metrics.auroc(positives, negatives), expected, rtol=1e-5)
    np.testing.assert_allclose(metrics.auroc(negatives, positives), 1 - expected, rtol=1e-5)


@pytest.mark.parametrize("recall", [0.95, 0.5, 1.0, 0.07])
def test_false_positive_rate_equals_scikit_learn(scores, recall):
    is_positive = np.repeat([1, 0], [300, 700])
    fpr, tpr, _ = sklearn.metrics.roc_curve(is_positive, np.concatenate(scores), drop_intermediate=False)
    value = metrics.false_positive_rate(*scores, recall=recall)
    np.testing.assert_allclose(value, fpr[tpr >= recall - 1e-9].min(), rtol=1e-5)


def test_recall_of_95_percent_of_20_keeps_19():
    positives = np.arange(20.0)  # the lowest of them, 0, may be lost
    assert metrics.false_positive_rate(positives, np.array([0.5, -1.0])) == 0
    assert metrics.false_positive_rate(positives, np.array([1.0, -1.0])) == 0.5


def test_risk_coverage_equals_a_loop():
    rng = np.random.default_rng(3)
    uncertainty = rng.permutation(200) / 200
    correct = rng.uniform(size=200) > uncertainty / 2
    curve = metrics.risk_coverage(uncertainty, correct)
    risks = []
    for k in range(1, 201):
        surest = sorted(range(200), key=lambda i: uncertainty[i])[:k]
        risks.append(np.mean([not correct[i] for i in surest]))
        np.testing.assert_allclose(curve.coverage[k - 1], k / 200, rtol=1e-6)
    np.testing.assert_allclose(curve.risk, risks, rtol=1e-5)
    np.testing.assert_allclose(curve.area, np.mean(risks), rtol=1e-5)


def test_ties_in_risk_coverage_are_a_fair_lottery():
    """The mean over many random orders of the equally uncertain, with 20,000 of them known to 1.5 %."""
    rng = np.random.default_rng(4)
    uncertainty = np.array([0, 1, 1, 1, 1, 2, 2], np.float32)
    correct = np.array([True, False, True, True, False, True, False])
    risks = np.zeros(7)
    for _ in range(20_000):
        order = np.lexsort((rng.uniform(size=7), uncertainty))
        risks += np.cumsum(~correct[order]) / np.arange(1, 8) / 20_000
    np.testing.assert_allclose(metrics.risk_coverage(uncertainty, correct).risk, risks, atol=0.015)


def test_uncertainty_that_is_always_the_same_has_the_error_rate_as_area():
    correct = np.arange(40) < 30
    np.testing.assert_allclose(metrics.risk_coverage(np.zeros(40), correct).area, 0.25, rtol=1e-5)


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


@pytest.mark.parametrize("function", [metrics.auroc, metrics.false_positive_rate, metrics.risk_coverage])
def test_functions_of_scores_work_under_jit(function):
    a, b = np.array([0.3, 0.1, 0.1], np.float32), np.array([0.2, 0.1, 0.0], np.float32)
    b = b > 0 if function is metrics.risk_coverage else b
    for x, y in zip(jax.tree.leaves(jax.jit(function)(a, b)), jax.tree.leaves(function(a, b)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
        assert x.dtype == jnp.float32


def test_reliability_curve_works_under_jit_and_of_equal_mass(predictions):
    curve = functools.partial(metrics.reliability_curve, num_bins=7, equal_mass=True)
    for x, y in zip(jax.jit(curve)(*predictions), curve(*predictions), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


# At every size and in every dtype -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap, rtol", [(lambda f: f, 1e-5), (jax.jit, 2e-4)], ids=["eager", "jit"])
def test_calibration_error_of_a_million_sure_answers(wrap, rtol):
    """Against sums in float64. In float32 one after the other it is seven times too large. (scikit-learn 34975)"""
    rng = np.random.default_rng(0)
    confidence = (0.5 + 0.5 * rng.beta(8, 0.5, 10**6)).astype(np.float32)
    labels = (rng.random(10**6) > confidence).astype(np.int32)
    bins = np.clip(np.ceil(confidence * np.float32(15)).astype(int) - 1, 0, 14)
    sums = np.bincount(bins, confidence.astype(float), 15) - np.bincount(bins, labels == 0, 15)
    p = np.stack([confidence, 1 - confidence], axis=1)
    for array in (p, jnp.asarray(p)):
        error = wrap(metrics.expected_calibration_error)(array, labels)
        np.testing.assert_allclose(error, np.abs(sums).sum() / 10**6, rtol=rtol)
    of_label = np.where(labels == 0, confidence.astype(float), 1 - confidence.astype(float))
    nll = wrap(metrics.negative_log_likelihood)(p, labels)
    np.testing.assert_allclose(nll, -np.log(p.astype(float)[np.arange(10**6), labels]).mean(), rtol=1e-6)
    np.testing.assert_allclose(wrap(metrics.brier_score)(p, labels), 2 * np.mean((1 - of_label) ** 2), rtol=1e-5)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_a_million_equally_confident_answers_under_jit(equal_mass):
    """Every rounding of one sum of a million terms 0.9 would be to the same side; 1 in 8 is wrong."""
    confidence, n = np.float32(0.9), 10**6
    p = np.tile(np.array([[confidence, 1 - confidence]], np.float32), (n, 1))
    curve = jax.jit(functools.partial(metrics.reliability_curve, equal_mass=equal_mass))
    confidences, accuracies, counts = curve(p, (np.arange(n) % 8 == 0).astype(int))
    filled = np.asarray(counts) > 0
    assert np.sum(counts) == n
    np.testing.assert_allclose(confidences[filled], confidence, rtol=4e-6)  # 64 roundings
    np.testing.assert_allclose(accuracies[filled], 7 / 8, rtol=1e-6)


@pytest.mark.long
def test_bins_of_equal_mass_hold_three_million_examples():
    n, num_bins = 3_000_000, 1000
    confidence = np.random.default_rng(0).uniform(0.5, 1, n).astype(np.float32)
    p = np.stack([confidence, 1 - confidence], axis=1)
    curve = metrics.reliability_curve(p, np.zeros(n, int), num_bins=num_bins, equal_mass=True)
    np.testing.assert_array_equal(curve.num_examples, np.full(num_bins, n // num_bins))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint64"])
def test_labels_of_few_bits_and_many_classes(dtype, wrap):
    p = np.full((2, 300), 0.5 / 299, np.float32)
    p[0, 3] = p[1, 100] = 0.5
    labels = np.array([3, 100], dtype)
    labels = labels if dtype == "uint64" else jnp.asarray(labels)
    assert wrap(metrics.accuracy)(p, labels) == 1
    np.testing.assert_allclose(wrap(metrics.brier_score)(p, labels), 0.25 + 299 * (0.5 / 299) ** 2, rtol=1e-5)
    np.testing.assert_allclose(wrap(metrics.negative_log_likelihood)(p, labels), np.log(2), rtol=1e-5)


def test_labels_beyond_the_classes_are_refused_in_every_dtype():
    p = np.full((1, 256), 1 / 256)
    assert metrics.accuracy(p, np.array([200], np.uint8)) == 0
    for label in (np.array([256]), np.array([2**40]), np.array([-1], np.int8)):
        with pytest.raises(ValueError, match="labels must be"):
            metrics.accuracy(p, label)
    with pytest.raises((ValueError, TypeError), match="labels must be"):
        metrics.accuracy(p, np.array([2**63 + 5], np.uint64))


@pytest.mark.parametrize(
    "positives, negatives",
    [
        (1 - np.array([1e-9, 2e-9]), 1 - np.array([3e-9, 4e-9])),
        (-1e6 + np.array([0.03, 0.04]), -1e6 + np.array([0.01, 0.02])),
        (np.array([2**24 + 1, 2**24 + 3]), np.array([2**24, 2**24 + 2])),
        (np.array([3e-39, 1.0], np.float32), np.array([1e-39, 2e-39], np.float32)),
        (jnp.array([3e-39, 1.0]), jnp.array([1e-39, 2e-39])),
    ],
)
def test_scores_are_ranked_with_all_their_digits(positives, negatives):
    truth = sklearn.metrics.roc_auc_score([1, 1, 0, 0], np.r_[np.asarray(positives), np.asarray(negatives)])
    np.testing.assert_allclose(metrics.auroc(positives, negatives), truth)
    correct = np.array([True, True, False, False])
    risk = metrics.risk_coverage(-np.r_[np.asarray(positives), np.asarray(negatives)], correct).risk
    assert risk[-1] == 0.5


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_metrics_leave_nothing_to_promotion(wrap):
    """Which is an error here (see the fixture strict)."""
    p, labels, scores = jnp.full((4, 2), 0.5), jnp.zeros(4, int), jnp.arange(4.0)
    for metric in (metrics.accuracy, metrics.brier_score, metrics.expected_calibration_error):
        expected = {metrics.accuracy: 1}.get(metric, 0.5)
        assert wrap(metric)(p, labels) == expected
    assert wrap(metrics.auroc)(scores, scores) == 0.5
    assert wrap(metrics.risk_coverage)(scores, labels == 0).area == 0


def test_a_prediction_is_no_array_of_probabilities():
    p = jnp.full((2, 2), 0.5)
    prediction = bb.Prediction(p, p[:, 0], p[:, 0], p[:, 0])
    with pytest.raises(TypeError, match=r"got a Prediction: give prediction\.probabilities"):
        metrics.accuracy(prediction, jnp.zeros(2, int))


@pytest.mark.parametrize("scores", [np.array([1j]), np.array(["a"]), np.array([np.nan]), np.array([np.inf])])
def test_scores_that_cannot_be_ranked_are_refused(scores):
    with pytest.raises((TypeError, ValueError)) as caught:
        metrics.auroc(scores, np.array([1.0]))
    assert "\n" not in str(caught.value)


# Of numbers, and of labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, std_shape", [((50,), (50,)), ((50, 2), (50, 1)), ((50,), ())])
def test_scores_of_regression_are_those_of_scipy(shape, std_shape):
    rng = np.random.default_rng(0)
    mean, targets, std = rng.normal(size=shape), 2 * rng.normal(size=shape), rng.uniform(0.5, 2, size=std_shape)
    normal = scipy.stats.norm(mean, np.broadcast_to(std, shape))
    np.testing.assert_allclose(
        metrics.gaussian_negative_log_likelihood(mean, std, targets), -normal.logpdf(targets).mean(), rtol=1e-6
    )
    low, high = normal.interval(0.8)
    covered = ((targets >= low) & (targets <= high)).mean()
    np.testing.assert_allclose(metrics.interval_coverage(mean, std, targets, level=0.8), covered, rtol=1e-6)
    rmse = metrics.root_mean_square_error(mean, targets)
    np.testing.assert_allclose(rmse, np.sqrt(np.mean((mean - targets) ** 2)), rtol=1e-6)
    x = np.linspace(-25, 25, 100_001).reshape(-1, *[1] * len(shape))
    steps = (normal.cdf(x) - (x >= targets)) ** 2
    np.testing.assert_allclose(
        metrics.continuous_ranked_probability_score(mean, std, targets), steps.sum(axis=0).mean() * 5e-4, rtol=1e-3
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.zeros(3), np.ones(3), np.zeros((3, 1))), "targets must have the shape of mean"),
        ((np.zeros(3), np.zeros(3), np.zeros(3)), "std must be > 0, got 0.0"),
        ((np.zeros(3), np.ones(2), np.zeros(3)), r"^std must broadcast to the shape of mean \(3,\), got \(2,\)$"),
        ((np.zeros((3, 2)), np.ones((2, 2)), np.zeros((3, 2))), r"^std must broadcast .* mean \(3, 2\), got \(2, 2\)$"),
        ((np.zeros(3), np.ones((1, 3)), np.zeros(3)), r"^std must broadcast .* mean \(3,\), got \(1, 3\)$"),
        ((np.full(3, np.nan), np.ones(3), np.zeros(3)), "mean must be finite, got nan"),
    ],
)
def test_bad_numbers_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.gaussian_negative_log_likelihood(*arguments)


def test_labels_that_are_on_or_off():
    rng = np.random.default_rng(0)
    p, labels = rng.uniform(size=(40, 3)), rng.integers(0, 2, size=(40, 3))
    nll = metrics.bernoulli_negative_log_likelihood(p, labels)
    np.testing.assert_allclose(nll, sklearn.metrics.log_loss(labels.ravel(), p.ravel()), rtol=1e-6)
    np.testing.assert_allclose(metrics.bernoulli_accuracy(p, labels), ((p > 0.5) == labels).mean(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"labels must have the shape of probabilities \(40, 3\), got \(40,\)"):
        metrics.bernoulli_accuracy(p, labels[:, 0])
    with pytest.raises(ValueError, match="labels must be 0 or 1, got 2"):
        metrics.bernoulli_accuracy(p, labels + 1)


def test_accuracy_of_each_class():
    rng = np.random.default_rng(0)
    p, labels = rng.dirichlet(np.ones(5), 60), rng.integers(0, 4, 60)
    expected = [np.mean(p[labels == k].argmax(axis=1) == k) for k in range(4)]
    np.testing.assert_allclose(metrics.per_class_accuracy(p, labels), [*expected, np.nan], rtol=1e-6)


def test_labels_with_values_beside_traced_probabilities():
    p, labels = jnp.array([[[0.9, 0.1], [0.6, 0.4]]]), jnp.array([0, 1])
    for metric in (metrics.accuracy, metrics.negative_log_likelihood, metrics.brier_score):
        mapped = jax.lax.map(lambda p, metric=metric: metric(p, labels), p)
        np.testing.assert_allclose(mapped[0], metric(p[0], labels), rtol=1e-6)


# On several devices ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_examples_may_be_divided_over_the_devices_of_an_explicit_mesh():
    """In a process of its own: how many devices a processor stands for is settled before JAX starts."""
    code = "from tests import test_metrics as t; t.check_explicit_mesh()"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


def check_explicit_mesh():
    """Each metric, with all of its arguments divided or one of them."""
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(4), 100).astype(np.float32), rng.integers(0, 4, 100)
    a, b = rng.normal(size=(2, 100)).astype(np.float32)
    right, gaussian = p.argmax(axis=1) == y, (a, np.abs(a * b) + 0.1, b)
    equal_mass = {"equal_mass": True}
    cases = [(metric, (p, y), {}) for metric in (*METRICS, metrics.reliability_curve, metrics.per_class_accuracy)]
    cases += [
        (metric, (p, y), equal_mass) for metric in (metrics.reliability_curve, metrics.expected_calibration_error)
    ]
    cases += [(metric, (a, b), {}) for metric in (metrics.auroc, metrics.false_positive_rate)]
    cases += [(metrics.risk_coverage, (a, right), {}), (metrics.root_mean_square_error, (a, b), {})]
    cases += [
        (metric, (p[:, 0], right.astype(int)), {})
        for metric in (metrics.bernoulli_accuracy, metrics.bernoulli_negative_log_likelihood)
    ]
    cases += [
        (metric, gaussian, {})
        for metric in (
            metrics.gaussian_negative_log_likelihood,
            metrics.interval_coverage,
            metrics.continuous_ranked_probability_score,
        )
    ]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    for metric, arguments, options in cases:
        of = functools.partial(metric, **options)
        everywhere, expected = [jax.device_put(x, jax.NamedSharding(mesh, jax.P())) for x in arguments], of(*arguments)
        divided = [jax.device_put(x, jax.NamedSharding(mesh, jax.P("data"))) for x in arguments]
        jitted, some = jax.jit(of), ([divided[0], *everywhere[1:]], [*everywhere[:-1], divided[-1]])
        for result in (of(*divided), jitted(*divided), *(jitted(*given) for given in some)):
            for x, z in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(x, z, rtol=2e-5, atol=1e-6, err_msg=metric.__name__)


@pytest.mark.parametrize("given", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_a_dtype_that_is_refused_is_the_one_that_was_given(array, given):
    given = jnp.dtype(given)
    p, values = array(np.array([[0.5, 0.5]], np.float32)), array(np.array([1], given))
    given = values.dtype  # of JAX no float64
    for metric in (metrics.accuracy, metrics.negative_log_likelihood, metrics.per_class_accuracy):
        with pytest.raises(TypeError, match=f"^labels must be integers, got {given}$"):
            metric(p, values)
        with pytest.raises(TypeError, match=f"^labels must be integers, got {given}$"):
            metric(probabilities=p, labels=values)
    with pytest.raises(TypeError, match=f"^correct must be booleans, got {given}$"):
        metrics.risk_coverage(array(np.array([0.5], np.float32)), values)


@pytest.mark.parametrize("given", ["int8", "int32", "uint16"])
def test_probabilities_that_are_integers_are_refused_by_their_dtype(given):
    with pytest.raises(TypeError, match=f"^probabilities must be floating-point, got {given}$"):
        metrics.accuracy(np.array([[0, 1]], given), np.array([1]))
    with pytest.raises(TypeError, match=f"^probabilities must be floating-point, got {given}$"):
        metrics.bernoulli_accuracy(np.array([0, 1], given), np.array([1, 0]))
