"""Training as a pure function: an epoch is one `jax.lax.scan` on the device.

The key of step t is ``fold_in(key, t)`` and that of an epoch's permutation
``fold_in(key, epoch)`` of another key, so a run depends on its config, its key
and its data alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import bbinn_jax as bb


class Method(NamedTuple):
    """How binary weights are trained.

    Attributes:
        init: ``init(key, natural)`` gives the trained parameters, a tree like natural.
        expected_loss: turns ``loss_fn(weights, *args) -> (loss, aux)`` into
            ``f(natural, key, *args)``.
        optimizer: of the pair (natural, real).
        is_posterior: whether natural is a posterior, from which networks can be drawn.
    """

    init: Callable[[jax.Array, Any], Any]
    expected_loss: Callable[[Callable[..., Any]], Callable[..., Any]]
    optimizer: optax.GradientTransformation
    is_posterior: bool


class State(NamedTuple):
    """All that changes in training."""

    params: tuple[Any, Any]  # (natural or latent, real)
    optimizer: Any
    batch_stats: Any
    step: jax.Array


class Metrics(NamedTuple):
    """Means over an epoch, measured on the training batches as they pass."""

    loss: jax.Array
    accuracy: jax.Array


def init(method: Method, model: nn.Module, key: jax.Array, images: jax.Array) -> State:
    """The state before the first step; images [n, ...] only for their shape."""
    model_key, method_key = jax.random.split(key)
    variables = model.init(model_key, images[:1], train=False)
    natural, real = bb.partition(variables["params"])
    params = (method.init(method_key, natural), real)
    return State(params, method.optimizer.init(params), variables.get("batch_stats", {}), jnp.zeros((), jnp.int32))


def train_epoch(
    method: Method,
    model: nn.Module,
    batch_size: int,
    state: State,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[State, Metrics]:
    """One pass over the data in random order; a last incomplete batch is left out."""

    def loss_fn(weights, real, batch_stats, dropout_key, images, labels):
        logits, updated = model.apply(
            {"params": bb.combine(weights, real), "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
        return loss, (updated.get("batch_stats", {}), accuracy)

    loss_and_grad = jax.value_and_grad(method.expected_loss(loss_fn), argnums=(0, 2), has_aux=True)

    def step(state: State, index: jax.Array) -> tuple[State, Metrics]:
        sample_key, dropout_key = jax.random.split(jax.random.fold_in(step_key, state.step))
        natural, real = state.params
        (loss, (batch_stats, accuracy)), grads = loss_and_grad(
            natural, sample_key, real, state.batch_stats, dropout_key, images[index], labels[index]
        )
        updates, optimizer = method.optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, optimizer, batch_stats, state.step + 1), Metrics(loss, accuracy)

    step_key, order_key = jax.random.split(key)
    num_steps = len(images) // batch_size
    order = jax.random.permutation(jax.random.fold_in(order_key, state.step), len(images))
    state, metrics = jax.lax.scan(step, state, order[: num_steps * batch_size].reshape(num_steps, batch_size))
    return state, Metrics(*(jnp.mean(x) for x in metrics))


def predict_mode(model: nn.Module, state: State, images: jax.Array) -> bb.Prediction:
    """The prediction of the mode network."""
    return bb.mode_predictive(_apply_fn(model, state), state.params[0], images)


def predict_mean(model: nn.Module, num_samples: int, state: State, key: jax.Array, images: jax.Array) -> bb.Prediction:
    """The mean prediction of networks drawn from the posterior, one at a time."""
    return bb.posterior_predictive(
        _apply_fn(model, state), state.params[0], key, images, num_samples=num_samples, chunk_size=1
    )


def _apply_fn(model: nn.Module, state: State) -> Callable[[Any, jax.Array], jax.Array]:
    def apply_fn(weights, images):
        params = bb.combine(weights, state.params[1])
        return model.apply({"params": params, "batch_stats": state.batch_stats}, images, train=False)

    return apply_fn
