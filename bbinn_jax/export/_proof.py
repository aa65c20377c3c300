"""An export is proved: it answers as JAX does before its file is in its place."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bbinn_jax._checks import PyTree, check_non_negative, in_one_line
from bbinn_jax.export._graph import first_line, named_outputs
from bbinn_jax.packing import unpack


def check_installed() -> None:
    """Raises ImportError, in one line, where what this needs is not installed."""
    for package in ("onnx", "jax2onnx", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f"an export needs {package}: pip install '.[export]' in the clone ({error})") from None


def check_texts(metadata: Any) -> dict[str, str]:
    """What is said beside the numbers; raises TypeError for what is no text by name."""
    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"metadata must be text by name, got {in_one_line(metadata)}")
    for name, text in (metadata or {}).items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"metadata must be text by name, got {in_one_line({name: text})}")
    return dict(metadata or {})


def expected(
    fn: Callable[[PyTree, jax.Array], Any], weights: PyTree, inputs: jax.Array
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What fn says in JAX to the inputs, and to the first of them alone, by the name of the output.

    Raises:
        ValueError: what it says to the first input depends on the others, as a batch norm in training has it.
    """
    run, weights = jax.jit(fn), unpack(weights)
    both = [named_outputs(run(weights, x)) for x in (inputs, inputs[:1])]
    outputs, alone = ({name: np.asarray(output) for name, output in x.items()} for x in both)
    for name, output in outputs.items():
        of_each = output.shape[:1] == inputs.shape[:1] and output.shape[1:] == alone[name].shape[1:]
        if of_each and not np.allclose(output[:1], alone[name], rtol=1e-3, atol=1e-3 * _size(output), equal_nan=True):
            raise ValueError(
                f"fn must answer each input by itself, got {name!r} that is another where the first input is alone: "
                "is the model in training mode (model.eval())?"
            )
    return outputs, alone


def answers(model: Path | bytes, inputs: jax.Array | np.ndarray, *, optimized: bool = True) -> dict[str, np.ndarray]:
    """What onnxruntime says to the inputs, by the name of the output; ValueError for what it cannot run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # nothing: what is wrong is raised
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {value.name: np.asarray(inputs) for value in session.get_inputs()})
    except Exception as error:  # it raises whatever it likes
        raise ValueError(f"fn must be made of what onnxruntime can run, got {first_line(error)}") from error
    return dict(zip([output.name for output in session.get_outputs()], outputs, strict=True))


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
        difference = float(distance.max(initial=0) / _size(a))
        if difference > tolerance:
            raise ValueError(
                f"the export must answer as fn does: {name!r} differs by {difference:.3g}, tolerance is {tolerance:.3g}"
            )
        largest = max(largest, difference)
    return largest


def _size(output: np.ndarray) -> float:
    """The larger of 1 and the largest number."""
    return max(1.0, float(np.abs(output[np.isfinite(output)]).max(initial=0)))
