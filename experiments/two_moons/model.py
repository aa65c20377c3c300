"""The network of two half moons, and one that was kept."""

from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.common import full_batch, prediction


def logits(model: nn.Module, weights: Any, points: jax.Array) -> jax.Array:
    """The logits of class 0, always 0, and of class 1, [n, 2]."""
    logit: Any = model.apply({"params": weights}, points)
    return jnp.stack([jnp.zeros_like(logit), logit], axis=-1)


def load_network(path: str | Path) -> prediction.Network:
    """A network that a run has kept: posterior, ``apply_fn(weights, points)``, and points as they are.

    The mean in results.json is of networks drawn with ``jax.random.split(jax.random.key(seed))[1]``.

    Args:
        path: network-SEED.safetensors of a run folder, or network-ste-SEED.safetensors.

    Raises:
        ValueError, OSError: what `kept.load` refuses.
    """
    return full_batch.load_network(path, "two_moons", lambda model, posterior: partial(logits, model))


def load_packed(path: str | Path) -> prediction.Packed:
    """The mode, that of ste, or the committee of a run at one bit a weight, without its natural parameters.

    Raises:
        ValueError, OSError: what `kept.load_packed` refuses.
    """
    return full_batch.load_packed(path, "two_moons", lambda model, network: partial(logits, model))
