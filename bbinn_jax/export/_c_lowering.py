"""A float ONNX graph as statements of C that answer for one input.

Formulas are computed where they are read, a chain of them in one loop, and what a batch norm is made of stays one
scale and one shift however long the chain. A convolution is a product of its windows. All buffers share one memory,
by when each of them is needed.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bbinn_jax.export._c_values import (
    Affine,
    Buffer,
    Constant,
    Formula,
    Value,
    View,
    count,
    is_regular,
    loops,
    narrow,
    nested,
    new,
    number_text,
    order_of,
    plus,
    reads_of,
    shape_of,
    steps_of,
)
from bbinn_jax.export._proof import answers

# What a node computes of each number by itself; truth is 1 and 0. PREFIX stands for the name of the file.
_ELEMENTWISE = {
    "Add": "({} + {})",
    "Sub": "({} - {})",
    "Mul": "({} * {})",
    "Div": "({} / {})",
    "Max": "PREFIX_max({}, {})",
    "Min": "PREFIX_min({}, {})",
    "Relu": "PREFIX_max({}, 0.0f)",
    "Neg": "(-{})",
    "Abs": "fabsf({})",
    "Sign": "({0} != {0} ? {0} : (float)(({0} > 0.0f) - ({0} < 0.0f)))",
    "Sqrt": "sqrtf({})",
    "Reciprocal": "(1.0f / {})",
    "Exp": "expf({})",
    "Log": "logf({})",
    "Pow": "powf({}, {})",
    "Tanh": "tanhf({})",
    "Erf": "erff({})",
    "Sigmoid": "(1.0f / (1.0f + expf(-{})))",
    "IsInf": "(float)(isinf({}) != 0)",
    "IsNaN": "(float)(isnan({}) != 0)",
    "Equal": "(float)({} == {})",
    "Greater": "(float)({} > {})",
    "GreaterOrEqual": "(float)({} >= {})",
    "Less": "(float)({} < {})",
    "LessOrEqual": "(float)({} <= {})",
    "Not": "(float)({} == 0.0f)",
    "And": "(float)({} != 0.0f && {} != 0.0f)",
    "Or": "(float)({} != 0.0f || {} != 0.0f)",
    "Where": "({} != 0.0f ? {} : {})",
}
# Of several numbers: what to start with, and what each of them does to it.
_REDUCTIONS = {
    "Sum": ("0.0f", "s += {0};"),
    "Mean": ("0.0f", "s += {0};"),
    "SumSquare": ("0.0f", "s += {0} * {0};"),
    "Max": ("-INFINITY", "s = PREFIX_max(s, {0});"),
    "Min": ("INFINITY", "s = PREFIX_min(s, {0});"),
}
# What only puts numbers into other places, the first input's or those of all of them.
_PLACES = {
    *"Identity Dropout Cast Reshape Flatten Transpose Squeeze Unsqueeze Expand Tile".split(),
    *"Slice Split Gather GatherND GatherElements DepthToSpace SpaceToDepth".split(),
}
_UNKNOWN = "fn must be made of operators that C is written for, got "


@dataclass(eq=False)
class Step:
    """Statements that read ``x0``, ``x1``, ... and write ``y``; ``row`` is room for what lies between."""

    title: str
    reads: list[Buffer]
    y: Buffer
    lines: list[str]
    row: Buffer | None = None
    in_place_of: Buffer | None = None

    def writes(self) -> list[Buffer]:
        """What it changes."""
        return [self.y, self.row] if self.row else [self.y]


@dataclass
class Program:
    """What goes into the file.

    Attributes:
        inputs, outputs: the arguments of the function, with their shapes.
        steps: its statements, in order.
        bits: packed weights by name, (what they are, bytes); reals: real parameters by name.
        memory: how many numbers all buffers take.
    """

    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    bits: dict[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    reals: dict[str, np.ndarray] = field(default_factory=dict)
    memory: int = 0

    def bytes(self) -> tuple[int, int, int]:
        """Of packed weights, of real parameters, and of memory."""
        packed = sum(content.nbytes for _, content in self.bits.values())
        return packed, sum(numbers.nbytes for numbers in self.reals.values()), 4 * self.memory


def lower(model: Any, binary: set[str], example: np.ndarray) -> Program:
    """The statements for what a model computes of one input.

    Args:
        model: an `onnx.ModelProto` of float32.
        binary: the names of its initializers that are weights of +1 and -1.
        example: an input [1, ...].

    Raises:
        ValueError: an operator that C is not written for, by name.
    """
    from onnx import numpy_helper

    tensors = run(model, [name for node in model.graph.node for name in node.output if name], example)
    tensors |= {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    tensors |= {value.name: example for value in model.graph.input}
    lowering = _Lowering(model, tensors, binary)
    for node in model.graph.node:
        lowering.node(node)
    for output in model.graph.output:
        lowering.output(output.name)
    _assign(lowering.program)
    return lowering.program


def run(model: Any, names: Sequence[str], inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What nodes of a model give, by the name of the output, in onnxruntime."""
    import onnx

    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.output[:]
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return answers(wide.SerializeToString(), inputs, optimized=False)


class _Lowering:
    """Goes from node to node; ``values`` has what each name stands for."""

    def __init__(self, model: Any, tensors: dict[str, np.ndarray], binary: set[str]) -> None:
        self.program, self.tensors, self.opsets = Program(), tensors, model.opset_import
        self.readers = Counter(name for node in model.graph.node for name in node.input)
        self.readers.update(output.name for output in model.graph.output)
        self.values: dict[str, Value] = {}
        for tensor in model.graph.initializer:
            self.values[tensor.name] = Constant(tensors[tensor.name], tensor.name if tensor.name in binary else "")
        for value in model.graph.input:
            shape = self.program.inputs[value.name] = tensors[value.name].shape
            self.values[value.name] = new(shape, argument=value.name)

    def node(self, node: Any) -> None:
        """Gives the outputs of a node their values."""
        from onnx import helper

        op, values = node.op_type, [self.values[name] for name in node.input if name]
        if op == "Shape" or all(isinstance(value, Constant) for value in values):
            return self.constant(node, values)
        if not all(self.tensors[name].size for name in node.output if name):
            raise ValueError(f"{_UNKNOWN}{op} that gives no numbers")
        if op in _PLACES:
            return self.place(node, values)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        shape, known = self.tensors[node.output[0]].shape, _OPERATORS.get(op)
        if op in _ELEMENTWISE:
            value = self.elementwise(op, values, shape)
        elif known is not None and node.domain == "" and len(node.output) == 1:
            value = known(self, op, values, attributes, shape)
        else:
            way = ": say a loop over networks by jax.vmap" if op in ("Loop", "Scan") else ""
            raise ValueError(f"{_UNKNOWN}{op}{way}")
        if self.readers[node.output[0]] > 1:
            value = self.view(value)
        self.values[node.output[0]] = value

    def output(self, name: str) -> None:
        """The last statements write the outputs."""
        tensor = self.tensors[name]
        if tensor.dtype != np.float32:
            raise ValueError(f"fn must return float32 to go into C, got {tensor.dtype} as {name!r}")
        self.program.outputs[name] = tensor.shape
        self.compute(self.values[name], f"output {name}", new(tensor.shape, argument=name))

    def constant(self, node: Any, values: Sequence[Value]) -> None:
        """What needs no input is known. Weights stay weights where they only change places."""
        names = list(dict.fromkeys(value.weight for value in values if isinstance(value, Constant) and value.weight))
        if node.op_type == "Shape":
            names = []
        stay = all(np.all(abs(self.tensors[name].astype(np.float64)) == 1) for name in node.output if name)
        if names and not (stay and node.op_type in _PLACES | {"Concat"}):
            raise ValueError(f"weights must stay +1 and -1 to be bits in C, got {node.op_type} of {names[0]!r}")
        for name in filter(None, node.output):
            self.values[name] = Constant(self.tensors[name], ", ".join(names))

    def place(self, node: Any, values: Sequence[Value]) -> None:
        """The node is run, of places instead of numbers."""
        before, after = (self.tensors[name].dtype for name in (node.input[0], node.output[0]))
        if before != after and (before, after) != (np.dtype(bool), np.dtype(np.float32)):
            raise ValueError(f"{_UNKNOWN}Cast from {before} to {after}")
        if node.op_type in ("Identity", "Dropout", "Cast"):
            self.values[node.output[0]] = values[0] if self.readers[node.output[0]] < 2 else self.view(values[0])
            return
        if isinstance(values[0], Constant) or not all(isinstance(value, Constant) for value in values[1:]):
            raise ValueError(f"{_UNKNOWN}{node.op_type} at places that depend on inputs")
        x = self.view(values[0])
        places = self.run(node, x.places)
        if not all(map(is_regular, places)):  # no loop goes there: a copy is easier to cut up
            x = self.compute(x, f"copy for {node.op_type}", new(x.places.shape))
            places = self.run(node, x.places)
        for name, p in zip(node.output, places, strict=True):
            if not is_regular(p):
                raise ValueError(f"{_UNKNOWN}{node.op_type} at places without a pattern")
            self.values[name] = View(x.buffer, p)

    def run(self, node: Any, places: np.ndarray) -> list[np.ndarray]:
        """What a node alone makes of places."""
        from onnx import TensorProto, helper
        from onnx.reference import ReferenceEvaluator

        feeds = {name: self.tensors[name] for name in node.input[1:] if name} | {node.input[0]: places}
        of_numpy = helper.np_dtype_to_tensor_dtype
        given = [helper.make_tensor_value_info(name, of_numpy(x.dtype), None) for name, x in feeds.items()]
        got = [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in node.output]
        model = helper.make_model(helper.make_graph([node], "node", given, got), opset_imports=self.opsets)
        return [np.asarray(x) for x in ReferenceEvaluator(model).run(None, feeds)]

    # Numbers by themselves.

    def elementwise(self, op: str, values: Sequence[Value], shape: tuple[int, ...]) -> Value:
        """A formula, or `Affine` where it is one."""
        if op in ("Max", "Min") and len(values) != 2:
            first, *others = values
            return first if not others else self.elementwise(op, (first, self.elementwise(op, others, shape)), shape)
        reals = [value.numbers for value in values if isinstance(value, Constant) and not value.weight]
        if op in ("Add", "Sub", "Mul", "Div") and len(reals) == 1:
            number_first = isinstance(values[0], Constant) and not values[0].weight
            if not (op == "Div" and number_first):
                op, x = (f"number {op}", values[1]) if number_first else (op, values[0])
                return self.affine(op, x, reals[0].astype(np.float64), shape)
        return Formula(_ELEMENTWISE[op], tuple(self.operand(value, shape) for value in values), shape)

    def affine(self, op: str, x: Value, number: np.ndarray, shape: tuple[int, ...]) -> Affine:
        """What a sum or a product of x and constant numbers makes of its scale and shift."""
        if not (isinstance(x, Affine) and x.shape == shape):
            x = Affine(self.operand(x, shape), np.ones(()), np.zeros(()), shape)
        with np.errstate(all="ignore"):  # what overflows here does so in float32 as well
            if op in ("Add", "number Add"):
                return x._replace(shift=x.shift + number)
            if op == "Sub":
                return x._replace(shift=x.shift - number)
            if op == "number Sub":
                return x._replace(scale=-x.scale, shift=number - x.shift)
            number = 1 / number if op == "Div" else number
            return x._replace(scale=x.scale * number, shift=x.shift * number)

    def operand(self, value: Value, shape: tuple[int, ...]) -> Value:
        """What a formula reads: another formula only if it need not be computed several times."""
        return value if isinstance(value, Constant) or shape_of(value) == shape else self.view(value)

    def batch_norm(self, op: str, values: Sequence[Any], attributes: dict[str, Any], shape: tuple[int, ...]) -> Value:
        x, *constants = values
        if not all(isinstance(value, Constant) for value in constants):
            raise ValueError(f"{_UNKNOWN}{op} by what depends on inputs")
        gain, bias, mean, variance = (
            value.numbers.astype(np.float64).reshape(-1, *(1,) * (len(shape) - 2)) for value in constants
        )
        scale = gain / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        y = self.elementwise("Mul", (x, Constant(scale)), shape)
        return self.elementwise("Add", (y, Constant(bias - mean * scale)), shape)

    def view(self, value: Value) -> View:
        """A value as numbers in a buffer."""
        return value if isinstance(value, View) else self.compute(value, "elementwise")

    def compute(self, value: Value, title: str, target: View | None = None) -> View:
        """Writes a value into a target, or into a buffer in the order in which what it is made of lies."""
        shape, reads = shape_of(value), reads_of(value)
        same = None
        if target is None:
            target = new(shape, order_of(value))
            same = next((x.buffer for x in reads if x.places.size == x.buffer.size == target.places.size), None)
            if not all(np.array_equal(x.places, target.places) for x in reads if x.buffer is same):
                same = None
        buffers = list(dict.fromkeys(x.buffer for x in reads))
        operands: list[tuple[str, np.ndarray]] = []
        text = self.expression(value, buffers, operands)
        places = [target.places, *(np.broadcast_to(p, shape) for _, p in operands)]
        lines, (to, *indices) = loops([p.transpose(order_of(target)) for p in places])
        text = text.format(*(name.format(index) for (name, _), index in zip(operands, indices, strict=True)))
        self.program.steps.append(
            Step(title, buffers, target.buffer, nested(lines, [f"y[{to}] = {text};"]), in_place_of=same)
        )
        return target

    def expression(self, value: Value, buffers: list[Buffer], operands: list[tuple[str, np.ndarray]]) -> str:
        """The text of a number, with "{k}" for the k-th operand: its name with "{}" for an index, and its places."""

        def read(name: str, places: np.ndarray) -> str:
            operands.append((name, places))
            return f"{{{len(operands) - 1}}}"

        if isinstance(value, View):
            return read(f"x{buffers.index(value.buffer)}[{{}}]", value.places)
        if isinstance(value, Constant) and value.weight:
            packed = np.packbits(value.numbers.reshape(-1) > 0, bitorder="little")
            return read(f"PREFIX_weight({self.bits(value.weight, packed)}, {{}})", count(value.numbers.shape))
        if isinstance(value, Constant):
            numbers = narrow(value.numbers)
            if numbers.size == 1:
                return number_text(numbers.item())
            return read(f"{self.reals(numbers)}[{{}}]", count(numbers.shape))
        if isinstance(value, Formula):
            return value.text.format(*(self.expression(x, buffers, operands) for x in value.operands))
        text = self.expression(value.x, buffers, operands)
        if np.any(value.scale != 1):
            text = f"{self.expression(Constant(value.scale), buffers, operands)} * {text}"
        if np.any(value.shift != 0):
            text = f"{text} + {self.expression(Constant(value.shift), buffers, operands)}"
        return f"({text})"

    def reals(self, numbers: np.ndarray) -> str:
        """The name of real parameters in the file; equal ones are there once."""
        numbers = numbers.astype(np.float32).reshape(-1)
        for name, there in self.program.reals.items():
            if there.tobytes() == numbers.tobytes():
                return name
        name = f"PREFIX_real{len(self.program.reals)}"
        self.program.reals[name] = numbers
        return name

    def bits(self, weight: str, packed: np.ndarray) -> str:
        """The name of packed weights in the file, in which equal ones are once."""
        for name, (_, there) in self.program.bits.items():
            if there.tobytes() == packed.tobytes():
                return name
        name = f"PREFIX_bits{len(self.program.bits)}"
        self.program.bits[name] = (weight, packed)
        return name

    # Products of matrices, and convolutions, which are products of windows.

    def matmul(self, op: str, values: Sequence[Value], attributes: dict[str, Any], shape: tuple[int, ...]) -> Value:
        if min(len(shape_of(value)) for value in values) < 2:
            raise ValueError(f"{_UNKNOWN}{op} of a vector")
        return self.product(op, *values)

    def gemm(self, op: str, values: Sequence[Value], attributes: dict[str, Any], shape: tuple[int, ...]) -> Value:
        turned = (attributes.get("transA", 0), attributes.get("transB", 0))
        a, b = (self.at(x, (1, 0)) if turn else x for x, turn in zip(values[:2], turned, strict=True))
        alpha, beta = (attributes.get(name, 1.0) for name in ("alpha", "beta"))
        y: Value = self.product(op, a, b)
        if alpha != 1:
            y = self.elementwise("Mul", (y, Constant(np.array(alpha))), shape)
        if len(values) < 3 or beta == 0:
            return y
        bias = values[2]
        if beta != 1:
            bias = self.elementwise("Mul", (bias, Constant(np.array(beta))), shape_of(bias))
        return self.elementwise("Add", (y, bias), shape)

    def einsum(self, op: str, values: Sequence[Value], attributes: dict[str, Any], shape: tuple[int, ...]) -> Value:
        """A product of matrices: letters of both are stacked or summed, those of one are rows or columns."""
        equation = attributes["equation"].decode().replace(" ", "")
        terms, _, result = equation.partition("->")
        a, _, b = terms.partition(",")
        stacked, summed = ([i for i in a if i in b and (i in result) == kept] for kept in (True, False))
        rows, columns = [i for i in a if i not in b], [i for i in b if i not in a]
        plain = all(len(set(letters)) == len(letters) and (letters or "a").isalpha() for letters in (a, b, result))
        if not plain or set(result) != set(stacked + rows + columns):
            raise ValueError(f"{_UNKNOWN}{op} {equation!r}")
        size = dict(zip(a + b, shape_of(values[0]) + shape_of(values[1]), strict=True))

        def matrices(value: Value, letters: str, down: list[str], across: list[str]) -> Value:
            sizes = [*(size[i] for i in stacked), *(math.prod(size[i] for i in group) for group in (down, across))]
            return self.at(value, [letters.index(i) for i in stacked + down + across], sizes)

        y = self.product(op, matrices(values[0], a, rows, summed), matrices(values[1], b, summed, columns))
        order = stacked + rows + columns
        split = y.places.reshape([size[i] for i in order])
        return View(y.buffer, split.transpose([order.index(i) for i in result]))

    def at(self, value: Value, order: Sequence[int], sizes: Sequence[int] | None = None) -> Value:
        """A value with its axes in another order, and then of other sizes."""
        sizes = [shape_of(value)[axis] for axis in order] if sizes is None else sizes
        if isinstance(value, Constant):
            return value._replace(numbers=value.numbers.transpose(order).reshape(sizes))
        x = self.view(value)
        x = View(x.buffer, x.places.transpose(order))
        if not is_regular(x.places.reshape(sizes)):
            x = self.compute(x, "copy for a product", new(x.places.shape))
        return View(x.buffer, x.places.reshape(sizes))

    def product(self, op: str, a: Value, b: Value) -> View:
        """[..., M, K] by [..., K, N]."""
        if isinstance(a, Constant):  # its rows are the outputs
            turned = ((*range(len(shape_of(x)) - 2), -1, -2) for x in (b, a))
            y = self.product(op, *(self.at(x, order) for x, order in zip((b, a), turned, strict=True)))
            return View(y.buffer, y.places.swapaxes(-1, -2))
        a, b = self.view(a), b if isinstance(b, Constant) else self.view(b)
        *stacked, rows, inputs = a.places.shape
        stack = np.broadcast_shapes(tuple(stacked), shape_of(b)[:-2])
        x = View(a.buffer, np.broadcast_to(a.places, (*stack, rows, inputs)))
        y = new((*stack, rows, shape_of(b)[-1]))
        for_a_row = np.expand_dims(b[0] if isinstance(b, Constant) else b[1], -3)
        self.rows(op, x, 1, b._replace(numbers=for_a_row) if isinstance(b, Constant) else View(b.buffer, for_a_row), y)
        return y

    def rows(self, op: str, x: View, last: int, b: Constant | View, y: View) -> None:
        """Each row of x by a matrix of b: [..., *K] by [..., prod(K), N] gives [..., N].

        K are the last axes of x, as many as ``last``; the first axes of b are those of x, or 1.
        """
        (*stack, inputs, outputs), outer = shape_of(b), x.places.shape[: x.places.ndim - last]
        reads, weight = [x.buffer], b.weight if isinstance(b, Constant) else ""
        if isinstance(b, Constant) and weight:
            packed = packed_matrices(b.numbers.reshape(-1, inputs, outputs))
            name, start = self.bits(weight, packed), count(stack) * (len(packed) // math.prod(stack))
            kernel, steps = "product", ""
        else:
            if isinstance(b, View):
                reads = list(dict.fromkeys([x.buffer, b.buffer]))
                name, places = f"x{reads.index(b.buffer)}", b.places
            else:
                name, places = self.reals(b.numbers), count(shape_of(b))
            kernel, start, (*_, down, across) = "real_product", places[..., 0, 0], steps_of(places)[1]
            steps = f"{down}, {across}, "
        first, one = _without(x.places, last), x.places[(0,) * len(outer)]
        lines, (i, j, k) = loops([first, np.broadcast_to(start, outer), y.places[..., 0]])
        inner, (within, to) = loops([one - one.flat[0], count(one.shape)], "k")
        title, row, step = f"{op} {inputs} x {outputs} {weight}".rstrip(), None, one.flat[-1] - one.flat[-2:][0]
        body = []
        if len(inner) > 1:  # first they are put side by side
            row, step = Buffer(inputs), 1
            body = nested(inner, [f"row[{to}] = x0[{plus(i, within)}];"])
        source = "row" if row else plus("x0", i)
        body.append(f"PREFIX_{kernel}({source}, {step}, {plus(name, j)}, {steps}{inputs}, {outputs}, {plus('y', k)});")
        self.program.steps.append(Step(title, reads, y.buffer, nested(lines, body), row=row))

    def conv(self, op: str, values: Sequence[Value], attributes: dict[str, Any], shape: tuple[int, ...]) -> Value:
        """A product of each window, [height, width, channel], with the kernel; channels are last in what is written."""
        kernel = values[1]
        if not isinstance(kernel, Constant):
            raise ValueError(f"{_UNKNOWN}{op} by what depends on inputs")
        outputs, channels, *sizes = kernel.numbers.shape
        groups, rank = attributes.get("group", 1), len(sizes)
        before, after, cut = _windows(op, attributes, sizes, shape_of(values[0]), shape)
        x = self.padded(values[0], before, after, "0.0f")
        places = cut(x.places).reshape(shape[0], groups, channels, *shape[2:], *sizes)
        # To [batch, *positions, group, *window, channel].
        order = [0, *range(3, 3 + rank), 1, *range(3 + rank, 3 + 2 * rank), 2]
        matrices = kernel.numbers.reshape(groups, outputs // groups, channels, *sizes)
        matrices = matrices.transpose(0, *range(3, 3 + rank), 2, 1).reshape(groups, -1, outputs // groups)
        y = new(shape, [0, *range(2, 2 + rank), 1])
        to = y.places.transpose(0, *range(2, 2 + rank), 1).reshape(shape[0], *shape[2:], groups, -1)
        stacked = Constant(matrices.reshape(*(1,) * (1 + rank), *matrices.shape), kernel.weight)
        self.rows(op, View(x.buffer, places.transpose(order)), rank + 1, stacked, View(y.buffer, to))
        if len(values) < 3:
            return y
        return self.elementwise("Add", (y, self.at(values[2], (0,), (outputs, *(1,) * rank))), shape)

    def padded(self, x: Value, before: Sequence[int], after: Sequence[int], fill: str) -> View:
        """X with ``fill`` around it; a formula is computed into its place there."""
        if not any((*before, *after)):
            return self.view(x)
        shape = shape_of(x)
        y = new([b + n + a for b, n, a in zip(before, shape, after, strict=True)], order_of(x))
        lines, (i,) = loops([np.arange(y.places.size)])
        self.program.steps.append(Step("border", [], y.buffer, nested(lines, [f"y[{i}] = {fill};"])))
        inside = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
        self.compute(x, "inside of the border", View(y.buffer, y.places[inside]))
        return y

    # Of several numbers one.

    def pool(self, op: str, values: Sequence[Value], attributes: dict[str, Any], shape: tuple[int, ...]) -> Value:
        sizes, largest = attributes["kernel_shape"], op == "MaxPool"
        before, after, cut = _windows(op, attributes, sizes, shape_of(values[0]), shape)
        x = self.padded(values[0], before, after, "-INFINITY" if largest else "0.0f")
        y = self.reduced("Max" if largest else "Sum", View(x.buffer, cut(x.places)), len(sizes))
        if largest:
            return y
        inside = np.ones(shape_of(values[0])[2:])
        if attributes.get("count_include_pad"):
            pads = attributes.get("pads", [0] * 2 * len(sizes))
            inside = np.pad(inside, list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True)), constant_values=1)
            before = [0] * len(before)
            after = [max(0, n - m) for n, m in zip(x.places.shape, (1, 1, *inside.shape), strict=True)]
        around = np.pad(inside[None, None], [(0, 0), (0, 0), *zip(before[2:], after[2:], strict=True)])
        counts = cut(around).sum(tuple(range(-len(sizes), 0)))
        return self.elementwise("Div", (y, Constant(counts)), shape)

    def reduce(self, op: str, values: Sequence[Any], attributes: dict[str, Any], shape: tuple[int, ...]) -> Value:
        x, rank = values[0], len(shape_of(values[0]))
        if op == "GlobalAveragePool":
            axes, op = list(range(2, rank)), "ReduceMean"
        elif len(values) > 1:
            axes = values[1].numbers.tolist() if isinstance(values[1], Constant) else []
        else:
            axes = attributes.get("axes") or ([] if attributes.get("noop_with_empty_axes") else list(range(rank)))
        axes = [axis % rank for axis in axes]
        if not axes:
            raise ValueError(f"{_UNKNOWN}{op} over no axes")
        x = self.view(x)
        order = [axis for axis in range(rank) if axis not in axes] + axes
        y = self.reduced(op.removeprefix("Reduce"), View(x.buffer, x.places.transpose(order)), len(axes))
        y = View(y.buffer, y.places.reshape(shape))
        if op != "ReduceMean":
            return y
        return self.elementwise("Div", (y, Constant(np.array(x.places.size / y.places.size))), shape)

    def reduced(self, kind: str, x: View, last: int) -> View:
        """The last axes of x, as many as ``last``, made one number."""
        first = View(x.buffer, _without(x.places, last))
        order = order_of(first)
        y = new(first.places.shape, order)
        lines, (i, to) = loops([first.places.transpose(order), y.places.transpose(order)])
        one = x.places[(0,) * len(first.places.shape)]
        inner, (within,) = loops([one - one.flat[0]], "k")
        start, each = _REDUCTIONS[kind]
        body = [f"float s = {start};", *nested(inner, [each.format(f"x0[{plus(i, within)}]")]), f"y[{to}] = s;"]
        self.program.steps.append(Step(f"{kind} of {one.size}", [x.buffer], y.buffer, nested(lines, body)))
        return y

    def softmax(self, op: str, values: Sequence[Value], attributes: dict[str, Any], shape: tuple[int, ...]) -> Value:
        along, kept = {"axes": [attributes.get("axis", -1)]}, list(shape)
        kept[along["axes"][0]] = 1
        x = self.view(values[0])
        difference = self.elementwise("Sub", (x, self.reduce("ReduceMax", (x,), along, tuple(kept))), shape)
        if op == "LogSoftmax":
            difference = self.view(difference)
        power: Value = self.view(self.elementwise("Exp", (difference,), shape))
        total: Value = self.view(self.reduce("ReduceSum", (power,), along, tuple(kept)))
        if op == "LogSoftmax":
            return self.elementwise("Sub", (difference, self.elementwise("Log", (total,), tuple(kept))), shape)
        return self.elementwise("Div", (power, total), shape)

    def concat(self, op: str, values: Sequence[Value], attributes: dict[str, Any], shape: tuple[int, ...]) -> Value:
        axis, start = attributes["axis"] % len(shape), 0
        y = new(shape)
        for value in values:
            stop = start + shape_of(value)[axis]
            self.compute(value, op, View(y.buffer, y.places[(slice(None),) * axis + (slice(start, stop),)]))
            start = stop
        return y


_OPERATORS: dict[str, Callable[..., Value]] = {
    "AveragePool": _Lowering.pool,
    "BatchNormalization": _Lowering.batch_norm,
    "Concat": _Lowering.concat,
    "Conv": _Lowering.conv,
    "Einsum": _Lowering.einsum,
    "Gemm": _Lowering.gemm,
    "GlobalAveragePool": _Lowering.reduce,
    "LogSoftmax": _Lowering.softmax,
    "MatMul": _Lowering.matmul,
    "MaxPool": _Lowering.pool,
    "Softmax": _Lowering.softmax,
    **{f"Reduce{kind}": _Lowering.reduce for kind in _REDUCTIONS},
}


def packed_matrices(matrices: np.ndarray) -> np.ndarray:
    """[stack, inputs, outputs] of +1 and -1 as bytes, in the order of the kernel ``product``."""
    stack, inputs, outputs = matrices.shape
    filled = np.zeros((stack, inputs, outputs + -outputs % 8), bool)
    filled[:, :, :outputs] = matrices > 0
    chunks = []
    for start in range(0, inputs, 32):
        chunk = filled[:, start : start + 32].swapaxes(1, 2)
        length = next(n for n in (1, 2, 4) if 8 * n >= chunk.shape[-1])
        chunk = np.pad(chunk, [(0, 0), (0, 0), (0, 8 * length - chunk.shape[-1])])
        chunks.append(np.packbits(chunk, axis=-1, bitorder="little").reshape(stack, -1))
    return np.concatenate(chunks, axis=1).reshape(-1)


def _windows(
    op: str, attributes: dict[str, Any], sizes: Sequence[int], shape: Sequence[int], shape_out: Sequence[int]
) -> tuple[list[int], list[int], Callable[[np.ndarray], np.ndarray]]:
    """What is put before and after [batch, channel, *S], and what then cuts [batch, channel, *positions, *window]."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ValueError(f"{_UNKNOWN}{op} with auto_pad")
    rank = len(sizes)
    strides, dilations = (attributes.get(name, [1] * rank) for name in ("strides", "dilations"))
    before = [0, 0, *attributes.get("pads", [0] * rank)[:rank]]
    reach = [(k - 1) * d + 1 for k, d in zip(sizes, dilations, strict=True)]
    ends = [(m - 1) * s + r for m, s, r in zip(shape_out[2:], strides, reach, strict=True)]
    after = [0, 0, *(max(0, end - n - b) for end, n, b in zip(ends, shape[2:], before[2:], strict=True))]
    every = [slice(None, m * s, s) for m, s in zip(shape_out[2:], strides, strict=True)]
    inside = [slice(None, None, d) for d in dilations]

    def cut(places: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(places, reach, tuple(range(2, 2 + rank)))
        return windows[(slice(None), slice(None), *every, *inside)]

    return before, after, cut


def _without(places: np.ndarray, last: int) -> np.ndarray:
    """The places at which the last axes begin."""
    return places[(slice(None),) * (places.ndim - last) + (0,) * last]


def _assign(program: Program) -> None:
    """Gives each buffer its place in the memory: the first that is free for as long as it is needed."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for time, step in enumerate(program.steps):
        for buffer in (*step.reads, *step.writes()):
            first.setdefault(buffer, time)
            last[buffer] = time
    taken: list[Buffer] = []
    for time, step in enumerate(program.steps):
        taken = [buffer for buffer in taken if last[buffer] >= time]
        for buffer in step.writes():
            if buffer.argument or first[buffer] < time:
                continue
            old = step.in_place_of if buffer is step.y else None
            if old is not None and not old.argument and last[old] == time:
                buffer.offset = old.offset
            else:
                for other in sorted(taken, key=lambda other: other.offset):
                    if other.offset < buffer.offset + buffer.size:
                        buffer.offset = max(buffer.offset, other.offset + other.size)
            taken.append(buffer)
            program.memory = max(program.memory, buffer.offset + buffer.size)
