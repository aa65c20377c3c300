r"""Spiking neurons, layers of them, and what a network says in the course of time.

    P_t = a P_{t-1} + Q_{t-1}                 membrane
    Q_t = b Q_{t-1} + S^in_t                  synapse: a spike gets to the membrane one step later
    R_t = c R_{t-1} + S_{t-1}                 refractory trace: who has just fired does not fire again so soon
    U_t = P_t W / sqrt(fan_in) - R_t,     S_t = 1[U_t >= 0],     dS/dU := 1[-1/2 < U <= 1/2]

    r_t = S_t B / sqrt(width)                 readout of each layer, B in {-1, +1} at random and never trained

A spike is passed on within its step, but the layer above sees it one step later. So the gradient of one step's
readouts with respect to the weights of a layer needs that layer alone, and is an outer product:

    dr_t/dW = P_t / sqrt(fan_in) x 1[-1/2 < U_t <= 1/2] B / sqrt(width)

Sources: DECOLLE, arXiv 1811.10766; BiSNN, arXiv 2012.08300.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

import bbinn_jax as bb

A, B, C = (math.exp(-1 / tau) for tau in (10, 6, 2))  # decay of membrane, synapse and refractory trace in a step


@jax.custom_jvp
def spike(u: jax.Array) -> jax.Array:
    """1 from the threshold 0 on, below it 0; its derivative is taken to be 1 within 1/2 of the threshold."""
    return (u >= 0).astype(u.dtype)


@spike.defjvp
def _spike_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (u,), (u_dot,) = primals, tangents
    return spike(u), jnp.where((u > -0.5) & (u <= 0.5), u_dot, 0)


class Neurons(NamedTuple):
    """The traces of a layer: P and Q [batch, input], R and the spikes S [batch, neuron]."""

    membrane: jax.Array
    synapse: jax.Array
    refractory: jax.Array
    spikes: jax.Array


class Layer(nn.Module):
    """One time step of a layer of neurons, given the spikes that come in, [batch, input]."""

    width: int

    @nn.compact
    def __call__(self, before: Neurons, spikes: jax.Array) -> Neurons:
        membrane = A * before.membrane + before.synapse
        synapse = B * before.synapse + spikes
        refractory = C * before.refractory + before.spikes
        current = bb.BinaryDense(self.width)(membrane) / math.sqrt(spikes.shape[-1])
        return Neurons(membrane, synapse, refractory, spike(current - refractory))


class Network(nn.Module):
    """One time step of layers on top of each other."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, before: Sequence[Neurons], spikes: jax.Array) -> list[Neurons]:
        after = []
        for width, layer in zip(self.widths, before, strict=True):
            after.append(Layer(width)(layer, spikes))
            spikes = after[-1].spikes
        return after

    def at_rest(self, spikes: jax.Array) -> list[Neurons]:
        """The state before the first step, given the spikes that come in at any step."""
        zeros = [jnp.zeros((*spikes.shape[:-1], size)) for size in (spikes.shape[-1], *self.widths)]
        return [Neurons(x, x, y, y) for x, y in itertools.pairwise(zeros)]

    def weights_like(self, num_inputs: int) -> Any:
        """The tree of weights, of shapes alone."""
        spikes = jnp.zeros((1, num_inputs))
        return jax.eval_shape(self.init, jax.random.key(0), self.at_rest(spikes), spikes)["params"]


def draw_readouts(key: jax.Array, widths: Sequence[int], num_classes: int) -> list[jax.Array]:
    """B of each layer, [neuron, output]; two classes share one output."""
    outputs = 1 if num_classes == 2 else num_classes
    return bb.sample(key, [jnp.zeros((width, outputs)) for width in widths])


def logits(neurons: Neurons, readout: jax.Array) -> jax.Array:
    """What a layer says in this step, [batch, class]; of two classes the first always has the logit 0."""
    r = neurons.spikes @ readout / math.sqrt(len(readout))
    return jnp.pad(r, ((0, 0), (1, 0))) if r.shape[-1] == 1 else r


def over_time(network: Network, weights: Any, spikes: jax.Array, look: Callable[[list[Neurons]], Any]) -> Any:
    """Runs a network from rest: what ``look(layers)`` sees in each step, given spikes [time, batch, input]."""

    def step(layers: list[Neurons], spikes: jax.Array) -> tuple[list[Neurons], Any]:
        after: Any = network.apply({"params": weights}, layers, spikes)
        return after, look(after)

    return jax.lax.scan(step, network.at_rest(spikes[0]), spikes)[1]


class Answer(NamedTuple):
    """What a network says of examples: probabilities [batch, class], their entropy [batch], and its activity.

    Attributes:
        spikes: [batch], the spikes of a neuron in a step, averaged over neurons and steps.
    """

    probabilities: jax.Array
    entropy: jax.Array
    spikes: jax.Array


def answer(network: Network, readouts: Sequence[jax.Array], burn_in: int, weights: Any, spikes: jax.Array) -> Answer:
    """The class probabilities by the last layer, averaged over all steps but the first ones."""

    def look(layers: list[Neurons]) -> tuple[jax.Array, jax.Array]:
        fired = jnp.concatenate([layer.spikes for layer in layers], axis=-1).mean(-1)
        return jax.nn.softmax(logits(layers[-1], readouts[-1])), fired

    probabilities, fired = over_time(network, weights, spikes, look)
    p = probabilities[burn_in:].mean(0)
    return Answer(p, jnp.sum(jax.scipy.special.entr(p), axis=-1), fired.mean(0))
