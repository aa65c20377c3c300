"""What a trace of JAX knows of a function before any number is computed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from bbinn_jax._checks import PyTree


def dependence(function: Callable[..., Any], *args: PyTree) -> tuple[PyTree, ...]:
    """Whether what a function returns depends on each leaf of its arguments: trees like these, of booleans.

    A leaf that is multiplied by 0 is depended on. One that is computed with in vain is not.

    >>> dependence(lambda a, b: a["x"] + 0 * b, {"x": 1.0, "y": 2.0}, 3.0)
    ({'x': True, 'y': False}, True)
    """
    leaves, treedef = jax.tree.flatten(args)
    jaxpr = jax.make_jaxpr(lambda *leaves: function(*jax.tree.unflatten(treedef, leaves)))(*leaves).jaxpr
    return jax.tree.unflatten(treedef, is_used(jaxpr))


def is_used(jaxpr: Any) -> list[bool]:
    """For each input of a jaxpr whether an output depends on it."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1]


def varying_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """``x``, said to differ between the devices of a `jax.shard_map` where ``like`` does; elsewhere x itself.

    JAX does so by itself but for functions with derivatives of their own. The gradient is summed over the devices.
    """
    zero_of_like, zero_of_x = (jnp.zeros_like(a, dtype=x.dtype, shape=()) for a in (like, x))
    return x if jax.typeof(zero_of_like) == jax.typeof(zero_of_x) else x + zero_of_like
