"""Machines that learn black and white images: digits with exact likelihoods, MNIST by contrastive divergence.

The gradient of ln Z needs the machine's own images. With few hidden units it is counted exactly. With many, chains that
sample the units of the mode are carried from step to step, and their images stand for the machine's (PCD):

    loss(W) = mean of A(s) over a batch - mean of A(v) over the chains,   A the free energy

The posterior makes this possible for binary weights: A is differentiated at relaxed samples of them, while the chains
always run in a machine that exists. There are no biases, so p(s) = p(-s), and no weight can fade a pixel out.
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
from experiments.rbm.planted import draw, mixture_log_likelihood
from experiments.rbm.presets import Config

SHOWN = ("filters", "samples", "reconstructions")  # in a row, for the figure
MANY, SWEEPS, FLIPPED = 10, 1000, 0.1  # images of each kind; of the samples; share of pixels turned round


class Images(NamedTuple):
    """Images of -1 and +1, [n, pixel]."""

    train: jax.Array
    test: jax.Array


class State(NamedTuple):
    """Of training by contrastive divergence: parameters, that of their optimizer, and the chains."""

    params: jax.Array
    optimizer: Any
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
    hidden_units = config.hidden_units[0]
    keys = jax.random.split(jax.random.key(seed), 6)
    shape = jnp.zeros((images.train.shape[1], hidden_units))
    exact = hidden_units <= machine.MOST_EXACT
    fit = exactly if exact else by_contrastive_divergence
    mean = jax.jit(partial(fit, config, method))(keys[0], shape, images.train)
    mode = bb.mode(mean)
    test = images.test
    flipped = jnp.where(jax.random.bernoulli(keys[1], FLIPPED, test.shape), -test, test)
    row: dict[str, Any] = {"method": method, "hidden_units": hidden_units, "seed": seed}
    row |= {"reconstruction_error": _wrong(reconstruct(mode, test), test)}
    row |= {"denoising_error": _wrong(reconstruct(mode, flipped), test), "flipped": FLIPPED}
    row["entropy_bits"] = float(
        bb.diagnostics.entropy_bits_per_weight(jnp.arctanh(jnp.clip(mean, -1 + 1e-7, 1 - 1e-7)))
    )
    if exact:
        row["test_log_likelihood_mode"] = float(machine.log_likelihood(mode, test).mean())
        drawn = draw(keys[2], mean, config.eval_samples)
        row["test_log_likelihood"] = float(mixture_log_likelihood(drawn, test))
    own = sampled(mode, keys[3], machine.coins(keys[4], jnp.zeros((MANY, test.shape[1]))), SWEEPS)
    order = np.argsort(-np.abs(np.asarray(mean)).mean(axis=0))[:MANY]
    shown = (np.asarray(mean).T[order], own, jnp.concatenate([flipped[:MANY], reconstruct(mode, flipped[:MANY])]))
    return [row | {name: np.round(np.asarray(x), 2).tolist() for name, x in zip(SHOWN, shown, strict=True)}]


def exactly(config: Config, method: str, key: jax.Array, weights: jax.Array, images: jax.Array) -> jax.Array:
    """The means of the weights, learned from all images at a time with the exact likelihood."""
    learner = learners.make(config, method, len(images))
    return learner.mean(learners.train(learner, key, weights, images, config.steps))


def by_contrastive_divergence(
    config: Config, method: str, key: jax.Array, weights: jax.Array, images: jax.Array
) -> jax.Array:
    """The means of the weights, learned from batches and chains."""
    learner = learners.make(config, method, len(images), contrast)
    init_key, loss_key = jax.random.split(key)
    params = learner.init(init_key, weights)
    chains = machine.coins(init_key, jnp.zeros((config.chains, len(weights))))

    def step(state: State, t: jax.Array) -> tuple[State, None]:
        sample_key, chain_key, batch_key = jax.random.split(jax.random.fold_in(loss_key, t), 3)
        chains = sampled(bb.mode(learner.mean(state.params)), chain_key, state.chains, config.sweeps)
        batch = images[jax.random.randint(batch_key, (config.batch_size,), 0, len(images))]
        grads = jax.grad(learner.loss)(state.params, sample_key, batch, chains)
        updates, optimizer = learner.optimizer.update(grads, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), optimizer, chains), None

    state, _ = jax.lax.scan(step, State(params, learner.optimizer.init(params), chains), jnp.arange(config.steps))
    return learner.mean(state.params)


def contrast(weights: jax.Array, images: jax.Array, chains: jax.Array) -> jax.Array:
    """The loss of contrastive divergence; its gradient is that of `machine.loss_fn` where chains are the machine's."""
    return jnp.mean(machine.free_energy(weights, images)) - jnp.mean(machine.free_energy(weights, chains))


def sampled(weights: jax.Array, key: jax.Array, visible: jax.Array, sweeps: int) -> jax.Array:
    """Chains after so many sweeps: hidden units given the visible ones, and these given the hidden ones."""

    def sweep(t: int, visible: jax.Array) -> jax.Array:
        hidden_key, visible_key = jax.random.split(jax.random.fold_in(key, t))
        hidden = machine.hidden_given(hidden_key, weights, visible)
        return machine.visible_given(visible_key, weights, hidden)

    return jax.lax.fori_loop(0, sweeps, sweep, visible)


def reconstruct(weights: jax.Array, visible: jax.Array) -> jax.Array:
    """What a machine makes of images: the signs of what its hidden units, at their means, send back."""
    return jnp.where(jnp.tanh(machine.fields(weights, visible)) @ weights.T > 0, 1.0, -1.0)


def _wrong(images: jax.Array, true: jax.Array) -> float:
    return float(jnp.mean(images != true))
