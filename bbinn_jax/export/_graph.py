"""A function of arrays as a float ONNX model in which every binary weight is an initializer of +1 and -1.

JAX traces the function, so that nothing but the primitives of `jax.lax` is left of it; jax2onnx says these in ONNX;
and what needs no input is computed once, here. All exports start from this graph, and none knows of layers.
"""

import contextlib
import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from bbinn_jax._boxes import named_leaves
from bbinn_jax._checks import PyTree, check_floating, check_function, check_values
from bbinn_jax.packing import unpack

OPSET = 18  # the first one with BitwiseAnd
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")


def graph(fn: Callable[[PyTree, jax.Array], Any], weights: PyTree, inputs: jax.Array) -> tuple[Any, set[str]]:
    """The float ONNX model of a function, and which of its initializers are binary.

    Args:
        fn: ``fn(weights, inputs)`` gives an array, or a NamedTuple of arrays, which names the outputs.
        weights: any pytree with leaves of +-1, or packed ones, which fn gets unpacked. A leaf's name is
            ``weights/PATH``.
        inputs: a batch [batch, ...]; the model takes any number of them.

    Returns:
        An `onnx.ModelProto` with the input "inputs" [batch, ...] and the outputs of fn, or "output", and the set of
        the names of its binary initializers.

    Raises:
        ValueError: weights that are not +-1 or that fn does not use, an fn that does not take any number of inputs,
            or that ONNX has no words for.
        TypeError: an fn that is no function, or returns something else than arrays.
    """
    import onnx_ir as ir
    from onnx.shape_inference import InferenceError, infer_shapes

    from bbinn_jax.export._simplify import simplify

    check_callable(fn)
    weights = unpack(weights)
    names, leaves = named_weights(weights)
    batch = check_inputs(inputs)
    structure, of_leaves = jax.tree.structure(weights), [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in leaves]
    for name, dtype in [("inputs", batch.dtype), *((name, x.dtype) for name, x in zip(names, leaves, strict=True))]:
        if dtype.itemsize > 4 and jnp.issubdtype(dtype, jnp.inexact):
            raise ValueError(f"{name} must have 32 bits a number or fewer to be exported, got {dtype}")
    (size,) = jax.export.symbolic_shape("batch")
    arguments = [*of_leaves, jax.ShapeDtypeStruct((size, *batch.shape[1:]), batch.dtype)]

    titles: list[str] = []

    def flat(*arguments: Any) -> list[Any]:
        *floats, inputs = arguments
        given = [x.astype(leaf.dtype) for x, leaf in zip(floats, leaves, strict=True)]
        outputs = named_outputs(fn(jax.tree.unflatten(structure, given), inputs))
        titles[:] = outputs
        return list(outputs.values())

    jax.eval_shape(flat, *leaves, batch)  # what is wrong with fn itself is told as JAX tells it
    try:
        jax.eval_shape(flat, *leaves, batch[:1])
        closed = jax.make_jaxpr(flat)(*arguments)
    except Exception as error:
        raise ValueError(f"fn must take any number of inputs, not {len(batch)} alone: {first_line(error)}") from error
    jaxpr, used_constants, used = partial_eval.dce_jaxpr_consts(closed.jaxpr, [True] * len(titles))
    unused = [name for name, is_used in zip([*names, "inputs"], used, strict=True) if not is_used]
    if unused:
        raise ValueError(f"fn must use all weights and the inputs, got one that does not use {unused[0]!r}")
    constants = [x for x, is_used in zip(closed.consts, used_constants, strict=True) if is_used]

    model = _converted(jax.extend.core.ClosedJaxpr(jaxpr, constants), arguments)
    simplify(model)
    graph = model.graph
    for value, name in zip(graph.inputs, [*names, "inputs"], strict=True):
        value.name = name
    for value, name in zip(graph.outputs, titles, strict=True):
        value.name = name
    for value, leaf in zip(tuple(graph.inputs)[:-1], leaves, strict=True):
        value.const_value = ir.tensor(np.asarray(leaf, np.float32), name=value.name)
        graph.inputs.remove(value)
        graph.register_initializer(value)
    try:
        return infer_shapes(ir.to_proto(model), check_type=True, strict_mode=True), set(names)
    except InferenceError as error:
        raise ValueError(f"fn must be made of what ONNX knows, got {first_line(error)}") from error


def named_weights(weights: PyTree) -> tuple[list[str], list[np.ndarray]]:
    """The names of the leaves, ``weights/PATH``, and the leaves; raises for what is not +-1 or has none."""
    check_floating("weights", weights)
    check_values("weights", weights, "+1 or -1", lambda x: abs(x) == 1)
    named = named_leaves(weights)
    if not named:
        raise ValueError(f"weights must have at least one leaf, got {weights!r}")
    return [f"weights/{name}".rstrip("/") for name, _, _ in named], [np.asarray(leaf) for _, _, leaf in named]


def named_outputs(outputs: Any) -> dict[str, Any]:
    """What fn returns, by name; raises TypeError for what is neither an array nor a NamedTuple of arrays."""
    named = outputs._asdict() if hasattr(outputs, "_asdict") else {"output": outputs}
    for name, output in named.items():
        if not hasattr(output, "dtype") or not hasattr(output, "shape"):
            raise TypeError(
                f"fn must return an array or a NamedTuple of arrays, got {type(output).__name__} as {name!r}"
            )
    return named


def check_callable(fn: Any) -> None:
    """Raises TypeError for an fn that is no function, or a model of Flax."""
    check_function("fn", fn)
    if not callable(fn):
        raise TypeError(f"fn must be a function of weights and inputs, got {type(fn).__name__}")


def check_inputs(inputs: Any) -> jax.Array:
    """The inputs as an array; raises unless they are a batch [batch >= 1, ...]."""
    batch = jnp.asarray(inputs)
    if batch.ndim < 1 or not len(batch):
        raise ValueError(f"inputs must be a batch [batch >= 1, ...], got shape {batch.shape}")
    return batch


def first_line(error: BaseException) -> str:
    """What an error says first, in 200 characters at most."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _converted(closed: Any, arguments: list[Any]) -> Any:
    """The `onnx_ir.Model` of a jaxpr, with an input for each argument."""
    with warnings.catch_warnings(action="ignore"), _primitives_alone():  # they are of what jax2onnx asks JAX for
        from jax2onnx import to_onnx

        try:
            return to_onnx(lambda *xs: _run(closed, xs), arguments, opset=OPSET, return_mode="ir")
        except Exception as error:  # its lowerings raise whatever they like
            unknown = next((name for name in _primitives(closed.jaxpr) if f"'{name}'" in str(error)), None)
            what = f"the primitive {unknown!r}" if unknown else f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(f"fn must be made of what jax2onnx can say in ONNX, got {what}") from error


def _run(closed: Any, arguments: Sequence[Any]) -> list[Any]:
    """What a jaxpr computes, primitive after primitive: calls of others are put in their place.

    And a reshape that takes the axes in another order, as a convolution of several kernels does, is said by a
    transpose and a reshape: jax2onnx 0.13 leaves that order out.
    """
    jaxpr, values = closed.jaxpr, dict[Any, Any]()
    values.update(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *arguments), strict=True))

    def read(variables: Any) -> list[Any]:
        return [x.val if isinstance(x, jax.extend.core.Literal) else values[x] for x in variables]

    for equation in jaxpr.eqns:
        primitive, given, params = equation.primitive, read(equation.invars), equation.params
        called = params.get("jaxpr", params.get("call_jaxpr"))
        if primitive.name in _CALLS and isinstance(called, jax.extend.core.ClosedJaxpr):
            results: Any = _run(called, given)
        elif primitive is jax.lax.reshape_p and params["dimensions"] is not None:
            results = jax.lax.reshape(jax.lax.transpose(given[0], params["dimensions"]), params["new_sizes"])
        else:
            results = primitive.bind(*given, **params)
        values.update(zip(equation.outvars, results if primitive.multiple_results else [results], strict=True))
    return read(jaxpr.outvars)


@contextlib.contextmanager
def _primitives_alone() -> Iterator[None]:
    """jax2onnx with what it knows of `jax.core` and `jax.lax`, and no more.

    A jaxpr has nothing else. All else that it would import takes 8 seconds, prints tracebacks of packages that are not
    there, and replaces functions of Flax by its own while it traces.
    """
    from jax2onnx.converter import conversion_api
    from jax2onnx.plugins.jax import core, lax

    for package in (core, lax):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    kept = conversion_api.import_all_plugins
    conversion_api.import_all_plugins = lambda: None
    try:
        yield
    finally:
        conversion_api.import_all_plugins = kept


def _primitives(jaxpr: Any) -> Iterator[str]:
    """The names of the primitives of a jaxpr and of those within it."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)  # of a closed one
            if hasattr(inner, "eqns"):
                yield from _primitives(inner)
