"""The random bits of `jax.random.bits`, in a form that fuses with what is made of them.

On a CPU JAX runs the rounds of threefry as a loop over whole arrays. Written out they are one expression
of an element's index: the compiler puts it into the same pass as the noise and the weight that come of
it, uses all cores, and needs no memory. Source of the algorithm: Salmon et al., Parallel Random Numbers:
As Easy as 1, 2, 3 (2011), Threefry-2x32 with 20 rounds.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@partial(jax.jit, static_argnums=(1, 2), inline=True)  # as jax.random.bits: without it, ten times as slow eagerly
def random_bits(key: jax.Array, shape: tuple[int, ...], dtype: str) -> jax.Array:
    """The bits of ``jax.random.bits(key, shape, dtype)``, all of them and in that order.

    Args:
        key: a `jax.random` key. Keys of other generators than threefry, and words of
            64 bits, are left to JAX.
        shape: of the result.
        dtype: "uint32" or "uint64".
    """
    is_threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    is_by_index = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    if not (is_threefry and is_by_index) or dtype != "uint32" or math.prod(shape) >= 2**32:
        return jax.random.bits(key, shape, dtype)
    key_0, key_1 = jax.random.key_data(key)
    high, low = threefry(key_0, key_1, jnp.uint32(0), _index(shape))
    return high ^ low


def threefry(key_0: jax.Array, key_1: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32: a permutation of the pairs of words (x, y), another for each key. All are uint32.

    >>> x, y = threefry(jnp.uint32(0), jnp.uint32(0), jnp.uint32(0), jnp.uint32(0))
    >>> print(f"{x:x} {y:x}")
    6b200159 99ba4efe
    """
    keys = key_0, key_1, key_0 ^ key_1 ^ jnp.uint32(0x1BD11BDA)
    x, y = x + keys[0], y + keys[1]
    for i in range(1, 6):
        for rotation in ROTATIONS[(i - 1) % 2]:
            x = x + y
            y = x ^ ((y << rotation) | (y >> (32 - rotation)))
        x, y = x + keys[i % 3], y + keys[(i + 1) % 3] + jnp.uint32(i)
    return x, y


def _index(shape: tuple[int, ...]) -> jax.Array:
    """The place of each element in row-major order."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :])
        index += jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index
