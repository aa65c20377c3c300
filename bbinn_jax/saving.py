"""A posterior, or networks of one bit a weight, in one file: for another process, another machine, another year.

The format is safetensors, which holds no code, with a SHA-256: a damaged file is refused. It guards against damage and
not against forgery. Packed networks are read by any program that reads safetensors, without JAX.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbinn_jax import _file
from bbinn_jax._checks import PyTree, check_floating, path_name
from bbinn_jax._exported import exported
from bbinn_jax.packing import Packed, pack  # noqa: F401 (the second of the examples)

_POSTERIOR = "bbinn_jax posterior 1"
_PACKED = "bbinn_jax packed 1"


@exported
class Posterior(NamedTuple):
    """All that it takes to predict.

    Attributes:
        natural: lambda, ``None`` where a parameter is real, as `partition` gives it.
        real: the other parameters, ``None`` where one is binary.
        batch_stats: statistics of batch norms, those of one network or as kept in training.
        config: what tells how to build the network again; whatever JSON can say.
    """

    natural: PyTree
    real: PyTree = None
    batch_stats: PyTree = None
    config: Any = None


def save_posterior(path: str | Path, posterior: Posterior) -> None:
    """Writes a posterior into a file, all of it or nothing.

    Args:
        path: of the file; one that is there is replaced.
        posterior: its trees may be any pytrees of arrays, see `load_posterior`.

    Raises:
        ValueError: two leaves of one name, no weight, or a leaf that holds a NaN. (An infinite natural parameter
            is a certain weight.)
        TypeError: a posterior that is none, natural parameters that are not floating-point, a dtype that would not
            come back (such as float64 without jax_enable_x64), or a config that JSON cannot say.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "coin.safetensors"
    >>> save_posterior(path, Posterior({"coin": jnp.array([0.5, -0.5])}, config={"sides": 2}))
    >>> loaded = load_posterior(path)
    >>> print(loaded.natural["coin"], loaded.config)
    [ 0.5 -0.5] {'sides': 2}
    """
    if not isinstance(posterior, Posterior):
        raise TypeError(f"posterior must be a Posterior, as Posterior(natural, real), got {type(posterior).__name__}")
    check_floating("natural", posterior.natural)
    if not jax.tree.leaves(posterior.natural):
        raise ValueError(f"natural must have at least one weight, got {posterior.natural!r}")
    _file.write(path, posterior, "posterior", {"format": _POSTERIOR})


def load_posterior(path: str | Path, like: Posterior | None = None) -> Posterior:
    """Reads a posterior that `save_posterior` has written, equal to the bit.

    Args:
        path: of the file.
        like: a posterior of the same trees, for their structure; its leaves may be shapes, as `jax.eval_shape`
            gives them. Without it they come back as nested dicts, as Flax linen has them.

    Returns:
        The posterior.

    Raises:
        OSError: the file cannot be read.
        ValueError: a file that is damaged or no posterior, one with 64 bits while jax_enable_x64 is off, leaves
            that are not those of like (names, shapes, dtypes), or trees that are no nested dicts without it.
        TypeError: a like that is no posterior.

    >>> import tempfile
    >>> path, posterior = Path(tempfile.mkdtemp()) / "coins.safetensors", Posterior([jnp.array([0.5, -0.5])])
    >>> save_posterior(path, posterior)
    >>> print(load_posterior(path, like=posterior).natural)  # a list, which the file alone does not tell
    [Array([ 0.5, -0.5], dtype=float32)]
    """
    if not isinstance(like, Posterior | None):
        raise TypeError(f"like must be a Posterior, as Posterior(natural, real), got {type(like).__name__}")
    posterior, _ = _file.read(path, Posterior, "posterior", _POSTERIOR, like)
    try:
        check_floating("natural", posterior.natural)
    except TypeError as error:
        raise ValueError(f"{path} is no posterior: {error}") from None
    return posterior


@exported
class PackedNetwork(NamedTuple):
    """All that it takes to predict with a network, or with a committee of networks, at one bit a weight.

    Attributes:
        weights: a tree of `Packed` leaves, ``None`` where a parameter is real: ``pack(mode(natural))``, or a committee
            of S networks, as `sample_packed` draws it.
        real: the other parameters, ``None`` where one is binary. A committee shares them.
        batch_stats: statistics of batch norms; those of a committee may have an axis of networks in front.
        config: what tells how to build the network again; whatever JSON can say.
    """

    weights: PyTree
    real: PyTree = None
    batch_stats: PyTree = None
    config: Any = None


def save_packed(path: str | Path, network: PackedNetwork) -> None:
    """Writes a packed network, or a committee, into a file, all of it or nothing.

    The arrays are called ``weights/...`` (uint8 [bytes], of a committee [S, bytes]), ``real/...`` and
    ``batch_stats/...``, after their leaves. The text beside them has

        format        "bbinn_jax packed 1"
        bit_order     "little": the least significant bit first, as ``numpy.unpackbits`` calls it; 1 is +1
        num_networks  S, or 1
        weights       JSON: of each array of weights the shape and the dtype that it has in one network
        config        JSON

    Args:
        path: of the file; one that is there is replaced.
        network: its trees may be any pytrees, see `load_packed`.

    Raises:
        ValueError: two leaves of one name, no weight, packed leaves of different numbers of networks or whose bits are
            not those of their shape, or a leaf that holds a NaN.
        TypeError: a network that is none, weights that are not packed, a dtype that would not come back, or a config
            that JSON cannot say.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "signs.packed.safetensors"
    >>> save_packed(path, PackedNetwork({"signs": pack(jnp.array([1.0, -1.0, -1.0]))}, config={"sides": 2}))
    >>> print(load_packed(path).weights["signs"].bits)
    [1]
    """
    if not isinstance(network, PackedNetwork):
        raise TypeError(
            f"network must be a PackedNetwork, as PackedNetwork(weights, real), got {type(network).__name__}"
        )
    leaves = _packed_leaves(network)
    text = {
        "format": _PACKED,
        "bit_order": "little",
        "num_networks": str(_num_networks(leaves)),
        "weights": json.dumps({name: {"shape": x.shape, "dtype": str(x.dtype)} for name, x in leaves.items()}),
    }
    _file.write(path, _bits(network), "network", text)


def load_packed(path: str | Path, like: PackedNetwork | None = None) -> PackedNetwork:
    """Reads what `save_packed` has written, equal to the bit.

    Args:
        path: of the file.
        like: a packed network of the same trees, for their structure; its leaves may be shapes, as `jax.eval_shape`
            gives them. Without it they come back as nested dicts, as Flax linen has them.

    Returns:
        The network or the committee.

    Raises:
        OSError: the file cannot be read.
        ValueError: a file that is damaged or no packed network, one with 64 bits while jax_enable_x64 is off, leaves
            that are not those of like (names, shapes, dtypes), or trees that are no nested dicts without it.
        TypeError: a like that is no packed network.

    >>> import tempfile
    >>> path, network = Path(tempfile.mkdtemp()) / "signs", PackedNetwork([pack(jnp.array([1.0, -1.0]))])
    >>> save_packed(path, network)
    >>> print(load_packed(path, like=network).weights[0].shape)  # a list, which the file alone does not tell
    (2,)
    """
    if not isinstance(like, PackedNetwork | None):
        raise TypeError(f"like must be a PackedNetwork, as PackedNetwork(weights, real), got {type(like).__name__}")
    wanted = {} if like is None else _packed_leaves(like)
    bits, text = _file.read(path, PackedNetwork, "packed network", _PACKED, None if like is None else _bits(like))
    try:
        network = _with_shapes(bits, json.loads(text["weights"]))
        leaves = _packed_leaves(network)
        said, true = (text.get("bit_order"), text.get("num_networks")), ("little", str(_num_networks(leaves)))
        if said != true:
            raise ValueError(f"bit_order and num_networks must be {true}, got {said}")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no packed network: {type(error).__name__}: {str(error)[:200]}") from None
    for name, leaf in leaves.items():
        if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
            raise ValueError(f"{path} has 64 bits in {name!r}: set jax_enable_x64 to read it")
        like_it, it = (f"{x.dtype}{x.shape}" for x in (wanted.get(name, leaf), leaf))
        if like_it != it:
            raise ValueError(f"like must have the leaves of {path}: it has {like_it} at {name!r}, the file {it}")
    return network


def _bits(network: PackedNetwork) -> PackedNetwork:
    """With arrays of bytes in place of packed leaves: a record as `_file` takes it."""
    return network._replace(weights=jax.tree.map(lambda x: x.bits, network.weights, is_leaf=_is_packed))


def _with_shapes(bits: PackedNetwork, described: dict[str, Any]) -> PackedNetwork:
    """With packed leaves in place of arrays of bytes, whose shapes and dtypes a file says by name."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(PackedNetwork(bits.weights))
    leaves = {path_name(path): leaf for path, leaf in flat}
    if set(described) != set(leaves):
        raise ValueError(f"weights are {sorted(leaves)}, described are {sorted(described)}")

    def packed(leaf: jax.Array, shape: list[int], dtype: str) -> Packed:
        if not all(type(n) is int and n >= 0 for n in shape) or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"weights must have shapes and floating-point dtypes, got {dtype}{shape}")
        return Packed(leaf, tuple(shape), jnp.dtype(dtype))

    weights = [packed(leaf, **described[name]) for name, leaf in leaves.items()]
    return bits._replace(weights=jax.tree.unflatten(treedef, weights).weights)


def _packed_leaves(network: PackedNetwork) -> dict[str, Packed]:
    """The leaves of its weights by the names that their bytes have in a file."""
    flat = jax.tree_util.tree_leaves_with_path(PackedNetwork(network.weights), is_leaf=_is_packed)
    for path, leaf in flat:
        if not _is_packed(leaf):
            raise TypeError(
                f"weights must be packed, as pack does it, got {type(leaf).__name__} at {path_name(path)!r}"
            )
    return {path_name(path): leaf for path, leaf in flat}


def _num_networks(leaves: dict[str, Packed]) -> int:
    """S, or 1 of a single network; raises ValueError for leaves whose bytes are not those of their shapes."""
    if not leaves:
        raise ValueError("weights must have at least one packed leaf, got none")
    for name, leaf in leaves.items():
        num_bytes, shape = -(-math.prod(leaf.shape) // 8), leaf.bits.shape
        if leaf.bits.dtype != jnp.uint8 or shape[-1:] != (num_bytes,) or len(shape) > 2 or shape[:-1] == (0,):
            raise ValueError(
                f"weights must have uint8 [{num_bytes}] or [networks, {num_bytes}] for the shape {leaf.shape}, "
                f"got {leaf.bits.dtype}{shape} at {name!r}"
            )
    if len(shapes := {leaf.bits.shape[:-1] for leaf in leaves.values()}) > 1:
        raise ValueError(f"weights must have one number of networks in all leaves, got {sorted(shapes)}")
    return math.prod(shapes.pop())


def _is_packed(node: Any) -> bool:
    return isinstance(node, Packed)
