r"""Batch-norm statistics of a network that predicts: its own, measured anew on training data.

    mean = sum_b n_b mean_b / n,    var = sum_b n_b (var_b + (mean_b - mean)^2) / n

over batches of n_b examples, n in all. The running statistics of training are those of no network
in particular, since every step saw another sample of the weights.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from bbinn_jax._checks import PyTree, path_name
from bbinn_jax._dtypes import at_least_float32
from bbinn_jax._tracing import is_used


def recalibrate_batch_norm(
    update_fn: Callable[[PyTree, Any], PyTree],
    batch_stats: PyTree,
    batches: Any,
) -> PyTree:
    """The mean and variance that the activations of one network have over many batches.

    Args:
        update_fn: ``update_fn(batch_stats, batch)`` gives the running statistics after one
            batch in training mode, of the network in question: ``m * old + (1 - m) * of_batch``
            with any momentum m below 1, which may differ between batch norms. Without dropout,
            unless the network predicts with it.
        batch_stats: the running statistics, for their tree, shapes and dtypes. Each batch norm
            has a ``mean`` and a ``var`` beside it: the collection ``batch_stats`` in Flax linen, the
            state of ``nnx.BatchStat`` in NNX.
        batches: a list of batches, whose sizes may differ; or a pytree of arrays
            [num_batches, batch, ...] that update_fn sees one by one, in one loop on the device.

    Returns:
        New statistics, a tree like batch_stats, computed in float32 or wider. Works under `jax.vmap` over
        the weights that update_fn closes over: each sampled network can have its own.

    Raises:
        ValueError: no batches, batch_stats without mean and var, or an update_fn that gives
            another tree, does not use its batch, or has momentum 1 (of a traced network the
            statistics are NaN then).

    >>> import flax.linen as nn
    >>> layer = nn.BatchNorm(use_running_average=False, momentum=0.9)
    >>> batches = jnp.array([[[1.0], [3.0]], [[5.0], [7.0]]])
    >>> variables = layer.init(jax.random.key(0), batches[0])
    >>> def update_fn(batch_stats, x):
    ...     return layer.apply(variables | {"batch_stats": batch_stats}, x, mutable=["batch_stats"])[1]["batch_stats"]
    >>> stats = recalibrate_batch_norm(update_fn, variables["batch_stats"], batches)
    >>> print(stats["mean"], stats["var"])
    [4.] [5.]
    """
    is_list = isinstance(batches, list)
    leading = [{jnp.shape(x)[:1] for x in jax.tree.leaves(tree)} for tree in (batches if is_list else [batches])]
    if not leading or any(len(axes) != 1 or axes & {(), (0,)} for axes in leading):
        raise ValueError(
            "batches must be a list of batches, or arrays [num_batches >= 1, batch, ...], got arrays of leading axes "
            f"{[sorted(axes) for axes in leading]}"
        )
    batches = jax.tree.map(jnp.asarray, batches)
    first = batches[0] if is_list else jax.tree.map(lambda x: x[0], batches)
    # In float32 or wider: in half precision 1 - m would be off by a fifth.
    zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), at_least_float32(x.dtype)), batch_stats)
    names, pairs = _names_and_pairs(zeros)
    shapes = [jnp.shape(x) for x in jax.tree.leaves(zeros)]
    # Traced once, and evaluated as often as it takes.
    traced, shape = jax.make_jaxpr(update_fn, return_shape=True)(zeros, first)
    evaluate = jaxpr_as_fun(traced)
    updated = jax.tree_util.tree_leaves_with_path(shape)
    if (got := [(path_name(path), x.shape) for path, x in updated]) != list(zip(names, shapes, strict=True)):
        raise ValueError(f"what update_fn returns must have the leaves of batch_stats {names} {shapes}, got {got}")
    if not any(is_used(traced.jaxpr)[len(shapes) :]):
        raise ValueError("update_fn must use its batch, got one whose statistics do not depend on it")
    # The momentum is found out by old statistics so large that rounding does not matter. (Not by a derivative:
    # the batch norm of NNX has none.)
    of_zero = evaluate(*jax.tree.leaves((zeros, first)))
    large = [2.0**20 * (1 + jnp.abs(x)) for x in of_zero]
    of_large = evaluate(*large, *jax.tree.leaves(first))
    momentum = [(x - y) / old for x, y, old in zip(of_large, of_zero, large, strict=True)]
    for name, m in zip(names, momentum, strict=True):
        if not isinstance(m, jax.core.Tracer) and np.any(m == 1):
            raise ValueError(f"update_fn must have a momentum below 1 in training mode, got 1 at {name!r}")

    def of_batch(updated: list[jax.Array]) -> list[jax.Array]:
        return [x / (1 - m) for x, m in zip(updated, momentum, strict=True)]

    if is_list:  # of several sizes
        of_batches = [of_batch(jax.tree.leaves(update_fn(zeros, batch))) for batch in batches]
        measured = [jnp.stack(leaves) for leaves in zip(*of_batches, strict=True)]
        sizes = jnp.array([len(jax.tree.leaves(batch)[0]) for batch in batches], jnp.float32)
    else:
        measured = jax.lax.map(lambda batch: of_batch(evaluate(*jax.tree.leaves((zeros, batch)))), batches)
        sizes = jnp.ones(len(measured[0]), jnp.float32)

    def average(x: jax.Array) -> jax.Array:
        return jnp.tensordot((sizes / jnp.sum(sizes)).astype(x.dtype), x, axes=1, precision="highest")

    for i_mean, i_var in pairs:
        mean = average(measured[i_mean])
        measured[i_var] = average(measured[i_var] + (measured[i_mean] - mean[None]) ** 2)
        measured[i_mean] = mean
    leaves = [x.astype(like.dtype) for x, like in zip(measured, jax.tree.leaves(batch_stats), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(batch_stats), leaves)


def _names_and_pairs(batch_stats: PyTree) -> tuple[list[str], list[tuple[int, int]]]:
    """The names of the leaves; and where, among them, each batch norm has its mean and its variance."""
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(batch_stats)]
    found: dict[str, dict[str, int]] = {}
    for i, name in enumerate(names):
        parent, _, last = name.removesuffix("/value").rpartition("/")  # NNX has a Variable around an array
        found.setdefault(parent, {})[last] = i
    if not found or any(set(norm) != {"mean", "var"} for norm in found.values()):
        raise ValueError(f"batch_stats must have a mean and a var of each batch norm and nothing else, got {names}")
    return names, [(norm["mean"], norm["var"]) for norm in found.values()]
