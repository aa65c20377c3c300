"""An export is proved: it answers as JAX does before its file is in its place."""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bbinn_jax._checks import PyTree, check_non_negative
from bbinn_jax.export._graph import named_outputs
from bbinn_jax.packing import unpack


def check_installed() -> None:
    """Raises ImportError, in one line, where what this needs is not installed."""
    for package in ("onnx", "jax2onnx", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f"an export needs {package}: pip install 'bbinn_jax[export]' ({error})") from None


def expected(fn: Callable[[PyTree, jax.Array], Any], weights: PyTree, inputs: jax.Array) -> dict[str, np.ndarray]:
    """What fn says in JAX, by the name of the output."""
    outputs = named_outputs(jax.jit(fn)(unpack(weights), inputs))
    return {name: np.asarray(output) for name, output in outputs.items()}


def largest_difference(expected: dict[str, np.ndarray], found: dict[str, np.ndarray], tolerance: float) -> float:
    """The largest difference over the outputs, each in units of the larger of 1 and its own largest number.

    Raises:
        ValueError: a difference above the tolerance, or an output that is not there or of another shape.
    """
    tolerance, largest = check_non_negative("tolerance", tolerance), 0.0
    for name, wanted in expected.items():
        got = found.get(name)
        if got is None or got.shape != wanted.shape:
            shape = "not there" if got is None else f"of shape {got.shape}"
            raise ValueError(f"the export must answer as fn does: {name!r} is {shape}, and in JAX {wanted.shape}")
        a, b = (np.asarray(x, np.float64) for x in (wanted, got))
        alike = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            distance = np.where(alike, 0, np.where(np.isfinite(a) & np.isfinite(b), np.abs(a - b), np.inf))
        scale = max(1, np.abs(a[np.isfinite(a)]).max(initial=0))
        difference = float(distance.max(initial=0) / scale)
        if difference > tolerance:
            raise ValueError(
                f"the export must answer as fn does: {name!r} differs by {difference:.3g}, tolerance is {tolerance:.3g}"
            )
        largest = max(largest, difference)
    return largest


@contextlib.contextmanager
def unfinished(path: str | Path) -> Iterator[Path]:
    """A place for a file beside path, which takes the place of path at the end, and is gone where that fails.

    Raises:
        IsADirectoryError: path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path must name a file, got the folder {path}")
    place = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        yield place
        place.replace(path)
    finally:
        place.unlink(missing_ok=True)
