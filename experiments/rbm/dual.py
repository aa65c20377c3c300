r"""Huang's loss: both phases in closed form, the negative one by message passing. Source: arXiv 1911.07662.

Under the posterior the fields of the hidden units are close to normal (P small, N large):

    X_p(s) ~ G_p(s) + Xi_p z_p,   G_p(s) = sum_i mu_ip s_i / sqrt N,   Xi_p^2 = sum_i (1 - mu_ip^2) / N,   z_p ~ N(0, 1)

With z held, ln Z is that of a machine with real couplings mu / sqrt N and biases Xi_p z_p of its hidden units: the dual
machine. Messages between its units estimate ln Z (Bethe) and two moments that are its gradient, <s_i h_p> and <h_p>.
That all s share one z is an approximation, which exact counting (`machine.log_partition`) does not make.

The published moments take the field of a hidden unit to be normal, with a mean that already has what the unit itself
told its neighbours. The gradient of the bound has M times their error. `published=False` has the moments of a pair of
units, given what all others tell them, which are those of Bethe's estimate of ln Z.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.rbm.machine import log_2cosh

DRAWS, ITERATIONS = 8, 10  # of z in a step, and of the messages for each
NODES = 8  # of the quadrature over one normal variate


class Moments(NamedTuple):
    """Of the dual machine: <s_i h_p> [N, P] and <h_p> [P]."""

    pair: jax.Array
    hidden: jax.Array


def loss_fn(mean: jax.Array, visible: jax.Array, z: jax.Array, published: bool = False) -> jax.Array:
    """The mean negative log-likelihood of the examples, expected under the posterior with these means.

    Args:
        mean: mu, [N, P].
        visible: examples, [n, N].
        z: normal variates of the negative phase, [draw, P].
        published: whether the moments are those of the paper.
    """
    g = visible @ mean / np.sqrt(mean.shape[0])
    nodes, weights = _normal()
    positive = log_2cosh(g[..., None] + _spread(mean)[:, None] * nodes) @ weights
    return log_partition(mean, z, published) - jnp.mean(jnp.sum(positive, axis=-1))


def log_partition(mean: jax.Array, z: jax.Array, published: bool = False) -> jax.Array:
    """The expectation of ln Z: its value is Bethe's, and its gradient is made of the moments, not of the iteration."""

    def of_draw(z: jax.Array) -> jax.Array:
        coupling, bias = mean / np.sqrt(mean.shape[0]), _spread(mean) * z
        value, moments = jax.lax.stop_gradient(_messages(coupling, bias, published))
        linear = jnp.sum(moments.pair * coupling) + jnp.sum(moments.hidden * bias)
        return value + linear - jax.lax.stop_gradient(linear)

    return jnp.mean(jax.vmap(of_draw)(z))


def _messages(coupling: jax.Array, bias: jax.Array, published: bool) -> tuple[jax.Array, Moments]:
    """The logarithm of Z of the dual machine, and its moments."""

    def to_visible(m: jax.Array) -> tuple[jax.Array, jax.Array]:
        field = _of_others(coupling * m, 0) + bias
        return jnp.arctanh(jnp.tanh(field) * jnp.tanh(coupling)), field

    def iterate(_: int, m: jax.Array) -> jax.Array:
        return jnp.tanh(_of_others(to_visible(m)[0], 1))

    m = jax.lax.fori_loop(0, ITERATIONS, iterate, jnp.zeros_like(coupling))  # from a visible to a hidden unit
    u, field = to_visible(m)  # u: from a hidden to a visible unit; field: what a hidden one gets from all others
    # What each unit adds to ln Z, less what the visible ones have counted of a hidden one too often.
    noise = coupling**2 * (1 - m**2)
    total = jnp.sum(coupling * m, axis=0) + bias
    of_hidden = jnp.sum(noise, axis=0) / 2 + log_2cosh(total)
    up, down = (jnp.sum(log_2cosh(field + sign * coupling), axis=1) for sign in (1, -1))
    of_visible = jnp.logaddexp(up, down) + jnp.sum(_of_others(noise, 0), axis=1) / 2
    value = jnp.sum(of_visible) - (len(coupling) - 1) * jnp.sum(of_hidden)
    if published:
        return value, _published_moments(coupling, bias, jnp.tanh(jnp.sum(u, axis=1))[:, None])
    told, pair = jnp.tanh(field), jnp.tanh(coupling)
    return value, Moments((pair + m * told) / (1 + pair * m * told), jnp.tanh(total))


def _published_moments(coupling: jax.Array, bias: jax.Array, visible: jax.Array) -> Moments:
    """Those of a normal field, of the means of the visible units [N, 1]."""
    field = jnp.sum(coupling * visible, axis=0) + bias
    spread = jnp.sqrt(jnp.sum(coupling**2 * (1 - visible**2), axis=0))
    nodes, weights = _normal()
    tanh = jnp.tanh(field[:, None] + spread[:, None] * nodes)
    hidden, slope = tanh @ weights, (1 - tanh**2) @ weights
    return Moments(visible * hidden + coupling * (1 - visible**2) * slope, hidden)


def _of_others(terms: jax.Array, axis: int) -> jax.Array:
    """The sum of all but oneself."""
    return jnp.sum(terms, axis=axis, keepdims=True) - terms


def _spread(mean: jax.Array) -> jax.Array:
    """Xi, [P]; a little is left of it where all means are -1 or +1, so that it has a derivative."""
    return jnp.sqrt(jnp.mean(1 - mean**2, axis=0) + 1e-6)


def _normal() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of expectations over a normal variate."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return nodes.astype(np.float32), (weights / weights.sum()).astype(np.float32)
