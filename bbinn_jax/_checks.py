"""Checks of arguments: one line that names the argument and the value it got."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bbinn_jax._boxes import named_leaves

PyTree = Any


def path_name(path: Any) -> str:
    """A leaf's place in its tree as text: ``BinaryDense_0/binary_kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_number(name: str, value: Any, condition: str, holds: Callable[[Any], bool]) -> Any:
    """The value as a Python float, which changes no dtype; raises unless it is finite and ``holds(value)``.

    A traced value has no value yet and is returned as it is.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        finite = math.isfinite(value)  # unlike float, it takes no text
        number = float(value)
        accepted = bool(holds(number))
    except OverflowError:  # an integer beyond 1.8e308
        finite = False
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number {condition}, got {in_one_line(value)}") from None
    if not (finite and accepted):
        wanted = condition if finite else f"finite and {condition}"
        raise ValueError(f"{name} must be {wanted}, got {in_one_line(value)}")
    return number


def check_positive(name: str, value: Any) -> Any:
    """`check_number` of what must be above 0."""
    return check_number(name, value, "> 0", lambda v: v > 0)


def check_non_negative(name: str, value: Any) -> Any:
    """`check_number` of what must not be below 0."""
    return check_number(name, value, ">= 0", lambda v: v >= 0)


def as_schedule(
    name: str, value: Any, condition: str = ">= 0", holds: Callable[[Any], bool] = lambda v: v >= 0
) -> optax.Schedule:
    """An optax schedule as it is; a number as the schedule that never changes, after `check_number`."""
    return value if callable(value) else optax.constant_schedule(check_number(name, value, condition, holds))


def check_optimizer(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer as one that takes extra arguments; raises TypeError if it is none of optax."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be an optax.GradientTransformation, got {in_one_line(optimizer)}")
    return optax.with_extra_args_support(optimizer)


def check_count(name: str, value: Any, minimum: int) -> int:
    """The value as a Python int, which cannot overflow; raises unless it is an integer of at least ``minimum``."""
    try:
        count = value.__index__()
    except (AttributeError, TypeError):
        raise TypeError(f"{name} must be an integer, got {in_one_line(value)}") from None
    if isinstance(value, bool) or count < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {in_one_line(value)}")
    return int(count)


def check_key(key: Any, place: str) -> None:
    """Raises TypeError for what is not a random key, as where it is forgotten or swapped; place is where it stands."""
    is_array = isinstance(key, jax.Array | np.ndarray)
    if not is_array or not (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.dtype == np.uint32):
        raise TypeError(f"key must be a jax.random key and comes {place}, got {in_one_line(key)}")


def check_function(name: str, function: Any) -> None:
    """Raises TypeError for a model of Flax, which holds its weights or wants them in a dict of collections."""
    advice = {
        nnx.Module: "network, natural = bb.nnx.as_function(model)",
        nn.Module: 'lambda weights, x: model.apply({"params": weights}, x)',
    }
    for kind, instead in advice.items():
        if isinstance(function, kind):
            raise TypeError(f"{name} must be a function of weights, got {type(function).__name__}: {instead}")


def check_floating(name: str, tree: PyTree) -> None:
    """Raises TypeError for a leaf that is not a floating-point array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            got = type(leaf).__name__ if dtype is None else dtype
            raise TypeError(f"{name} must have floating-point arrays as leaves, got {got} at {path_name(path)!r}")


def check_values(name: str, tree: PyTree, condition: str, holds: Callable[[np.ndarray], np.ndarray]) -> None:
    """Raises ValueError unless ``holds`` is true of every number. A leaf without values, traced or a shape, passes."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct):
            continue
        values = np.asarray(leaf).astype(float).ravel()  # of NumPy: inside jit jax.numpy would trace a constant too
        bad = values[~holds(values)]
        if bad.size:
            raise ValueError(f"{name} must be {condition}, got {bad[0]} at {path_name(path)!r}")


def is_masked(node: Any) -> bool:
    """Whether optax has left this part of a tree to another transformation."""
    return isinstance(node, optax.MaskedNode)


def check_same_tree(name: str, tree: PyTree, reference_name: str, reference: PyTree) -> None:
    """Raises ValueError unless tree has the structure and shapes of reference.

    Where reference holds ``optax.MaskedNode()`` (inside ``optax.masked`` and
    ``optax.partition``) tree may hold anything.
    """
    flat = jax.tree_util.tree_leaves_with_path(reference, is_leaf=is_masked)
    treedef: Any = jax.tree.structure(reference, is_leaf=is_masked)
    mismatch = f"{name} must have the tree of {reference_name}"
    try:
        leaves = treedef.flatten_up_to(tree)
    except (ValueError, TypeError):
        got = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        expected = [path_name(path) for path, _ in flat]
        raise ValueError(f"{mismatch}: expected leaves {expected}, got {got} in a {type(tree).__name__}") from None
    for (path, expected), leaf in zip(flat, leaves, strict=True):
        if is_masked(expected):
            continue
        if not jax.tree_util.all_leaves([leaf]):
            raise ValueError(f"{mismatch}: expected an array at {path_name(path)!r}, got {type(leaf).__name__}")
        if jnp.shape(leaf) != jnp.shape(expected):
            raise ValueError(
                f"{mismatch}: expected shape {jnp.shape(expected)} at {path_name(path)!r}, got {jnp.shape(leaf)}"
            )


def tree_like(name: str, value: PyTree, reference_name: str, reference: PyTree) -> PyTree:
    """Value as a tree like reference: a scalar goes to every leaf, a tree must match.

    Of a state of NNX the leaves are taken by name: `nnx.Optimizer` takes the variables off the parameters, and a
    filter leaves out what the other half of them has.
    """
    if jax.tree_util.all_leaves([value]) and jnp.ndim(value) == 0:
        return jax.tree.map(lambda _: value, reference)
    if isinstance(value, nnx.State):
        given = {leaf_name: leaf for leaf_name, _, leaf in named_leaves(value)}
        wanted = named_leaves(reference, is_masked)
        if all(leaf_name in given for leaf_name, _, leaf in wanted if not is_masked(leaf)):
            leaves = [given.get(leaf_name, leaf) for leaf_name, _, leaf in wanted]
            value = jax.tree.unflatten(jax.tree.structure(reference, is_leaf=is_masked), leaves)
    check_same_tree(name, value, reference_name, reference)
    return value


def check_update(grads: PyTree, params_name: str, params: PyTree) -> None:
    """Raises ValueError unless an update got its params, and gradients of their tree."""
    if params is None:
        raise ValueError(f"{params_name} must be given to update(grads, state, {params_name}), got None")
    check_same_tree("grads", grads, params_name, params)


def in_one_line(value: Any) -> str:
    """What a value looks like, in 120 characters at most."""
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to print the longest
        return f"an integer of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def checked_loss(loss_fn: Callable[..., Any], has_aux: bool, *args: Any) -> Any:
    """What loss_fn returns; raises if it is no scalar, or with has_aux no pair."""
    output = loss_fn(*args)
    if has_aux and not (isinstance(output, tuple) and len(output) == 2):
        raise TypeError(f"loss_fn must return a pair (loss, aux) with has_aux=True, got {type(output).__name__}")
    loss = output[0] if has_aux else output
    if not jax.tree_util.all_leaves([loss]):
        raise TypeError(f"loss_fn must return a scalar, and a pair with has_aux=True, got {type(loss).__name__}")
    if jnp.shape(loss) != ():
        raise ValueError(f"loss_fn must return a scalar, got shape {jnp.shape(loss)}")
    return output
