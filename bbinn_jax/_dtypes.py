"""Which dtype to compute in."""

from typing import Any

import jax.numpy as jnp


def at_least_float32(dtype: Any) -> Any:
    """A floating-point dtype, or float32 where it has fewer bits; `jnp.promote_types` refuses in strict mode.

    >>> print(at_least_float32("bfloat16"), at_least_float32("float64"))
    float32 float64
    """
    return jnp.dtype(dtype if jnp.finfo(dtype).bits >= 32 else "float32")
