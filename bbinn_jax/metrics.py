r"""How good predicted probabilities are.

Functions of ``probabilities`` [batch, class] whose rows sum to 1 and integer
``labels`` [batch] return, where nothing else is said, one float32 scalar, a mean over the batch.
Shapes that do not fit, an empty batch, labels out of range and rows that do not sum
to 1 (logits, say) raise ``ValueError``. Functions of scores say what they take.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbinn_jax._checks import check_count, check_number, check_values


def accuracy(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of examples whose most probable class is the label, in [0, 1].

    >>> print(accuracy(jnp.array([[0.9, 0.1], [0.6, 0.4]]), jnp.array([0, 1])))
    0.5
    """
    probabilities, labels = _checked(probabilities, labels)
    return jnp.mean(jnp.argmax(probabilities, axis=-1) == labels)


def negative_log_likelihood(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """Minus the mean log probability of the label, ``-1/n sum log p[y]``, in nats.

    A probability of 0 counts as the smallest normal float (about 87 nats in float32).

    >>> print(negative_log_likelihood(jnp.array([[0.5, 0.5]]), jnp.array([0])))
    0.6931472
    """
    probabilities, labels = _checked(probabilities, labels)
    p = _of_label(probabilities, labels)
    return -jnp.mean(jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny)))


def brier_score(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """The squared error of the probabilities, ``1/n sum_i sum_k (p_ik - [y_i = k])^2``, in [0, 2].

    >>> print(brier_score(jnp.array([[0.5, 0.5]]), jnp.array([0])))
    0.5
    """
    probabilities, labels = _checked(probabilities, labels)
    one_hot = jax.nn.one_hot(labels, probabilities.shape[1], dtype=probabilities.dtype)
    return jnp.mean(jnp.sum((probabilities - one_hot) ** 2, axis=-1))


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


def reliability_curve(
    probabilities: jax.Array, labels: jax.Array, *, num_bins: int = 15, equal_mass: bool = False
) -> ReliabilityCurve:
    """How often the network is right when it says that it is sure by so much.

    Args:
        probabilities, labels: as above.
        num_bins: how many bins of confidence, the largest probability.
        equal_mass: bins of as many examples each, from the least to the most
            confident; default: bins of equal width, (b/num_bins, (b+1)/num_bins].

    >>> curve = reliability_curve(jnp.array([[0.75, 0.25], [0.6, 0.4]]), jnp.array([0, 1]), num_bins=3)
    >>> print(curve.confidence, curve.accuracy, curve.num_examples)
    [0.   0.6  0.75] [0. 0. 1.] [0 1 1]
    """
    probabilities, labels = _checked(probabilities, labels)
    check_count("num_bins", num_bins, 1)
    confidence = jnp.max(probabilities, axis=-1)
    correct = (jnp.argmax(probabilities, axis=-1) == labels).astype(confidence.dtype)
    if equal_mass:
        order = jnp.argsort(confidence)
        confidence = confidence[order]
        correct = _averaged_over_ties(correct[order], confidence)
        bins = jnp.arange(labels.size) * num_bins // labels.size
    else:
        bins = jnp.clip(jnp.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    confidence, correct, count = (
        jax.ops.segment_sum(x, bins, num_segments=num_bins) for x in (confidence, correct, jnp.ones_like(bins))
    )
    return ReliabilityCurve(confidence / jnp.maximum(count, 1), correct / jnp.maximum(count, 1), count)


def expected_calibration_error(
    probabilities: jax.Array, labels: jax.Array, *, num_bins: int = 15, equal_mass: bool = False
) -> jax.Array:
    """How far confidence and accuracy are apart, ``sum_b n_b/n abs(acc_b - conf_b)``, in [0, 1].

    The bins b are those of `reliability_curve`, with the same arguments.
    Source: Guo et al., arXiv 1706.04599, equation 3.

    >>> print(expected_calibration_error(jnp.array([[0.75, 0.25], [0.75, 0.25]]), jnp.array([0, 1])))
    0.25
    """
    curve = reliability_curve(probabilities, labels, num_bins=num_bins, equal_mass=equal_mass)
    return jnp.sum(jnp.abs(curve.accuracy - curve.confidence) * curve.num_examples) / jnp.sum(curve.num_examples)


def auroc(positives: jax.Array, negatives: jax.Array) -> jax.Array:
    """How well a score tells positives from negatives: ``P(positive > negative) + 1/2 P(equal)``, in [0, 1].

    The area under the receiver operating characteristic. To judge how an uncertainty
    tells foreign inputs, positives are its values for them and negatives those for inputs of the
    test set.

    Args:
        positives: [n], scores of what should have high ones.
        negatives: [m], scores of what should have low ones.

    Raises:
        ValueError: scores that are not vectors, are none, or are not finite.

    >>> print(auroc(jnp.array([3.0, 2.0]), jnp.array([1.0, 2.0])))
    0.875
    """
    positives, negatives = _checked_scores("positives", positives), jnp.sort(_checked_scores("negatives", negatives))
    below = jnp.searchsorted(negatives, positives, side="left") + jnp.searchsorted(negatives, positives, side="right")
    return jnp.mean(below / (2 * negatives.size))


def false_positive_rate(positives: jax.Array, negatives: jax.Array, *, recall: float = 0.95) -> jax.Array:
    """The share of negatives at or above the threshold that a share ``recall`` of the positives reach, in [0, 1].

    With the default it is what papers call FPR at 95 % TPR.

    Args:
        positives, negatives: as in `auroc`.
        recall: in (0, 1].

    >>> print(false_positive_rate(jnp.array([4.0, 3.0, 2.0]), jnp.array([1.0, 2.5]), recall=0.6))
    0.0
    """
    positives, negatives = jnp.sort(_checked_scores("positives", positives)), _checked_scores("negatives", negatives)
    check_number("recall", recall, "in (0, 1]", lambda v: 0 < v <= 1)
    # In float64, where 0.95 * 20 is 19 and not more: the number of positives that must be kept.
    kept = math.ceil(round(recall * positives.size, 9))
    return jnp.mean(negatives >= positives[positives.size - kept])


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


def risk_coverage(uncertainty: jax.Array, correct: jax.Array) -> RiskCoverage:
    """Answers the examples in the order of their uncertainty, and counts the wrong answers.

    ``risk_k = 1/k sum_{i <= k} [wrong_i]``, ``area = 1/n sum_k risk_k``. Among
    equally uncertain examples the order is a fair lottery, of which this is the expectation: an
    uncertainty that is always the same has the error rate as its area.
    Source: Geifman, Uziel, El-Yaniv, arXiv 1805.08206.

    Args:
        uncertainty: [n], for example `Prediction.entropy`.
        correct: [n] booleans, whether the answer is right.

    Raises:
        ValueError: shapes that do not fit, no examples, or uncertainty that is not finite.
        TypeError: correct is not boolean.

    >>> print(risk_coverage(jnp.array([0.1, 0.3, 0.2]), jnp.array([True, False, True])).risk)
    [0.         0.         0.33333334]
    """
    uncertainty, correct = _checked_scores("uncertainty", uncertainty), jnp.asarray(correct)
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
    totals = jnp.concatenate([jnp.zeros(1, scores.dtype), jnp.cumsum(values, dtype=scores.dtype)])
    first, end = (jnp.searchsorted(scores, scores, side=side) for side in ("left", "right"))
    return (totals[end] - totals[first]) / (end - first).astype(scores.dtype)


def _of_label(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]


def check_probabilities(probabilities: jax.Array) -> jax.Array:
    """They as an array in float32 or wider; raises ValueError if they are none."""
    probabilities = jnp.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.size == 0:
        raise ValueError(f"probabilities must be [batch, class] and not empty, got shape {probabilities.shape}")
    probabilities = probabilities.astype(jnp.promote_types(probabilities.dtype, jnp.float32))
    error = jnp.max(jnp.abs(jnp.sum(probabilities, axis=1) - 1))
    if not isinstance(error, jax.core.Tracer) and not error < 0.05:  # bfloat16 is off by 0.02
        raise ValueError(f"probabilities must have rows that sum to 1, got one that is off by {float(error):.3g}")
    lowest = jnp.min(probabilities)
    if not isinstance(lowest, jax.core.Tracer) and lowest < -1e-3:
        raise ValueError(f"probabilities must be at least 0, got {float(lowest):.3g}")
    return probabilities


def check_labels(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """They as an array; raises ValueError or TypeError if they do not fit the probabilities."""
    labels = jnp.asarray(labels)
    num_examples, num_classes = probabilities.shape
    if labels.shape != (num_examples,):
        raise ValueError(f"labels must be [batch={num_examples}], got shape {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    check_number("labels", jnp.max(labels), f"< {num_classes}, the number of classes", lambda v: v < num_classes)
    check_number("labels", jnp.min(labels), ">= 0", lambda v: v >= 0)
    return labels


def _checked(probabilities: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    probabilities = check_probabilities(probabilities)
    return probabilities, check_labels(probabilities, labels)


def _checked_scores(name: str, scores: jax.Array) -> jax.Array:
    scores = jnp.asarray(scores)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"{name} must be a vector and not empty, got shape {scores.shape}")
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    check_values(name, scores, "finite", np.isfinite)
    return scores
