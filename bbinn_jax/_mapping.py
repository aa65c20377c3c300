"""Mapping over samples and seeds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def over_leading_axis(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.vmap`, but an axis of length 1 is taken off and put back.

    A product of matrices with a batch axis of 1 takes three times as long on a CPU: so one program serves for a
    single network, and for several that differ in their seeds or samples.

    Args:
        function: of pytrees of arrays, to pytrees of arrays.

    Returns:
        A function of the same arguments, each leaf with one more axis in front, of one length; its results have it too.

    Raises:
        ValueError: as `jax.vmap`: no arrays, or axes of different lengths.

    >>> print(over_leading_axis(jnp.sum)(jnp.ones((1, 3))), over_leading_axis(jnp.sum)(jnp.ones((2, 3))))
    [3.] [3. 3.]
    """

    def mapped(*args: Any) -> Any:
        if {jnp.shape(x)[:1] for x in jax.tree.leaves(args)} != {(1,)}:
            return jax.vmap(function)(*args)
        output = function(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], output)

    return mapped
