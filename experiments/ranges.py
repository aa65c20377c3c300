"""Checks of the fields of a config."""

import sys
from typing import Any


def check_range(config: Any, name: str, low: float, high: float | None = None) -> None:
    """Raises ValueError unless a field is None or in [low, high]; without high it must be finite."""
    value = getattr(config, name)
    if value is not None and not low <= value <= (sys.float_info.max if high is None else high):
        wanted = f"finite and at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def check_widths(config: Any, name: str) -> None:
    """Raises ValueError unless a field holds widths of layers, at least one."""
    widths = getattr(config, name)
    if not widths or min(widths) < 1:
        raise ValueError(f"{name} must be widths of at least 1, got {widths!r}")
