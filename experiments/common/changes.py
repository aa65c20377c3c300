"""What a resolved config, a flat JSON object, changes of another one."""

import json
from typing import Any

from experiments.common import runs
from experiments.common.config import flat
from experiments.common.methods import METHODS
from experiments.common.presets import PRESETS

# What does not change what a run computes, or names it.
NOT_SETTINGS = (*runs.NOT_OF_THE_RUN, "experiment", "preset", "seed", "seeds", "split_seed")


def of_preset(name: Any, method: Any) -> dict[str, Any]:
    """The resolved config of a preset of image_classification; empty where there is no such preset or method."""
    return flat(PRESETS[name](method)) if name in PRESETS and method in METHODS else {}


def changes(config: dict[str, Any], base: dict[str, Any], every: bool = False) -> dict[str, str]:
    """The settings with another value in config than in base: the value as one would type it.

    Of those that only config has, which belong to another method or version of the code, with ``every`` alone.

    >>> changes({"method": "ste", "hidden": [64, 64], "seed": 3}, {"method": "ste", "hidden": [32], "seed": 0})
    {'hidden': '64 64'}
    """
    texts = {x: as_typed(config[x]) for x in config if (every or x in base) and x not in NOT_SETTINGS}
    return {x: text for x, text in texts.items() if x not in base or text != as_typed(base[x])}


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
