r"""Flax linen layers whose parameter *is* the weight that they multiply by.

Nothing is binarized inside, nor sampled but on request (below). A layer is given natural parameters at
initialization, relaxed samples in training and +-1 at prediction, and treats
them alike: ``y = x W (+ b)``. The weight is called ``binary_kernel``, so that
`partition` (and whoever prints the tree) can tell it from real parameters.

**Noise of activations instead of weights (local reparametrisation).** Given the
expectation mu of the weights as parameters and their variance F = 1 - mu^2 in a
collection ``variance`` of the same tree, a layer returns

    y = x mu + sqrt(x^2 F) xi,    xi ~ Normal(0, 1), of the random numbers "weight_noise",

which has the mean and the variance that x w has for w ~ q (up to 1e-6 it counts
as none); for many inputs x w is close to normal. Each example has noise of its own, so the
gradient with respect to mu varies much less than that of one relaxed sample. What noise
of its own leaves out is that activations made by the same weights vary together: those of
different examples (which matters to a batch norm alone), and the positions of a
convolution or of a sequence.
`moment_loss` makes mean and variance, and refuses a variance that no layer uses; `shared_variance`
makes it cheaper:

    def loss_fn(mean, variance, key, x):
        return loss(model.apply({"params": mean, "variance": variance}, x, rngs={"weight_noise": key}))

Flax's lifted transformations hide from a layer what they are not told of. To those of
parameters add the variance and its random numbers:

    nn.scan(Block, variable_axes={"params": 0, "variance": 0}, split_rngs={"params": True, "weight_noise": True}, ...)

and the same for `nn.vmap`; `nn.remat` and `nn.jit` pass on everything by themselves.

Source: Kingma, Salimans, Welling, arXiv 1506.02557; for discrete weights Shayer, Levi,
Fetaya, arXiv 1710.07739.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bbinn_jax._affine import affine, variance_fits
from bbinn_jax._convolution import convolution
from bbinn_jax.bayesbinn import init_natural


def natural_initializer(scale: float = 10.0) -> nn.initializers.Initializer:
    """An initializer for natural parameters: +-scale at random, as `init_natural`.

    Args:
        scale: abs(lambda) >= 0.

    Returns:
        ``f(key, shape, dtype)``, as Flax calls it.

    Raises:
        ValueError: when it is called: scale negative.

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
        return _affine(self, jnp.matmul, x, kernel)


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

    Inputs are [batch, height, width, channel].

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
        product = partial(convolution, strides=tuple(self.strides), pads=tuple(map(tuple, pads)))
        return _affine(self, product, x, kernel)


def _affine(
    layer: BinaryDense | BinaryConv,
    product: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    kernel: jax.Array,
) -> jax.Array:
    """The product of inputs and kernel, plus the bias, plus noise if the layer is given variances."""
    bias = layer.param("bias", nn.initializers.zeros, (layer.features,)) if layer.use_bias else None
    variances = _variances(layer)
    if variances is None:
        return affine(product, x, kernel, bias)
    noise_key = layer.make_rng("weight_noise")
    return affine(product, x, kernel, bias, variances["binary_kernel"], variances.get("bias"), noise_key)


def _variances(layer: BinaryDense | BinaryConv) -> dict[str, jax.Array] | None:
    """The variances that the layer is given for its parameters, by name, or None; raises where they do not fit."""
    # Without the boxes in which Flax keeps names of axes beside an array.
    variables = nn.meta.unbox(layer.variables)
    given = {name: x for name, x in variables.get("variance", {}).items() if x is not None}
    params = variables["params"]
    if layer.is_initializing() or not (given or layer.has_rng("weight_noise")):
        return None
    if "binary_kernel" not in given or not set(given) <= set(params):
        raise ValueError(f"variance must be given of binary_kernel in {_name(layer)}, got that of {sorted(given)}")
    if not layer.has_rng("weight_noise"):
        raise ValueError(f'rngs must have a key "weight_noise" where {_name(layer)} is given a variance, got none')
    for name, x in given.items():
        if not variance_fits(jnp.shape(x), jnp.shape(params[name])):
            raise ValueError(f"variance of {name} must have its shape {jnp.shape(params[name])}, got {jnp.shape(x)}")
    return {name: jnp.asarray(x) for name, x in given.items()}


def _name(layer: BinaryDense | BinaryConv) -> str:
    return "/".join(layer.path) or type(layer).__name__
