r"""Flax linen layers whose parameter *is* the weight that they multiply by.

Nothing is sampled or binarized inside. A layer is given natural parameters at
initialization, relaxed samples in training and +-1 at prediction, and treats
them alike: ``y = x W (+ b)``. The weight is called ``binary_kernel``, so that
`partition` (and whoever prints the tree) can tell it from real parameters.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bbinn_jax._convolution import convolution
from bbinn_jax.bayesbinn import init_natural


def natural_initializer(scale: float = 10.0) -> nn.initializers.Initializer:
    """An initializer for natural parameters: +-scale at random, as `init_natural`.

    >>> print(natural_initializer(2.0)(jax.random.key(0), (4,)))
    [ 2. -2. -2. -2.]
    """
    return lambda key, shape, dtype=jnp.float32: init_natural(key, jnp.zeros(shape, dtype), scale=scale)


class BinaryDense(nn.Module):
    """A dense layer with a binary weight matrix, ``y = x W (+ b)``.

    Parameters: ``binary_kernel`` [in, features]; with use_bias ``bias`` [features],
    which is real unless a rule of `partition` says otherwise.

    Args:
        features: number of outputs.
        use_bias: whether to add a bias. Default: no, as before a batch norm.
        dtype: of the computation; default: that of inputs and parameters.
        kernel_init: initializer of the weights; default: natural parameters of +-10.

    >>> layer = BinaryDense(2)
    >>> params = {"binary_kernel": jnp.array([[1.0, -1.0], [1.0, 1.0]])}
    >>> print(layer.apply({"params": params}, jnp.array([[3.0, 4.0]])))
    [[7. 1.]]
    """

    features: int
    use_bias: bool = False
    dtype: Any = None
    kernel_init: nn.initializers.Initializer = natural_initializer()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("binary_kernel", self.kernel_init, (x.shape[-1], self.features))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return _add_bias(self, x @ kernel)


class BinaryConv(nn.Module):
    """A 2-D convolution with binary weights, channels last.

    Parameters: ``binary_kernel`` [height, width, in, features]; with use_bias
    ``bias`` [features], which is real unless a rule of `partition` says otherwise.

    Args:
        features: number of output channels.
        kernel_size: (height, width).
        strides: (vertical, horizontal).
        padding: "SAME", "VALID" or ((top, bottom), (left, right)).
        use_bias: whether to add a bias. Default: no, as before a batch norm.
        dtype: of the computation; default: that of inputs and parameters.
        kernel_init: initializer of the weights; default: natural parameters of +-10.

    Inputs are [batch, height, width, channel]. Differentiated in reverse mode only:
    `jax.jacrev(jax.grad(...))` for a Hessian, not `jax.hessian`.

    >>> layer = BinaryConv(4, (3, 3))
    >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 2)))
    >>> print(variables["params"]["binary_kernel"].shape)
    (3, 3, 2, 4)
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str | Sequence[tuple[int, int]] = "SAME"
    use_bias: bool = False
    dtype: Any = None
    kernel_init: nn.initializers.Initializer = natural_initializer()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for name in ("kernel_size", "strides"):
            value = getattr(self, name)
            if not (isinstance(value, list | tuple) and len(value) == 2 and min(value) >= 1):
                raise ValueError(f"{name} must be a pair of integers >= 1, got {value!r}")
        if x.ndim != 4:
            raise ValueError(f"x must be [batch, height, width, channel], got shape {x.shape}")
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("binary_kernel", self.kernel_init, shape)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        pads = self.padding
        if isinstance(pads, str):
            pads = jax.lax.padtype_to_pads(x.shape[1:3], self.kernel_size, self.strides, pads)
        if not (isinstance(pads, list | tuple) and [len(p) for p in pads if isinstance(p, list | tuple)] == [2, 2]):
            raise ValueError(f'padding must be "SAME", "VALID" or ((top, bottom), (left, right)), got {pads!r}')
        return _add_bias(self, convolution(x, kernel, tuple(self.strides), tuple(map(tuple, pads))))


def _add_bias(layer: BinaryDense | BinaryConv, y: jax.Array) -> jax.Array:
    if not layer.use_bias:
        return y
    bias = layer.param("bias", nn.initializers.zeros, (layer.features,))
    return y + bias.astype(y.dtype)
