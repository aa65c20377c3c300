r"""Any function of binary weights as an ONNX file, at one bit a weight.

    w[i] = 2 (byte[i // 8] >> (i % 8) & 1) - 1

Standard operators of ONNX say so inside the file (BitShift, BitwiseAnd, Cast, Mul, Sub, Reshape), so that whatever
runs ONNX runs it, and nothing of JAX or of this library is needed. A runtime such as onnxruntime unpacks the weights
once, when it loads the file: small on disk and on the way, and afterwards as fast as the float model, and as large.
"""

import json
from collections.abc import Callable, Mapping
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp  # noqa: F401 (of the examples)
import numpy as np

from bbinn_jax._boxes import named_leaves
from bbinn_jax._checks import PyTree, check_non_negative
from bbinn_jax._file import unfinished
from bbinn_jax.export._graph import check_inputs, graph
from bbinn_jax.export._proof import answers, check_installed, check_texts, expected, largest_difference
from bbinn_jax.packing import Packed, pack

FORMAT = "bbinn_jax onnx 1"
ORDER = "row-major, least significant bit first, 1 is +1, the last byte filled with zeros"


def onnx(
    path: str | Path,
    fn: Callable[[PyTree, jax.Array], Any],
    weights: PyTree,
    inputs: jax.Array,
    *,
    tolerance: float = 1e-4,
    packed: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> float:
    """Writes a function as an ONNX file that keeps each binary weight as a bit, and proves that it answers as JAX does.

    Args:
        path: of the file; one that is there is replaced.
        fn: ``fn(weights, inputs)`` gives an array, which the file calls "output", or a NamedTuple of arrays, whose
            fields name the outputs (a `Prediction`). Of a committee it sees weights [S, ...]. What else it needs, such
            as real parameters and statistics of batch norms, it has in itself; the file has it as float32.
        weights: any pytree of arrays of -1 and +1, or of what `pack` and `sample_packed` make of them. These leaves
            are kept as bits, and no others.
        inputs: a batch [batch, ...]; the file takes any number of them, under the name "inputs".
        tolerance: the largest difference between onnxruntime and JAX that is accepted on the inputs and on the first
            of them alone, for each output in units of the larger of 1 and its own largest number.
        packed: False keeps the weights as float32, to compare.
        metadata: text by name that is kept in the file.

    Returns:
        The largest difference that was found, in these units.

    Raises:
        ValueError: weights that are not -1 or +1, or that fn does not use; a primitive of JAX that ONNX does not know;
            a function of one number of inputs alone; a difference above the tolerance. No file is left then.
        TypeError: an fn that is no function or returns something else than arrays, metadata that is no text.
        ImportError: the extra ``export`` is not installed.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "linear.onnx"
    >>> weights = {"w": jnp.array([[1.0, -1.0], [1.0, 1.0]])}
    >>> onnx(path, lambda weights, x: x @ weights["w"], weights, jnp.eye(2))
    0.0
    >>> import onnxruntime                                                          # all that it takes to run it
    >>> onnxruntime.InferenceSession(path).run(None, {"inputs": np.array([[2, 3]], np.float32)})
    [array([[5., 1.]], dtype=float32)]
    """
    check_non_negative("tolerance", tolerance)
    texts = check_texts(metadata)
    check_installed()
    with unfinished(path) as place:
        model, _ = graph(fn, weights, inputs)
        bits = _bits(weights) if packed else {}
        model.producer_name, model.producer_version = "bbinn_jax", installed.version("bbinn_jax")
        _set_metadata(model, bits, texts)
        for name, (array, size) in bits.items():
            _pack_initializer(model, name, array, size)
        del model.graph.value_info[:]  # runtimes infer it
        place.write_bytes(model.SerializeToString())
        batch = check_inputs(inputs)
        parts = zip((batch, batch[:1]), expected(fn, weights, batch), strict=True)
        return max(largest_difference(wanted, answers(place, part), tolerance) for part, wanted in parts)


def _bits(weights: PyTree) -> dict[str, tuple[np.ndarray, int]]:
    """Of each leaf the bytes [..., bytes], and how many weights are in a row of them."""
    found = {}
    for name, _, leaf in named_leaves(weights, is_leaf=lambda x: isinstance(x, Packed)):
        leaf = leaf if isinstance(leaf, Packed) else pack(leaf)
        found[f"weights/{name}".rstrip("/")] = np.asarray(leaf.bits), int(np.prod(leaf.shape))
    return found


def _set_metadata(model: Any, bits: dict[str, Any], texts: dict[str, str]) -> None:
    """What a reader wants to know, as text in the file."""
    from onnx import helper

    names = {f"{kind}s": json.dumps([x.name for x in getattr(model.graph, kind)]) for kind in ("input", "output")}
    kept = {"bits": json.dumps([f"{name}/bits" for name in bits]), "bit_order": ORDER} if bits else {}
    helper.set_model_props(model, {**texts, "format": FORMAT, **names, **kept})


def _pack_initializer(model: Any, name: str, bits: np.ndarray, size: int) -> None:
    """Puts bits and the operators that unpack them into the place of a float initializer.

    Args:
        model: an `onnx.ModelProto`.
        name: of the initializer, and from now on of what is unpacked.
        bits: uint8 [..., bytes].
        size: how many weights a row of bytes has; they may end within a byte.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    (old,) = (x for x in graph.initializer if x.name == name)
    graph.initializer.remove(old)

    def constant(title: str, *numbers: int, dtype: Any = np.int64) -> str:
        if title not in [x.name for x in graph.initializer]:
            graph.initializer.append(numpy_helper.from_array(np.array(numbers, dtype), title))
        return title

    graph.initializer.append(numpy_helper.from_array(bits, f"{name}/bits"))
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Unsqueeze", [f"{name}/bits", constant("bits/last", -1)], {}),  # [..., bytes, 1]
        ("BitShift", [constant("bits/places", *range(8), dtype=np.uint8)], {"direction": "RIGHT"}),  # [..., bytes, 8]
        ("BitwiseAnd", [constant("bits/one", 1, dtype=np.uint8)], {}),
        ("Cast", [], {"to": 1}),
        ("Mul", [constant("bits/two", 2, dtype=np.float32)], {}),
        ("Sub", [constant("bits/shift", 1, dtype=np.float32)], {}),
    ]
    if size % 8:
        row, zero = constant(f"{name}/row", *bits.shape[:-1], -1), constant("bits/zero", 0)
        steps += [("Reshape", [row], {}), ("Slice", [zero, constant(f"{name}/size", size), "bits/last"], {})]
    steps.append(("Reshape", [constant(f"{name}/shape", *old.dims)], {}))
    value: list[str] = []
    for position, (op, inputs, attributes) in enumerate(steps):
        output = f"{name}/{position}" if position + 1 < len(steps) else name
        graph.node.insert(position, helper.make_node(op, [*value, *inputs], [output], **attributes))
        value = [output]
