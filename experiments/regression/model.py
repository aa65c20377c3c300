"""The network of a curve, and one that was kept."""

from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from experiments.common import full_batch, networks, prediction


def curve(model: nn.Module, train_inputs: Any, weights: Any, inputs: Any) -> jax.Array:
    """What a network says, [n] to [n]: that of bumps its output, that of tanh a batch norm (no gain) of it.

    Mean and variance are always those over the training inputs, with the weights at hand. They are part
    of what these weights compute: no network, sampled or mode, is normalised by the statistics of another.
    """
    raw: Any = model.apply({"params": weights}, inputs[:, None])
    if isinstance(model, networks.BumpMLP):  # whose outputs have the size of standardised targets
        return raw
    output: Any = model.apply({"params": weights}, train_inputs[:, None])
    return (raw - output.mean()) * jax.lax.rsqrt(output.var() + 1e-4)


def load_network(path: str | Path) -> prediction.Network:
    """A network that a run has kept: posterior, ``apply_fn(weights, inputs)``, and what standardises inputs [n].

    Targets are standardised, too: multiply by ``target_std`` and add ``target_mean``, both in the posterior's config.
    The networks in results.json are drawn with the keys that ``jax.random.split`` makes of
    ``jax.random.split(jax.random.key(seed))[1]``.

    Args:
        path: network-SEED.safetensors of a run folder, or network-ste-SEED.safetensors.

    Raises:
        ValueError, OSError: what `kept.load` refuses.
    """
    return full_batch.load_network(
        path, "regression", lambda model, kept: partial(curve, model, kept.batch_stats["train_inputs"])
    )


def load_packed(path: str | Path) -> prediction.Packed:
    """The mode, that of ste, or the committee of a run at one bit a weight, without its natural parameters.

    Raises:
        ValueError, OSError: what `kept.load_packed` refuses.
    """
    return full_batch.load_packed(
        path, "regression", lambda model, kept: partial(curve, model, kept.batch_stats["train_inputs"])
    )
