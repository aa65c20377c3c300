r"""Flax NNX: layers whose parameter *is* the weight that they multiply by, and losses of models.

The layers are those of `bbinn_jax.linen` in the other of Flax's languages. Which parameters are binary is
said by their type, so that Flax's filters split a model, and there is no rule to give:

    graphdef, natural, rest = nnx.split(model, bb.nnx.BinaryParam, ...)

A model that is trained holds natural parameters. The losses of this module give the model that ``loss_fn`` sees
weights instead, by one of the two estimators of `bbinn_jax.objective`:

    loss = bb.nnx.moment_loss(loss_fn)               # noise of activations;  bb.nnx.expected_loss: of weights
    value, grads = nnx.value_and_grad(loss)(model, key, x, y)
    optimizer.update(model, grads)                   # an nnx.Optimizer of optax.partition by `labels`

Noise of activations needs no random stream in the layers and no variable of its own: where a weight has a mean and
a variance, its parameter holds `Moments` instead of an array. So `nnx.scan`, `nnx.vmap` and `nnx.remat` take the
variance along with the weight, and need not be told of it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from bbinn_jax import bernoulli, objective
from bbinn_jax._affine import affine, variance_fits
from bbinn_jax._boxes import named_leaves
from bbinn_jax._checks import PyTree, check_key, checked_loss
from bbinn_jax._convolution import convolution
from bbinn_jax._dtypes import EPS
from bbinn_jax.linen import natural_initializer

_Model = TypeVar("_Model")
_NATURAL_INIT = natural_initializer()
_EMPTY: Mapping[str, Any] = MappingProxyType({})


@nnx.register_variable_name("binary_params")
class BinaryParam(nnx.Param):
    """A parameter that is a binary weight: its natural parameter in training, -1 or +1 in a network that predicts.

    It is an ``nnx.Param`` as well: where both are among the filters of Flax it goes first. It makes the
    weight of any layer binary, as in ``layer.kernel = bb.nnx.BinaryParam(natural)``. Its name as a collection of
    Flax linen is ``binary_params``.

    >>> layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> layer.kernel = BinaryParam(jnp.ones((3, 2)))
    >>> graphdef, natural, real = nnx.split(layer, BinaryParam, nnx.Param)
    >>> list(natural), list(real)
    (['kernel'], ['bias'])
    """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
    """What a parameter holds for noise of activations, in place of an array: see `add_noise`.

    Attributes:
        mean: mu, the expectation of the weights.
        variance: F = 1 - mu^2, of the shape of mean.
        key: of the noise of one layer; for layers stacked along leading axes one for each. None for a bias.
    """

    mean: jax.Array
    variance: jax.Array
    key: jax.Array | None

    def __getitem__(self, index: Any) -> NoReturn:
        """What layers of Flax read their parameters by."""
        raise TypeError("moments of weights are for BinaryLinear and BinaryConv: take expected_loss for other layers")


class BinaryLinear(nnx.Module):
    """A dense layer with a binary weight matrix, ``y = x W (+ b)``: `nnx.Linear` with a `BinaryParam`.

    Parameters: ``binary_kernel`` [in_features, out_features], a `BinaryParam`; with use_bias
    ``bias`` [out_features], an ``nnx.Param``, which is real.

    Args:
        in_features: number of inputs.
        out_features: number of outputs.
        use_bias: whether to add a bias. Default: no, as before a normalization.
        dtype: of the computation; default: that of inputs and parameters.
        param_dtype: of the parameters.
        precision: of the product, as `jax.lax.Precision`.
        kernel_init: initializer of the weights; default: natural parameters of +-10.
        bias_init: initializer of the bias.
        kernel_metadata, bias_metadata: of the parameters, as ``{"out_sharding": ("data", "model")}``.
        rngs: whose stream ``params`` the initializers draw from.

    >>> layer = BinaryLinear(2, 2, rngs=nnx.Rngs(0))
    >>> layer.binary_kernel[...] = jnp.array([[1.0, -1.0], [1.0, 1.0]])
    >>> print(layer(jnp.array([[3.0, 4.0]])))
    [[7. 1.]]
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        kernel_init: nn.initializers.Initializer = _NATURAL_INIT,
        bias_init: nn.initializers.Initializer = nn.initializers.zeros,
        kernel_metadata: Mapping[str, Any] = _EMPTY,
        bias_metadata: Mapping[str, Any] = _EMPTY,
        rngs: nnx.Rngs,
    ):
        self.kernel_shape = (in_features, out_features)
        self.binary_kernel = BinaryParam(kernel_init(rngs.params(), self.kernel_shape, param_dtype), **kernel_metadata)
        self.bias = _bias(use_bias, bias_init, rngs, out_features, param_dtype, bias_metadata)
        self.in_features, self.out_features, self.use_bias = in_features, out_features, use_bias
        self.dtype, self.param_dtype, self.precision = dtype, param_dtype, precision

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[..., in_features] to [..., out_features]."""
        return _apply(self, partial(jnp.matmul, precision=self.precision), inputs)


class BinaryConv(nnx.Module):
    """A convolution with binary weights, channels last: `nnx.Conv` with a `BinaryParam`.

    Parameters: ``binary_kernel`` [*kernel_size, in_features / feature_group_count, out_features], a
    `BinaryParam`; with use_bias ``bias`` [out_features], an ``nnx.Param``, which is real.

    Args:
        in_features: number of input channels.
        out_features: number of output channels.
        kernel_size: a number for each spatial axis.
        strides, padding, input_dilation, kernel_dilation, feature_group_count, mask: as those of `nnx.Conv`.
        use_bias, dtype, param_dtype, precision, kernel_init, bias_init, kernel_metadata, bias_metadata, rngs: as
            those of `BinaryLinear`.

    Inputs are [..., *spatial, in_features]. A 2-D convolution without dilation, groups and precision is that of
    `bbinn_jax.linen`, whose derivatives are fast inside of loops.

    >>> layer = BinaryConv(2, 4, (3, 3), rngs=nnx.Rngs(0))
    >>> print(layer.binary_kernel.shape, layer(jnp.ones((1, 8, 8, 2))).shape)
    (3, 3, 2, 4) (1, 8, 8, 4)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        padding: Any = "SAME",
        input_dilation: int | Sequence[int] | None = 1,
        kernel_dilation: int | Sequence[int] | None = 1,
        feature_group_count: int = 1,
        use_bias: bool = False,
        mask: jax.Array | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        kernel_init: nn.initializers.Initializer = _NATURAL_INIT,
        bias_init: nn.initializers.Initializer = nn.initializers.zeros,
        kernel_metadata: Mapping[str, Any] = _EMPTY,
        bias_metadata: Mapping[str, Any] = _EMPTY,
        rngs: nnx.Rngs,
    ):
        self.kernel_size = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
        self.kernel_shape = (*self.kernel_size, in_features // feature_group_count, out_features)
        self.binary_kernel = BinaryParam(kernel_init(rngs.params(), self.kernel_shape, param_dtype), **kernel_metadata)
        self.bias = _bias(use_bias, bias_init, rngs, out_features, param_dtype, bias_metadata)
        self.in_features, self.out_features, self.use_bias, self.mask = in_features, out_features, use_bias, mask
        self.strides, self.padding, self.feature_group_count = strides, padding, feature_group_count
        self.input_dilation, self.kernel_dilation = input_dilation, kernel_dilation
        self.dtype, self.param_dtype, self.precision = dtype, param_dtype, precision

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[..., *spatial, in_features] to [..., *spatial, out_features]."""

        def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
            flax = nnx.Conv(  # what it makes of the arguments, with a kernel that is given
                self.in_features,
                self.out_features,
                self.kernel_size,
                self.strides,
                padding=self.padding,
                input_dilation=self.input_dilation,
                kernel_dilation=self.kernel_dilation,
                feature_group_count=self.feature_group_count,
                use_bias=False,
                mask=self.mask,
                precision=self.precision,
                kernel_init=lambda *_: kernel,
                conv_general_dilated=_conv_general_dilated,
                rngs=nnx.Rngs(0),
            )
            return flax(x)

        return _apply(self, product, inputs)


def _bias(use_bias: bool, init: Any, rngs: nnx.Rngs, size: int, dtype: Any, metadata: Mapping[str, Any]) -> Any:
    return nnx.Param(init(rngs.params(), (size,), dtype), **metadata) if use_bias else nnx.data(None)


def _conv_general_dilated(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Any, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, or the one that is fast inside of loops where that can do it."""
    plain = options["feature_group_count"] == 1 and options["precision"] is None
    plain = plain and {*options["lhs_dilation"], *options["rhs_dilation"]} == {1}
    if kernel.ndim != 4 or not plain:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return convolution(x, kernel, tuple(strides), tuple(map(tuple, padding)))


def _apply(
    layer: BinaryLinear | BinaryConv, product: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
    kernel, bias = _moments(layer.binary_kernel), _moments(layer.bias)
    x, mean = nn.dtypes.promote_dtype(x, kernel.mean, dtype=layer.dtype)
    return affine(product, x, mean, bias.mean, kernel.variance, bias.variance, kernel.key)


def _moments(param: Any) -> Any:
    """Those that a parameter holds; of one that holds an array the mean alone."""
    if param is None:
        return Moments(None, None, None)  # type: ignore[arg-type]
    (value,) = jax.tree.leaves(param, is_leaf=lambda x: isinstance(x, Moments))
    return value if isinstance(value, Moments) else Moments(param[...], None, None)  # type: ignore[arg-type]


# Losses --------------------------------------------------------------------------------------------------------------


def add_noise(key: jax.Array, model: Any, variance: PyTree) -> None:
    """Gives the weights of a model a variance, in place: its layers then add noise to their activations.

    ``y = x mu + sqrt(x^2 F) xi,   xi ~ Normal(0, 1)``, which has the mean and the variance of x w for w ~ q

    (local reparametrisation, see `bbinn_jax.linen`). `moment_loss` does it for you; with the one of
    `bbinn_jax.objective` it is the second line of ``loss_fn(mean, variance, key, ...)``:

        model = nnx.merge(graphdef, mean, rest, copy=True)
        bb.nnx.add_noise(key, model, variance)

    Args:
        key: a `jax.random` key; each layer has one of its own, and each of several that are stacked along
            leading axes, as `nnx.vmap` makes them for `nnx.scan`. A layer that is called twice has the same noise
            twice, as it has the same weights.
        model: with means as its binary weights.
        variance: the state of these weights, with their variances; or `bbinn_jax.shared_variance` of it.

    Raises:
        ValueError: a `BinaryLinear` or `BinaryConv` without a variance, or one of another shape.
        TypeError: key is not a random key.

    >>> model = BinaryLinear(100, 1, kernel_init=nn.initializers.zeros, rngs=nnx.Rngs(0))  # of fair coins
    >>> variance = jax.tree.map(jnp.ones_like, nnx.state(model, BinaryParam))
    >>> add_noise(jax.random.key(0), model, variance)
    >>> print(jnp.std(model(jnp.ones((10**4, 100)))))  # of a sum of 100 of them
    10.1

    Source: arXiv 1506.02557, section 2.2.
    """
    check_key(key, "first, before model")
    layers = [(path, node) for path, node in nnx.iter_graph(model) if isinstance(node, BinaryLinear | BinaryConv)]
    given = {name: x for name, _, x in named_leaves(variance)}
    for (path, layer), layer_key in zip(layers, jax.random.split(key, max(len(layers), 1)), strict=False):
        for name in ("binary_kernel", "bias"):
            param, of_param = getattr(layer, name), "/".join(map(str, (*path, name)))
            if param is None or _moments(param).variance is not None:  # shared, and another layer's turn was first
                continue
            if of_param not in given:
                if name == "bias":
                    continue
                raise ValueError(f"variance must be given of {of_param}, got that of {sorted(given)}")
            mean, x = param[...], given[of_param]
            stack = mean.shape[: mean.ndim - len(layer.kernel_shape)]
            of_kernel = mean.shape == (*stack, *layer.kernel_shape) and variance_fits(jnp.shape(x), mean.shape)
            if not (of_kernel if name == "binary_kernel" else jnp.shape(x) == mean.shape):
                raise ValueError(f"variance of {of_param} must have its shape {mean.shape}, got {jnp.shape(x)}")
            keys = None if name == "bias" else jax.random.split(layer_key, stack) if stack else layer_key
            param.copy_from(jax.tree.map(lambda _, m=Moments(mean, x, keys): m, param))


def expected_loss(
    loss_fn: Callable[..., Any],
    *,
    temperature: float | jax.Array,
    num_samples: int = 1,
    has_aux: bool = False,
    eps: float = EPS,
) -> Callable[..., Any]:
    """Turns a loss of a model into a loss of a model of natural parameters, by noise of weights.

    Args:
        loss_fn: ``loss_fn(model, *args)`` gives a scalar, the mean over the batch; with has_aux a pair. Its
            model has sampled weights. Any layers will do.
        temperature, num_samples, has_aux, eps: as in `bbinn_jax.expected_loss`.

    Returns:
        ``f(model, key, *args)``, for `nnx.value_and_grad` and `nnx.jit`. What loss_fn changes in its model,
        as a batch norm does its statistics, is changed in this one (the mean over samples), but for parameters,
        keys and intermediates.

    Raises:
        ValueError, TypeError: as `bbinn_jax.expected_loss`; ValueError: a model without a `BinaryParam`.

    >>> model = BinaryLinear(2, 1, kernel_init=nn.initializers.constant(0.5), rngs=nnx.Rngs(0))
    >>> loss = expected_loss(lambda model, x: jnp.mean(model(x) ** 2), temperature=1.0, num_samples=0)
    >>> value, grads = nnx.value_and_grad(loss)(model, jax.random.key(0), jnp.ones((1, 2)))
    >>> print(value, grads["binary_kernel"][...].ravel())  # (2 tanh 0.5)^2
    0.854 [1.454 1.454]
    """
    estimator = partial(
        objective.expected_loss, temperature=temperature, num_samples=num_samples, has_aux=True, eps=eps
    )
    estimator(loss_fn)  # refuses wrong arguments now

    def loss_of_model(model: Any, key: jax.Array, *args: Any) -> Any:
        graphdef, natural, rest = _split(model)

        def loss_of_weights(weights: PyTree, *args: Any) -> Any:
            return _with_changes(loss_fn, has_aux, nnx.merge(graphdef, weights, rest, copy=True), *args)

        loss, (aux, changes) = estimator(loss_of_weights)(natural, key, *args)
        _write(changes, model)
        return (loss, aux) if has_aux else loss

    return loss_of_model


def moment_loss(loss_fn: Callable[..., Any], *, has_aux: bool = False, eps: float = EPS) -> Callable[..., Any]:
    """Turns a loss of a model into a loss of a model of natural parameters, by noise of activations.

    Args:
        loss_fn: ``loss_fn(model, *args)`` gives a scalar, the mean over the batch; with has_aux a pair. The
            weights of its model have means and variances (`add_noise`).
        has_aux, eps: as in `bbinn_jax.moment_loss`.

    Returns:
        ``f(model, key, *args)``, as `expected_loss` does.

    Raises:
        ValueError, TypeError: as `bbinn_jax.moment_loss` and `add_noise`; ValueError: a model without a `BinaryParam`.

    >>> model = BinaryLinear(2, 1, kernel_init=nn.initializers.constant(0.5), rngs=nnx.Rngs(0))
    >>> loss = moment_loss(lambda model, x: jnp.mean(model(x) ** 2))
    >>> print(loss(model, jax.random.key(0), jnp.ones((10**5, 2))))  # E[(w_1 + w_2)^2] = 2 + 2 tanh(0.5)^2
    2.43
    """
    estimator = partial(objective.moment_loss, has_aux=True, eps=eps)
    estimator(loss_fn)  # refuses wrong arguments now

    def loss_of_model(model: Any, key: jax.Array, *args: Any) -> Any:
        graphdef, natural, rest = _split(model)

        def loss_of_moments(mean: PyTree, variance: PyTree, key: jax.Array, *args: Any) -> Any:
            noisy = nnx.merge(graphdef, mean, rest, copy=True)
            add_noise(key, noisy, variance)
            return _with_changes(loss_fn, has_aux, noisy, *args)

        loss, (aux, changes) = estimator(loss_of_moments)(natural, key, *args)
        _write(changes, model)
        return (loss, aux) if has_aux else loss

    return loss_of_model


_CHANGES = nnx.Not(nnx.Any(nnx.Param, nnx.RngKey, nnx.Intermediate))


def _with_changes(loss_fn: Callable[..., Any], has_aux: bool, model: Any, *args: Any) -> tuple[Any, Any]:
    """The loss, and beside it (aux, what the model has counted and averaged meanwhile)."""
    output = checked_loss(loss_fn, has_aux, model, *args)
    loss, aux = output if has_aux else (output, None)
    return loss, (aux, nnx.state(model, _CHANGES))


def _write(changes: PyTree, model: Any) -> None:
    """Into the model. The mean over samples may be of another dtype."""
    nnx.update(model, jax.tree.map(lambda x, old: x.astype(old.dtype), changes, nnx.state(model, _CHANGES)))


def _split(model: Any) -> tuple[Any, Any, Any]:
    graphdef, natural, rest = nnx.split(model, BinaryParam, ...)  # type: ignore[misc]
    if not jax.tree.leaves(natural):
        raise ValueError(f"model must have a BinaryParam, got none in {type(model).__name__}")
    return graphdef, natural, rest


# Training and prediction ----------------------------------------------------------------------------------------------


def labels(model: Any) -> PyTree:
    """``"binary"`` for each `BinaryParam` of a model and ``"real"`` for each other parameter, for `optax.partition`.

    ``nnx.Optimizer`` gives an optimizer variables at first and bare arrays later, so that it cannot tell their types
    apart by itself. It is to be told ``wrt=nnx.Param``.

    Args:
        model: with parameters of both kinds, or of one.

    Returns:
        A state like that of its parameters, with a label in the place of each.

    >>> model = nnx.Sequential(BinaryLinear(4, 8, rngs=nnx.Rngs(0)), nnx.LayerNorm(8, rngs=nnx.Rngs(0)))
    >>> import optax
    >>> from bbinn_jax import bayesbinn
    >>> tx = optax.partition({"binary": bayesbinn(0.1, 100), "real": optax.adam(1e-2)}, labels(model))
    >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    """
    return jax.tree.map(
        lambda param: "binary" if isinstance(param, BinaryParam) else "real",
        nnx.state(model, nnx.Param),
        is_leaf=lambda x: isinstance(x, nnx.Variable),
    )


def as_function(model: Any) -> tuple[Callable[..., Any], PyTree]:
    """A model as the pair ``(network, natural)`` that the predictive distributions start with.

    Args:
        model: whose binary weights are natural parameters, in the mode in which it predicts (``model.eval()``).

    Returns:
        ``network(weights, *args)``, which is model(*args) with other binary weights, and the state of its natural
        parameters. Both are of the model as it is now: they change neither it nor with it.

    Raises:
        ValueError: a model without a `BinaryParam`.

    >>> model = BinaryLinear(2, 3, rngs=nnx.Rngs(0))
    >>> network, natural = as_function(model)
    >>> from bbinn_jax import posterior_predictive
    >>> p = posterior_predictive(network, natural, jax.random.key(0), jnp.ones((5, 2)), num_samples=10)
    >>> p.probabilities.shape
    (5, 3)
    """
    graphdef, natural, rest = jax.tree.map(lambda x: x, _split(model))  # states share the model's own variables

    def network(weights: PyTree, *args: Any, **kwargs: Any) -> Any:
        if isinstance(weights, nnx.Module):
            raise TypeError(f"weights must be a state, as as_function(model) returns, got {type(weights).__name__}")
        return nnx.merge(graphdef, weights, rest, copy=True)(*args, **kwargs)

    return network, natural


def mode(model: _Model) -> _Model:
    """The most probable network, the one to ship: a copy of a model whose binary weights are -1 and +1.

    Args:
        model: whose binary weights are natural parameters.

    Returns:
        Another model of the same kind, with what else it holds copied.

    Raises:
        ValueError: a model without a `BinaryParam`.

    >>> print(mode(BinaryLinear(3, 1, rngs=nnx.Rngs(0))).binary_kernel[...].ravel())
    [ 1.  1. -1.]
    """
    graphdef, natural, rest = _split(model)
    return nnx.merge(graphdef, bernoulli.mode(natural), rest, copy=True)
