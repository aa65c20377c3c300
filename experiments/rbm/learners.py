r"""How a machine is learned from examples, by five methods.

Three learn a posterior with means mu, whose objective is M E_q[mean loss] + KL(q || prior):

    bayesbinn        the learning rule on natural parameters, with relaxed samples of the weights and exact ln Z
    message_passing  the learning rule, with both phases in closed form and ln Z by message passing (`dual`)
    clipped_mean     Huang's: Adam on mu itself, clipped after each step to [-0.99999, 0.99999], phases as published

Two learn one machine: `ste` by straight-through training, `real_sign` with real weights whose signs are taken.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import bbinn_jax as bb
from experiments.rbm import dual, machine
from experiments.rbm.presets import Config

CLIP = 0.99999
Loss = Callable[..., jax.Array]


class Learner(NamedTuple):
    """A method.

    Attributes:
        init: ``init(key, weights)`` gives the parameters; only the shape of the weights matters.
        loss: ``loss(params, key, *args)``.
        optimizer: of the parameters.
        mean: the means of the weights, of the parameters: -1 or +1 where there is no posterior.
    """

    init: Callable[[jax.Array, jax.Array], jax.Array]
    loss: Loss
    optimizer: optax.GradientTransformation
    mean: Callable[[jax.Array], jax.Array]


def make(config: Config, method: str, num_examples: int, loss_fn: Loss = machine.loss_fn) -> Learner:
    """The learner of a method; ``loss_fn(weights, *args)`` is the mean loss of the examples."""
    rule = bb.bayesbinn(falling(config, config.learning_rate), num_examples, kl_weight=config.kl_weight)
    adam = optax.adam(falling(config, config.weight_learning_rate))

    def small(key: jax.Array, weights: jax.Array) -> jax.Array:
        return config.init_scale * jax.random.normal(key, weights.shape)

    if method == "bayesbinn":
        samples: Any = {"temperature": config.temperature, "num_samples": config.num_samples}
        return Learner(small, bb.expected_loss(loss_fn, **samples), rule, jnp.tanh)
    if method == "message_passing":
        return Learner(small, _closed_form, rule, jnp.tanh)
    if method == "ste":
        return Learner(_anywhere, lambda x, key, *args: loss_fn(bb.straight_through(x), *args), bb.ste(adam), bb.mode)
    if method == "real_sign":
        return Learner(small, lambda x, key, *args: loss_fn(x, *args), adam, bb.mode)

    def bound(mean: jax.Array, key: jax.Array, examples: jax.Array) -> jax.Array:
        loss = dual.loss_fn(mean, examples, _draws(key, mean), published=True)
        return loss + divergence(mean) / num_examples

    return Learner(_anywhere, bound, clipped(optax.adam(config.mean_learning_rate, b2=0.99)), lambda mean: mean)


def train(learner: Learner, key: jax.Array, weights: jax.Array, examples: jax.Array, steps: int) -> jax.Array:
    """Parameters after so many steps of all examples; the shape of the weights is that of the machine."""
    init_key, loss_key = jax.random.split(key)
    params = learner.init(init_key, weights)

    def step(carry: Any, t: jax.Array) -> tuple[Any, None]:
        params, state = carry
        grads = jax.grad(learner.loss)(params, jax.random.fold_in(loss_key, t), examples)
        updates, state = learner.optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    carry, _ = jax.lax.scan(step, (params, learner.optimizer.init(params)), jnp.arange(steps))
    return carry[0]


def divergence(mean: jax.Array) -> jax.Array:
    """KL(q || fair coins) of the means, in nats; `bernoulli.kl_divergence` takes natural parameters."""
    return jnp.sum((1 + mean) * jnp.log1p(mean) + (1 - mean) * jnp.log1p(-mean)) / 2


def clipped(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Any optimizer on means, which stay in [-CLIP, CLIP]."""
    clip: Any = optax.stateless(lambda updates, mean: jnp.clip(mean + updates, -CLIP, CLIP) - mean)
    return optax.chain(optimizer, clip)


def _closed_form(natural: jax.Array, key: jax.Array, examples: jax.Array) -> jax.Array:
    """`dual.loss_fn` is a function of the means: `expected_loss` without samples gives it these."""
    loss = bb.expected_loss(dual.loss_fn, temperature=1.0, num_samples=0)
    return loss(natural, key, examples, _draws(key, natural))


def _draws(key: jax.Array, weights: jax.Array) -> jax.Array:
    return jax.random.normal(key, (dual.DRAWS, weights.shape[1]))


def _anywhere(key: jax.Array, weights: jax.Array) -> jax.Array:
    return jax.random.uniform(key, weights.shape, minval=-1.0)


def falling(config: Config, rate: float) -> optax.Schedule:
    """A rate that falls to 0 over the training."""
    return optax.cosine_decay_schedule(rate, config.steps)
