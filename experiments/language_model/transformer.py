"""A decoder-only transformer whose matrices are all binary, in Flax NNX.

    h = norm(expand(e[last characters]))                          e: real, narrow; expand: binary
    h = h + gain * norm(out(attention(norm(h))))                  for each block: qkv, out binary
    h = h + gain * norm(down(relu(norm(up(norm(h))))))            up, down binary
    logits = scale * decode(norm(h)) / sqrt(width) + bias         decode binary

``norm(x) = x / sqrt(mean(x^2))`` has no parameters. Weights of -1 and +1 make outputs sqrt(inputs) too large, and a
norm behind each matrix takes that away, whatever the size of the weights. Queries and keys have norms of their own.
Place is told by rotary angles (arXiv 2104.09864), which have no parameters either. A place starts from the embeddings
of its character and of the few before it, side by side: what comes next depends most on these. What is real is the
embedding, a gain for each channel of a branch, a factor for each head, and scale and bias of the logits.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import bbinn_jax as bb


class Shape(NamedTuple):
    """The sizes of a transformer: how many symbols and blocks, how wide, and so on."""

    symbols: int
    layers: int
    width: int
    heads: int
    hidden: int
    embedding: int
    joined: int


def norm(x: jax.Array) -> jax.Array:
    """``x / sqrt(mean(x^2))`` along the last axis."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def rotate(x: jax.Array) -> jax.Array:
    """Turns pairs of channels by angles that grow with the place; x [..., place, head, channel]."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[-3])[:, None] / 1000.0 ** (jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Block(nnx.Module):
    """Attention to what came before, and a layer of hidden units."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        width = shape.width
        self.heads = shape.heads
        self.qkv = bb.nnx.BinaryLinear(width, 3 * width, rngs=rngs)
        self.out = bb.nnx.BinaryLinear(width, width, rngs=rngs)
        self.up = bb.nnx.BinaryLinear(width, shape.hidden, rngs=rngs)
        self.down = bb.nnx.BinaryLinear(shape.hidden, width, rngs=rngs)
        self.sharpness = nnx.Param(jnp.ones(shape.heads))
        self.gains = nnx.Param(jnp.full((2, width), 0.5))

    def __call__(self, h: jax.Array) -> jax.Array:
        """[..., place, width] to the same."""
        h = h + self.gains[0] * norm(self.out(self.attention(norm(h))))
        return h + self.gains[1] * norm(self.down(nnx.relu(norm(self.up(norm(h))))))

    def attention(self, x: jax.Array) -> jax.Array:
        """What each place reads from itself and the places before it."""
        *batch, length, width = x.shape
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(*batch, length, 3, self.heads, width // self.heads), -3, 0)
        q = rotate(norm(q)) * self.sharpness[:, None] / (width // self.heads) ** 0.5
        scores = jnp.einsum("...qhc,...khc->...hqk", q, rotate(norm(k)))
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
        read = jnp.einsum("...hqk,...khc->...qhc", jax.nn.softmax(scores), v / width**0.5)
        return read.reshape(x.shape)


class Transformer(nnx.Module):
    """Symbols [..., place] to logits [..., place, symbol] of the symbols that follow them."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(shape.symbols, shape.embedding, rngs=rngs)
        self.expand = bb.nnx.BinaryLinear(shape.joined * shape.embedding, shape.width, rngs=rngs)
        self.layers, self.joined = shape.layers, shape.joined
        for i in range(shape.layers):
            setattr(self, f"block_{i}", Block(shape, rngs))
        self.decode = bb.nnx.BinaryLinear(shape.width, shape.symbols, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(()))
        self.bias = nnx.Param(jnp.zeros(shape.symbols))

    def __call__(self, symbols: jax.Array) -> jax.Array:
        e = self.embedding(symbols)
        h = norm(self.expand(jnp.concatenate([_later(e, i) for i in range(self.joined)], axis=-1)))
        for i in range(self.layers):
            h = getattr(self, f"block_{i}")(h)
        return self.scale * self.decode(norm(h)) / h.shape[-1] ** 0.5 + self.bias


def _later(x: jax.Array, places: int) -> jax.Array:
    """What stood so many places before, and nothing before the first; x [..., place, channel]."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(places, 0), (0, 0)])[..., : x.shape[-2], :]


class Network(NamedTuple):
    """A `Transformer` with the ``init`` and ``apply`` of Flax linen, which is how the experiments train and predict."""

    shape: Shape

    def init(self, key: jax.Array, symbols: jax.Array, *, train: bool) -> dict[str, Any]:
        """Parameters, as a tree of arrays."""
        return {"params": nnx.to_pure_dict(nnx.state(Transformer(self.shape, nnx.Rngs(key)), nnx.Param))}

    def apply(self, variables: Any, symbols: jax.Array, *, train: bool, mutable: Any = False, rngs: Any = None) -> Any:
        """Logits; where weights have a variance, with noise of activations. With mutable a pair, as linen has it."""
        model = nnx.eval_shape(lambda: Transformer(self.shape, nnx.Rngs(0)))
        graphdef, state = nnx.split(model)
        nnx.replace_by_pure_dict(state, variables["params"])
        model = nnx.merge(graphdef, state)
        if variables.get("variance"):
            bb.nnx.add_noise(rngs["weight_noise"], model, variables["variance"])
        logits = model(symbols)
        return (logits, {}) if mutable else logits
