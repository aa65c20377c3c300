"""The compiled programs of a run of continual learning.

bayesbinn    the Bayesian learning rule; its prior is an argument of every step, so all tasks are one program
bimu         steps that depend on the uncertainty, and a memory window: it needs no prior and knows of no tasks
ste, bop     the methods without a posterior, as in `methods`; their optimizers start anew with each task
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import bbinn_jax as bb
from experiments.common import data, methods, networks, prediction, training
from experiments.continual_learning import tasks
from experiments.continual_learning.presets import Config

HISTOGRAM_BINS = 20


class Programs(NamedTuple):
    """Programs for all seeds and, with the task as an argument, for all tasks.

    Attributes:
        start: states at the start of a task.
        train: some epochs of a task.
        keep: batch-norm statistics of each task, with those of one as they are now.
        test: scores of mode and mean on all tasks so far.
        test_within: for the curves, of the mean of a few networks alone; the same program where these are as many, or
            where there is no posterior.
        describe: what the posteriors look like.
    """

    start: Callable[..., Any]
    train: Callable[..., Any]
    keep: Callable[..., Any]
    test: Callable[..., Any]
    test_within: Callable[..., Any]
    describe: Callable[..., Any]


def make_method(config: Config, train_set_size: int) -> tasks.MethodAt:
    """The method of a config.

    Args:
        config: of which the fields of its method are read.
        train_set_size: number of images that an epoch passes over.

    Raises:
        ValueError: a field out of its range.
    """
    if config.method in ("ste", "bop"):
        method = methods.make(config, train_set_size)
        return lambda epoch: method
    rule: optax.GradientTransformation
    if config.method == "bimu":  # it knows of no tasks: its steps do not decay, and its loss is a sum
        rule = bb.bimu(
            config.learning_rate,
            config.memory_window,
            likelihood_weight=config.batch_size,
            kl_weight=config.kl_weight,
        )
    else:
        rule = methods.learning_rule(config, train_set_size, config.eps)
    optimizer = methods.optimizer_pair(config, train_set_size, rule)

    def method_at(epoch: Any) -> training.Method:
        return methods.of_posterior(config, optimizer, temperature_at(config, epoch), config.eps)

    method_at(0)  # raises for what is out of range now, not when it is traced
    return method_at


def temperature_at(config: Config, epoch: Any) -> Any:
    """The temperature in an epoch of a task, counted from 0."""
    if config.final_temperature is None:
        return config.temperature
    share = epoch / max(config.epochs - 1, 1)
    return config.temperature * (config.final_temperature / config.temperature) ** share


def make_network(config: Config, dataset: data.Dataset) -> networks.MLP:
    """The network that a config describes."""
    return networks.MLP(
        hidden=config.hidden,
        num_classes=dataset.num_classes,
        batch_norm_decay=config.batch_norm_decay,
        batch_norm_eps=config.batch_norm_eps,
        output_scale=config.output_scale,
        norm=config.batch_norm if config.batch_norm in ("none", "layer") else "batch",  # type: ignore[arg-type]
    )


def compile_programs(
    config: Config,
    method_at: tasks.MethodAt,
    model: networks.MLP,
    states: training.State,
    statistics: Any,
    keys: jax.Array,
    orders: jax.Array,
    dataset: data.Dataset,
) -> Programs:
    """Compiles what a run needs.

    Args:
        config, method_at, model: what is trained, and how.
        states, statistics, keys, orders: of every seed, for their shapes.
        dataset: images before the permutations.
    """
    method, one = method_at(0), jnp.int32(1)

    def train(images: data.Split, first: Any, count: Any, factor: Any, *of_seeds: Any) -> Any:
        of_seed = partial(tasks.train, method_at, model, config.batch_size, images, first, count, factor)
        return bb.over_leading_axis(of_seed)(*of_seeds)

    def test(predictors: Any, dataset: data.Dataset, count: Any, *of_seeds: Any) -> Any:
        network_of = partial(make_apply_fn, config, model, dataset.train.images)
        return bb.over_leading_axis(partial(tasks.evaluate, predictors, network_of, dataset.test, count))(*of_seeds)

    def predict_mode(apply_fn: Any, state: training.State, key: jax.Array, images: jax.Array) -> bb.Prediction:
        return prediction.predict_mode(method, apply_fn, state, images)

    def predict_mean(
        num_samples: int, apply_fn: Any, state: training.State, key: jax.Array, images: jax.Array
    ) -> bb.Prediction:
        mean = {"probabilities": bb.posterior_predictive, "logits": bb.logit_average_predictive}[config.average]
        return mean(apply_fn, state.params[0], key, images, num_samples=num_samples, chunk_size=1)

    predictors: dict[str, Any] = {"mode": predict_mode}
    if method.is_posterior:
        predictors["mean"] = partial(predict_mean, config.eval_samples)
    natural = states.params[0]
    test_arguments = (dataset, one, states, statistics, keys, orders)
    test_all = _compiled(partial(test, predictors), *test_arguments)
    test_within = test_all
    if method.is_posterior and config.curve_samples != config.eval_samples:
        test_within = _compiled(partial(test, {"mean": partial(predict_mean, config.curve_samples)}), *test_arguments)
    train_arguments = (dataset.train, one, one, jnp.float32(1), states, keys, orders[:, 0], natural)
    return Programs(
        start=_compiled(bb.over_leading_axis(partial(tasks.start, method)), states),
        train=_compiled(train, *train_arguments),
        keep=_compiled(tasks.keep, statistics, one, states.batch_stats),
        test=test_all,
        test_within=test_within,
        describe=_compiled(bb.over_leading_axis(partial(describe, method.is_posterior)), states, natural),
    )


def _compiled(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    return jax.jit(function).lower(*arguments).compile()


def make_apply_fn(
    config: Config, model: networks.MLP, images: jax.Array, state: training.State, statistics: Any, order: jax.Array
) -> prediction.ApplyFn:
    """The network in prediction on a task.

    Args:
        config, model: what was trained.
        images: of training, before the permutation.
        state: of one seed.
        statistics: of the batch norms at the end of the task's training.
        order: of the pixels in the task.
    """
    num_images = config.batch_norm_images if config.batch_norm == "reestimated" else 0
    if config.batch_norm == "per-task":
        state = state._replace(batch_stats=statistics)
    return prediction.network(model, state, images[:num_images, order])


def describe(is_posterior: bool, state: training.State, before: Any) -> dict[str, jax.Array]:
    """How many weights have changed their sign in a task, and how decided a posterior is after it."""
    natural = state.params[0]
    values = {"flip_rate": bb.diagnostics.flip_rate(natural, before)}
    if not is_posterior:
        return values
    probabilities = jnp.concatenate([jax.nn.sigmoid(2 * x).ravel() for x in jax.tree.leaves(natural)])
    counts, _ = jnp.histogram(probabilities, HISTOGRAM_BINS, (0.0, 1.0))
    return values | {
        "posterior_entropy_bits_per_weight": bb.diagnostics.entropy_bits_per_weight(natural),
        "certain_share": bb.diagnostics.saturated_share(natural),
        "weight_probability_histogram": counts / probabilities.size,
    }
