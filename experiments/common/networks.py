"""The networks of the experiments."""

from typing import Literal

import flax.linen as nn
import jax

from bbinn_jax import BinaryConv, BinaryDense


class MLP(nn.Module):
    """The paper's multilayer perceptron: binary weights, real activations.

    Each layer is dropout, `BinaryDense`, batch norm, and (but for the last) ReLU.
    Source: arXiv 2002.10778, appendix.

    Args:
        hidden: width of each hidden layer.
        num_classes: number of logits.
        dropout: rate before each layer.
        batch_norm_decay: of the running statistics.
        batch_norm_eps: added to the variance.
        batch_norm_gain: whether batch norms have a trained real gain and bias.
        output_scale: whether a trained real scalar multiplies the logits. Without
            it the last batch norm caps the confidence, for 10 classes at about 0.757.
        norm: what follows a dense layer: "batch", "layer" (of each image by itself, without
            gain: there are no statistics to keep), or "none", a constant that keeps the
            size of the activations, sqrt(2 / inputs).
    """

    hidden: tuple[int, ...]
    num_classes: int
    dropout: float = 0.0
    batch_norm_decay: float = 0.85
    batch_norm_eps: float = 1e-4
    batch_norm_gain: bool = False
    output_scale: bool = False
    norm: Literal["batch", "layer", "none"] = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.reshape(len(x), -1)
        for i, width in enumerate((*self.hidden, self.num_classes)):
            num_inputs = x.shape[1]
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
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
            x = x * self.param("output_scale", nn.initializers.ones, ())
        return x


class VGG(nn.Module):
    """The paper's convolutional network: binary weights, real activations.

    For each width two 3x3 convolutions, then an `MLP`. A convolution is followed by
    batch norm and ReLU, the second one of a width by 2x2 max-pooling before them.
    Source: arXiv 2002.10778, appendix.

    Args:
        channels: width of each pair of convolutions.
        hidden: width of each hidden dense layer.
        num_classes: number of logits.
        dropout, batch_norm_decay, batch_norm_eps, batch_norm_gain, output_scale: as in
            `MLP`; dropout is before the dense layers.
    """

    channels: tuple[int, ...]
    hidden: tuple[int, ...]
    num_classes: int
    dropout: float = 0.0
    batch_norm_decay: float = 0.8
    batch_norm_eps: float = 1e-5
    batch_norm_gain: bool = False
    output_scale: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for width in self.channels:
            for pooled in (False, True):
                x = BinaryConv(width, (3, 3))(x)
                if pooled:
                    x = nn.max_pool(x, (2, 2), strides=(2, 2))
                x = nn.relu(_batch_norm(self, train)(x))
        return MLP(
            hidden=self.hidden,
            num_classes=self.num_classes,
            dropout=self.dropout,
            batch_norm_decay=self.batch_norm_decay,
            batch_norm_eps=self.batch_norm_eps,
            batch_norm_gain=self.batch_norm_gain,
            output_scale=self.output_scale,
        )(x, train=train)


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


def _batch_norm(network: MLP | VGG, train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=network.batch_norm_decay,
        epsilon=network.batch_norm_eps,
        use_scale=network.batch_norm_gain,
        use_bias=network.batch_norm_gain,
    )
