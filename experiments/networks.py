"""The networks of the experiments."""

import flax.linen as nn
import jax

from bbinn_jax import BinaryDense


class MLP(nn.Module):
    """The paper's multilayer perceptron: binary weights, real activations.

    Each layer is dropout, `BinaryDense`, batch norm without gain and bias, and
    (but for the last) ReLU. Source: arXiv 2002.10778, appendix.

    Args:
        hidden: width of each hidden layer.
        num_classes: number of logits.
        dropout: rate before each layer.
        batch_norm_decay: of the running statistics.
        batch_norm_eps: added to the variance.
        output_scale: whether a trained real scalar multiplies the logits. Without
            it the last batch norm caps the confidence, for 10 classes at about 0.757.
    """

    hidden: tuple[int, ...]
    num_classes: int
    dropout: float = 0.0
    batch_norm_decay: float = 0.85
    batch_norm_eps: float = 1e-4
    output_scale: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.reshape(len(x), -1)
        for i, width in enumerate((*self.hidden, self.num_classes)):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = BinaryDense(width)(x)
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=self.batch_norm_decay,
                epsilon=self.batch_norm_eps,
                use_scale=False,
                use_bias=False,
            )(x)
            if i < len(self.hidden):
                x = nn.relu(x)
        if self.output_scale:
            x = x * self.param("output_scale", nn.initializers.ones, ())
        return x
