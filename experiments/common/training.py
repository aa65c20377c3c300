"""Training as a pure function: an epoch of several seeds is one loop on the device.

Whatever has a leading seed axis trains one network for each seed, in one program.
The key of step t is ``fold_in(key, t)`` and that of an epoch's permutation
``fold_in(key, t)`` of another key, so a run depends on its config, its key
and its data alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import bbinn_jax as bb
from experiments.common import devices
from experiments.common.data import Split


class Method(NamedTuple):
    """How binary weights are trained.

    Attributes:
        init: ``init(key, natural)`` gives the trained parameters, a tree like natural.
        expected_loss: turns ``loss_fn(weights, *args) -> (loss, aux)`` into
            ``f(natural, key, *args)``.
        optimizer: of the pair (natural, real).
        is_binary: whether the network that is shipped has weights +-1, the mode of natural.
        is_posterior: whether natural is a posterior, from which networks can be drawn.
        noise_of_activations: where the loss is that of mean weights under noise of the activations, what makes the
            variance behind it of the weights' variance; else None.
    """

    init: Callable[[jax.Array, Any], Any]
    expected_loss: Callable[[Callable[..., Any]], Callable[..., Any]]
    optimizer: optax.GradientTransformation
    is_binary: bool = True
    is_posterior: bool = False
    noise_of_activations: Callable[[Any], Any] | None = None


class Problem(NamedTuple):
    """What is trained, and how.

    Attributes:
        method: how.
        model: what; a module of Flax linen, or what has its ``init`` and ``apply(variables, images, train=...)``.
        batch_size: images in a batch.
        augment: ``augment(key, images)`` changes the images of a batch.
    """

    method: Method
    model: Any
    batch_size: int
    augment: Callable[[jax.Array, jax.Array], jax.Array] = lambda key, images: images


class State(NamedTuple):
    """All that changes in training."""

    params: tuple[Any, Any]  # (natural, latent or real-valued weights; real)
    optimizer: Any
    batch_stats: Any
    step: jax.Array


class Metrics(NamedTuple):
    """Means over an epoch, measured on the training batches as they pass; in a step, its values."""

    loss: jax.Array
    accuracy: jax.Array


class Finite(NamedTuple):
    """Whether the loss of a step is a finite number, and every number in each leaf of its gradient."""

    loss: jax.Array
    gradient: Any  # a tree like the network's parameters


def init(problem: Problem, key: jax.Array, images: jax.Array) -> State:
    """The state of one seed before the first step; images [n, ...] only for their shape."""
    method = problem.method
    model_key, method_key = jax.random.split(key)
    variables = problem.model.init(model_key, images[:1], train=False)
    natural, real = bb.partition(variables["params"])
    params = (method.init(method_key, natural), real)
    return State(params, method.optimizer.init(params), variables.get("batch_stats", {}), jnp.zeros((), jnp.int32))


def train_step(
    problem: Problem, state: State, key: jax.Array, images: jax.Array, labels: jax.Array
) -> tuple[State, Metrics, Finite]:
    """One step of one seed on a batch."""
    method = problem.method
    sample_key, dropout_key, augment_key = jax.random.split(jax.random.fold_in(key, state.step), 3)

    def loss_fn(weights, real, probes):
        weights = devices.over_samples(weights)
        params = jax.tree.map(jnp.add, bb.combine(weights, real), probes)
        rngs, variance = {"dropout": dropout_key}, {}
        if method.noise_of_activations:
            rngs["weight_noise"] = sample_key
            variance = method.noise_of_activations(jax.tree.map(lambda mean: 1 - mean**2, weights))
        logits, updated = problem.model.apply(
            {"params": params, "batch_stats": state.batch_stats, "variance": variance},
            problem.augment(augment_key, images),
            train=True,
            mutable=["batch_stats"],
            rngs=rngs,
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
        return loss, (updated.get("batch_stats", {}), accuracy)

    natural, real = state.params
    # The gradient of a 0 added to a leaf's weights is the sum of theirs: finite where they are, and cheap to have.
    probes = jax.tree.map(lambda _: 0.0, bb.combine(natural, real))
    loss_and_grad = jax.value_and_grad(method.expected_loss(loss_fn), argnums=(0, 2, 3), has_aux=True)
    (loss, (batch_stats, accuracy)), (*grads, sums) = loss_and_grad(natural, sample_key, real, probes)
    updates, optimizer = method.optimizer.update(tuple(grads), state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    finite = Finite(jnp.isfinite(loss), jax.tree.map(jnp.isfinite, sums))
    return State(params, optimizer, batch_stats, state.step + 1), Metrics(loss, accuracy), finite


def train_epoch(
    problem: Problem, states: State, keys: jax.Array, data: Split, index: jax.Array
) -> tuple[State, Metrics, Finite]:
    """One pass over the data in random order; a last incomplete batch is left out.

    Args:
        problem: what is trained, and how.
        states: of every seed.
        keys: [seed].
        data: all images.
        index: [seed, n], which of them each seed trains on.

    Returns:
        States, metrics and finiteness of every seed. The loop ends with the first step
        in which a seed's loss or gradient is not finite; ``State.step`` counts that step.
    """
    num_steps = index.shape[1] // problem.batch_size

    def shuffle(state: State, key: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        step_key, order_key = jax.random.split(key)
        order = jax.random.permutation(jax.random.fold_in(order_key, state.step), index)
        return step_key, order[: num_steps * problem.batch_size].reshape(num_steps, problem.batch_size)

    def step(state: State, key: jax.Array, batch: jax.Array) -> tuple[State, Metrics, Finite]:
        batch = devices.over_data(batch)  # the images and labels follow
        return train_step(problem, state, key, data.images[batch], data.labels[batch])

    def goes_on(carry):
        i, _, _, finite = carry
        return (i < num_steps) & jnp.all(jnp.stack([jnp.all(x) for x in jax.tree.leaves(finite)]))

    def body(carry):
        i, states, totals, _ = carry
        states, metrics, finite = bb.over_leading_axis(step)(states, step_keys, orders[:, i])
        return i + 1, states, jax.tree.map(jnp.add, totals, metrics), finite

    step_keys, orders = jax.vmap(shuffle)(states, keys, index)
    num_seeds = len(keys)
    totals = Metrics(jnp.zeros(num_seeds), jnp.zeros(num_seeds))
    finite = Finite(*jax.tree.map(lambda _: jnp.ones(num_seeds, bool), (0.0, bb.combine(*states.params))))
    i, states, totals, finite = jax.lax.while_loop(goes_on, body, (0, states, totals, finite))
    return states, jax.tree.map(lambda x: x / i, totals), finite
