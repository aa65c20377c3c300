r"""Batch-norm statistics of a network that predicts: its own, measured anew on training data.

    mean = 1/B sum_b mean_b,    var = 1/B sum_b (var_b + mean_b^2) - mean^2

over B batches of equal size. The running statistics of training are those of no network
in particular, since every step saw another sample of the weights.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bbinn_jax._checks import PyTree, check_same_tree

PerBatchNorm = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def recalibrate_batch_norm(
    update_fn: Callable[[PyTree, Any], PyTree],
    batch_stats: PyTree,
    batches: Any,
) -> PyTree:
    """The mean and variance that the activations of one network have over many batches.

    Args:
        update_fn: ``update_fn(batch_stats, batch)`` gives the running statistics after one
            batch in training mode, of the network in question: an average of the old ones
            and those of the batch, with weights that are found out. Without dropout, unless
            the network predicts with it.
        batch_stats: the running statistics, for their shapes: nested dicts in which each
            batch norm has ``mean`` and ``var``, the collection of that name in Flax linen.
        batches: a pytree of arrays [num_batches, batch, ...] that update_fn sees one by one,
            so that memory does not grow with their number.

    Returns:
        New statistics, a tree like batch_stats. Works under `jax.vmap` over the weights
        that update_fn closes over: each sampled network can have its own.

    Raises:
        ValueError: no batches, batch_stats without mean and var, or an update_fn that gives
            another tree.

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
    batches = jax.tree.map(jnp.asarray, batches)
    leading = {jnp.shape(x)[:1] for x in jax.tree.leaves(batches)}
    if len(leading) != 1 or not all(leading) or leading == {(0,)}:
        raise ValueError(f"batches must be arrays [num_batches >= 1, batch, ...], got leading axes {sorted(leading)}")
    zeros = jax.tree.map(jnp.zeros_like, batch_stats)
    few = jax.tree.map(lambda x: x[0, :2], batches)
    check_same_tree("what update_fn returns", jax.eval_shape(update_fn, zeros, few), "batch_stats", zeros)
    # An update is momentum * old + (1 - momentum) * of_batch; the old ones are so large that rounding does not matter.
    large = jax.tree.map(lambda x: jnp.full_like(x, 2.0**20), batch_stats)
    updated = [update_fn(old, few) for old in (large, zeros)]
    momentum = jax.tree.map(lambda of_large, of_zero: (of_large - of_zero) / 2.0**20, *updated)

    def moments(batch: Any) -> PyTree:
        of_batch = jax.tree.map(lambda x, m: x / (1 - m), update_fn(zeros, batch), momentum)
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
