"""Boxes that Flax puts around an array: the variables of NNX, and those of linen that keep the names of axes.

To JAX a box is a node of the tree with one child, ``value``, which is no part of a parameter's name.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from flax.core import meta

PyTree = Any


def named_leaves(tree: PyTree, is_leaf: Callable[[Any], bool] = lambda _: False) -> list[tuple[str, Any, Any]]:
    """Of each leaf, in the order of `jax.tree.leaves`: its name, the type of its box (or None), and itself.

    >>> named_leaves({"dense": {"kernel": nnx.Param(1.0), "bias": 2.0}})
    [('dense/bias', None, 2.0), ('dense/kernel', <class 'flax...Param'>, 1.0)]
    """
    found = []
    for path, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: is_leaf(x) or _is_box(x)):
        box = type(node) if _is_box(node) else None
        for rest, leaf in jax.tree_util.tree_leaves_with_path(node, is_leaf=is_leaf):
            name = jax.tree_util.keystr((*path, *(rest if box is None else rest[1:])), simple=True, separator="/")
            found.append((name, box, leaf))
    return found


def _is_box(x: Any) -> bool:
    return isinstance(x, nnx.Variable | meta.AxisMetadata)
