"""The command line: a frozen dataclass and its presets become flags."""

import argparse
import contextlib
import io
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, TypeVar

import tyro

from experiments.common.endings import printable, user_errors

Config = TypeVar("Config")


def parse(
    config_class: type[Config],
    presets: Mapping[str, Callable[..., Config]],
    methods: tuple[str, ...],
    prog: str,
    argv: list[str] | None = None,
) -> Config:
    """The config that a command line asks for.

    ``--preset`` and ``--method`` choose the defaults, each other flag changes one field.
    What is wrong is said in one line, with exit code 2. From here on compiled programs are kept.

    Args:
        config_class: a frozen dataclass with a field ``preset``, and ``method`` where there are methods.
        presets: ``presets[name](method)`` gives a config, or ``presets[name]()``. The first is the default.
        methods: names of methods, or none. The first is the default.
        prog: the command, for the help text.
        argv: arguments; default: those of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    keep_compiled_programs()
    choices = {"preset": tuple(presets)} | ({"method": methods} if methods else {})
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, values in choices.items():
        first.add_argument(f"--{name}", default=values[0])
    chosen, _ = first.parse_known_args([])
    with contextlib.suppress(argparse.ArgumentError):  # a flag without its value: tyro says so below
        chosen, _ = first.parse_known_args(argv)
    box = io.StringIO()
    with user_errors():
        for name, values in choices.items():
            if getattr(chosen, name) not in values:
                raise ValueError(f"--{name} must be one of {', '.join(values)}, got {getattr(chosen, name)!r}")
        preset, *method = (getattr(chosen, name) for name in choices)
        default = presets[preset](*method)
        try:
            with contextlib.redirect_stderr(box):
                return tyro.cli(config_class, default=default, prog=prog, args=argv)
        except SystemExit as stop:
            if not stop.code:
                raise
            if type(stop.__context__) is ValueError:  # of the config: tyro's frame would break it after 80 characters
                raise stop.__context__ from None
            message = _one_line(box.getvalue())
            raise ValueError(message.removeprefix(f"Error parsing {config_class.__name__}: ")) from None
    raise AssertionError("user_errors ends the program")


def keep_compiled_programs() -> None:
    """Keeps compiled programs for the next run of the same, in JAX_COMPILATION_CACHE_DIR or in ~/.cache/bbinn_jax.

    Not with JAX_ENABLE_COMPILATION_CACHE=false. Each host has a folder: another's CPU may not know the instructions.
    What lies in that folder is run as it is and nothing checks where it came from: whoever can write there can run
    code as you. So it must be yours alone.
    """
    import jax  # not above: the report has no use for it

    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bbinn_jax" / platform.node()
        cache.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # no such place, or no home
        print(f"compiled programs are not kept: {printable(str(error))}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    warnings.showwarning = partial(_show_or_mend, warnings.showwarning, cache)


def _show_or_mend(show: Callable[..., None], cache: Path, message: Warning | str, *where: Any) -> None:
    """Removes a program that was written in part, so that it is compiled and kept anew; shows any other warning.

    But for one that says that the disk is full: a run does without.
    """
    if str(message).startswith("Error writing persistent compilation cache entry"):
        return
    damaged = re.match(r"Error reading persistent compilation cache entry for '(\w+)'", str(message))
    if damaged is None:
        show(message, *where)
        return
    for path in cache.glob(f"{damaged[1]}-*"):
        path.unlink(missing_ok=True)


def _one_line(box: str) -> str:
    """The first paragraph of tyro's framed message, without its title."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]

    def is_rule(line: str) -> bool:
        return not line.strip("─-")

    return " ".join(takewhile(lambda line: not is_rule(line), dropwhile(is_rule, lines)))
