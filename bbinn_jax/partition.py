r"""Which leaves of a parameter tree are binary and which are real.

A leaf's path decides, so that it can be seen in any printed tree: by default
the leaves named ``binary_kernel``, which is what `BinaryDense` and `BinaryConv`
call their weights, are binary and all others are real; so is what an `nnx.BinaryParam`
holds, whatever its name. Rules replace the default.

    natural, real = partition(params)                    # differentiate and update them as a pair
    params = combine(sample(key, natural), real)         # what the network sees
    print(partition_table(natural, real))                # what was decided
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp  # noqa: F401 (of the examples)
import numpy as np

from bbinn_jax._boxes import named_leaves
from bbinn_jax._checks import PyTree, check_floating, path_name
from bbinn_jax.nnx import BinaryParam
from bbinn_jax.packing import Packed

_DEFAULT_RULES = {r"binary_kernel": "binary"}


def partition(params: PyTree, rules: Mapping[str, str] | None = None) -> tuple[PyTree, PyTree]:
    """Splits a parameter tree into its binary and its real leaves.

    Args:
        params: any pytree of arrays: a Flax linen dict, ``nnx.split(model, nnx.Param, ...)[1]``,
            ``eqx.filter(model, eqx.is_inexact_array)``, a list. Shapes will do, as `jax.eval_shape` gives them.
        rules: maps a regular expression to ``"binary"`` or ``"real"``. The first
            one found (`re.search`) in a leaf's path, as in
            ``BinaryDense_0/binary_kernel``, decides; a leaf that none is found
            in is real. ``{"": "binary"}`` makes all leaves binary. (The boxes that Flax has around
            arrays, `nnx.Variable` and `nn.Partitioned`, are no part of the path.) Default:
            ``{"binary_kernel": "binary"}``, and in a state of NNX each `nnx.BinaryParam` as well.

    Returns:
        ``(natural, real)``, both with the tree of params and ``None`` where the
        other one has the leaf.

    Raises:
        ValueError: a label that is neither "binary" nor "real", a rule whose
            expression is not valid or that decides no leaf.
        TypeError: a binary leaf that is not a floating-point array; rules that are no mapping.

    >>> params = {"dense": {"binary_kernel": jnp.ones(2), "bias": jnp.zeros(1)}}
    >>> natural, real = partition(params)
    >>> print(natural)
    {'dense': {'bias': None, 'binary_kernel': Array([1., 1.], dtype=float32)}}
    """
    rules = _DEFAULT_RULES if rules is None else rules
    if not isinstance(rules, Mapping):
        raise TypeError(f"rules must map expressions to 'binary' or 'real', got {rules!r}")
    leaves = named_leaves(params)
    paths = [path for path, _, _ in leaves]
    for pattern, label in rules.items():
        if not isinstance(pattern, str):
            raise TypeError(f"rules must have regular expressions of type str, got {pattern!r}")
        if not isinstance(label, str) or label not in ("binary", "real"):
            raise ValueError(f"rules must map to 'binary' or 'real', got {label!r} for {pattern!r}")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"rules must have regular expressions, got {pattern!r}: {error}") from None

    def decision(path: str, box: Any) -> str | None:
        if rules is _DEFAULT_RULES and box is not None and issubclass(box, BinaryParam):
            return "binary_kernel"
        return next((pattern for pattern in rules if re.search(pattern, path)), None)

    decided_by = [decision(path, box) for path, box, _ in leaves]
    for pattern in rules:
        if pattern not in decided_by and rules is _DEFAULT_RULES:
            raise ValueError(
                "params must have a binary leaf, as BinaryDense and BinaryConv have (binary_kernel); other leaves "
                f'become binary by rules, as {{"kernel": "binary"}}; got leaves {paths}'
            )
        if pattern not in decided_by:
            raise ValueError(f"rules must each decide a leaf that none before decides, got {pattern!r}, leaves {paths}")

    labels = ["real" if pattern is None else rules[pattern] for pattern in decided_by]

    def select(kind: str) -> PyTree:
        kept = [leaf if label == kind else None for label, (_, _, leaf) in zip(labels, leaves, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(params), kept)

    natural, real = select("binary"), select("real")
    check_floating("params", natural)
    return natural, real


def combine(weights: PyTree, real: PyTree) -> PyTree:
    """Puts the two halves of `partition` together again.

    Args:
        weights: binary leaves (natural parameters, samples or modes, packed ones too), ``None`` elsewhere.
        real: real leaves, ``None`` elsewhere.

    Returns:
        The tree of the params that were split.

    Raises:
        ValueError: trees that differ, or a leaf that both have.

    >>> combine({"w": jnp.ones(1), "b": None}, {"w": None, "b": jnp.zeros(1)})
    {'b': Array([0.], dtype=float32), 'w': Array([1.], dtype=float32)}
    """

    def choose(path: Any, binary_leaf: Any, real_leaf: Any) -> Any:
        if binary_leaf is not None and real_leaf is not None:
            raise ValueError(f"weights and real must not share a leaf, got both at {path_name(path)!r}")
        return real_leaf if binary_leaf is None else binary_leaf

    weights_tree: Any = jax.tree.structure(weights, is_leaf=_is_place)
    real_tree: Any = jax.tree.structure(real, is_leaf=_is_place)
    if weights_tree != real_tree:
        raise ValueError(f"weights and real must be of one tree, got {weights_tree} and {real_tree}")
    return jax.tree_util.tree_map_with_path(choose, weights, real, is_leaf=_is_place)


def partition_table(natural: PyTree, real: PyTree, batch_stats: PyTree = None) -> str:
    """The two halves of `partition` as a table: leaf, shape, kind, count, and size in bytes.

    Args:
        natural: binary leaves, ``None`` elsewhere.
        real: real leaves, ``None`` elsewhere.
        batch_stats: statistics of batch norms, which a network that predicts needs too. Without them the table
            does not count them.

    Returns:
        Text, a line for each leaf in the order of the tree, and a line of totals for each
        kind. The sizes are those in float32, and of the mode network packed at one bit for
        each binary weight, in whole bytes for each leaf, and 32 for each real parameter (1 kB is
        1,000 bytes): what the arrays take in a file of `save_packed`, whose header comes on top.

    Raises:
        ValueError: as `combine`.

    >>> natural, real = partition({"binary_kernel": jnp.ones((300, 200)), "scale": jnp.ones(())})
    >>> print(partition_table(natural, real))
    leaf           shape       kind     count    float32   packed
    binary_kernel  (300, 200)  binary  60,000  240.00 kB  7.50 kB
    scale          ()          real         1        4 B      4 B
    total                      binary  60,000  240.00 kB  7.50 kB
                               real         1        4 B      4 B
    """
    binary_names = {name for name, _, _ in named_leaves(natural)}
    rows = [("leaf", "shape", "kind", "count", "float32", "packed")]
    totals = {"binary": 0, "real": 0} | ({"statistics": 0} if jax.tree.leaves(batch_stats) else {})

    packed = dict.fromkeys(totals, 0)

    def sizes(count: int, num_bytes: int) -> tuple[str, str, str]:
        return f"{count:,}", _bytes(4 * count), _bytes(num_bytes)

    params, statistics = named_leaves(combine(natural, real)), named_leaves(batch_stats)
    of_params = [("binary" if name in binary_names else "real", name, leaf) for name, _, leaf in params]
    for kind, name, leaf in [*of_params, *(("statistics", name, leaf) for name, _, leaf in statistics)]:
        shape = np.shape(leaf)  # of NumPy: jax.numpy has none for a jax.ShapeDtypeStruct
        count = math.prod(shape)
        num_bytes = -(-count // 8) if kind == "binary" else 4 * count
        totals[kind] += count
        packed[kind] += num_bytes
        rows.append((name, str(shape), kind, *sizes(count, num_bytes)))
    for kind, count in totals.items():
        rows.append(("total" if kind == "binary" else "", "", kind, *sizes(count, packed[kind])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = "<<<>>>"
    return "\n".join(
        "  ".join(f"{cell:{a}{width}}" for cell, a, width in zip(row, align, widths, strict=True)) for row in rows
    )


def _bytes(n: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n} B"


def _is_place(x: object) -> bool:
    """Whether it is an empty place or a packed leaf: no tree to go into."""
    return x is None or isinstance(x, Packed)
