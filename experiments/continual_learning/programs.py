"""The compiled programs of a run of continual learning.

The prior is an argument of every step, so all tasks are one program. Optimizers start anew with each task.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

import bbinn_jax as bb
from experiments.common import classifier, data, prediction, training
from experiments.continual_learning import stored, tasks
from experiments.continual_learning.presets import CBLN, Config

HISTOGRAM_BINS = 20
CURVE_SAMPLES = 10  # networks in the mean prediction of the figure


class Programs(NamedTuple):
    """Programs for all seeds and, with the task as an argument, for all tasks.

    Attributes:
        start: states at the start of a task.
        train: some epochs of a task: ``train(count, states, tasks.Task(...))``.
        keep: batch-norm statistics of each task, with those of one as they are now.
        test: scores of mode and mean on all tasks so far: ``test(count, learned)``.
        test_within: for the curves, of the mean of a few networks alone; the same program where there is no posterior.
        describe: what the posteriors look like.
        store: ``store(stored, task, params)`` keeps the posterior of a task, counted from 0, beside those before.
        compare: what each stored posterior says of each task's images: ``compare(count, learned)``.
    """

    start: Callable[..., Any]
    train: Callable[..., Any]
    keep: Callable[..., Any]
    test: Callable[..., Any]
    test_within: Callable[..., Any]
    describe: Callable[..., Any]
    store: Callable[..., Any] | None = None
    compare: Callable[..., Any] | None = None


def curve_samples(config: Config) -> int | None:
    """How many networks the mean prediction of the figure has; None where there is no posterior."""
    most = classifier.eval_samples(config)
    return None if most is None else min(most, CURVE_SAMPLES)


def compile_programs(
    config: Config, problem: training.Problem, learned: tasks.Learned, keys: jax.Array, dataset: data.Dataset
) -> Programs:
    """Compiles what a run needs.

    Args:
        config, problem: what is trained, and how.
        learned: of every seed, for its shapes.
        keys: [2, seed], for training and for testing.
        dataset: images of all tasks.
    """
    method, one, states = problem.method, jnp.int32(1), learned.state
    train_keys, test_keys = keys

    def train(images: data.Split, keys: jax.Array, count: Any, states: training.State, task: tasks.Task) -> Any:
        return bb.over_leading_axis(partial(tasks.train, problem, images, count))(states, keys, task)

    def test(function: Any, predictors: Any, dataset: data.Dataset, keys: jax.Array, count: Any, learned: Any) -> Any:
        network_of = partial(make_apply_fn, config, problem.model, dataset.train)
        return bb.over_leading_axis(partial(function, predictors, network_of, dataset.test, count))(learned, keys)

    def predict_mode(apply_fn: Any, state: training.State, key: jax.Array, images: jax.Array) -> bb.Prediction:
        return prediction.predict_mode(method, apply_fn, state, images)

    predictors: dict[str, Any] = {"mode": predict_mode}
    within, most, fewer = predictors, classifier.eval_samples(config), curve_samples(config)
    if most is not None and fewer is not None:
        within = {"mean": partial(predict_mean, config, fewer)}
        predictors = predictors | {"mean": partial(predict_mean, config, most)}
    natural = states.params[0]
    of_train, of_test = (dataset.train, train_keys), (dataset, test_keys)
    task = tasks.Task(learned.orders[:, 0], natural)
    evaluate = partial(test, tasks.evaluate)
    test_all = _compiled(partial(evaluate, predictors), of_test, one, learned)
    of_stored = {}
    if isinstance(config.method, CBLN):
        compare = partial(test, stored.compare, predictors)
        share = jax.vmap(partial(stored.store, config.method.share_below), (0, None, 0))
        of_stored = {
            "store": _compiled(share, (), learned.stored, one, states.params),
            "compare": _compiled(compare, of_test, one, learned),
        }
    return Programs(
        start=_compiled(bb.over_leading_axis(partial(tasks.start, method)), (), states),
        train=_compiled(train, of_train, one, states, task),
        keep=_compiled(tasks.keep, (), learned.statistics, one, states.batch_stats),
        test=test_all,
        test_within=test_all if most == fewer else _compiled(partial(evaluate, within), of_test, one, learned),
        describe=_compiled(bb.over_leading_axis(partial(describe, method.is_posterior)), (), states, natural),
        **of_stored,
    )


def predict_mean(
    config: Config, num_samples: int, apply_fn: Any, state: training.State, key: jax.Array, images: jax.Array
) -> bb.Prediction:
    """The mean prediction of networks drawn from the posterior."""
    averages = {"probabilities": bb.posterior_predictive, "logits": bb.logit_average_predictive}
    mean = averages[getattr(config.method, "average", "probabilities")]
    return mean(apply_fn, state.params[0], key, images, num_samples=num_samples, chunk_size=1)


def _compiled(function: Callable[..., Any], always: tuple[Any, ...], *arguments: Any) -> Callable[..., Any]:
    """A program for arguments like these, that has its first ones always."""
    return partial(jax.jit(function).lower(*always, *arguments).compile(), *always)


def make_apply_fn(config: Config, model: nn.Module, train: data.Split, learned: tasks.Learned, task: Any) -> bb.ApplyFn:
    """The network in prediction on a task.

    Args:
        config, model: what was trained.
        train: images of training, of all tasks.
        learned: of one seed.
        task: counted from 0.
    """
    num_images = config.batch_norm_images if config.batch_norm == "reestimated" else 0
    state = learned.state
    if config.batch_norm == "per-task":
        state = state._replace(batch_stats=prediction.part(learned.statistics, task))
    return prediction.network(model, state, tasks.examples(train, learned.orders[task], num_images).images)


def statistics(config: Config, model: nn.Module, train: data.Split, learned: tasks.Learned, weights: Any) -> Any:
    """What the batch norms of one network predict with; leaves [task, ...] where they are told the task."""
    if config.batch_norm == "per-task":
        return learned.statistics
    if config.batch_norm != "reestimated":
        return learned.state.batch_stats
    reference = lambda order: tasks.examples(train, order, config.batch_norm_images).images  # noqa: E731
    of_task = lambda order: prediction.statistics(model, learned.state, weights, reference(order))  # noqa: E731
    return jax.lax.map(of_task, learned.orders)


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
