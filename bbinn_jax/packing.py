r"""Networks at one bit a weight: a tree of packed leaves, of one network or of a committee of them.

    byte[i // 8] |= (w[i] > 0) << (i % 8),     w in row-major order

The least significant bit comes first, 1 stands for +1, and zeros fill the last byte: what
``numpy.packbits(w > 0, bitorder="little")`` gives. Packed leaves are arrays of bytes in memory too: 32 networks take
what one takes in float32, and an exported program that unpacks them holds bytes.
"""

import dataclasses
import json
import math
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from bbinn_jax._checks import PyTree, check_count, check_floating, check_key, check_values, path_name
from bbinn_jax.bernoulli import sample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """A leaf of +-1 at one bit a weight, as `pack` makes it. A pytree whose one array is bits.

    Attributes:
        bits: uint8 [..., bytes]. A committee has an axis of networks in front.
        shape: that of the leaf in one network, static.
        dtype: that of the leaf, static.
    """

    bits: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dtype: np.dtype = dataclasses.field(metadata={"static": True})


jax.export.register_pytree_node_serialization(
    Packed,
    serialized_name="bbinn_jax.Packed",
    serialize_auxdata=lambda static: json.dumps([static[0], str(static[1])]).encode(),
    deserialize_auxdata=json.loads,
    from_children=lambda static, bits: Packed(bits[0], tuple(static[0]), jnp.dtype(static[1])),
)


def pack(weights: PyTree) -> PyTree:
    """The bits of a network.

    ``byte[i // 8] |= (w[i] > 0) << (i % 8)``

    Args:
        weights: any pytree of floating-point arrays of -1 and +1, as `sample` and `mode` give it. ``None`` stays. In
            jit, vmap and scan the values are not known yet and not checked: what is above 0 counts as +1 there.

    Returns:
        The tree with a `Packed` for each leaf. `combine` takes it as weights: ``combine(pack(weights), real)``. A
        committee is ``jax.vmap(pack)`` of networks that are stacked.

    Raises:
        ValueError: a value that is neither -1 nor +1.
        TypeError: a leaf that is not floating-point, a packed one among them.

    >>> packed = pack({"w": jnp.array([[1.0, -1.0, -1.0], [1.0, 1.0, -1.0]])})
    >>> print(packed["w"].bits, packed["w"].shape)                # 0b011001
    [25] (2, 3)
    """
    check_floating("weights", weights)
    check_values("weights", weights, "-1 or +1", lambda w: np.abs(w) == 1)

    def leaf_bits(w: Any) -> Packed:
        bits = jnp.packbits(jnp.ravel(w) > 0, bitorder="little")
        return Packed(bits, jnp.shape(w), jnp.dtype(w.dtype))

    return jax.tree.map(leaf_bits, weights)


def unpack(packed: PyTree) -> PyTree:
    """The weights that `pack` has packed.

    ``w[i] = 2 (byte[i // 8] >> (i % 8) & 1) - 1``

    Args:
        packed: any pytree; its other leaves, such as real parameters, stay as they are.

    Returns:
        The tree with leaves of exactly -1 and +1 in place of packed ones, in their dtype; [S, ...] of a committee of S.

    Raises:
        ValueError: a packed leaf whose bits are not the bytes of its shape.

    >>> print(unpack(pack({"w": jnp.array([1.0, -1.0]), "b": None})))
    {'b': None, 'w': Array([ 1., -1.], dtype=float32)}
    """

    def leaf_weights(path: Any, leaf: Any) -> Any:
        if not _is_packed(leaf):
            return leaf
        bits, size = jnp.asarray(leaf.bits), math.prod(leaf.shape)
        if bits.dtype != jnp.uint8 or bits.shape[-1:] != (-(-size // 8),):
            raise ValueError(
                f"packed must have {-(-size // 8)} bytes of uint8 for the shape {leaf.shape}, "
                f"got {bits.dtype}{bits.shape} at {path_name(path)!r}"
            )
        w = jnp.unpackbits(bits, axis=-1, count=size, bitorder="little").reshape(*bits.shape[:-1], *leaf.shape)
        return 2 * w.astype(leaf.dtype) - 1

    return jax.tree_util.tree_map_with_path(leaf_weights, packed, is_leaf=_is_packed)


def sample_packed(key: jax.Array, natural: PyTree, num_samples: int) -> PyTree:
    """A committee: networks drawn from the posterior, one after the other, and held at one bit a weight.

    ``w_s ~ q,   s = 1 ... S``

    Args:
        key: a `jax.random` key. Network s is the s-th that `posterior_predictive` draws with it, the `sample` of the
            s-th of ``split(key, num_samples)``.
        natural: lambda, any pytree of floating-point arrays.
        num_samples: S >= 1. Memory does not grow with it but for the bits.

    Returns:
        The tree with a `Packed` for each leaf, its bits [S, bytes]. `committee_predictive` takes it, `unpack` gives
        weights [S, ...], and ``jax.tree.map(lambda x: x[s], committee)`` is one network of it.

    Raises:
        ValueError: num_samples below 1.
        TypeError: num_samples is no integer, key is not a random key, a leaf is not floating-point.

    >>> committee = sample_packed(jax.random.key(0), {"w": jnp.zeros((100, 80))}, 32)
    >>> print(committee["w"].bits.shape, committee["w"].bits.nbytes)  # 8,000 weights in float32 take as much
    (32, 1000) 32000
    """
    num_samples = check_count("num_samples", num_samples, 1)
    check_key(key, "first, before natural")
    return jax.lax.map(lambda key: pack(sample(key, natural)), jax.random.split(key, num_samples))


def _is_packed(node: Any) -> bool:
    """Whether a part of a tree is a packed leaf."""
    return isinstance(node, Packed)
