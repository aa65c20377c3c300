r"""Exact Bayes for a planted machine: Gibbs sampling of its weights, one after the other.

    P(W_ip = +1 | other weights, examples) = sigmoid(2 h_ip),   h_ip = (ln p(D | W_ip = +1) - ln p(D | W_ip = -1)) / 2

with the exact likelihood of `machine`. Nothing is relaxed and nothing is taken to be independent, so this is what a
mean-field posterior is measured against. The means are averages of tanh h, which vary less than those of the samples.
The chain starts at the planted weights, in the part of the posterior that the mean field looks for: all others are this
one with hidden units in other places or of other signs. Where examples are too few to hold it there, it wanders, and
its averages fall to 0 as those of exact Bayes do.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.rbm import machine

SWEEPS, BURN_IN, KEPT_EVERY = 250, 50, 4


class Chain(NamedTuple):
    """Weights [N, P], and what their likelihood is made of.

    Attributes:
        weights: of the chain.
        fields: X of each example, [M, P].
        to_visible: what each hidden state sends to the visible units, [2^P, N].
        log_weights: of each hidden state, the terms of ln Z.
    """

    weights: jax.Array
    fields: jax.Array
    to_visible: jax.Array
    log_weights: jax.Array


def start(weights: jax.Array, visible: jax.Array) -> Chain:
    """The chain at some weights."""
    to_visible = machine.hidden_states(weights.shape[1]) @ weights.T / np.sqrt(weights.shape[0])
    return Chain(weights, machine.fields(weights, visible), to_visible, jnp.sum(machine.log_2cosh(to_visible), axis=-1))


def sweep(chain: Chain, key: jax.Array, visible: jax.Array) -> tuple[Chain, jax.Array]:
    """Samples every weight once; returns tanh h of each as well."""
    num_visible, hidden_units = chain.weights.shape
    states = machine.hidden_states(hidden_units)

    def change(chain: Chain, place: tuple[jax.Array, jax.Array], value: float) -> tuple[Chain, jax.Array]:
        i, p = place
        delta = (value - chain.weights[i, p]) / np.sqrt(num_visible)
        field = chain.fields[:, p] + delta * visible[:, i]
        sent = chain.to_visible[:, i] + delta * states[:, p]
        log_weights = chain.log_weights - machine.log_2cosh(chain.to_visible[:, i]) + machine.log_2cosh(sent)
        log_likelihood = jnp.sum(machine.log_2cosh(field)) - len(visible) * jax.nn.logsumexp(log_weights)
        changed = Chain(
            chain.weights.at[i, p].set(value),
            chain.fields.at[:, p].set(field),
            chain.to_visible.at[:, i].set(sent),
            log_weights,
        )
        return changed, log_likelihood

    def sample(chain: Chain, index: jax.Array) -> tuple[Chain, jax.Array]:
        place = index // hidden_units, index % hidden_units
        (up, of_up), (down, of_down) = change(chain, place, 1.0), change(chain, place, -1.0)
        field = (of_up - of_down) / 2
        is_up = jax.random.uniform(jax.random.fold_in(key, index)) < jax.nn.sigmoid(2 * field)
        return jax.tree.map(lambda x, y: jnp.where(is_up, x, y), up, down), jnp.tanh(field)

    chain, means = jax.lax.scan(sample, chain, jnp.arange(num_visible * hidden_units))
    return chain, means.reshape(num_visible, hidden_units)


def sample(key: jax.Array, weights: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The posterior means, [N, P], and machines of the chain, [sample, N, P]."""

    def step(chain: Chain, t: jax.Array) -> tuple[Chain, Any]:
        chain, means = sweep(chain, jax.random.fold_in(key, t), visible)
        return chain, (means, chain.weights)

    _, (means, drawn) = jax.lax.scan(step, start(weights, visible), jnp.arange(SWEEPS))
    return jnp.mean(means[BURN_IN:], axis=0), drawn[BURN_IN::KEPT_EVERY]
