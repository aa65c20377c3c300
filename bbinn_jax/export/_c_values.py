"""What a node of a graph gives on its way into C, and where in memory its numbers lie.

A value is a constant, a view of a buffer, or an elementwise formula that is not computed yet. A view is an array of
places, one for each number, so that what numpy does to that array (transpose it, cut windows out of it) costs nothing
in C; loops are then read off the distances between the places.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(eq=False)
class Buffer:
    """Room for ``size`` numbers: an argument of the function, or a place in its memory."""

    size: int
    argument: str = ""
    offset: int = 0


class Constant(NamedTuple):
    """Numbers that are known; those of weights, each +1 or -1, have the weights' name."""

    numbers: np.ndarray
    weight: str = ""


class View(NamedTuple):
    """Numbers in a buffer: the place in it of each; along an axis they are always equally far apart."""

    buffer: Buffer
    places: np.ndarray


class Formula(NamedTuple):
    """Numbers that are computed where they are read: a text with a "{}" for each operand."""

    text: str
    operands: tuple[Any, ...]
    shape: tuple[int, ...]


class Affine(NamedTuple):
    """``scale * x + shift`` with constants in float64."""

    x: Any
    scale: np.ndarray
    shift: np.ndarray
    shape: tuple[int, ...]


Value = Constant | View | Formula | Affine


def number_text(number: float) -> str:
    """A number as a constant of C, equal to the bit as float32."""
    with np.errstate(over="ignore"):
        x = float(np.float32(number))
    if math.isnan(x):
        return "NAN"
    if math.isinf(x):
        return "INFINITY" if x > 0 else "-INFINITY"
    text = f"{x:.9g}"
    return (text if set(text) & set(".e") else f"{text}.0") + "f"


def shape_of(value: Value) -> tuple[int, ...]:
    """The shape of what a value stands for."""
    if isinstance(value, Constant):
        return value.numbers.shape
    return value.places.shape if isinstance(value, View) else value.shape


def reads_of(value: Value) -> list[View]:
    """The views that a value is made of."""
    if isinstance(value, Formula):
        return [x for operand in value.operands for x in reads_of(operand)]
    if isinstance(value, Affine):
        return reads_of(value.x)
    return [value] if isinstance(value, View) else []


def new(shape: Sequence[int], order: Sequence[int] | None = None, argument: str = "") -> View:
    """A view of all of a new buffer, whose axes lie in this order in it."""
    order = list(range(len(shape))) if order is None else list(order)
    places = count([shape[axis] for axis in order]).transpose(np.argsort(order))
    return View(Buffer(places.size, argument), places)


def order_of(value: Value) -> list[int]:
    """The axes of a value, as those lie in memory that it is made of: the last one closest together."""
    shape = shape_of(value)
    alike = next((x.places for x in reads_of(value) if x.places.shape == shape), None)
    steps = (0,) * len(shape) if alike is None else steps_of(alike)[1]
    return sorted(range(len(shape)), key=lambda axis: -abs(steps[axis]) if shape[axis] > 1 else -math.inf)


def count(shape: Sequence[int]) -> np.ndarray:
    """The places of an array that lies row-major."""
    return np.arange(math.prod(shape)).reshape(shape)


def narrow(numbers: np.ndarray) -> np.ndarray:
    """The same numbers with one alone along axes where all are equal."""
    for axis in range(numbers.ndim):
        first = numbers.take([0], axis)
        if np.all(numbers == first):
            numbers = first
    return numbers


def steps_of(places: np.ndarray) -> tuple[int, tuple[int, ...]]:
    """The first place, and how far it is to the next one along each axis."""
    first = int(places.flat[0])
    return first, tuple(
        int(places.take(1, axis).flat[0]) - first if n > 1 else 0 for axis, n in enumerate(places.shape)
    )


def is_regular(places: np.ndarray) -> bool:
    """Whether it is everywhere as far to the next one along an axis."""
    again, steps = steps_of(places)
    grid = np.array(again)
    for axis, (n, step) in enumerate(zip(places.shape, steps, strict=True)):
        grid = grid + (np.arange(n) * step).reshape(-1, *(1,) * (places.ndim - axis - 1))
    return np.array_equal(grid, places)


def loops(several: Sequence[np.ndarray], letter: str = "i") -> tuple[list[str], list[str]]:
    """The heads of loops through arrays of places of one shape, and the index of each; as few loops as go."""
    patterns = [steps_of(places) for places in several]
    axes: list[tuple[int, tuple[int, ...]]] = []
    for axis, n in enumerate(several[0].shape):
        steps = tuple(distances[axis] for _, distances in patterns)
        if n > 1 and axes and axes[-1][1] == tuple(n * step for step in steps):
            axes[-1] = (axes[-1][0] * n, steps)
        elif n > 1:
            axes.append((n, steps))
    names = [f"{letter}{k}" if len(axes) > 1 else letter for k in range(len(axes))]
    heads = [f"for (long {name} = 0; {name} < {n}; ++{name})" for name, (n, _) in zip(names, axes, strict=True)]
    indices = []
    for k, (first, _) in enumerate(patterns):
        terms = [(steps[k], name) for name, (_, steps) in zip(names, axes, strict=True) if steps[k]]
        indices.append(plus(str(first), *(name if step == 1 else f"{step} * {name}" for step, name in terms)))
    return heads, indices


def plus(*terms: str) -> str:
    """The text of a sum, without 0."""
    return " + ".join(term for term in terms if term != "0") or "0"


def nested(heads: Sequence[str], body: Sequence[str]) -> list[str]:
    """Statements inside of loops."""
    if not heads:
        return ["{", *(f"    {line}" for line in body), "}"] if len(body) > 1 else list(body)
    lines = [f"{'    ' * k}{head}" for k, head in enumerate(heads)]
    inside = [f"{'    ' * len(heads)}{line}" for line in body]
    if len(body) == 1:
        return lines + inside
    return [*lines[:-1], f"{lines[-1]} {{", *inside, "    " * (len(heads) - 1) + "}"]
