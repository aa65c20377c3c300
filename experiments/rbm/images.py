"""Machines that learn black and white images: digits with exact likelihoods, MNIST by contrastive divergence.

The gradient of ln Z needs the machine's own images. With few hidden units it is counted exactly. With many, chains that
sample the units of the mode are carried from step to step, and their images stand for the machine's (PCD):

    loss(W) = mean of A(s) over a batch - mean of A(v) over the chains,   A the free energy

The posterior makes this possible for binary weights: A is differentiated at relaxed samples of them, while the chains
always run in a machine that exists. Biases and a scale are real and learned by Adam in the same backward pass; without
them p(s) = p(-s), and no weight can fade a pixel out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bbinn_jax as bb
from experiments.common import data
from experiments.rbm import learners, machine
from experiments.rbm.machine import Real
from experiments.rbm.planted import draw, mixture_log_likelihood
from experiments.rbm.presets import Config

SHOWN = ("filters", "samples", "reconstructions")  # in a row, for the figure
MANY, SWEEPS, FLIPPED = 10, 1000, 0.1  # images of each kind; of the samples; share of pixels turned round


class Images(NamedTuple):
    """Images of -1 and +1, [n, pixel]."""

    train: jax.Array
    test: jax.Array


class State(NamedTuple):
    """Of training: parameters of the weights and real part, the states of their optimizers, and the chains."""

    params: tuple[jax.Array, Real]
    optimizers: Any
    chains: jax.Array


def load(config: Config) -> Images:
    """Loads the images; a pixel is white where it is brighter than half grey.

    Raises:
        ValueError, OSError: as `data.load`; a batch larger than the training set.
    """
    dataset = data.load(config.data)

    def binary(images: jax.Array) -> jax.Array:
        pixels = np.asarray(images) * dataset.std + dataset.mean
        return jnp.asarray(np.where(pixels > 0.5, 1.0, -1.0).reshape(len(pixels), -1), jnp.float32)

    train = binary(dataset.train.images[: config.train_images])
    if config.batch_size > len(train):
        raise ValueError(f"batch_size must be at most {len(train)}, got {config.batch_size!r}")
    return Images(train, binary(dataset.test.images))


def work(config: Config, images: Images) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    """The pieces of a run, by name: every method and seed."""
    return {
        f"{method}, seed={seed}": partial(learn, config, images, method, seed)
        for seed in range(config.seed, config.seed + config.seeds)
        for method in config.methods
    }


def learn(config: Config, images: Images, method: str, seed: int) -> list[dict[str, Any]]:
    """The row of a method: what its machine makes of test images, and images of its own."""
    keys = jax.random.split(jax.random.key(seed), 5)
    mean, real = jax.jit(partial(train, config, method))(keys[0], images.train)
    mode, test = bb.mode(mean), images.test
    flipped = jnp.where(jax.random.bernoulli(keys[1], FLIPPED, test.shape), -test, test)
    row: dict[str, Any] = {"method": method, "hidden_units": mean.shape[1], "seed": seed}
    row |= {"reconstruction_error": _wrong(reconstruct(mode, test, real), test)}
    row |= {"denoising_error": _wrong(reconstruct(mode, flipped, real), test), "flipped": FLIPPED}
    energies = [machine.free_energy(mode, x, real).mean() for x in (test, images.train)]
    row |= {"free_energy_gap": float(energies[0] - energies[1]), "scale": float(real.scale)}
    natural = jnp.arctanh(jnp.clip(mean, -1 + 1e-7, 1 - 1e-7))
    row["entropy_bits"] = float(bb.diagnostics.entropy_bits_per_weight(natural))
    if _is_exact(config):
        row["test_log_likelihood_mode"] = float(machine.log_likelihood(mode, test, real).mean())
        drawn = draw(keys[2], mean, config.eval_samples)
        row["test_log_likelihood"] = float(mixture_log_likelihood(drawn, test, real))
    own = sampled(mode, keys[3], machine.coins(keys[4], jnp.zeros((MANY, test.shape[1]))), SWEEPS, real)
    order = np.argsort(-np.abs(np.asarray(mean)).mean(axis=0))[:MANY]
    pairs = jnp.concatenate([flipped[:MANY], reconstruct(mode, flipped[:MANY], real)])
    shown = (np.asarray(mean).T[order], own, pairs)
    return [row | {name: np.round(np.asarray(x), 2).tolist() for name, x in zip(SHOWN, shown, strict=True)}]


def train(config: Config, method: str, key: jax.Array, images: jax.Array) -> tuple[jax.Array, Real]:
    """The means of the weights and the real part, learned from all images at a time, or from batches and chains."""
    exact, num_pixels = _is_exact(config), images.shape[1]
    learner = learners.make(config, method, len(images), machine.loss_fn if exact else contrast)
    adam = optax.adam(learners.falling(config, config.real_learning_rate if config.biases else 0.0))
    init_key, loss_key = jax.random.split(key)
    start = learner.init(init_key, jnp.zeros((num_pixels, config.hidden_units[0]))), _start(config, images)
    chains = machine.coins(init_key, jnp.broadcast_to(start[1].bias, (config.chains, num_pixels)))
    optimizers = learner.optimizer, adam

    def step(state: State, t: jax.Array) -> tuple[State, None]:
        sample_key, chain_key, batch_key = jax.random.split(jax.random.fold_in(loss_key, t), 3)
        params, real = state.params
        chains, args = state.chains, [images, real]
        if not exact:
            chains = sampled(bb.mode(learner.mean(params)), chain_key, chains, config.sweeps, real)
            args = [images[jax.random.randint(batch_key, (config.batch_size,), 0, len(images))], real, chains]
        grads = jax.grad(learner.loss, argnums=(0, 3))(params, sample_key, *args)
        still = grads[1]._replace(centre=jnp.zeros(num_pixels))  # Adam leaves the centre where it is
        each = zip(optimizers, (grads[0], still), state.optimizers, state.params, strict=True)
        moved = [optimizer.update(*of_part) for optimizer, *of_part in each]
        updates, states = zip(*moved, strict=True)
        return State(optax.apply_updates(state.params, updates), states, chains), None

    states = tuple(tx.init(x) for tx, x in zip(optimizers, start, strict=True))
    (params, real), _, _ = jax.lax.scan(step, State(start, states, chains), jnp.arange(config.steps))[0]
    if method == "real_sign" and config.biases:  # the signs are as large as the weights were
        real = real._replace(scale=real.scale * jnp.mean(jnp.abs(params)))
    return learner.mean(params), real


def _start(config: Config, images: jax.Array) -> Real:
    """Biases at which a machine without weights has the mean image, or no real part, as arrays."""
    nothing = jnp.zeros(images.shape[1])
    if not config.biases:
        return Real(nothing, jnp.ones(()), nothing)
    centre = jnp.mean(images, axis=0) * len(images) / (len(images) + 2)  # finite where a pixel is always black
    return Real(jnp.arctanh(centre), jnp.asarray(config.scale), centre)


def contrast(weights: jax.Array, images: jax.Array, real: Real, chains: jax.Array) -> jax.Array:
    """The loss of contrastive divergence; its gradient is that of `machine.loss_fn` where chains are the machine's."""
    return jnp.mean(machine.free_energy(weights, images, real)) - jnp.mean(machine.free_energy(weights, chains, real))


def sampled(
    weights: jax.Array, key: jax.Array, visible: jax.Array, sweeps: int, real: Real = machine.NONE
) -> jax.Array:
    """Chains after so many sweeps: hidden units given the visible ones, and these given the hidden ones."""

    def sweep(t: int, visible: jax.Array) -> jax.Array:
        hidden_key, visible_key = jax.random.split(jax.random.fold_in(key, t))
        hidden = machine.hidden_given(hidden_key, weights, visible, real)
        return machine.visible_given(visible_key, weights, hidden, real)

    return jax.lax.fori_loop(0, sweeps, sweep, visible)


def reconstruct(weights: jax.Array, visible: jax.Array, real: Real = machine.NONE) -> jax.Array:
    """What a machine makes of images: the signs of what its hidden units, at their means, send back."""
    hidden = jnp.tanh(machine.fields(weights, visible, real))
    return jnp.where(machine.visible_fields(weights, hidden, real) > 0, 1.0, -1.0)


def _is_exact(config: Config) -> bool:
    return config.hidden_units[0] <= machine.MOST_EXACT


def _wrong(images: jax.Array, true: jax.Array) -> float:
    return float(jnp.mean(images != true))
