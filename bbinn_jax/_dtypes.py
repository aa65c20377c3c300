"""Which dtype to compute in, and the number that is added where one may be 0."""

from typing import Any

import jax
import jax.numpy as jnp

EPS = 1e-10
"""The default of eps: in `relax`, and in `bayesbinn`, which adds it to the Fisher information that it divides by.

The two belong together. At small temperatures both derivatives of a saturated weight are eps alone, and their ratio
is the scale of its step, 1 / tau: eps is not there to avoid a division by zero.
"""


def at_least_float32(dtype: Any) -> Any:
    """A dtype as it is, or float32 for one of fewer bits and for integers; `jnp.promote_types` refuses in strict mode.

    >>> print(at_least_float32("bfloat16"), at_least_float32("float64"), at_least_float32("int8"))
    float32 float64 float32
    """
    return jnp.dtype(dtype if jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32 else "float32")


def total(tree: Any) -> jax.Array:
    """The sum over all leaves, accumulated in float32 or wider.

    >>> total({"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2)})
    Array(5., dtype=float32)
    """
    leaves = jax.tree.leaves(tree)
    widest = max((at_least_float32(x.dtype) for x in leaves), key=lambda d: d.itemsize, default=jnp.dtype("float32"))
    return jnp.asarray(sum(jnp.sum(x, dtype=widest) for x in leaves), widest)
