r"""A restricted Boltzmann machine with binary synapses.

    p(s, h | W) = exp(s^T W h / sqrt N) / Z(W),    s in {-1, +1}^N,  h in {-1, +1}^P,  W in {-1, +1}^(N x P)
    ln p(s | W) = sum_p ln 2cosh X_p(s) - ln Z(W),    X_p(s) = sum_i W_ip s_i / sqrt N
    ln Z(W)     = logsumexp over the 2^P hidden states h of  sum_i ln 2cosh(sum_p W_ip h_p / sqrt N)

The visible units are summed out of Z and the hidden ones are counted, so with few hidden units the likelihood is exact.
It can be differentiated at weights between -1 and +1. Source: arXiv 2007.04676, 1911.07662.

Machines of images have a real part as well: a bias of each pixel, a scale of all weights, and a centre,

    p(s, h | W) = exp(b^T s + scale (s - c)^T W h / sqrt N) / Z(W)

Binary weights cannot fade a pixel out, but the biases can say that the border is black, and where c is the mean image
the hidden units do not hear of pixels that are always black. A sum over 2^P hidden states is still exact.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MOST_EXACT = 12  # hidden units: 4,096 hidden states


class Real(NamedTuple):
    """The real part of a machine.

    Attributes:
        bias: of the visible units, [N].
        scale: of all weights.
        centre: of the visible units, [N]; it is not learned.
    """

    bias: jax.Array | float = 0.0
    scale: jax.Array | float = 1.0
    centre: jax.Array | float = 0.0


NONE = Real()  # that of a planted machine


def hidden_states(hidden_units: int) -> jax.Array:
    """All states of the hidden units, [2^P, P]."""
    return jnp.asarray(list(itertools.product((-1.0, 1.0), repeat=hidden_units)), jnp.float32)


def fields(weights: jax.Array, visible: jax.Array, real: Real = NONE) -> jax.Array:
    """What the hidden units receive, X [example, P]."""
    return real.scale * (visible - real.centre) @ weights / np.sqrt(weights.shape[0])


def visible_fields(weights: jax.Array, hidden: jax.Array, real: Real = NONE) -> jax.Array:
    """What the visible units receive, [example, N]."""
    return real.bias + real.scale * hidden @ weights.T / np.sqrt(weights.shape[0])


def free_energy(weights: jax.Array, visible: jax.Array, real: Real = NONE) -> jax.Array:
    """Minus the logarithm of the sum of p(s, h) Z over h, of each example."""
    return -jnp.sum(real.bias * visible, axis=-1) - jnp.sum(log_2cosh(fields(weights, visible, real)), axis=-1)


def log_partition(weights: jax.Array, real: Real = NONE) -> jax.Array:
    """The logarithm of Z(W), exactly."""
    return jax.nn.logsumexp(_log_weights(weights, hidden_states(weights.shape[1]), real))


def log_likelihood(weights: jax.Array, visible: jax.Array, real: Real = NONE) -> jax.Array:
    """The logarithm of p(s | W) of each example, exactly, in nats."""
    return -free_energy(weights, visible, real) - log_partition(weights, real)


def loss_fn(weights: jax.Array, visible: jax.Array, real: Real = NONE) -> jax.Array:
    """The mean negative log-likelihood of the examples: the loss that every method minimises."""
    return -jnp.mean(log_likelihood(weights, visible, real))


def draw(key: jax.Array, weights: jax.Array, num_examples: int) -> jax.Array:
    """Independent examples of a machine, exactly: h from the table of its 2^P states, then s given h."""
    hidden_key, visible_key = jax.random.split(key)
    states = hidden_states(weights.shape[1])
    chosen = jax.random.categorical(hidden_key, _log_weights(weights, states, NONE), shape=(num_examples,))
    return visible_given(visible_key, weights, states[chosen])


def visible_given(key: jax.Array, weights: jax.Array, hidden: jax.Array, real: Real = NONE) -> jax.Array:
    """Visible units given the hidden ones."""
    return coins(key, visible_fields(weights, hidden, real))


def hidden_given(key: jax.Array, weights: jax.Array, visible: jax.Array, real: Real = NONE) -> jax.Array:
    """Hidden units given the visible ones."""
    return coins(key, fields(weights, visible, real))


def coins(key: jax.Array, field: jax.Array) -> jax.Array:
    """Units of -1 or +1 with mean tanh(field)."""
    return jnp.where(jax.random.uniform(key, field.shape) < jax.nn.sigmoid(2 * field), 1.0, -1.0)


def log_2cosh(x: jax.Array) -> jax.Array:
    """ln(2 cosh x), without overflow."""
    return jnp.logaddexp(x, -x)


def _log_weights(weights: jax.Array, states: jax.Array, real: Real) -> jax.Array:
    """Of each hidden state the logarithm of the sum of p(s, h) Z over s."""
    to_visible = visible_fields(weights, states, real)
    return jnp.sum(log_2cosh(to_visible) - real.centre * (to_visible - real.bias), axis=-1)
