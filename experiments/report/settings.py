"""What a resolved config, a flat JSON object, changes of another one."""

import dataclasses
import json
from typing import Any

from experiments.common.presets import METHODS, PRESETS

# What does not change what a run computes, or names it.
NOT_SETTINGS = (
    "experiment preset seed seeds split_seed out overwrite resume stop_after_epochs checkpoint_seconds data_parallel "
    "sample_parallel distributed coordinator_address num_processes process_id"
).split()


def of_preset(name: Any, method: Any) -> dict[str, Any]:
    """The resolved config of a preset of image_classification; empty where there is no such preset or method."""
    return dataclasses.asdict(PRESETS[name](method)) if name in PRESETS and method in METHODS else {}


def changes(config: dict[str, Any], base: dict[str, Any]) -> dict[str, str]:
    """The settings that both have, with another value in config: the value as one would type it.

    A setting that only one of them has belongs to another method, or to a version of the code that did not know it.

    >>> changes({"method": "ste", "hidden": [64, 64], "seed": 3}, {"method": "ste", "hidden": [32], "seed": 0})
    {'hidden': '64 64'}
    """
    shared = (name for name in config if name in base and name not in NOT_SETTINGS)
    return {name: as_typed(config[name]) for name in shared if as_typed(config[name]) != as_typed(base[name])}


def flags(changed: dict[str, str]) -> str:
    """The flags that ask for these settings."""
    words = {"true": "--{}", "false": "--no-{}"}
    return " ".join(words.get(x, f"--{{}} {x}").format(name.replace("_", "-")) for name, x in changed.items())


def as_typed(value: Any) -> str:
    """A value of JSON, or what becomes one, as one would type it: ``64 64``, ``0.001``, ``none``."""
    if isinstance(value, list | tuple):
        return " ".join(map(as_typed, value))
    if value is None or isinstance(value, str):
        return value or "none"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
