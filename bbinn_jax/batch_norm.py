r"""Batch-norm statistics of a network that predicts: its own, measured anew on training data.

    mean = 1/B sum_b mean_b,    var = 1/B sum_b (var_b + mean_b^2) - mean^2

over B batches of equal size. The running statistics of training are those of no network
in particular, since every step saw another sample of the weights.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bbinn_jax._checks import PyTree, check_number

PerBatchNorm = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def recalibrate_batch_norm(
    update_fn: Callable[[PyTree, Any], PyTree],
    batch_stats: PyTree,
    batches: Any,
    *,
    momentum: float,
) -> PyTree:
    """The mean and variance that the activations of one network have over many batches.

    Args:
        update_fn: ``update_fn(batch_stats, batch)`` gives the running statistics after one
            batch in training mode, of the network in question. Without dropout, unless
            the network predicts with it.
        batch_stats: the running statistics, for their shapes: nested dicts in which each
            batch norm has ``mean`` and ``var``, the collection of that name in Flax linen.
        batches: a pytree of arrays [num_batches, batch, ...] that update_fn sees one by one,
            so that memory does not grow with their number.
        momentum: weight in [0, 1) of the old running statistics in an update.

    Returns:
        New statistics, a tree like batch_stats. Works under `jax.vmap` over the weights
        that update_fn closes over: each sampled network can have its own.

    Raises:
        ValueError: momentum out of its range, no batches, or batch_stats without mean and var.

    >>> import flax.linen as nn
    >>> layer = nn.BatchNorm(use_running_average=False, momentum=0.9)
    >>> batches = jnp.array([[[1.0], [3.0]], [[5.0], [7.0]]])
    >>> variables = layer.init(jax.random.key(0), batches[0])
    >>> def update_fn(batch_stats, x):
    ...     return layer.apply(variables | {"batch_stats": batch_stats}, x, mutable=["batch_stats"])[1]["batch_stats"]
    >>> stats = recalibrate_batch_norm(update_fn, variables["batch_stats"], batches, momentum=0.9)
    >>> print(stats["mean"], stats["var"])
    [4.] [5.]
    """
    check_number("momentum", momentum, "in [0, 1)", lambda v: 0 <= v < 1)
    if not jax.tree.leaves(batches) or 0 in {jnp.shape(x)[0] for x in jax.tree.leaves(batches)}:
        raise ValueError("batches must be arrays [num_batches, batch, ...] with at least one batch, got none")
    zeros = jax.tree.map(jnp.zeros_like, batch_stats)

    def moments(batch: Any) -> PyTree:
        of_batch = jax.tree.map(lambda x: x / (1 - momentum), update_fn(zeros, batch))
        return _map_batch_norms(lambda mean, var: (mean, var + mean**2), of_batch)

    averages = jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.lax.map(moments, batches))
    return _map_batch_norms(lambda mean, square: (mean, jnp.maximum(square - mean**2, 0)), averages)


def _map_batch_norms(function: PerBatchNorm, tree: Any) -> Any:
    """Applies a function to the pair (mean, var) of each batch norm in nested dicts."""
    if not hasattr(tree, "items"):
        raise ValueError(f"batch_stats must be nested dicts with mean and var, got {type(tree).__name__}")
    if "mean" in tree and "var" in tree:
        return dict(zip(("mean", "var"), function(tree["mean"], tree["var"]), strict=True))
    return {name: _map_batch_norms(function, child) for name, child in tree.items()}
