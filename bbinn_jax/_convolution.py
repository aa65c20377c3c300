"""Convolution whose derivatives are fast inside of loops on a CPU too.

There XLA brings convolutions to the form that its fast kernels take only outside of
`jax.lax.scan`, `while_loop` and the like (jax issue 12868). The transposes that JAX
makes have other orders of axes, and in a loop they take forty times as long. Here
both are written channels last, the form in question. Other devices take those of JAX.
"""

from functools import partial

import jax
import jax.numpy as jnp

from bbinn_jax._linear import linear
from bbinn_jax._tracing import varying_like

Pads = tuple[tuple[int, int], ...]


def convolution(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], pads: Pads) -> jax.Array:
    """``y[n, i, j, o] = sum_{a, b, c} x[n, i s + a - p, j s + b - p, c] kernel[a, b, c, o]``.

    Args:
        x: [batch, height, width, in].
        kernel: [height, width, in, out].
        strides: s, vertical and horizontal.
        pads: p, before and after, vertical and horizontal.

    Returns:
        [batch, height, width, out].

    >>> print(convolution(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)), (1, 1), ((1, 1), (1, 1)))[0, :, :, 0])
    [[4. 6. 4.]
     [6. 9. 6.]
     [4. 6. 4.]]
    """
    return _convolution(varying_like(x, kernel), varying_like(kernel, x), strides, pads)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolution(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], pads: Pads) -> jax.Array:
    return _channels_last(x, kernel, strides, pads)


def _convolution_jvp(strides, pads, primals, tangents):
    """Of x the transpose is dy over the turned kernel, of the kernel x over dy, summed over the batch as a channel."""
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    y = _convolution(x, kernel, strides, pads)
    x_pads, kernel_pads = [], []
    for n, k, m, s, (low, _) in zip(x.shape[1:3], kernel.shape, y.shape[1:3], strides, pads, strict=False):
        reach = s * (m - 1)  # where in the padded x the last window starts
        x_pads.append((k - 1 - low, n + low - 1 - reach))
        kernel_pads.append((low, k - n - low + reach))

    def of_x(kernel, x):
        return _channels_last(x, kernel, strides, pads)

    def of_kernel(x, kernel):
        return _channels_last(x, kernel, strides, pads)

    def dx(kernel, dy):
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        return _channels_last(dy, turned, (1, 1), x_pads, lhs_dilation=strides)

    def dkernel(x, dy):
        x, dy = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)
        return _channels_last(x, dy, (1, 1), kernel_pads, rhs_dilation=strides).transpose(1, 2, 0, 3)

    y_dot = jnp.zeros_like(y)
    if not isinstance(x_dot, jax.custom_derivatives.SymbolicZero):
        y_dot += jax.lax.platform_dependent(kernel, x_dot, cpu=partial(linear, of_x, dx), default=of_x)
    if not isinstance(kernel_dot, jax.custom_derivatives.SymbolicZero):
        y_dot += jax.lax.platform_dependent(x, kernel_dot, cpu=partial(linear, of_kernel, dkernel), default=of_kernel)
    return y, y_dot


_convolution.defjvp(_convolution_jvp, symbolic_zeros=True)
_channels_last = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
