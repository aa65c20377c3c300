"""A graph without what its numbers do not need.

jax2onnx keeps the batch symbolic by graphs that compute shapes, and says each primitive of JAX by itself. Here what
depends on no input is computed once, shapes are written down, and a few words are put into those that ONNX runtimes
have kernels for. The weights are still inputs of the graph, so that nothing of this touches them.
"""

import itertools
import math
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

_BROADCASTING = set("Add Sub Mul Div Pow Max Min Where Equal Greater GreaterOrEqual Less LessOrEqual And Or".split())
_LARGEST = 1024  # numbers that a folded node may make of fewer ones


def simplify(model: ir.Model) -> None:
    """Rewrites the graph of a model in place; its inputs and the numbers that it computes stay."""
    common.IdentityEliminationPass()(model)
    for rewrite in (_fold, _uniform, _static_reshape, _expand, _relu, _pool, _product, _fold):
        for node in tuple(model.graph):
            if node.graph is not None and node.domain == "":
                rewrite(model, node)
        common.RemoveUnusedNodesPass()(model)
    for last in (
        common.CommonSubexpressionEliminationPass(),
        common.DeduplicateInitializersPass(),
        common.OutputFixPass(),
        common.ClearMetadataAndDocStringPass(),
        common.TopologicalSortPass(),
    ):
        last(model)
    for value in itertools.chain.from_iterable(node.outputs for node in model.graph.all_nodes()):
        if value.type is None:  # a shape alone is nothing that ONNX can say
            value.shape = None


def _fold(model: ir.Model, node: Any) -> None:
    """A node of constants becomes what it computes."""
    constants = [None if x is None else x.const_value for x in node.inputs]
    given = [x for x in node.inputs if x is not None]
    is_output = any(x.is_graph_output() for x in node.outputs)
    if is_output or len(node.outputs) != 1 or len(given) != sum(c is not None for c in constants):
        return
    inputs = [helper.make_tensor_value_info(x.name, int(x.const_value.dtype), None) for x in given]
    output = helper.make_tensor_value_info(node.outputs[0].name, 1, None)
    graph = helper.make_graph([ir.to_proto(node)], "node", inputs, [output])
    alone = helper.make_model(graph, opset_imports=[helper.make_opsetid("", model.opset_imports[""])])
    values = {x.name: x.const_value.numpy() for x in given}
    results: Any = ReferenceEvaluator(alone).run(None, values)
    value = np.asarray(results[0])
    if value.size > max(_LARGEST, *(x.size for x in values.values()), 0):
        return
    _put(node, _constant(model, value, node.outputs[0].name))


def _static_reshape(model: ir.Model, node: Any) -> None:
    """A shape that is known but for the batch is written down, with -1 for it."""
    if node.op_type != "Reshape" or node.inputs[1].const_value is not None or node.outputs[0].shape is None:
        return
    sizes = [d if isinstance(d, int) else -1 for d in node.outputs[0].shape]
    if sizes.count(-1) == 1 and 0 not in sizes:
        node.replace_input_with(1, _constant(model, np.array(sizes, np.int64), f"{node.outputs[0].name}_shape"))


def _expand(model: ir.Model, node: Any) -> None:
    """An Expand before what broadcasts by itself is left out."""
    if node.op_type != "Expand" or node.outputs[0].is_graph_output():
        return
    (source, _), (expanded,) = node.inputs, node.outputs
    for user, index in tuple(expanded.uses()):
        if user.op_type not in _BROADCASTING:
            continue
        shapes = [(source if i == index else x).shape for i, x in enumerate(user.inputs)]
        if None not in shapes and _broadcast(shapes) == _sizes(user.outputs[0].shape):
            user.replace_input_with(index, source)


def _uniform(model: ir.Model, node: Any) -> None:
    """A large constant of one number is that number, where it broadcasts."""
    if node.op_type not in _BROADCASTING or node.outputs[0].shape is None:
        return
    for index, x in enumerate(node.inputs):
        if x.const_value is None or x.const_value.size <= _LARGEST:
            continue
        value = x.const_value.numpy()
        shapes = [() if i == index else other.shape for i, other in enumerate(node.inputs)]
        if (
            (value == value.flat[0]).all()
            and None not in shapes
            and _broadcast(shapes) == _sizes(node.outputs[0].shape)
        ):
            node.replace_input_with(index, _constant(model, value.flat[0].reshape(()), f"{x.name}_of_one"))


def _relu(model: ir.Model, node: Any) -> None:
    """max(x, 0) is Relu(x), and max(x, -inf) is x."""
    if node.op_type != "Max" or len(node.inputs) != 2:
        return
    for x, bound in (node.inputs, tuple(node.inputs)[::-1]):
        if bound.const_value is None or bound.const_value.size != 1 or bound.dtype != ir.DataType.FLOAT:
            continue
        if x.shape is None or _sizes(x.shape) != _sizes(node.outputs[0].shape):
            continue
        value = float(bound.const_value.numpy().item())
        if value == 0:
            _put(node, *_nodes(("Relu", [x], {})))
        elif value == -math.inf and not node.outputs[0].is_graph_output():
            _put(node, x)


def _pool(model: ir.Model, node: Any) -> None:
    """The largest of a window of [batch, height, width, channel] as MaxPool has it: of [batch, channel, ...].

    jax2onnx pools over the batch and the channels as well, in windows of 1, which no runtime has.
    """
    chain = [node]
    for op in ("Unsqueeze", "MaxPool", "Squeeze"):
        users = [user for user, _ in chain[-1].outputs[0].uses()]
        if len(users) != 1 or users[0].op_type != op:
            return
        chain += users
    first, _, pool, last = chain
    rank, x = len(last.outputs[0].shape), node.inputs[0]
    if first.op_type != "Unsqueeze" or _sizes(pool.inputs[0].shape) != (1, 1, *(_sizes(x.shape) or ())):
        return
    attributes = {
        name: list(a.value) if isinstance(a.value, list | tuple) else [] for name, a in pool.attributes.items()
    }
    pads = attributes.pop("pads", [0] * 2 * rank)
    ends = [0, rank - 1]
    if rank < 3 or any(len(value) != rank or any(value[i] != 1 for i in ends) for value in attributes.values()):
        return
    if any(pads[i] or pads[rank + i] for i in ends):
        return
    inner = slice(1, rank - 1)
    kept: dict[str, Any] = {name: value[inner] for name, value in attributes.items()}
    kept["pads"] = pads[:rank][inner] + pads[rank:][inner]
    there, back = ({"perm": perm} for perm in ([0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]))
    _put(last, *_nodes(("Transpose", [x], there), ("MaxPool", [], kept), ("Transpose", [], back)))


def _product(model: ir.Model, node: Any) -> None:
    """A matrix by several matrices, which is said by Einsum and Transpose, is a MatMul that broadcasts.

    And a Gemm with a bias that counts for nothing is a MatMul.
    """
    if node.op_type == "Gemm":
        numbers = {name: a.value for name, a in node.attributes.items()}
        if numbers.get("beta", 1) == 0 and numbers.get("alpha", 1) == 1 and not numbers.keys() & {"transA", "transB"}:
            _put(node, *_nodes(("MatMul", list(node.inputs[:2]), {})))
    if node.op_type == "Einsum" and node.attributes["equation"].value == "ab,cbd->acd":
        users = [user for user, _ in node.outputs[0].uses()]
        if [(user.op_type, list(user.attributes.get_ints("perm", ()))) for user in users] == [("Transpose", [1, 0, 2])]:
            _put(users[0], *_nodes(("MatMul", list(node.inputs), {})))


def _nodes(*steps: tuple[str, list[ir.Value], dict[str, Any]]) -> list[ir.Node]:
    """A chain of nodes: (type, inputs, attributes), where no inputs are the output of the one before."""
    nodes: list[ir.Node] = []
    for op, inputs, attributes in steps:
        nodes.append(ir.node(op, inputs or nodes[-1].outputs, attributes))
    return nodes


def _put(old: Any, *new: Any) -> None:
    """Puts nodes, or a value, into the place of a node."""
    if isinstance(new[-1], ir.Value):
        old.outputs[0].replace_all_uses_with(new[-1])
        old.graph.remove(old, safe=True)
    else:
        ir.convenience.replace_nodes_and_values(old.graph, old, [old], new, old.outputs, new[-1].outputs)


def _constant(model: ir.Model, value: np.ndarray, name: str) -> ir.Value:
    """An initializer of this value."""
    while name in model.graph.initializers:
        name += "_"
    tensor = ir.tensor(value, name=name)
    constant = ir.Value(name=name, shape=ir.Shape(value.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(constant)
    return constant


def _sizes(shape: Any) -> tuple[Any, ...] | None:
    """A shape as integers and names."""
    return None if shape is None else tuple(d if isinstance(d, int) else str(d) for d in shape)


def _broadcast(shapes: list[Any]) -> tuple[Any, ...] | None:
    """What shapes broadcast to, or None where that is not known."""
    result: list[Any] = []
    longest = max(map(len, shapes))
    for sizes in zip(*((1,) * (longest - len(s)) + (_sizes(s) or ()) for s in shapes), strict=True):
        others = set(sizes) - {1}
        if len(others) > 1:
            return None
        result.append(others.pop() if others else 1)
    return tuple(result)
