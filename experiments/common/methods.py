"""The methods of the paper's table, each made from a config.

bayesbinn        the Bayesian learning rule over natural parameters
ste              straight-through training: Adam on latent weights, gradients and weights clipped
bop              binary optimizer: no latent weights, flips where the average gradient asks for it
pmf              proximal mean-field: Adam on latent weights, seen through a tanh that sharpens
full_precision   real weights and Adam: what binary weights are compared with
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import bbinn_jax as bb
from experiments.common.training import Method

# Fields of the config that only one method reads, or some.
FIELDS: dict[str, tuple[str, ...]] = {
    "noise": ("bayesbinn",),
    "temperature": ("bayesbinn",),
    "num_samples": ("bayesbinn",),
    "momentum": ("bayesbinn",),
    "kl_weight": ("bayesbinn",),
    "train_set_factor": ("bayesbinn",),
    "init_scale": ("bayesbinn",),
    "eval_samples": ("bayesbinn",),
    "threshold": ("bop",),
    "final_beta": ("pmf",),
}

OF_NOISE_OF_WEIGHTS = ("temperature", "final_temperature", "num_samples")


def check_fields(config: Any, preset: Any, fields: dict[str, tuple[str, ...]] = FIELDS) -> None:
    """Raises ValueError for a field that differs from the preset and that the run would ignore."""
    changed = [name for name in fields if getattr(config, name) != getattr(preset, name)]
    for name in changed:
        value = getattr(config, name)
        if config.method not in fields[name]:
            of = " or ".join(fields[name])
            raise ValueError(f"{name} is of --method {of}, got {value!r} with --method {config.method}")
        if name in OF_NOISE_OF_WEIGHTS and config.noise == "activations":
            raise ValueError(f"{name} is of --noise weights, got {value!r} with --noise activations")


def make(config: Any, train_set_size: int) -> Method:
    """The method that a config names.

    Args:
        config: a `presets.Config`, or what has the fields of its method.
        train_set_size: number of images that an epoch passes over.

    Raises:
        ValueError: a field out of its range.
    """
    schedule = _falling(config.learning_rate, config, train_set_size)
    clip = optax.clip_by_global_norm(1.0)
    pair = partial(optimizer_pair, config, train_set_size)
    if config.method == "bayesbinn":
        return of_posterior(config, pair(learning_rule(config, train_set_size)), config.temperature)
    if config.method == "ste":
        return Method(
            init=_uniform,
            expected_loss=_loss_of(bb.straight_through),
            optimizer=pair(bb.ste(optax.chain(clip, optax.adam(schedule)))),
        )
    if config.method == "bop":
        if config.learning_rate > 1:
            raise ValueError(f"learning_rate is the gamma of bop, at most 1, got {config.learning_rate!r}")
        return Method(
            init=lambda key, tree: bb.sample(key, jax.tree.map(jnp.zeros_like, tree)),
            expected_loss=_loss_of(lambda weights: weights),
            optimizer=pair(bb.bop(schedule, config.threshold)),
        )
    if config.method == "pmf":
        beta = optax.exponential_decay(1.0, _total_steps(config, train_set_size), config.final_beta)
        return Method(
            init=lambda key, tree: jax.tree.map(lambda x: 0.1 * x, _uniform(key, tree)),
            expected_loss=_loss_of(lambda weights: weights),
            optimizer=pair(bb.pmf(optax.chain(clip, optax.adam(schedule)), beta)),
        )
    return Method(
        init=_glorot,
        expected_loss=_loss_of(lambda weights: weights),
        optimizer=pair(optax.chain(clip, optax.adam(schedule))),
        is_binary=False,
    )


def learning_rule(config: Any, train_set_size: int, eps: float = 1e-10) -> optax.GradientTransformationExtraArgs:
    """The Bayesian learning rule with the settings of a config, whose learning rate falls to 0 in its epochs."""
    return bb.bayesbinn(
        _falling(config.learning_rate, config, train_set_size),
        config.train_set_factor * train_set_size,
        momentum=config.momentum,
        kl_weight=config.kl_weight,
        eps=eps,
    )


def optimizer_pair(
    config: Any, train_set_size: int, binary_optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """An optimizer of pairs (binary, real): Adam for the real parameters, whose rate falls to 0 as well."""
    real_optimizer = optax.adam(_falling(config.real_learning_rate, config, train_set_size))
    return optax.partition({"binary": binary_optimizer, "real": real_optimizer}, ("binary", "real"))


def _falling(rate: float, config: Any, train_set_size: int) -> optax.Schedule:
    """From a rate down to 0 in the epochs of a config."""
    return optax.cosine_decay_schedule(rate, _total_steps(config, train_set_size))


def _total_steps(config: Any, train_set_size: int) -> int:
    return config.epochs * (train_set_size // config.batch_size)


def of_posterior(config: Any, optimizer: optax.GradientTransformation, temperature: Any, eps: float = 1e-10) -> Method:
    """A method that trains natural parameters, with noise of the weights or of the activations.

    Args:
        config: its noise, num_samples and init_scale are read.
        optimizer: of the pair (natural, real).
        temperature, eps: of the relaxed samples.

    Raises:
        ValueError: a field out of its range.
    """
    noisy_activations = config.noise == "activations"
    num_samples = 0 if noisy_activations else config.num_samples
    expected_loss = partial(bb.expected_loss, temperature=temperature, num_samples=num_samples, eps=eps, has_aux=True)
    expected_loss(max)  # raises for what is out of range now, not when it is traced
    return Method(
        init=partial(bb.init_natural, scale=config.init_scale),
        expected_loss=expected_loss,
        optimizer=optimizer,
        is_posterior=True,
        noisy_activations=noisy_activations,
    )


def _loss_of(weights_fn: Any) -> Any:
    """No samples: the loss at ``weights_fn(params)``; the key is not used."""
    return lambda loss_fn: lambda params, key, *args: loss_fn(weights_fn(params), *args)


def _uniform(key: jax.Array, tree: Any) -> Any:
    """Uniform on (-1, 1): the tanh of half a logistic variate."""
    return bb.bernoulli.expectation(bb.logistic_noise(key, tree))


def _glorot(key: jax.Array, tree: Any) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    initializer = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(treedef, [initializer(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)])
