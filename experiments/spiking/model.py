"""Spiking networks that a run has kept."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import kept, prediction
from experiments.common.config import of_flat
from experiments.common.methods import METHODS
from experiments.spiking import data, neuron
from experiments.spiking.presets import Config

NAME = "spiking"


def title(row: dict[str, Any]) -> str:
    """Of a predictor, in tables and figures."""
    label = METHODS[row["method"]].label
    return f"{label}, {row['predictor']}" if row["method"] == "bayesbinn" else label


def file_name(method: str, seed: int) -> str:
    """What stands between "network-" and ".safetensors"."""
    return str(seed) if method == "bayesbinn" else f"{method}-{seed}"


class Keys(NamedTuple):
    """The keys of a seed: of its readouts, of the spikes of training and of others, of training, of the committee."""

    readouts: jax.Array
    train_spikes: jax.Array
    spikes: jax.Array
    fit: jax.Array
    committee: jax.Array


def keys_of(seed: Any) -> Keys:
    """The keys of a seed."""
    return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))


def log_probabilities(
    network: neuron.Network, burn_in: int, readouts: dict[str, jax.Array], weights: Any, spikes: jax.Array
) -> jax.Array:
    """What a network says of examples, [n, class], as logits: their softmax is the mean over time of probabilities."""
    return jnp.log(neuron.answer(network, list(readouts.values()), burn_in, weights, spikes).probabilities)


def load_network(path: str | Path) -> prediction.Network:
    """A network that a run has kept: posterior, ``apply_fn(weights, spikes)``, and what draws spikes of examples.

    Examples are points [n, 2], or pixels [n, 64] in [0, 1]. Their spikes, [time, n, neuron], are those of the run's
    test if they are its test examples. The committee in results.json is drawn with ``keys_of(seed).committee``.

    Args:
        path: network-SEED.safetensors of a run folder, network-ste-SEED or network-full_precision-SEED.

    Raises:
        ValueError, OSError: what `kept.load` refuses.
    """
    posterior = kept.load(path, NAME)
    config = of_flat(Config, posterior.config)
    apply_fn = partial(_apply, config, posterior.batch_stats)
    return prediction.Network(posterior, apply_fn, partial(_spikes_of, config, posterior.config))


def load_packed(path: str | Path) -> prediction.Packed:
    """The mode, that of ste, or the committee of a run at one bit a weight, without its natural parameters.

    Raises:
        ValueError, OSError: what `kept.load_packed` refuses.
    """
    network = kept.load_packed(path, NAME)
    config = of_flat(Config, network.config)

    def apply_fn(weights_and_readouts: Any, spikes: jax.Array) -> jax.Array:
        weights, readouts = weights_and_readouts
        return _apply(config, readouts, weights, spikes)

    return prediction.Packed(network, apply_fn, partial(_spikes_of, config, network.config))


def are_kept(folder: Path, config: Config, method: str) -> bool:
    """Whether a run folder has all networks of a method, and they can be read."""
    try:
        for seed in range(config.seed, config.seed + config.seeds):
            name = file_name(method, seed)
            natural = kept.load(folder / f"network-{name}.safetensors", NAME).natural
            packed = [] if method == "full_precision" else ["network"]
            if method == "bayesbinn" and bb.diagnostics.entropy_bits_per_weight(natural) >= kept.LIVES:
                packed.append("committee")
            for kind in packed:
                kept.load_packed(folder / f"{kind}-{name}.packed.safetensors", NAME)
    except (OSError, ValueError):
        return False
    return True


def _apply(config: Config, readouts: dict[str, jax.Array], weights: Any, spikes: jax.Array) -> jax.Array:
    return log_probabilities(neuron.Network(config.hidden), config.burn_in, readouts, weights, spikes)


def _spikes_of(config: Config, fields: dict[str, Any], examples: Any) -> jax.Array:
    scaled = prediction.preprocessing(fields, np.float64)(examples)
    return data.spikes_of(config.dataset, keys_of(config.seed).spikes, scaled, config.time_steps)
