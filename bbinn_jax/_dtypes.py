"""Which dtype to compute in."""

from typing import Any

import jax.numpy as jnp


def at_least_float32(dtype: Any) -> Any:
    """A dtype as it is, or float32 for one of fewer bits and for integers; `jnp.promote_types` refuses in strict mode.

    >>> print(at_least_float32("bfloat16"), at_least_float32("float64"), at_least_float32("int8"))
    float32 float64 float32
    """
    return jnp.dtype(dtype if jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32 else "float32")
