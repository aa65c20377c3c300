"""What a posterior looks like: how undecided it is, and whether it still moves.

Each function takes natural parameters, any pytree of floating-point arrays, and returns
one scalar, a mean over weights. Of each leaf by itself: ``jax.tree.map(entropy_bits_per_weight, natural)``.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bbinn_jax._checks import PyTree, check_floating, check_number, check_positive, check_same_tree
from bbinn_jax._dtypes import EPS, at_least_float32, total
from bbinn_jax.bernoulli import entropy


def entropy_bits_per_weight(natural: PyTree) -> jax.Array:
    """The mean entropy of a weight in bits: 1 for fair coins, 0 when all are decided.

    ``H(q) / (n log 2)``. At 0 the posterior is saturated: its mean is its mode and
    every sample is the same network.

    Args:
        natural: lambda, any pytree of floating-point arrays.

    Returns:
        A scalar, float32 or wider; NaN where a weight is.

    Raises:
        ValueError: no weight.
        TypeError: a leaf that is not floating-point.

    >>> print(entropy_bits_per_weight({"a": jnp.zeros(3), "b": jnp.full(3, 9.0)}))
    0.5
    """
    return entropy(natural) / (_num_weights(natural) * math.log(2))


def saturated_share(natural: PyTree, *, certainty: float = 0.99) -> jax.Array:
    """The share of weights with one value more probable than ``certainty``, in [0, 1].

    ``sigmoid(2 abs(lambda)) > certainty``

    Args:
        natural: lambda, any pytree of floating-point arrays.
        certainty: in [0.5, 1).

    Returns:
        As `entropy_bits_per_weight`.

    Raises:
        ValueError, TypeError: as `entropy_bits_per_weight`; certainty outside of its range.

    >>> print(saturated_share(jnp.array([-3.0, -1.0, 1.0, 2.5])))
    0.5
    """
    certainty = check_number("certainty", certainty, "in [0.5, 1)", lambda v: 0.5 <= v < 1)
    return _mean(lambda x: jax.nn.sigmoid(2 * jnp.abs(x)) > certainty, natural)


def flip_rate(natural: PyTree, previous: PyTree) -> jax.Array:
    """The share of weights of the mode that differ between two posteriors, in [0, 1].

    In NNX keep ``previous = nnx.state(nnx.clone(model), BinaryParam)``: a state shares its variables with its model.

    Args:
        natural: lambda now.
        previous: lambda before, the same tree; or its mode.

    Returns:
        As `entropy_bits_per_weight`.

    Raises:
        ValueError, TypeError: as `entropy_bits_per_weight`; trees that differ.

    >>> print(flip_rate(jnp.array([0.1, -2.0]), jnp.array([-0.1, -1.0])))
    0.5
    """
    check_same_tree("previous", previous, "natural", natural)
    return _mean(lambda x, before: (x > 0) != (before > 0), natural, previous)


def frozen_share(natural: PyTree, *, temperature: float | jax.Array, eps: float = EPS) -> jax.Array:
    """The share of weights to expect without a gradient of their own in a step, in [0, 1].

    They are those with ``1 - w^2 < eps`` for the relaxed sample w, of whose derivative
    nothing but eps is left. With ``1 - tanh(c)^2 = eps`` and logistic noise

        P(abs(lambda + delta) > c tau) = sigmoid(2 (lambda - c tau)) + sigmoid(-2 (lambda + c tau))

    Args:
        natural: lambda.
        temperature: tau > 0 of the relaxed samples; may be traced.
        eps: in (0, 1), as in `relax`.

    Returns:
        As `entropy_bits_per_weight`.

    Raises:
        ValueError, TypeError: as `entropy_bits_per_weight`; temperature not positive, or eps not in (0, 1).

    >>> print(frozen_share(jnp.array([0.0, 20.0]), temperature=0.1))
    0.5800834
    """
    temperature = check_positive("temperature", temperature)
    eps = check_number("eps", eps, "in (0, 1)", lambda v: 0 < v < 1)

    def leaf_frozen(x: jax.Array) -> jax.Array:
        edge = jnp.asarray(temperature, x.dtype) * jnp.arccosh(1 / jnp.sqrt(jnp.asarray(eps, x.dtype)))
        return jax.nn.sigmoid(2 * (x - edge)) + jax.nn.sigmoid(-2 * (x + edge))

    return _mean(leaf_frozen, natural)


def _mean(function: Callable[..., jax.Array], natural: PyTree, *rest: PyTree) -> jax.Array:
    """The mean over all weights of a function of leaves. A comparison with NaN is false: here it is NaN."""
    check_floating("natural", natural)

    def leaf(x: jax.Array, *others: jax.Array) -> jax.Array:
        wide = at_least_float32(x.dtype)
        values = jnp.asarray(function(x.astype(wide), *others), wide)
        for y in (x, *others):
            values = jnp.where(jnp.isnan(y), jnp.nan, values)
        return values

    return total(jax.tree.map(leaf, natural, *rest)) / _num_weights(natural)


def _num_weights(natural: PyTree) -> float:
    """Their number as a float: an integer beyond 32 bits does not go into an array."""
    num_weights = sum(jnp.size(x) for x in jax.tree.leaves(natural))
    if num_weights == 0:
        raise ValueError(f"natural must have at least one weight, got {natural!r}")
    return float(num_weights)
