r"""Bop, an optimizer whose parameters are the binary weights themselves.

    m <- (1 - gamma) m + gamma g
    w <- -w    where abs(m) > threshold and sign(m) = sign(w)

There are no latent weights: an average m of the gradients g decides when a
weight flips. Source: Helwegen et al., Latent Weights Do Not Exist: Rethinking
Binarized Neural Network Optimization, arXiv 1906.02107, algorithm 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bbinn_jax._checks import PyTree, as_schedule, check_floating, check_non_negative, check_update, check_values
from bbinn_jax._dtypes import at_least_float32
from bbinn_jax._exported import exported


@exported
class BopState(NamedTuple):
    """State of `bop`.

    Attributes:
        count: the number of steps taken.
        average: m, a tree like the weights.
    """

    count: jax.Array  # type: ignore[assignment]  # the name in optax; tuples have a method of that name
    average: PyTree


def bop(gamma: optax.ScalarOrSchedule, threshold: float) -> optax.GradientTransformationExtraArgs:
    """Flips a weight when the average of its gradients is large and has its sign.

    ``m <- (1 - gamma) m + gamma g,  w <- -w where abs(m) > threshold and sign(m) = sign(w)``

    Args:
        gamma: the rate of the average in [0, 1], a float or an optax schedule;
            it takes the place of a learning rate.
        threshold: abs(m) above which a weight flips, >= 0. It has the scale of
            the gradients.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose params are weights of
        exactly -1 and +1, as those of `mode`, and stay so in every dtype; the
        loss is a function of them. m starts at 0 in their dtype. Keep them in
        float32: bfloat16 rounds the steps of a small gamma to nothing. A
        gradient of NaN stops its weight for good (`optax.apply_if_finite`).

    Raises:
        ValueError, TypeError: as `bayesbinn`; ValueError in init: a weight that is not -1 or +1, unless it is
            traced or a shape.

    Source: arXiv 1906.02107, algorithm 1.

    >>> tx = bop(gamma=0.5, threshold=0.1)
    >>> weights = jnp.array([1.0, 1.0, -1.0])
    >>> updates, _ = tx.update(jnp.array([0.4, 0.2, 0.4]), tx.init(weights), weights)
    >>> print(optax.apply_updates(weights, updates))
    [-1.  1. -1.]
    """
    gamma_at = as_schedule("gamma", gamma, "in [0, 1]", lambda v: 0 <= v <= 1)
    threshold = check_non_negative("threshold", threshold)

    def init(weights: PyTree) -> BopState:
        check_floating("weights", weights)
        check_values("weights", weights, "-1 or +1", lambda w: np.abs(w) == 1)
        return BopState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, weights))

    def update(updates: PyTree, state: BopState, params: PyTree = None, **_: Any) -> tuple[PyTree, BopState]:
        check_update(updates, "weights", params)
        rate = gamma_at(state.count)

        def leaf_average(g: jax.Array, m: jax.Array) -> jax.Array:
            wide = at_least_float32(m.dtype)  # in bfloat16 1 - gamma would often be 1
            kept, new = jnp.asarray(1 - rate, wide), jnp.asarray(rate, wide)
            return (kept * m.astype(wide) + new * g.astype(wide)).astype(m.dtype)

        def leaf_update(w: jax.Array, m: jax.Array) -> jax.Array:
            wide = at_least_float32(m.dtype)
            large = jnp.abs(m.astype(wide)) > jnp.asarray(threshold, wide)
            return jnp.where(large & (jnp.sign(m) == jnp.sign(w)), -2 * w, 0).astype(w.dtype)

        average = jax.tree.map(leaf_average, updates, state.average)
        updates = jax.tree.map(leaf_update, params, average)
        return updates, BopState(optax.safe_increment(state.count), average)

    return optax.GradientTransformationExtraArgs(init, update)
