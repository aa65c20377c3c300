"""The forms that a network is written in. Each is a function of a path and of what is exported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import bbinn_jax as bb
from bbinn_jax import export
from experiments.export import npz
from experiments.export.compiled import AVX2, load
from experiments.export.functions import Exported


class Written(NamedTuple):
    """What became of it.

    Attributes:
        bytes: of the file; of C those that its arrays take.
        difference: the largest from JAX; None where nothing was computed.
        call: computes one input on one thread and gives its outputs; None where the file alone does not compute.
        notes: what else there is to say.
    """

    bytes: int
    difference: float | None
    call: Callable[[], list[np.ndarray]] | None
    notes: tuple[str, ...] = ()


def onnx(path: Path, exported: Exported, packed: bool = True) -> Written:
    """An ONNX file, at one bit a weight or with weights in float32."""
    about = exported.about
    difference = export.onnx(path, exported.fn, exported.weights, exported.pixels, packed=packed, metadata=about)
    return Written(path.stat().st_size, difference, session(path, np.asarray(exported.pixels[:1])))


def session(path: Path, inputs: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """Computes some inputs in onnxruntime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    loaded = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: loaded.run(None, {"inputs": inputs})


def c(path: Path, exported: Exported, flags: tuple[str, ...] = AVX2) -> Written:
    """A file of C and its header; its time is that of the machine's compiler, with these flags."""
    about = {"input is": exported.about["input"], "networks": exported.about["networks"]}
    footprint = export.c(path, exported.fn, exported.weights, exported.pixels, metadata=about)
    notes = (
        f"in flash {footprint.weight_bytes:,} bytes of weights and {footprint.real_bytes:,} of real parameters, "
        f"in RAM {footprint.memory_bytes:,} bytes",
        *(["not proved: there was no C compiler"] if footprint.largest_difference is None else []),
    )
    size = footprint.weight_bytes + footprint.real_bytes
    return Written(size, footprint.largest_difference, compiled(path, exported, flags), notes)


def compiled(path: Path, exported: Exported, flags: tuple[str, ...]) -> Callable[[], list[np.ndarray]] | None:
    """Computes one input in C; None where there is no compiler, or a machine without AVX2."""
    pixels = np.asarray(exported.pixels[:1])
    outputs = jax.eval_shape(_fn(exported), exported.weights, pixels)
    return load(path, flags, pixels, [x.shape[1:] for x in outputs])


def floats(path: Path, exported: Exported) -> Written:
    """A file of safetensors with the weights as +-1 in float32, computed in JAX."""
    weights = bb.unpack(exported.weights)
    bb.save_posterior(path, bb.Posterior(weights, exported.real["real"], exported.real["batch_stats"]))
    return Written(path.stat().st_size, None, _in_jax(exported, weights))


def packed(path: Path, exported: Exported) -> Written:
    """A file of safetensors with the weights as bits, computed in JAX, which unpacks them for each input."""
    bb.save_packed(path, bb.PackedNetwork(exported.weights, exported.real["real"], exported.real["batch_stats"]))
    return Written(path.stat().st_size, None, _in_jax(exported, exported.weights))


def _in_jax(exported: Exported, weights: Any) -> Callable[[], list[np.ndarray]]:
    one = np.asarray(exported.pixels[:1])
    run = jax.jit(_fn(exported)).lower(weights, one).compile()
    return lambda: list(map(np.asarray, run(weights, one)))


def _fn(exported: Exported) -> Callable[..., Any]:
    return lambda weights, pixels: exported.fn(bb.unpack(weights), pixels)


def numpy(path: Path, exported: Exported) -> Written:
    """A file of NumPy, which holds the numbers and no program."""
    npz.write(path, exported)
    notes = ("every bit and number was read again and is as it was; the file computes nothing",)
    return Written(path.stat().st_size, None, None, notes)


FORMS: dict[str, Callable[[Path, Exported], Written]] = {"onnx": onnx, "c": c, "npz": numpy}
