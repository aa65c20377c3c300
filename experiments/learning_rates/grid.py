"""The whole grid as one program: a training run for each cell of it, mapped over the cells.

The runs of a seed have the same split, start, order of images and noise, and differ in rate and momentum alone.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import bbinn_jax as bb
from experiments.common import data, prediction, training
from experiments.learning_rates import rules


class Problem(NamedTuple):
    """What is trained.

    Attributes:
        model: a network of Flax.
        setting: what the methods have to know of it.
        batch_size, epochs: of the training.
        eval_samples: networks in the mean of a posterior.
    """

    model: Any
    setting: rules.Setting
    batch_size: int
    epochs: int
    eval_samples: int


class Answer(NamedTuple):
    """How the runs of a seed ended, [cell]; NaN where there is no such predictor, or no finite number.

    Attributes:
        accuracy, nll: on the images held back, of the network that is shipped.
        accuracy_mean, nll_mean: of the mean of networks that are drawn from a posterior.
        entropy_bits: of a posterior, for each weight.
        diverged: whether a loss, a gradient or an answer was not finite.
    """

    accuracy: jax.Array
    nll: jax.Array
    accuracy_mean: jax.Array
    nll_mean: jax.Array
    entropy_bits: jax.Array
    diverged: jax.Array


def orders(key: jax.Array, num_images: int, batch_size: int, epochs: int) -> jax.Array:
    """The images of each step, [step, batch]: in each epoch all in a new order, but for a last incomplete batch."""
    steps = num_images // batch_size
    drawn = jax.vmap(partial(jax.random.permutation, x=num_images))(jax.random.split(key, epochs))
    return drawn[:, : steps * batch_size].reshape(epochs * steps, batch_size)


def train(
    problem: Problem, name: rules.Name, key: jax.Array, images: data.Split, cell: tuple[jax.Array, jax.Array]
) -> tuple[training.State, jax.Array]:
    """The run of a cell (rate, momentum): its last state, and whether all was finite on the way."""
    init_key, order_key, noise_key, _ = jax.random.split(key, 4)
    method = rules.make(name, problem.setting, *cell)
    of_cell = training.Problem(method, problem.model, problem.batch_size)

    def step(
        carry: tuple[training.State, jax.Array], batch: jax.Array
    ) -> tuple[tuple[training.State, jax.Array], None]:
        state, finite = carry
        state, _, found = training.train_step(of_cell, state, noise_key, images.images[batch], images.labels[batch])
        return (state, finite & jnp.all(jnp.stack([jnp.all(x) for x in jax.tree.leaves(found)]))), None

    order = orders(order_key, len(images.labels), problem.batch_size, problem.epochs)
    start = (training.init(of_cell, init_key, images.images), jnp.array(True))
    return jax.lax.scan(step, start, order)[0]


def answer(
    problem: Problem, name: rules.Name, key: jax.Array, last: tuple[training.State, jax.Array], held_back: data.Split
) -> Answer:
    """How a run ended that has come to its last state, and whether all was finite on the way."""
    state, finite = last
    method = rules.make(name, problem.setting, 0.0, 0.0)
    apply_fn = prediction.network(problem.model, state, jnp.zeros(0))
    logits = apply_fn(prediction.shipped(method, state), held_back.images)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == held_back.labels)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, held_back.labels).mean()
    diverged = ~(finite & jnp.isfinite(nll))
    if not method.is_posterior:
        nothing = jnp.array(jnp.nan)
        return Answer(accuracy, nll, nothing, nothing, nothing, diverged)
    sample_key = jax.random.split(key, 4)[3]
    mean = bb.posterior_predictive(
        apply_fn, state.params[0], sample_key, held_back.images, num_samples=problem.eval_samples, chunk_size=1
    ).probabilities
    accuracy_mean = bb.metrics.accuracy(mean, held_back.labels)
    nll_mean = bb.metrics.negative_log_likelihood(mean, held_back.labels)
    entropy_bits = bb.diagnostics.entropy_bits_per_weight(state.params[0])
    return Answer(accuracy, nll, accuracy_mean, nll_mean, entropy_bits, diverged)


def run(
    problem: Problem,
    name: rules.Name,
    cells_at_once: int,
    key: jax.Array,
    parts: tuple[data.Split, ...],
    cells: tuple[jax.Array, jax.Array],
) -> Answer:
    """All cells (rates, momenta) [cell] of a method and a seed, so many at once as fit; ``jit`` it outside."""
    images, held_back = parts

    def of_cell(cell: tuple[jax.Array, jax.Array]) -> Answer:
        return answer(problem, name, key, train(problem, name, key, images, cell), held_back)

    return jax.lax.map(of_cell, cells, batch_size=cells_at_once)
