"""What a posterior looks like."""

import jax
import jax.numpy as jnp

from bbinn_jax._checks import PyTree
from bbinn_jax.bernoulli import entropy


def entropy_bits_per_weight(natural: PyTree) -> jax.Array:
    """The mean entropy of a weight in bits: 1 for fair coins, 0 when all are decided.

    ``H(q) / (n log 2)``. At 0 the posterior is saturated: its mean is its mode and
    every sample is the same network.

    Args:
        natural: lambda, any pytree of floating-point arrays.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: a tree without a weight.
        TypeError: a leaf that is not floating-point.

    >>> print(entropy_bits_per_weight({"a": jnp.zeros(3), "b": jnp.full(3, 9.0)}))
    0.5
    """
    num_weights = sum(jnp.size(x) for x in jax.tree.leaves(natural))
    if num_weights == 0:
        raise ValueError(f"natural must have at least one weight, got {natural!r}")
    return entropy(natural) / (num_weights * jnp.log(2))
