"""The command line: a frozen dataclass and its presets become flags.

A field whose type is a union of dataclasses is a choice, as ``method: BayesBiNN | STE``: its flag names one of them,
and the flags of the others are then unknown. What has been chosen is JSON as one flat object.
"""

import argparse
import contextlib
import dataclasses
import io
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tyro

from experiments.common.endings import user_errors

Config = TypeVar("Config")
_CHOOSE = "Choose among these; the flags below are those of what is chosen:"

LARGEST = 2**31 - 1
# More is a slip of the finger, and beyond memory, or beyond 2**31 steps or weights of a layer.
MOST_SEEDS, MOST_SAMPLES, MOST_EPOCHS, MOST_WIDTH, MOST_EVAL_SAMPLES = 1000, 10_000, 30_000, 30_000, 1_000_000
BELOW_ONE = (0, 1, 1)  # a rate, or the decay of an average: at 1, also after rounding, nothing would ever change


@dataclasses.dataclass(frozen=True)
class Run:
    """What every run has."""

    preset: str = ""
    """Chooses where the other fields start from."""
    seed: int = 0
    """Seeds everything random: data, initialization, order, samples."""
    out: Path | None = None
    """Names the run folder. Default: a folder in runs, named after experiment, preset, method and seed."""
    overwrite: bool = False
    """Replaces a run that is already in that folder."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        check_ranges(self, (("seed", 0, 2**32 - 1),))


def parse(
    config_class: type[Config], presets: Mapping[str, Callable[..., Config]], prog: str, argv: list[str] | None = None
) -> Config:
    """The config that a command line asks for.

    ``--preset``, ``--method`` and the flags of other choices choose the defaults, each other flag changes one field.
    What is wrong is said in one line, with exit code 2.

    Args:
        config_class: a frozen dataclass with a field ``preset``.
        presets: ``presets[name](method)`` gives a config, or ``presets[name]()`` where there is no choice of a method.
            The first is the default.
        prog: the command, for the help text.
        argv: arguments; default: those of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    box = io.StringIO()
    with user_errors():
        preset = _chosen(argv, "preset", presets, next(iter(presets)))
        options = {field: list(kinds) for field, kinds in _choices(config_class)}
        if "method" in options:
            default = presets[preset](_chosen(argv, "method", options["method"], options["method"][0]))
        else:
            default = presets[preset]()
        default = _with_choices(default, argv)
        texts = [
            f"--preset: {', '.join(presets)}",
            *(f"--{field}: {', '.join(names)}" for field, names in options.items()),
        ]
        try:
            with contextlib.redirect_stderr(box):
                return tyro.cli(
                    config_class,
                    default=default,
                    prog=prog,
                    args=argv,
                    description="\n".join([config_class.__doc__ or "", "", _CHOOSE, *texts]),
                    config=(tyro.conf.AvoidSubcommands, tyro.conf.OmitArgPrefixes),
                )
        except SystemExit as stop:
            if not stop.code:
                raise
            if type(stop.__context__) is ValueError:  # of the config: tyro's frame would break it after 80 characters
                raise stop.__context__ from None
            message = _one_line(box.getvalue()).removeprefix(f"Error parsing {config_class.__name__}: ")
            if message.startswith("Unrecognized") and options:
                message += f" (with {' '.join(f'--{field} {value}' for field, value in _names(default))})"
            raise ValueError(message) from None
    raise AssertionError("user_errors ends the program")


def _choices(kind: type) -> Iterator[tuple[str, dict[str, type]]]:
    """The choices in a dataclass, and in those to choose from: field, and the dataclasses by name."""
    for field, hint in typing.get_type_hints(kind).items():
        options = {option.name: option for option in typing.get_args(hint) or [hint] if _is_choice(option)}
        if options:
            yield field, options
        for option in options.values():
            yield from _choices(option)


def _is_choice(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and hasattr(value, "name")


def _chosen(argv: list[str], flag: str, options: Iterable[str], default: str) -> str:
    """The value of a flag that stands among others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{flag}", default=default)
    value = default
    with contextlib.suppress(argparse.ArgumentError):  # a flag without its value: tyro says so
        value = getattr(parser.parse_known_args(argv)[0], flag)
    if value not in options:
        raise ValueError(f"--{flag} must be one of {', '.join(options)}, got {value!r}")
    return value


def _with_choices(config: Any, argv: list[str]) -> Any:
    """A config whose choices are those that the arguments name: with the defaults of what is chosen."""
    options, changes = dict(_choices(type(config))), {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if _is_choice(value):
            name = _chosen(argv, field.name, options[field.name], value.name)
            changes[field.name] = _with_choices(value if name == value.name else options[field.name][name](), argv)
    return dataclasses.replace(config, **changes)


def _names(config: Any) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if _is_choice(value):
            yield field.name, value.name
            yield from _names(value)


def _one_line(box: str) -> str:
    """The first paragraph of tyro's framed message, without its title."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]

    def is_rule(line: str) -> bool:
        return not line.strip("─-")

    return " ".join(takewhile(lambda line: not is_rule(line), dropwhile(is_rule, lines)))


# As JSON --------------------------------------------------------------------------------------------------------------


def flat(config: Any) -> dict[str, Any]:
    """Every field of a config in one flat dict, as JSON will have it; a choice is its name and the fields of it."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not dataclasses.is_dataclass(value):
            fields[field.name] = (
                list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
            )
            continue
        inner = flat(value)
        fields |= ({field.name: inner.pop("name")} if _is_choice(value) else {}) | inner
    return fields


def of_flat(kind: type[Config], fields: dict[str, Any]) -> Config:
    """The config that `flat` made a dict of; other keys are left out, and a field that is missing has its default."""
    options = dict(_choices(kind))
    values: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        if name in options:
            if fields.get(name) in options[name]:
                values[name] = of_flat(options[name][fields[name]], fields | {"name": fields[name]})
        elif dataclasses.is_dataclass(hint):
            values[name] = of_flat(hint, fields)  # type: ignore[arg-type]
        elif name in fields:
            values[name] = tuple(fields[name]) if isinstance(fields[name], list) else fields[name]
    return kind(**values)


# Ranges ---------------------------------------------------------------------------------------------------------------
def check_ranges(config: Any, rows: Iterable[tuple[str, float, float | None, *tuple[float, ...]]]) -> None:
    """Raises ValueError for the first field that is out of its range; fields that are None have none.

    Args:
        config: a dataclass. Each float in it must be 0, or finite and not 0 after rounding to float32.
        rows: ``(name, low, high, *without)``, for numbers in [low, high], or from low on where high is None; those
            that float32 cannot tell from a number in without are refused as well.
    """
    rows = tuple(rows)
    not_zero = {name for name, low, _, *without in rows if low > 0 or 0 in without}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not (value == 0 or 1.2e-38 <= abs(value) <= 3.4e38):
            zero = "" if field.name in not_zero else "0, or "
            raise ValueError(f"{field.name} must be {zero}finite and above 1e-38 in float32, got {value!r}")
    for name, low, high, *without in rows:
        value = getattr(config, name)
        if value is None:
            continue
        rounded = float(np.float32(value)) if isinstance(value, float) else value
        if not low <= value <= (sys.float_info.max if high is None else high) or rounded in without:
            wanted = f"at least {low}" if high is None else f"between {low} and {high}"
            but = f" and, in float32, not {' or '.join(map(str, without))}" if without else ""
            raise ValueError(f"{name} must be {wanted}{but}, got {value!r}")


def check_resume(config: Any) -> None:
    """Raises ValueError where a run is to be continued and replaced."""
    if config.overwrite and config.resume:
        raise ValueError("resume must not be given together with overwrite, got both")


def check_widths(config: Any, name: str) -> None:
    """Raises ValueError unless a field holds widths of layers, at least one."""
    widths = getattr(config, name)
    if not widths or min(widths) < 1 or max(widths) > MOST_WIDTH:
        raise ValueError(f"{name} must be widths between 1 and {MOST_WIDTH}, got {widths!r}")
