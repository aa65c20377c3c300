"""Experiments with bbinn_jax: config in, a run folder out."""

import os
import signal
import sys
import tempfile
import threading


def _end_when_interrupted() -> None:
    """Waits for Ctrl-C and ends the process with one line and exit code 130, wherever it is.

    A run may be killed at any moment and loses nothing, so there is nothing to tidy up. An exception would come up in
    the middle of an import, wait for a long program to end, or be swallowed by a callback of another library.
    """
    signal.sigwait({signal.SIGINT})
    if os.isatty(1):
        os.write(1, b"\x1b[?25h\n")  # shows the cursor, which a progress bar hides
    os.write(2, b"interrupted; the same command starts again, or with --resume goes on where it was, if it has that\n")
    os._exit(130)


if sys.argv[:1] == ["-m"]:  # of `python -m experiments.NAME`, before anything else is imported
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # in all threads to come: that thread alone gets it
    threading.Thread(target=_end_when_interrupted, daemon=True).start()
    os.environ["MPLBACKEND"] = "agg"  # that of a notebook's kernel may not be installed here
    if os.path.expanduser("~") == "~" and "MPLCONFIGDIR" not in os.environ:  # no home, where matplotlib keeps things
        _instead = tempfile.TemporaryDirectory()  # for as long as the process runs
        os.environ["MPLCONFIGDIR"] = _instead.name
