"""Checks of the fields of a config: what passes can be computed with, in float32 and with counts of 32 bits."""

import dataclasses
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

LARGEST = 2**31 - 1
# More is a slip of the finger, and beyond memory, or beyond 2**31 steps or weights of a layer.
MOST_SEEDS, MOST_SAMPLES, MOST_EPOCHS, MOST_WIDTH, MOST_EVAL_SAMPLES = 1000, 10_000, 30_000, 30_000, 1_000_000
BELOW_ONE = (0, 1, 1)  # a rate, or the decay of an average: at 1, also after rounding, nothing would ever change


def check_ranges(config: Any, rows: Iterable[tuple[str, float, float | None, *tuple[float, ...]]]) -> None:
    """Raises ValueError for the first field that is out of its range; fields that are None have none.

    Args:
        config: a dataclass. Each float in it must be 0, or finite and not 0 after rounding to float32.
        rows: ``(name, low, high, *without)``, for numbers in [low, high], or from low on where high is None; those
            that float32 cannot tell from a number in without are refused as well.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not (value == 0 or 1.2e-38 <= abs(value) <= 3.4e38):
            raise ValueError(f"{field.name} must be 0, or finite and above 1e-38 in float32, got {value!r}")
    for name, low, high, *without in rows:
        value = getattr(config, name)
        if value is None:
            continue
        rounded = float(np.float32(value)) if isinstance(value, float) else value
        if not low <= value <= (sys.float_info.max if high is None else high) or rounded in without:
            wanted = f"at least {low}" if high is None else f"between {low} and {high}"
            but = f" and, in float32, not {' or '.join(map(str, without))}" if without else ""
            raise ValueError(f"{name} must be {wanted}{but}, got {value!r}")


def check_widths(config: Any, name: str) -> None:
    """Raises ValueError unless a field holds widths of layers, at least one."""
    widths = getattr(config, name)
    if not widths or min(widths) < 1 or max(widths) > MOST_WIDTH:
        raise ValueError(f"{name} must be widths between 1 and {MOST_WIDTH}, got {widths!r}")
