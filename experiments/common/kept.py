"""The networks that a run keeps: a file for each, with the config of the run, by which it is known again.

network-SEED.safetensors            the posterior
network-SEED.packed.safetensors     its mode at one bit a weight, with the statistics of its own batch norms
committee-SEED.packed.safetensors   networks drawn from a posterior that lives, each with statistics of its own
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

import bbinn_jax as bb
from experiments.common import devices

COMMITTEE = 16  # networks
LIVES = 0.01  # bits a weight: networks drawn from a posterior of less are all the same, but for a weight or two

Packed = tuple[Any, Any]  # weights, and what their batch norms predict with: of one network, or [network, ...]


def counts(natural: Any, real: Any = None) -> dict[str, int]:
    """How many weights a network has, as results.json says it."""
    binary, others = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (natural, real))
    return {"num_binary_weights": binary, "num_real_parameters": others}


def save(
    out: Path, name: object, experiment: str, network: bb.Posterior, packed: Mapping[str, Packed] = MappingProxyType({})
) -> None:
    """Writes network-NAME.safetensors; the network's config, which `runs.kept_config` gives, then says whose it is.

    ``packed`` goes beside it: by the beginning of its file's name, "network" or "committee".
    """
    network = network._replace(config={"experiment": experiment, **network.config})
    devices.on_first(partial(bb.save_posterior, out / f"network-{name}.safetensors", network))
    for kind, (weights, batch_stats) in packed.items():
        record = bb.PackedNetwork(weights, network.real, batch_stats, network.config)
        devices.on_first(partial(bb.save_packed, out / f"{kind}-{name}.packed.safetensors", record))


def packed(natural: Any, batch_stats: Any, draw: Callable[[], Packed] | None) -> dict[str, Packed]:
    """What `save` writes beside a network of binary weights.

    Args:
        natural: natural parameters, or what else the mode is made of.
        batch_stats: what the batch norms of the mode predict with.
        draw: gives a committee; it is asked for one where the posterior lives. None where there is no posterior.
    """
    mode = {"network": (bb.pack(bb.mode(natural)), batch_stats)}
    if draw is None or bb.diagnostics.entropy_bits_per_weight(natural) < LIVES:
        return mode
    return mode | {"committee": draw()}


def committee(statistics: Callable[[Any], Any], key: jax.Array, natural: Any, num_networks: int = COMMITTEE) -> Packed:
    """The first networks that are drawn with a key; ``statistics(weights)`` is what one's batch norms predict with."""
    weights = bb.sample_packed(key, natural, num_networks)
    return weights, jax.lax.map(lambda of_one: statistics(bb.unpack(of_one)), weights)


def load(path: str | Path, experiment: str) -> bb.Posterior:
    """Reads a network that a run of an experiment has kept.

    Raises:
        ValueError: it is another experiment's or no experiment's, or what `bbinn_jax.load_posterior` refuses.
        OSError: a folder, or no file.
    """
    return _of(experiment, path, bb.load_posterior, "network-SEED.safetensors")


def load_packed(path: str | Path, experiment: str) -> bb.PackedNetwork:
    """Reads the mode, or a committee, that a run of an experiment has kept at one bit a weight.

    Raises:
        ValueError: it is another experiment's or no experiment's, or what `bbinn_jax.load_packed` refuses.
        OSError: a folder, or no file.
    """
    return _of(experiment, path, bb.load_packed, "network-SEED.packed.safetensors")


def _of(experiment: str, path: str | Path, read: Callable[[Path], Any], wanted: str) -> Any:
    path = Path(path)
    if path.is_dir():
        of_kind = [x.name for x in path.glob("*.safetensors") if (".packed." in x.name) == (".packed." in wanted)]
        inside = ", ".join(sorted(of_kind)) or "none"
        raise IsADirectoryError(f"path must name a {wanted}, got the folder {path}, which has {inside}")
    network = read(path)
    config = network.config if isinstance(network.config, dict) else {}
    found = config.get("experiment", experiment if "preset" in config else "no experiment")  # files of old do not say
    if found != experiment:
        raise ValueError(f"{path} must be a network of {experiment}, got one of {found}")
    return network
