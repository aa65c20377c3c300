"""What a layer of either of Flax's languages computes, once it has its parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bbinn_jax._dtypes import at_least_float32

NO_VARIANCE = 1e-6
"""An activation of no more variance than this, in its units squared, gets no noise, and its variance no gradient.

That is a unit whose weights are all but certain. The derivative of the standard deviation is infinite at a variance
of 0, and with much smaller bounds it has pushed such weights about (permuted MNIST was unlearned).
"""


def affine(
    product: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    kernel_variance: jax.Array | None = None,
    bias_variance: jax.Array | None = None,
    noise_key: jax.Array | None = None,
) -> jax.Array:
    """``y = x W + b``, and noise ``sqrt(x^2 F) xi`` where the weights have a variance F.

    Args:
        product: ``product(x, W)``, linear in both: of matrices, or a convolution.
        x: inputs, of the dtype of the computation.
        kernel: W, of the same dtype.
        bias: [features], or None.
        kernel_variance, bias_variance: F of the weights and of the biases, shaped like them, or None. An F with a 1 in
            the place of the inputs is that of all inputs of an output: then ``(sum x^2) F`` saves a product.
        noise_key: a `jax.random` key of the noise xi ~ Normal(0, 1), where there is a kernel_variance.

    >>> x, kernel = jnp.array([[3.0, 4.0]]), jnp.array([[1.0, -1.0], [1.0, 1.0]])
    >>> print(affine(jnp.matmul, x, kernel, bias=jnp.array([0.0, 1.0])))
    [[7. 2.]]
    """
    y = product(x, kernel)
    if bias is not None:
        y += _row(bias, y)
    if kernel_variance is None or noise_key is None:
        return y
    wide = at_least_float32(y.dtype)  # in float16 a sum of squares is soon infinite
    squares = x.astype(wide) ** 2
    if kernel_variance.shape[-2] != kernel.shape[-2]:
        squares = squares.sum(-1, keepdims=True)
    power = product(squares, kernel_variance.astype(wide))
    if bias_variance is not None:
        power += _row(bias_variance, power)
    std = jnp.where(power > NO_VARIANCE, jnp.sqrt(jnp.maximum(power, NO_VARIANCE)), 0).astype(y.dtype)
    return y + std * jax.random.normal(noise_key, y.shape, y.dtype)


def variance_fits(shape: tuple[int, ...], like: tuple[int, ...]) -> bool:
    """Whether a variance of this shape is one of a parameter: of each weight, or of a kernel one for all its inputs."""
    return shape == like or (len(like) >= 2 and shape == (*like[:-2], 1, like[-1]))


def _row(x: jax.Array, like: jax.Array) -> jax.Array:
    """[features] with as many axes as ``like`` and of its dtype: nothing is left to promotion."""
    return jax.lax.expand_dims(x.astype(like.dtype), range(like.ndim - 1))
