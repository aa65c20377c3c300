"""The networks that a run keeps: a file for each, with the config of the run, by which it is known again."""

from functools import partial
from pathlib import Path
from typing import Any

import jax

import bbinn_jax as bb
from experiments.common import devices


def counts(natural: Any, real: Any = None) -> dict[str, int]:
    """How many weights a network has, as results.json says it."""
    binary, others = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (natural, real))
    return {"num_binary_weights": binary, "num_real_parameters": others}


def save(out: Path, name: object, experiment: str, network: bb.Posterior) -> None:
    """Writes network-NAME.safetensors; the network's config, which `runs.kept_config` gives, then says whose it is."""
    network = network._replace(config={"experiment": experiment, **network.config})
    devices.on_first(partial(bb.save_posterior, out / f"network-{name}.safetensors", network))


def load(path: str | Path, experiment: str) -> bb.Posterior:
    """Reads a network that a run of an experiment has kept.

    Raises:
        ValueError: it is another experiment's or no experiment's, or what `bbinn_jax.load_posterior` refuses.
        OSError: a folder, or no file.
    """
    path = Path(path)
    if path.is_dir():
        inside = ", ".join(sorted(x.name for x in path.glob("network-*.safetensors"))) or "none"
        raise IsADirectoryError(f"path must name a network-SEED.safetensors, got the folder {path}, which has {inside}")
    network = bb.load_posterior(path)
    config = network.config if isinstance(network.config, dict) else {}
    found = config.get("experiment", experiment if "preset" in config else "no experiment")  # files of old do not say
    if found != experiment:
        raise ValueError(f"{path} must be a network of {experiment}, got one of {found}")
    return network
