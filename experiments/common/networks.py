"""The networks of the experiments. One is a dataclass of settings that says what becomes of the inputs.

A new one is such a dataclass here, and its name in `Settings`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from bbinn_jax import BinaryConv, BinaryDense
from experiments.common.config import BELOW_ONE, check_ranges, check_widths

OF_NETWORK = tyro.conf.arg(name="network", metavar="NAME", help="Chooses the layers of the network.")


class Network(nn.Module):
    """A network as Flax has it: ``apply(variables, inputs, train=...)`` gives logits [batch, class].

    In training it draws dropout if there is a key for it.
    """

    settings: Any  # one of `Settings`
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.settings.logits(self, x, train)


@dataclass(frozen=True)
class MLP:
    """The paper's multilayer perceptron: binary weights, real activations.

    Each layer is dropout, `BinaryDense`, a norm, and (but for the last) ReLU.
    Source: arXiv 2002.10778, appendix.
    """

    name: Annotated[str, OF_NETWORK] = "mlp"
    hidden: tuple[int, ...] = (512, 512)
    """Sets the width of each hidden dense layer."""
    dropout: float = 0.0
    """Drops this share of the inputs of each dense layer in training."""
    batch_norm_decay: float = 0.85
    """Sets how slowly the running statistics of batch norms change: this much of them stays in a step."""
    batch_norm_eps: float = 1e-4
    """Is added to the variance in norms."""
    batch_norm_gain: bool = False
    """Gives batch norms a trained real gain and bias."""
    output_scale: bool = False
    """Multiplies the logits by a trained real number; without it the last batch norm caps the confidence, of 10 classes
    at about 0.757."""
    norm: tyro.conf.Suppress[Literal["batch", "layer", "none"]] = "batch"
    """Chooses what follows a dense layer: a batch norm, a layer norm (of each image by itself, without gain), or a
    constant that keeps the size of the activations, sqrt(2 / inputs)."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        below_one = (("batch_norm_decay", *BELOW_ONE), ("dropout", *BELOW_ONE))
        check_ranges(self, (*below_one, ("batch_norm_eps", 0, None)))
        check_widths(self, "hidden")

    def logits(self, network: Network, x: jax.Array, train: bool) -> jax.Array:
        """Logits [batch, class] for inputs [batch, ...]."""
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate((*self.hidden, network.num_classes)):
            num_inputs = x.shape[1]
            x = nn.Dropout(self.dropout, deterministic=not (train and network.has_rng("dropout")))(x)
            x = BinaryDense(width)(x)
            if self.norm == "batch":
                x = _batch_norm(self, train)(x)
            elif self.norm == "layer":
                x = nn.LayerNorm(epsilon=self.batch_norm_eps, use_scale=False, use_bias=False)(x)
            else:
                x = x * (2 / num_inputs) ** 0.5
            if i < len(self.hidden):
                x = nn.relu(x)
        if self.output_scale:
            x = x * network.param("output_scale", nn.initializers.ones, ())
        return x


@dataclass(frozen=True)
class VGG(MLP):
    """The paper's convolutional network: for each width two 3x3 convolutions, then an `MLP`.

    A convolution is followed by batch norm and ReLU, the second one of a width by 2x2 max-pooling before them.
    Source: arXiv 2002.10778, appendix.
    """

    name: Annotated[str, OF_NETWORK] = "vgg"
    channels: tuple[int, ...] = (128, 256, 512)
    """Sets the width of each pair of convolutions."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        check_widths(self, "channels")

    def logits(self, network: Network, x: jax.Array, train: bool) -> jax.Array:
        """Logits [batch, class] for images [batch, height, width, channel]; raises ValueError for too small ones."""
        _check_pooled(self.channels, x)
        for width in self.channels:
            for pooled in (False, True):
                x = BinaryConv(width, (3, 3))(x)
                if pooled:
                    x = _max_pool(x)
                x = nn.relu(_batch_norm(self, train)(x))
        return _dense(self, network, x, train)


@dataclass(frozen=True)
class CNN(MLP):
    """A small convolutional network: for each width a 3x3 convolution, ReLU and 2x2 max-pooling, then an `MLP`.

    A convolution is followed by the norm of the `MLP`, but has no layer norm. Source: arXiv 2605.20009, appendix, which
    has no norms, and biases; here a network without norms multiplies by the constant that keeps its activations' size.
    """

    name: Annotated[str, OF_NETWORK] = "cnn"
    hidden: tuple[int, ...] = (128,)
    """Sets the width of each hidden dense layer."""
    channels: tuple[int, ...] = (16, 32)
    """Sets the width of each convolution."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        check_widths(self, "channels")

    def logits(self, network: Network, x: jax.Array, train: bool) -> jax.Array:
        """Logits [batch, class] for images [batch, height, width, channel]; raises ValueError for too small ones."""
        _check_pooled(self.channels, x)
        for width in self.channels:
            num_inputs = 9 * x.shape[-1]
            x = BinaryConv(width, (3, 3))(x)
            x = _batch_norm(self, train)(x) if self.norm == "batch" else x * (2 / num_inputs) ** 0.5
            x = _max_pool(nn.relu(x))
        return _dense(self, network, x, train)


Settings = MLP | VGG | CNN


class TanhMLP(nn.Module):
    """The paper's network for inputs of one or two numbers: tanh layers with biases, one output [batch].

    Source: arXiv 2002.10778, figures 2 and 3.

    Args:
        hidden: width of each hidden layer.
    """

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.hidden:
            x = nn.tanh(BinaryDense(width, use_bias=True)(x))
        return BinaryDense(1, use_bias=True)(x)[:, 0]


class BumpMLP(nn.Module):
    r"""A network that sees 64 bumps of its inputs, numbers in [-4, 4]: ReLU layers with biases, one output [batch].

    ``h_0 = c prod_d exp(-(x_d - centre_jd)^2 / 2 width^2)``, for d inputs at a grid of 64^(1/d) centres on each axis;
    ``h_l = sqrt(2) relu((h_(l-1) W + b) / sqrt(n))`` of n units below, without sqrt(2) and ReLU in the last layer.

    The constants keep the size of the activations: for weights drawn by a fair coin, h has a mean square of 1, and the
    output is about Normal(0, output_scale^2). Where no example was, bumps are silent in training and their weights keep
    the prior, so the output stays unknown there. In TanhMLP every unit of the first layer sees all examples, and
    with weights of +-1 no more than 2^d units differ by more than a sign.

    Args:
        hidden: width of each hidden layer.
        width: of a bump, its standard deviation.
        output_scale: multiplies the output.
    """

    hidden: tuple[int, ...]
    width: float
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _bumps(x, self.width)
        for i, width in enumerate((*self.hidden, 1)):
            if i:
                x = 2**0.5 * nn.relu(x)
            x = BinaryDense(width, use_bias=True)(x) / x.shape[1] ** 0.5
        return self.output_scale * x[:, 0]


def _bumps(x: jax.Array, width: float, num_bumps: int = 64, end: float = 4.0) -> jax.Array:
    """The bumps of inputs [batch, d], [batch, num_bumps], of mean square 1 if they overlap."""
    num_inputs = x.shape[1]
    num_centres = round(num_bumps ** (1 / num_inputs))
    axes = np.meshgrid(*[np.linspace(-end, end, num_centres, dtype=np.float32)] * num_inputs, indexing="ij")
    distance = (x[:, None] - np.stack(axes, axis=-1).reshape(-1, num_inputs)) / width
    height = (2 * end * num_centres / ((num_centres - 1) * math.pi**0.5 * width)) ** (num_inputs / 2)
    return height * jnp.exp(-jnp.sum(distance**2, axis=-1) / 2)


def _check_pooled(channels: tuple[int, ...], images: jax.Array) -> None:
    """Raises ValueError where nothing is left of the images after a pooling for each width."""
    smallest = min(images.shape[1:3])
    if smallest >> len(channels) == 0:
        raise ValueError(f"channels must leave something of images {smallest} pixels wide, got {channels!r}")


def _max_pool(x: jax.Array) -> jax.Array:
    """2x2 max-pooling of [batch, height, width, channel]; a last odd row or column is left out.

    The gradient of a maximum along axes takes XLA a fraction of the time, on CPUs, of that of `flax.linen.max_pool`.
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


def _dense(settings: MLP, network: Network, x: jax.Array, train: bool) -> jax.Array:
    """The logits of the `MLP` that follows the convolutions."""
    dense = {field: getattr(settings, field) for field in MLP.__dataclass_fields__ if field != "name"}
    return Network(MLP(**dense), network.num_classes, name="MLP_0")(x, train=train)


def _batch_norm(settings: MLP, train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=settings.batch_norm_decay,
        epsilon=settings.batch_norm_eps,
        use_scale=settings.batch_norm_gain,
        use_bias=settings.batch_norm_gain,
    )
