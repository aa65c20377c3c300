"""A linear function with a transpose of its own.

`jax.custom_vjp` has no forward mode, `jax.custom_derivatives.linear_call` cannot be mapped, and
`jax.lax.custom_linear_solve` has no second derivatives with respect to what its system is made of. This is a
primitive that has all of them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Function = Callable[[jax.Array, jax.Array], jax.Array]


def linear(function: Function, transpose: Function, residual: jax.Array, x: jax.Array) -> jax.Array:
    """``function(residual, x)``, differentiated in forward and reverse mode as often as one likes, and mapped.

    Args:
        function: linear in x. It may keep numbers and shapes, but no arrays.
        transpose: ``transpose(residual, y)``, the transposed function.
        residual, x: arrays.

    >>> f = lambda x: linear(lambda a, x: a * x, lambda a, y: a * y, jnp.float32(2), x)
    >>> print(f(jnp.float32(3)), jax.grad(f)(1.0), jax.jvp(f, (1.0,), (5.0,))[1])
    6.0 2.0 10.0
    """
    return _linear.bind(residual, x, function=function, transpose=transpose)


_linear = Primitive("linear")


@_linear.def_impl
def _value(residual, x, *, function, transpose):
    return function(residual, x)


@_linear.def_abstract_eval
def _type(residual, x, *, function, transpose):
    return jax.make_jaxpr(function)(residual, x).out_avals[0]


def _transpose(y, residual, x, *, function, transpose):
    return None, linear(transpose, function, residual, y)


def _derivative_of_x(x_dot, residual, x, *, function, transpose):
    return linear(function, transpose, residual, x_dot)


def _derivative_of_residual(residual_dot, residual, x, *, function, transpose):
    return jax.jvp(lambda r: function(r, x), (residual,), (residual_dot,))[1]


def _mapped(arguments, axes, *, function, transpose):
    (residual, x), (residual_axis, x_axis) = arguments, axes
    if x_axis is None:
        x, x_axis = jnp.broadcast_to(x, (residual.shape[residual_axis], *x.shape)), 0
    x = jnp.moveaxis(x, x_axis, 0)
    function, transpose = (jax.vmap(f, (residual_axis, 0)) for f in (function, transpose))
    return linear(function, transpose, residual, x), 0


ad.deflinear2(_linear, _transpose)
ad.defjvp(_linear, _derivative_of_residual, _derivative_of_x)
batching.primitive_batchers[_linear] = _mapped
mlir.register_lowering(_linear, mlir.lower_fun(_value, multiple_results=False))
