r"""How good predicted probabilities are.

Functions of ``probabilities`` [batch, class] whose rows sum to 1 and integer
``labels`` [batch] return, where nothing else is said, one float32 scalar, a mean over the batch.
They take arrays of NumPy and of JAX of any dtype, and compute in float64 (traced ones, inside of `jax.jit`
and `jax.grad`, in float32 or wider, where a sum over a million examples is right to 1e-5). On a mesh with explicit
axes examples may be divided over the devices; what is ranked or put into bins is brought to each of them.
Functions of scores say what they take.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbinn_jax._checks import check_count, check_number, check_values
from bbinn_jax._dtypes import at_least_float32
from bbinn_jax._exported import exported
from bbinn_jax._probabilities import check_labels, check_probabilities, in_double, log


@in_double
def accuracy(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of examples whose most probable class is the label, in [0, 1].

    Args:
        probabilities: [batch, class], rows sum to 1.
        labels: [batch], integers.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes that do not fit, an empty batch, rows that do not sum to 1, or labels out of range.
        TypeError: probabilities that are not floating-point, or labels that are not integers.

    >>> print(accuracy(jnp.array([[0.9, 0.1], [0.6, 0.4]]), jnp.array([0, 1])))
    0.5
    """
    probabilities, labels = _checked(probabilities, labels)
    return jnp.mean(jnp.argmax(probabilities, axis=-1) == labels)


@in_double
def negative_log_likelihood(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """Minus the mean log probability of the label, ``-1/n sum log p[y]``, in nats.

    A probability of 0 counts as the smallest normal number of float32 (about 87 nats).

    Args:
        probabilities, labels: as in `accuracy`.

    Returns:
        A scalar.

    Raises:
        ValueError, TypeError: as `accuracy`.

    >>> print(negative_log_likelihood(jnp.array([[0.5, 0.5]]), jnp.array([0])))
    0.6931472
    """
    probabilities, labels = _checked(probabilities, labels)
    p = _of_label(probabilities, labels)
    return -jnp.mean(log(p))


@in_double
def brier_score(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """The squared error of the probabilities, ``1/n sum_i sum_k (p_ik - [y_i = k])^2``, in [0, 2].

    Args:
        probabilities, labels: as in `accuracy`.

    Returns:
        A scalar.

    Raises:
        ValueError, TypeError: as `accuracy`.

    >>> print(brier_score(jnp.array([[0.5, 0.5]]), jnp.array([0])))
    0.5
    """
    probabilities, labels = _checked(probabilities, labels)
    one_hot = jax.nn.one_hot(labels, probabilities.shape[1], dtype=probabilities.dtype)
    return jnp.mean(jnp.sum((probabilities - one_hot) ** 2, axis=-1))


@exported
class ReliabilityCurve(NamedTuple):
    """Confidence against accuracy, bin by bin; both are 0 in an empty bin.

    Attributes:
        confidence: [bin], mean of the largest probability.
        accuracy: [bin], share of examples whose most probable class is the label.
        num_examples: [bin], number of examples.
    """

    confidence: jax.Array
    accuracy: jax.Array
    num_examples: jax.Array


@in_double
def reliability_curve(
    probabilities: jax.Array, labels: jax.Array, *, num_bins: int = 15, equal_mass: bool = False
) -> ReliabilityCurve:
    """How often the network is right when it says that it is sure by so much.

    Args:
        probabilities, labels: as in `accuracy`.
        num_bins: how many bins of confidence, the largest probability.
        equal_mass: bins of as many examples each, from the least to the most
            confident; default: bins of equal width, (b/num_bins, (b+1)/num_bins].

    Returns:
        A `ReliabilityCurve`.

    Raises:
        ValueError, TypeError: as `accuracy`.

    >>> curve = reliability_curve(jnp.array([[0.75, 0.25], [0.6, 0.4]]), jnp.array([0, 1]), num_bins=3)
    >>> print(curve.confidence, curve.accuracy, curve.num_examples)
    [0.   0.6  0.75] [0. 0. 1.] [0 1 1]
    """
    probabilities, labels = _checked(probabilities, labels)
    num_bins = check_count("num_bins", num_bins, 1)
    confidence = _everywhere(jnp.max(probabilities, axis=-1))
    correct = _everywhere(jnp.argmax(probabilities, axis=-1) == labels).astype(confidence.dtype)
    if equal_mass:
        order = jnp.argsort(confidence)
        confidence = confidence[order]
        correct = _averaged_over_ties(correct[order], confidence)
        first = -(-np.arange(num_bins, dtype=np.int64) * labels.size // num_bins)  # rounded up
        bins = jnp.searchsorted(first, jnp.arange(labels.size), side="right") - 1
    else:
        edges = confidence.astype(jnp.float32) * num_bins  # in float32: 0.6 times 15 is 9 there, and not a little more
        bins = jnp.clip(jnp.ceil(edges).astype(int) - 1, 0, num_bins - 1)
    confidence, correct, count = (_sums(x, bins, num_bins) for x in (confidence, correct, jnp.ones_like(bins)))
    return ReliabilityCurve(confidence / jnp.maximum(count, 1), correct / jnp.maximum(count, 1), count)


@in_double
def expected_calibration_error(
    probabilities: jax.Array, labels: jax.Array, *, num_bins: int = 15, equal_mass: bool = False
) -> jax.Array:
    """How far confidence and accuracy are apart, ``sum_b n_b/n abs(acc_b - conf_b)``, in [0, 1].

    The bins b are those of `reliability_curve`. Source: Guo et al., arXiv 1706.04599, equation 3.

    Args:
        probabilities, labels, num_bins, equal_mass: as in `reliability_curve`.

    Returns:
        A scalar.

    Raises:
        ValueError, TypeError: as `accuracy`.

    >>> print(expected_calibration_error(jnp.array([[0.75, 0.25], [0.75, 0.25]]), jnp.array([0, 1])))
    0.25
    """
    curve = reliability_curve(probabilities, labels, num_bins=num_bins, equal_mass=equal_mass)
    return jnp.sum(jnp.abs(curve.accuracy - curve.confidence) * curve.num_examples) / jnp.sum(curve.num_examples)


@in_double
def auroc(positives: jax.Array, negatives: jax.Array) -> jax.Array:
    """How well a score tells positives from negatives: ``P(positive > negative) + 1/2 P(equal)``, in [0, 1].

    The area under the receiver operating characteristic. To judge how an uncertainty
    tells foreign inputs, positives are its values for them and negatives those for inputs of the
    test set.

    Args:
        positives: [n], scores of what should have high ones.
        negatives: [m], scores of what should have low ones.

    Returns:
        A scalar.

    Raises:
        ValueError: scores that are not vectors, are none, or are not finite.

    >>> print(auroc(jnp.array([3.0, 2.0]), jnp.array([1.0, 2.0])))
    0.875
    """
    positives, negatives = _checked_scores("positives", positives), jnp.sort(_checked_scores("negatives", negatives))
    below = jnp.searchsorted(negatives, positives, side="left") + jnp.searchsorted(negatives, positives, side="right")
    return jnp.mean(below / 2) / negatives.size


@in_double
def false_positive_rate(positives: jax.Array, negatives: jax.Array, *, recall: float = 0.95) -> jax.Array:
    """The share of negatives at or above the threshold that a share ``recall`` of the positives reach, in [0, 1].

    With the default it is what papers call FPR at 95 % TPR.

    Args:
        positives, negatives: as in `auroc`.
        recall: in (0, 1].

    Returns:
        A scalar.

    Raises:
        ValueError: as `auroc`; recall outside of (0, 1].

    >>> print(false_positive_rate(jnp.array([4.0, 3.0, 2.0]), jnp.array([1.0, 2.5]), recall=0.6))
    0.0
    """
    positives, negatives = jnp.sort(_checked_scores("positives", positives)), _checked_scores("negatives", negatives)
    recall = check_number("recall", recall, "in (0, 1]", lambda v: 0 < v <= 1)
    # In float64, where 0.95 * 20 is 19 and not more: the number of positives that must be kept.
    kept = math.ceil(round(recall * positives.size, 9))
    return jnp.mean(negatives >= positives[positives.size - kept])


@exported
class RiskCoverage(NamedTuple):
    """What is left of the errors if only the surest answers are given.

    Attributes:
        coverage: [n], share of examples answered, 1/n to 1.
        risk: [n], share of wrong answers among them.
        area: their mean risk, a scalar in [0, 1].
    """

    coverage: jax.Array
    risk: jax.Array
    area: jax.Array


@in_double
def risk_coverage(uncertainty: jax.Array, correct: jax.Array) -> RiskCoverage:
    """Answers the examples in the order of their uncertainty, and counts the wrong answers.

    ``risk_k = 1/k sum_{i <= k} [wrong_i]``, ``area = 1/n sum_k risk_k``. Among
    equally uncertain examples the order is a fair lottery, of which this is the expectation: an
    uncertainty that is always the same has the error rate as its area.
    Source: Geifman, Uziel, El-Yaniv, arXiv 1805.08206.

    Args:
        uncertainty: [n], for example `Prediction.entropy`.
        correct: [n] booleans, whether the answer is right.

    Returns:
        A `RiskCoverage`.

    Raises:
        ValueError: shapes that do not fit, no examples, or uncertainty that is not finite.
        TypeError: correct is not boolean.

    >>> print(risk_coverage(jnp.array([0.1, 0.3, 0.2]), jnp.array([True, False, True])).risk)
    [0.         0.         0.33333334]
    """
    uncertainty, correct = _checked_scores("uncertainty", uncertainty), _everywhere(jnp.asarray(correct))
    if correct.shape != uncertainty.shape:
        raise ValueError(f"correct must be [n={uncertainty.size}], got shape {correct.shape}")
    if correct.dtype != bool:
        raise TypeError(f"correct must be booleans, got {correct.dtype}")
    order = jnp.argsort(uncertainty)
    uncertainty, wrong = uncertainty[order], ~correct[order]
    answered = jnp.arange(1, uncertainty.size + 1)
    risk = jnp.cumsum(_averaged_over_ties(wrong, uncertainty)) / answered
    return RiskCoverage(answered / uncertainty.size, risk, jnp.mean(risk))


def _averaged_over_ties(values: jax.Array, scores: jax.Array) -> jax.Array:
    """Values of examples sorted by score, averaged over those of one score: their order is a fair lottery."""
    totals = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(values, dtype=int)])  # counts: exact
    first, end = (jnp.searchsorted(scores, scores, side=side) for side in ("left", "right"))
    return (totals[end] - totals[first]) / (end - first)


@in_double
def per_class_accuracy(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of the examples of each class whose most probable class it is: [class], NaN for a class without any.

    Args:
        probabilities, labels: as in `accuracy`.

    Returns:
        [class].

    Raises:
        ValueError, TypeError: as `accuracy`.

    >>> print(per_class_accuracy(jnp.array([[0.9, 0.1], [0.6, 0.4]]), jnp.array([0, 1])))
    [1. 0.]
    """
    probabilities, labels = _checked(probabilities, labels)
    labels, correct = _everywhere(labels), _everywhere(jnp.argmax(probabilities, axis=-1) == labels).astype(int)
    right, count = (_sums(x, labels, probabilities.shape[1]) for x in (correct, jnp.ones_like(labels)))
    return right / count


@in_double
def bernoulli_accuracy(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of labels, on or off, that have a probability of more than 1/2, in [0, 1].

    Args:
        probabilities: [batch] or [batch, label], that each label is on, as of `bernoulli_predictive`.
        labels: of the same shape, 0 or 1.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes that differ, no labels, probabilities outside of [0, 1], or labels that are not 0 or 1.
        TypeError: probabilities that are not floating-point.

    >>> print(bernoulli_accuracy(jnp.array([[0.9, 0.1], [0.6, 0.4]]), jnp.array([[1, 0], [0, 0]])))
    0.75
    """
    probabilities, labels = _checked_bernoulli(probabilities, labels)
    return jnp.mean((probabilities > 0.5) == labels)


@in_double
def bernoulli_negative_log_likelihood(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """Minus the mean log probability of labels that are on or off, in nats a label.

    ``-mean(y log p + (1 - y) log(1 - p))``, with a probability of 0 as in `negative_log_likelihood`.

    Args:
        probabilities, labels: as in `bernoulli_accuracy`.

    Returns:
        A scalar.

    Raises:
        ValueError, TypeError: as `bernoulli_accuracy`.

    >>> print(bernoulli_negative_log_likelihood(jnp.array([0.5, 0.5]), jnp.array([0, 1])))
    0.6931472
    """
    probabilities, labels = _checked_bernoulli(probabilities, labels)
    on = labels.astype(probabilities.dtype)  # no jnp.where, which takes only arrays that are divided over devices alike
    return -jnp.mean(log(on * probabilities + (1 - on) * (1 - probabilities)))


@in_double
def root_mean_square_error(mean: jax.Array, targets: jax.Array) -> jax.Array:
    """The root of the mean squared error, ``sqrt(mean((y - m)^2))``, in units of the targets.

    Args:
        mean: [batch, ...], predicted.
        targets: of the same shape.

    Returns:
        A scalar.

    Raises:
        ValueError: targets not of the shape of the mean, none, or a number that is not finite.
        TypeError: complex numbers.

    >>> print(root_mean_square_error(jnp.array([1.0, 2.0]), jnp.array([4.0, 6.0])))
    3.535534
    """
    mean, _, targets = _checked_gaussian(mean, 1.0, targets)
    return jnp.sqrt(jnp.mean((targets - mean) ** 2))


@in_double
def gaussian_negative_log_likelihood(mean: jax.Array, std: jax.Array, targets: jax.Array) -> jax.Array:
    """Minus the mean log density of the targets, ``mean(((y - m) / s)^2 / 2 + log(s) + log(2 pi) / 2)``, in nats.

    Args:
        mean, std: [batch, ...], of a `GaussianPrediction`; std > 0 broadcasts to the mean.
        targets: of the shape of the mean.

    Returns:
        A scalar.

    Raises:
        ValueError, TypeError: as `root_mean_square_error`; std not positive, or of a shape that does not broadcast.

    >>> print(gaussian_negative_log_likelihood(jnp.zeros(2), jnp.ones(2), jnp.array([0.0, 1.0])))
    1.1689385
    """
    mean, std, targets = _checked_gaussian(mean, std, targets)
    return jnp.mean(((targets - mean) / std) ** 2 / 2 + jnp.log(std)) + math.log(2 * math.pi) / 2


@in_double
def interval_coverage(mean: jax.Array, std: jax.Array, targets: jax.Array, *, level: float = 0.95) -> jax.Array:
    """The share of targets inside the central interval that should hold a share ``level`` of them, in [0, 1].

    ``mean(abs(y - m) <= z s)`` with ``P(abs(z') <= z) = level`` for a standard normal z'.

    Args:
        mean, std, targets: as in `gaussian_negative_log_likelihood`.
        level: in (0, 1).

    Returns:
        A scalar.

    Raises:
        ValueError, TypeError: as `gaussian_negative_log_likelihood`; level outside of (0, 1).

    >>> print(interval_coverage(jnp.zeros(2), jnp.ones(2), jnp.array([1.9, -2.0])))
    0.5
    """
    level = check_number("level", level, "in (0, 1)", lambda v: 0 < v < 1)
    mean, std, targets = _checked_gaussian(mean, std, targets)
    return jnp.mean(jnp.abs(targets - mean) <= jax.scipy.special.ndtri((1 + level) / 2) * std)


@in_double
def continuous_ranked_probability_score(mean: jax.Array, std: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean distance of predicted and true distribution function, ``mean of integral (F(x) - [x >= y])^2 dx``.

    For a normal distribution ``s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))`` with ``z = (y - m) / s``, in units of
    the targets; for a sure prediction it is the absolute error.
    Source: Gneiting and Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation (2007), section 4.2.

    Args:
        mean, std, targets: as in `gaussian_negative_log_likelihood`.

    Returns:
        A scalar.

    Raises:
        ValueError, TypeError: as `gaussian_negative_log_likelihood`.

    >>> print(continuous_ranked_probability_score(jnp.zeros(1), jnp.ones(1), jnp.zeros(1)))
    0.23369497
    """
    mean, std, targets = _checked_gaussian(mean, std, targets)
    z = (targets - mean) / std
    normal = jax.scipy.stats.norm
    return jnp.mean(std * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - 1 / math.sqrt(math.pi)))


def _checked_bernoulli(probabilities: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Probabilities in float32 or wider, labels as booleans."""
    probabilities, labels = jnp.asarray(probabilities), jnp.asarray(labels)
    if probabilities.shape != labels.shape or probabilities.size == 0:
        raise ValueError(f"labels must have the shape of probabilities {probabilities.shape}, got {labels.shape}")
    if not jnp.issubdtype(probabilities.dtype, jnp.floating):
        raise TypeError(f"probabilities must be floating-point, got {probabilities.dtype}")
    check_values("probabilities", probabilities, "in [0, 1]", lambda p: (p >= 0) & (p <= 1))
    check_values("labels", labels, "0 or 1", lambda y: (y == 0) | (y == 1))
    return probabilities.astype(at_least_float32(probabilities.dtype)), labels.astype(bool)


def _checked_gaussian(mean: jax.Array, std: jax.Array | float, targets: jax.Array) -> list[jax.Array]:
    """All three in float32 or wider and in the shape of the mean."""
    mean, std, targets = (jnp.asarray(x) for x in (mean, std, targets))
    if targets.shape != mean.shape or mean.size == 0:
        raise ValueError(f"targets must have the shape of mean {mean.shape} and not be empty, got {targets.shape}")
    if std.ndim > mean.ndim or any(s not in (1, m) for s, m in zip(std.shape[::-1], mean.shape[::-1], strict=False)):
        raise ValueError(f"std must broadcast to the shape of mean {mean.shape}, got {std.shape}")
    for name, x in (("mean", mean), ("std", std), ("targets", targets)):
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise TypeError(f"{name} must be real numbers, got {x.dtype}")
        check_values(name, x, "finite", np.isfinite)
    check_values("std", std, "> 0", lambda s: s > 0)
    floating = (x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float) for x in (mean, std, targets))
    return [jnp.broadcast_to(x.astype(at_least_float32(x.dtype)), mean.shape) for x in floating]


def _everywhere(x: jax.Array) -> jax.Array:
    """x, undivided: of a mesh with explicit axes each device gets all of it, elsewhere x itself."""
    sharding = jax.typeof(x).sharding
    return jax.sharding.reshard(x, jax.NamedSharding(sharding.mesh, jax.P())) if any(sharding.spec) else x


def _sums(x: jax.Array, bins: jax.Array, num_bins: int) -> jax.Array:
    """The sum of x [n] in each bin, of sums of few: a float32 stops growing under a million small terms."""
    num_parts = x.size // max(num_bins, 64) + 1
    parts = bins * num_parts + jnp.arange(x.size) % num_parts
    return jnp.sum(jax.ops.segment_sum(x, parts, num_bins * num_parts).reshape(num_bins, num_parts), axis=1)


def _of_label(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]


def _checked(probabilities: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    probabilities = check_probabilities(probabilities)
    return probabilities, check_labels(probabilities, labels)


def _checked_scores(name: str, scores: jax.Array) -> jax.Array:
    scores = jnp.asarray(scores)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"{name} must be a vector and not empty, got shape {scores.shape}")
    if not (jnp.issubdtype(scores.dtype, jnp.floating) or jnp.issubdtype(scores.dtype, jnp.integer)):
        raise TypeError(f"{name} must be real numbers, got {scores.dtype}")
    if jnp.issubdtype(scores.dtype, jnp.floating):
        scores = scores.astype(at_least_float32(scores.dtype))
    check_values(name, scores, "finite", np.isfinite)
    return _everywhere(scores)
