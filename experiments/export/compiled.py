"""A network in C, compiled into a library that this process calls."""

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

AVX2 = ("-mavx2",)


def runs(flags: Sequence[str]) -> bool:
    """Whether this machine has a C compiler, and runs what it makes with these flags."""
    return compiler() is not None and (AVX2[0] not in flags or " avx2" in _cpuinfo())


def cpu() -> str | None:
    """The name of the processor, where the system tells it."""
    found = re.search(r"model name\s*: (.*)", _cpuinfo())
    return found[1] if found else None


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")  # of Linux
    return path.read_text() if path.exists() else ""


def compiler() -> str | None:
    """The C compiler of this machine."""
    return shutil.which(os.environ.get("CC") or "cc")


def load(
    path: Path, flags: Sequence[str], inputs: np.ndarray, shapes: Sequence[tuple[int, ...]]
) -> Callable[[], list[np.ndarray]] | None:
    """Compiles a file of `bbinn_jax.export.c`.

    Args:
        path: of the ``.c`` file.
        flags: for the compiler, besides -O2.
        inputs: float32 [batch, ...].
        shapes: of the outputs, without the batch.

    Returns:
        What computes the outputs [batch, ...] of these inputs, which the next call overwrites; None where `runs` is
        False.
    """
    if not runs(flags):
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "network.so")
        command = [str(compiler()), "-std=c99", "-O2", *flags, "-shared", "-fPIC", str(path), "-o", str(library)]
        subprocess.run([*command, "-lm"], check=True)
        run = ctypes.CDLL(str(library))[f"{path.stem}_run_batch"]
    inputs = np.ascontiguousarray(inputs)
    outputs = [np.empty((len(inputs), *shape), np.float32) for shape in shapes]
    pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (inputs, *outputs)]

    def call() -> list[np.ndarray]:
        run(ctypes.c_long(len(inputs)), *pointers)
        return outputs

    return call
