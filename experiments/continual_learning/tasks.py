"""Tasks in sequence: permuted or split images, training on one task, testing on all so far, and what was forgotten.

A permuted task is the whole data set with its pixels in another order, the same for all images. The
first task is permuted too, as in the program of the paper's authors. A split task is the images of
two labels: 0 and 1, then 2 and 3, and so on. Functions are of one seed; map them over seeds.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bbinn_jax as bb
from experiments.common import prediction, training
from experiments.common.data import Split

SCORES = {"accuracy": bb.metrics.accuracy, "nll": bb.metrics.negative_log_likelihood}


class Task(NamedTuple):
    """What tells one task from another."""

    order: jax.Array  # of the pixels; of a split task its number, from 0
    prior_natural: Any


class Learned(NamedTuple):
    """What a run has learned so far.

    Attributes:
        state: of the training.
        statistics: the batch-norm statistics that each task ended with, leaves [task, ...].
        orders: of the pixels in each task, [task, pixel]; of split tasks their numbers, [task].
        stored: the parameters (natural, real) that each task has left behind, leaves [task, ...]; None where the
            posterior after the last task answers for all.
    """

    state: training.State
    statistics: Any
    orders: jax.Array
    stored: Any = None


def keys(seed: int) -> jax.Array:
    """The keys of a run: for initialization, training, testing and permutations."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), got {seed!r}")
    return jax.random.split(jax.random.key(seed), 4)


def permutations(seed: int, num_tasks: int, num_pixels: int) -> jax.Array:
    """The order of the pixels in each task of a run with this seed, [task, pixel]: ``images[:, order]`` are its images.

    That of a task does not depend on the number of tasks.

    >>> permutations(0, 3, 784).shape
    (3, 784)
    """
    of_tasks = jax.vmap(partial(jax.random.fold_in, keys(seed)[3]))(jnp.arange(num_tasks))
    return jax.vmap(partial(jax.random.permutation, x=num_pixels))(of_tasks)


def split(data: Split, num_tasks: int) -> Split:
    """Images [task, n, pixel] and labels [task, n], two labels a task, as many of each task as the smallest one has.

    Args:
        data: images [n, pixel].
        num_tasks: half as many as there are labels.
    """
    rows = [np.flatnonzero(np.asarray(data.labels) // 2 == task) for task in range(num_tasks)]
    smallest = min(map(len, rows))
    if smallest == 0:
        raise ValueError(f"train_images and eval_images must leave images of each task, got {len(data.labels)} images")
    return prediction.part(data, np.stack([of_task[:smallest] for of_task in rows]))


def orders(seed: int, num_tasks: int, data: Split) -> jax.Array:
    """What tells the tasks of a run with this seed from one another: see `Task`."""
    return jnp.arange(num_tasks) if data.labels.ndim == 2 else permutations(seed, num_tasks, data.images.shape[1])


def examples(data: Split, order: jax.Array, count: int | None = None) -> Split:
    """The images [n, pixel] and labels [n] of a task, or the first of them.

    Args:
        data: permuted tasks have images [n, pixel], split ones [task, n, pixel].
        order: of the task.
        count: how many.
    """
    if data.labels.ndim == 2:
        return prediction.part(prediction.part(data, order), slice(count))
    return Split(data.images[:count, order], data.labels[:count])


def as_left_by(learned: Learned, task: Any) -> Learned:
    """What is known, with what is stored of a task, counted from 0, in place of the last state (if anything is)."""
    if learned.stored is None:
        return learned
    params, batch_stats = prediction.part((learned.stored, learned.statistics), task)
    return learned._replace(state=learned.state._replace(params=params, batch_stats=batch_stats))


def start(method: training.Method, state: training.State) -> training.State:
    """The state at the start of a task: the parameters are kept, the optimizer and its schedule start anew."""
    return state._replace(optimizer=method.optimizer.init(state.params))


def with_prior(method: training.Method, prior_natural: Any) -> training.Method:
    """The method with another prior; what has none takes no notice."""

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        tx = optax.with_extra_args_support(method.optimizer)
        return tx.update(grads, state, params, prior_natural=(prior_natural, None))

    return method._replace(optimizer=optax.GradientTransformation(method.optimizer.init, update))


def train(
    problem: training.Problem, data: Split, num_epochs: jax.Array, state: training.State, key: jax.Array, task: Task
) -> tuple[training.State, training.Metrics, training.Finite]:
    """Some epochs of a task: one loop on the device, whatever their number.

    Args:
        problem: what is trained, and how.
        data: of all tasks, see `examples`.
        num_epochs: how many.
        state, key, task: of one seed.

    Returns:
        The state, the metrics of the last epoch, and whether everything was finite: if not, that
        epoch was the last.
    """
    problem = problem._replace(method=with_prior(problem.method, task.prior_natural))
    of_task = examples(data, task.order)
    index = jnp.arange(len(of_task.labels))[None]

    def epoch(carry: Any) -> Any:
        i, state, _, _ = carry
        one_seed, one_key = jax.tree.map(lambda x: x[None], (state, key))
        after = training.train_epoch(problem, one_seed, one_key, of_task, index)
        return i + 1, *jax.tree.map(lambda x: x[0], after)

    def goes_on(carry: Any) -> jax.Array:
        i, _, _, finite = carry
        return (i < num_epochs) & jnp.all(jnp.stack(jax.tree.leaves(finite)))

    metrics = training.Metrics(jnp.zeros(()), jnp.zeros(()))
    finite = training.Finite(*jax.tree.map(lambda _: jnp.array(True), (0.0, bb.combine(*state.params))))
    return jax.lax.while_loop(goes_on, epoch, (jnp.zeros((), jnp.int32), state, metrics, finite))[1:]


def keep(statistics: Any, task: jax.Array, now: Any) -> Any:
    """Statistics [seed, task, ...] with those of a task, counted from 0, as they are now, [seed, ...]."""
    return jax.tree.map(lambda x, value: x.at[:, task].set(value), statistics, now)


def evaluate(
    predictors: dict[str, Callable[..., bb.Prediction]],
    network_of: Callable[..., bb.ApplyFn],
    test: Split,
    num_tasks: jax.Array,
    learned: Learned,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """Scores on each of the first tasks: one loop on the device, whatever their number.

    Args:
        predictors: ``predictor(apply_fn, state, key, images)`` gives a prediction, by name.
        network_of: ``network_of(learned, task)`` gives the apply_fn for a task.
        test: of all tasks, see `examples`.
        num_tasks: how many tasks are tested.
        learned, key: of one seed; the same networks are drawn for each task.

    Returns:
        Scores [task] by name, 0 for the tasks after num_tasks.
    """

    def add(task: jax.Array, scores: dict[str, jax.Array]) -> dict[str, jax.Array]:
        of_task, now = examples(test, learned.orders[task]), as_left_by(learned, task)
        apply_fn = network_of(now, task)
        for name, predictor in predictors.items():
            probabilities = predictor(apply_fn, now.state, key, of_task.images).probabilities
            for score, function in SCORES.items():
                value = function(probabilities, of_task.labels)
                scores |= {f"{score}_{name}": scores[f"{score}_{name}"].at[task].set(value)}
        return scores

    zeros = {f"{score}_{name}": jnp.zeros(len(learned.orders)) for name in predictors for score in SCORES}
    return jax.lax.fori_loop(0, num_tasks, add, zeros)


# What was forgotten ---------------------------------------------------------------------------------------------------

# A matrix is a list with a row for each finished task t: the accuracies on the tasks 1 to t.
Matrix = list[list[float]]


def average_accuracy(matrix: Matrix) -> float:
    """The mean accuracy on all tasks after the last one.

    >>> print(average_accuracy([[0.9], [0.5, 0.8]]))
    0.65
    """
    return float(np.mean(matrix[-1]))


def backward_transfer(matrix: Matrix) -> float | None:
    """How much better earlier tasks are done after the last one than right after their own training; below 0: worse.

    ``mean over j < T of R[T, j] - R[j, j]``, None for a single task. Source: Lopez-Paz and Ranzato, arXiv 1706.08840.

    >>> print(backward_transfer([[0.9], [0.5, 0.8]]))
    -0.4
    """
    changes = [after - matrix[task][task] for task, after in enumerate(matrix[-1][:-1])]
    return float(np.mean(changes)) if changes else None


def forgetting(matrix: Matrix) -> float | None:
    """How far earlier tasks have fallen below the best they ever were at before the last task.

    ``mean over j < T of max over j <= t < T of R[t, j] - R[T, j]``, None for a single task.
    Source: Chaudhry et al., arXiv 1801.10112.

    >>> print(forgetting([[0.9], [0.5, 0.8]]))
    0.4
    """
    falls = [max(row[task] for row in matrix[task:-1]) - after for task, after in enumerate(matrix[-1][:-1])]
    return float(np.mean(falls)) if falls else None
