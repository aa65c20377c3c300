r"""How good a posterior over the weights of a planted machine is, whose true weights are known.

Hidden units can change places and signs without any change of the likelihood: each is first matched with a true one
(the assignment with the largest overlaps, signs free). After that, of exact Bayes with the true prior,

    mean(mu W*) = mean(mu^2)        (Nishimori)

and a weight whose probability is p is right with probability p. Matching takes the better of two signs, so even a
posterior that knows nothing overlaps a little, by about 0.8 / sqrt N with one hidden unit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

import bbinn_jax as bb

BINS = 15


class Matched(NamedTuple):
    """Means and true weights [N, P], hidden unit for hidden unit, and the overlap of the modes."""

    mean: np.ndarray
    true: np.ndarray
    overlap: float


def match(mean: np.ndarray, true: np.ndarray) -> Matched:
    """The means with hidden units in the order, and with the signs, of the true ones."""
    mean, true = np.asarray(mean, np.float64), np.asarray(true, np.float64)
    overlaps = _signs(mean).T @ true / len(true)
    rows, columns = linear_sum_assignment(-np.abs(overlaps))
    chosen = overlaps[rows, columns]
    aligned = np.empty_like(mean)
    aligned[:, columns] = mean[:, rows] * np.where(chosen < 0, -1, 1)
    return Matched(aligned, true, float(np.abs(chosen).mean()))


def calibration(matched: Sequence[Matched]) -> dict[str, Any]:
    """The calibration of all weights of some machines together.

    Returns:
        ``weight_ece`` over bins of equal width, and the reliability curve: in each bin the mean ``confidence``, the
        share of weights that is ``right`` and how many there are (``weights``).
    """
    mean, true = (np.concatenate([np.ravel(getattr(x, name)) for x in matched]) for name in ("mean", "true"))
    up = (1 + mean) / 2
    probabilities, labels = jnp.asarray(np.stack([1 - up, up], axis=-1)), jnp.asarray(true > 0, int)
    curve = bb.metrics.reliability_curve(probabilities, labels, num_bins=BINS)
    return {
        "weight_ece": float(bb.metrics.expected_calibration_error(probabilities, labels, num_bins=BINS)),
        "confidence": curve.confidence.tolist(),
        "right": curve.accuracy.tolist(),
        "weights": curve.num_examples.tolist(),
    }


def of_machine(matched: Matched) -> dict[str, float]:
    """The overlap of a machine, both sides of the Nishimori identity and their difference."""
    agreement, square = float(np.mean(matched.mean * matched.true)), float(np.mean(matched.mean**2))
    return {
        "overlap": matched.overlap,
        "mean_agreement": agreement,
        "mean_square": square,
        "nishimori_gap": square - agreement,
        "weight_ece": calibration([matched])["weight_ece"],
    }


def _signs(mean: np.ndarray) -> np.ndarray:
    return np.where(mean > 0, 1.0, -1.0)
