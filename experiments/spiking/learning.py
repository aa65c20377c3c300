"""Training as one program: a scan over time within one over batches, of which seeds are a mapped axis.

    bayesbinn         the Bayesian learning rule on natural parameters
    ste               gradient descent on latent weights, seen through their signs
    full_precision    Adam on real weights

In each time step a sample of the weights is drawn, the loss of what every layer says is differentiated, and an update
is made. The gradient is that of the step alone: the traces that a step starts with are its inputs, and nothing flows
through time. The other values of `presets.Update` change that, one thing at a time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import bbinn_jax as bb
from experiments.spiking import neuron
from experiments.spiking.neuron import Network, Neurons
from experiments.spiking.presets import Config

LossFn = Callable[..., tuple[jax.Array, Any]]  # loss_fn(weights, *args): the loss of weights, and what comes with it


class Method(NamedTuple):
    """How weights are trained: where they start, the loss of parameters that a loss of weights makes, the optimizer."""

    init: Callable[[jax.Array, Any], Any]
    loss: Callable[[LossFn], Callable[..., Any]]  # loss(loss_fn)(params, key, *args)
    optimizer: optax.GradientTransformation


def make(config: Config, name: str, num_train: int) -> Method:
    """A method of a config for so many training examples.

    Raises:
        ValueError: a setting out of its range.
    """
    per_epoch, steps = num_train // config.batch_size, config.time_steps - config.burn_in
    once = config.update in ("one_update", "through_time")  # an update of as much weight as those of all steps

    def falling(rate: float) -> optax.Schedule:
        total = config.epochs * per_epoch * (1 if once else steps)
        return optax.cosine_decay_schedule(rate * (steps if once else 1), total)

    if name == "bayesbinn":
        rule = bb.bayesbinn(falling(config.learning_rate), num_train, kl_weight=config.kl_weight)
        sampled = partial(bb.expected_loss, temperature=config.temperature, has_aux=True)
        return Method(partial(bb.init_natural, scale=config.init_scale), sampled, rule)
    if name == "ste":
        descent = bb.ste(optax.sgd(falling(config.ste_learning_rate)))
        return Method(_uniform, partial(_loss_at, bb.straight_through), descent)
    return Method(_uniform, partial(_loss_at, lambda weights: weights), optax.adam(falling(config.real_learning_rate)))


def diverged(config: Config, name: str) -> str:
    """What to say of a method whose numbers are not finite: to go on would end in the same way."""
    rate = {"bayesbinn": "learning_rate", "ste": "ste_learning_rate", "full_precision": "real_learning_rate"}[name]
    flag = f"--{rate.replace('_', '-')}, which is {getattr(config, rate):g}"
    return f"a loss or a parameter of {name} is not finite: lower {flag}, and start again with --overwrite"


def _uniform(key: jax.Array, tree: Any) -> Any:
    """Weights uniform on (-1, 1): the tanh of half a logistic variate."""
    return bb.bernoulli.expectation(bb.logistic_noise(key, jax.tree.map(jnp.zeros_like, tree)))


def _loss_at(weights_fn: Callable[[Any], Any], loss_fn: LossFn) -> Callable[..., Any]:
    return lambda params, key, *args: loss_fn(weights_fn(params), *args)


def step_loss(network: Network, readouts: Sequence[jax.Array]) -> LossFn:
    """The loss of one time step, ``loss_fn(weights, layers, spikes, labels)``, and the layers after it.

    It is the cross-entropy of what a layer says, averaged over the batch and summed over layers.
    """

    def loss_fn(
        weights: Any, layers: list[Neurons], spikes: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, list[Neurons]]:
        after: Any = network.apply({"params": weights}, layers, spikes)
        of_layers = map(neuron.logits, after, readouts)
        losses = [optax.softmax_cross_entropy_with_integer_labels(x, labels).mean() for x in of_layers]
        return jnp.sum(jnp.stack(losses)), after

    return loss_fn


def sequence_loss(loss_fn: LossFn, network: Network, burn_in: int, through_time: bool) -> LossFn:
    """The mean of the loss over all steps but the first ones, ``f(weights, spikes, labels)``, with the same weights.

    Its gradient is the mean of those of the steps, or with through_time the one through all steps and all layers.
    """

    def loss_of_sequence(weights: Any, spikes: jax.Array, labels: jax.Array) -> tuple[jax.Array, None]:
        def step(layers: list[Neurons], spikes: jax.Array) -> tuple[list[Neurons], jax.Array]:
            before = layers if through_time else jax.lax.stop_gradient(layers)
            loss, after = loss_fn(weights, before, spikes, labels)
            return after, loss

        return jax.lax.scan(step, network.at_rest(spikes[0]), spikes)[1][burn_in:].mean(), None

    return loss_of_sequence


class Learner(NamedTuple):
    """What a batch changes: parameters, and the state of the optimizer."""

    params: Any
    state: optax.OptState


def learn(
    method: Method, loss: Callable[..., Any], learner: Learner, key: jax.Array, *args: Any
) -> tuple[Learner, jax.Array, Any]:
    """One update: the new learner, the loss, and what comes with it."""
    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params, key, *args)
    updates, state = method.optimizer.update(gradient, learner.state, learner.params)
    return Learner(optax.apply_updates(learner.params, updates), state), value, aux


def batch_learner(
    config: Config, method: Method, network: Network, readouts: Sequence[jax.Array]
) -> Callable[..., Any]:
    """Makes ``f(learner, key, spikes, labels)``, which learns from a batch, and returns the learner and its loss."""
    loss_fn = step_loss(network, readouts)
    if config.update in ("one_update", "through_time"):
        of_sequence = sequence_loss(loss_fn, network, config.burn_in, config.update == "through_time")
        return lambda *args: learn(method, method.loss(of_sequence), *args)[:2]
    loss = method.loss(loss_fn)

    def batch(learner: Learner, key: jax.Array, spikes: jax.Array, labels: jax.Array) -> tuple[Learner, jax.Array]:
        keys = jax.random.split(key, config.time_steps)
        if config.update == "one_sample":
            keys = jnp.broadcast_to(key, keys.shape)

        def listen(layers: list[Neurons], t: Any) -> tuple[list[Neurons], None]:
            key, spikes = t
            return loss(learner.params, key, layers, spikes, labels)[1], None

        def step(carry: tuple[Learner, list[Neurons]], t: Any) -> tuple[tuple[Learner, list[Neurons]], jax.Array]:
            (learner, layers), (key, spikes) = carry, t
            learner, value, layers = learn(method, loss, learner, key, layers, spikes, labels)
            return (learner, layers), value

        first, rest = ((keys[part], spikes[part]) for part in (slice(config.burn_in), slice(config.burn_in, None)))
        layers, _ = jax.lax.scan(listen, network.at_rest(spikes[0]), first)
        (learner, _), losses = jax.lax.scan(step, (learner, layers), rest)
        return learner, losses.mean()

    return batch


class Fit(NamedTuple):
    """What training gives: parameters, those of the start, the mean loss of each epoch, and the readouts it had."""

    params: Any
    start: Any
    losses: jax.Array
    readouts: Sequence[jax.Array]


def fit(config: Config, name: str, network: Network) -> Callable[..., Fit]:
    """Makes ``f(key, readouts, spikes, labels)``, which trains by a method; spikes are [time, example, neuron]."""

    def train(key: jax.Array, readouts: Sequence[jax.Array], spikes: jax.Array, labels: jax.Array) -> Fit:
        num_train = len(labels)
        method = make(config, name, num_train)
        learn_batch = batch_learner(config, method, network, readouts)
        init_key, train_key = jax.random.split(key)
        start = method.init(init_key, network.weights_like(spikes.shape[-1]))

        def batch(learner: Learner, of_batch: tuple[jax.Array, jax.Array]) -> tuple[Learner, jax.Array]:
            key, index = of_batch
            return learn_batch(learner, key, spikes[:, index].astype(jnp.float32), labels[index])

        def epoch(learner: Learner, i: jax.Array) -> tuple[Learner, jax.Array]:
            order_key, key = jax.random.split(jax.random.fold_in(train_key, i))
            order = jax.random.permutation(order_key, num_train)
            batches = order[: num_train // config.batch_size * config.batch_size].reshape(-1, config.batch_size)
            learner, losses = jax.lax.scan(batch, learner, (jax.random.split(key, len(batches)), batches))
            return learner, losses.mean()

        learner, losses = jax.lax.scan(epoch, Learner(start, method.optimizer.init(start)), jnp.arange(config.epochs))
        return Fit(learner.params, start, losses, readouts)

    return train
