"""How a command ends: in one line and an exit code, whatever the user gave and whatever a machine runs out of."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Ends a command in one line and an exit code where the machine runs out of something, not in a traceback.

    The exit code is 1; it is 2 for what the user gave (see `user_errors`) and 130 for an interrupt (see
    `experiments`). An error's notes are part of the line. What else is raised is a mistake of ours and is shown whole.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever characters the terminal has
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(1) from None
    except Exception as error:
        of_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")  # too little memory, as a rule
        if not (of_jax or isinstance(error, OSError | MemoryError | FloatingPointError | OverflowError)):
            raise
        memory = ["out of memory"] if isinstance(error, MemoryError) else []
        notes = [note for note in getattr(error, "__notes__", ()) if "\n" not in note]  # those of JAX are pages
        text = "; ".join([*memory, first_line(error), *notes])
        raise SystemExit(f"error: {printable(text)}") from error


# What a machine runs out of, whatever the user gave.
RUNS_OUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EPIPE, errno.ENOMEM)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with one line and exit code 2: for the part that checks what the user gave."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        if getattr(error, "errno", None) in RUNS_OUT:
            raise
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from error


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line of at most 200 characters."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:95]} ... {line[-100:]}"


def printable(text: str) -> str:
    """The text as one line for any terminal: a path may hold ends of lines, escape codes, or bytes that are no text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
