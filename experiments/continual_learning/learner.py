"""A network that learns one task after the other: how it is made, trained, tested, kept, and loaded again."""

import dataclasses
import itertools
import time
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import classifier, console, data, kept, methods, networks, prediction, runs, training
from experiments.common.config import of_flat
from experiments.continual_learning import programs, stored, summary, tasks
from experiments.continual_learning.presets import CBLN, SPLIT, Config

EXPERIMENT = "continual_learning"


class Prepared(NamedTuple):
    """What a run needs: what is trained and how, and the images of all tasks, see `tasks.examples`."""

    problem: training.Problem
    dataset: data.Dataset


class Outcome(NamedTuple):
    """What training leaves behind."""

    learned: tasks.Learned
    progress: runs.Progress
    compile_seconds: float


def prepare(config: Config) -> Prepared:
    """Loads the images, and makes method and network.

    Raises:
        ValueError, FileNotFoundError: what the user gave cannot be.
    """
    dataset = load(config)
    plan = methods.Plan(dataset.train.labels.shape[-1], config.batch_size, config.epochs)
    method = methods.make(config.method, config.real_learning_rate, plan)
    return Prepared(training.Problem(method, make_network(config, dataset.num_classes), config.batch_size), dataset)


def load(config: Config) -> data.Dataset:
    """The images of all tasks, see `tasks.examples`."""
    dataset = data.load(SPLIT.get(config.dataset, config.dataset))
    train, test = (
        split._replace(images=split.images.reshape(len(split.labels), -1)) for split in (dataset.train, dataset.test)
    )
    if config.validation_fraction:
        rest, held_back = data.holdout(len(train.labels), config.validation_fraction, seed=0)
        train, test = prediction.part(train, rest), prediction.part(train, held_back)
    train, test = prediction.part(train, slice(config.train_images)), prediction.part(test, slice(config.eval_images))
    if config.dataset in SPLIT:
        most = dataset.num_classes // 2
        if config.tasks > most:
            raise ValueError(
                f"tasks must be at most {most} with {config.dataset}, two labels each, got {config.tasks!r}"
            )
        train, test = (prediction.part(tasks.split(x, most), slice(config.tasks)) for x in (train, test))
    most = train.labels.shape[-1]
    if config.batch_size > most:
        raise ValueError(f"batch_size must be at most the {most} training images of a task, got {config.batch_size!r}")
    return dataset._replace(train=train, test=test)


def make_network(config: Config, num_classes: int) -> networks.Network:
    """The network that a config describes."""
    norm: Any = config.batch_norm if config.batch_norm in ("none", "layer") else "batch"
    return networks.Network(dataclasses.replace(config.network, norm=norm), num_classes)


def load_network(path: str | Path, task: int) -> tuple[bb.Posterior, bb.ApplyFn, data.Split]:
    """A network that a run has kept, as it was tested on one of the run's tasks.

    Args:
        path: network-SEED.safetensors of a run folder.
        task: counted from 1.

    Returns:
        The posterior (where one is stored for each task, that of this one), ``apply_fn(weights, images)`` for its
        weights, and the task's test images [n, pixel] and labels: ``(pixel - input_mean) / input_std`` with what is in
        the posterior's config, in the order that `tasks.permutations` gives. The mean in results.json is of networks
        drawn with ``tasks.keys(seed)[2]``.

    Raises:
        ValueError, OSError: no such task, or what `kept.load` and `data.load` refuse.
    """
    posterior = kept.load(path, EXPERIMENT)
    config = _config(posterior.config, task)
    dataset = load(config)
    orders = tasks.orders(config.seed, config.tasks, dataset.test)
    of_tasks = posterior[:2] if isinstance(config.method, CBLN) else None
    learned = tasks.Learned(prediction.kept_state(posterior), posterior.batch_stats or {}, orders, of_tasks)
    learned = tasks.as_left_by(learned, task - 1)
    natural, real = learned.state.params
    model = make_network(config, dataset.num_classes)
    apply_fn = programs.make_apply_fn(config, model, dataset.train, learned, task - 1)
    test = tasks.examples(dataset.test, orders[task - 1])
    return posterior._replace(natural=natural, real=real), apply_fn, test


def load_packed(path: str | Path, task: int) -> prediction.Packed:
    """The mode, or a committee, that a run has kept at one bit a weight, as it was tested on one of the run's tasks.

    It needs no images. Those that it predicts of have their pixels in the order of the task, see `load_network`. Where
    a posterior is stored for each task, the file has the networks of all tasks one after the other: ask for each task.

    Args:
        path: network-SEED.packed.safetensors or committee-SEED.packed.safetensors of a run folder.
        task: counted from 1.

    Raises:
        ValueError, OSError: no such task, or what `kept.load_packed` refuses.
    """
    network = kept.load_packed(path, EXPERIMENT)
    config = _config(network.config, task)
    if isinstance(config.method, CBLN):
        number = jax.tree.leaves(network.weights)[0].shape[0] // config.tasks
        of_task = slice((task - 1) * number, task * number) if number > 1 else task - 1
        weights, batch_stats = prediction.part((network.weights, network.batch_stats), of_task)
        real = prediction.part(network.real, task - 1)
        network = network._replace(weights=weights, real=real, batch_stats=batch_stats)
    elif config.batch_norm in ("per-task", "reestimated"):
        axis = jax.tree.leaves(network.weights)[0].ndim - 1  # after that of a committee
        of_task = jax.tree.map(lambda x: x.take(task - 1, axis), network.batch_stats)
        network = network._replace(batch_stats=of_task)
    return prediction.packed(network, make_network(config, network.config["num_classes"]))


def _config(fields: dict[str, Any], task: int) -> Config:
    """The config that a kept network has; raises ValueError for a task that its run did not have."""
    config = of_flat(Config, fields)
    if not (isinstance(task, Integral) and 1 <= task <= config.tasks):
        raise ValueError(f"task must be a whole number from 1 to {config.tasks}, got {task!r}")
    return config


def run(config: Config, prepared: Prepared, out: Path) -> dict[str, Any]:
    """Trains on all tasks, keeps the networks and returns the results."""
    problem, dataset = prepared
    seeds = list(range(config.seed, config.seed + config.seeds))
    keys = jnp.stack([tasks.keys(seed) for seed in seeds], axis=1)
    images = dataset.train.images.reshape(-1, dataset.train.images.shape[-1])
    states = jax.jit(jax.vmap(partial(training.init, problem), (0, None)))(keys[0], images)
    of_tasks = states.params if isinstance(config.method, CBLN) else None
    statistics, of_tasks = jax.tree.map(
        lambda x: jnp.zeros((config.seeds, config.tasks, *x.shape[1:]), x.dtype), (states.batch_stats, of_tasks)
    )
    orders = jnp.stack([tasks.orders(seed, config.tasks, dataset.train) for seed in seeds])
    natural, real = classifier.leaves_of(problem, states)
    tested = "validation" if config.validation_fraction else "test"
    of_split = f"two labels of {SPLIT.get(config.dataset)}"
    what = of_split if config.dataset in SPLIT else f"{config.dataset} with its pixels in another order"
    num_train, num_test = (part.labels.shape[-1] for part in (dataset.train, dataset.test))
    console.write(
        f"{config.tasks} task{'s' * (config.tasks > 1)}, each {what}: {num_train:,} training, {num_test:,} {tested} "
        f"images; {config.method.name}",
        *bb.partition_table(natural, real).splitlines(),
    )
    outcome = train(config, prepared, tasks.Learned(states, statistics, orders, of_tasks), keys[1:3], out)
    common = {
        "dataset": config.dataset,
        "method": config.method.name,
        "prior": getattr(config.method, "prior", None),
        "batch_norm": config.batch_norm,
        "needs_task_identity": config.batch_norm in ("per-task", "reestimated") or of_tasks is not None,
        "tested_on": tested,
        "epochs": config.epochs,
        "wall_seconds": outcome.progress.seconds,
        "compile_seconds": outcome.compile_seconds,
        **kept.counts(natural, real),
        "eval_samples": classifier.eval_samples(config),
        "curve_samples": programs.curve_samples(config),
    }
    of_seeds = [[line for line in outcome.progress.history if line["seed"] == seed] for seed in seeds]
    keep(config, prepared, outcome.learned, keys[2], out)
    return runs.summary([common | summary.results_of(lines) for lines in of_seeds])


def keep(config: Config, prepared: Prepared, learned: tasks.Learned, keys: jax.Array, out: Path) -> None:
    """Writes network-SEED.safetensors for each seed, and beside it what is packed; the keys draw the committees."""
    problem, dataset = prepared
    statistics = jax.jit(partial(programs.statistics, config, problem.model, dataset.train))

    @jax.jit
    def draw(learned: tasks.Learned, key: jax.Array) -> kept.Packed:
        return kept.committee(partial(statistics, learned), key, learned.state.params[0])

    for i in range(config.seeds):
        of_seed = prediction.part(learned, i)
        fields = runs.kept_config(config, config.seed + i, dataset.mean, dataset.std)
        fields |= {"num_classes": dataset.num_classes}
        (natural, real), *_ = state = of_seed.state
        batch_stats = of_seed.statistics if config.batch_norm == "per-task" else state.batch_stats
        if isinstance(config.method, CBLN):
            fields["tasks"] = config.stop_after_tasks or config.tasks
            of_tasks = prediction.part((of_seed.stored, of_seed.statistics), slice(fields["tasks"]))
            (natural, real), batch_stats = of_tasks
            packed = stored.pack(keys[i], natural, batch_stats, config.method.eval_samples)
        else:
            drawn = partial(draw, of_seed, keys[i]) if problem.method.is_posterior else None
            mode = statistics(of_seed, bb.mode(natural))
            packed = kept.packed(natural, mode, drawn) if problem.method.is_binary else {}
        kept.save(out, config.seed + i, EXPERIMENT, bb.Posterior(natural, real, batch_stats, fields), packed)


def train(config: Config, prepared: Prepared, learned: tasks.Learned, keys: jax.Array, out: Path) -> Outcome:
    """Trains on every task, or on those that a checkpoint leaves.

    Args:
        config, prepared: what is trained, and how.
        learned: of every seed, before the first task.
        keys: [2, seed], for training and for testing.
        out: run folder.
    """
    of_data = data.sha256(prepared.dataset.train)
    first = learned.state
    (states, statistics, of_tasks), (done, seconds, history) = runs.goes_on(
        out, EXPERIMENT, config, of_data, (*learned[:2], learned.stored), unit="task"
    )
    learned = learned._replace(state=states, statistics=statistics, stored=of_tasks)
    start = time.perf_counter()
    compiled = programs.compile_programs(config, prepared.problem, learned, keys, prepared.dataset)
    compile_seconds = time.perf_counter() - start

    curve_progress = [end / config.epochs for end in curve_epochs(config)]
    start = time.perf_counter()
    for task, report in console.epochs(done + 1, config.stop_after_tasks or config.tasks, unit="task"):
        before = learned.state.params[0]
        if isinstance(config.method, CBLN):
            learned = learned._replace(state=first._replace(step=learned.state.step))
        learned, values = train_task(config, compiled, learned, task, out)
        values |= compiled.describe(learned.state, before)
        untold = judge_stored(compiled, learned, task)
        lines = [
            {"task": task, "seed": config.seed + i, "curve_progress": curve_progress}
            | {name: np.asarray(value[i]).tolist() for name, value in values.items()}
            | untold[i]
            for i in range(config.seeds)
        ]
        history += lines
        runs.append_metrics(out, lines)
        now = runs.Progress(task, seconds + time.perf_counter() - start, history)
        runs.save_checkpoint(out, EXPERIMENT, config, of_data, (*learned[:2], learned.stored), now)
        report(summary.progress(lines))
    progress = runs.Progress(history[-1]["task"], seconds + time.perf_counter() - start, history)
    return Outcome(learned, progress, compile_seconds)


def curve_epochs(config: Config) -> list[int]:
    """After which epochs of a task all tasks are tested, for the figure."""
    return sorted({round(config.epochs * i / config.curve_points) for i in range(1, config.curve_points + 1)} - {0})


def train_task(
    config: Config, compiled: programs.Programs, learned: tasks.Learned, task: int, out: Path
) -> tuple[tasks.Learned, dict[str, jax.Array]]:
    """Trains on one task, counted from 1, and tests all so far; returns what is known now, and metrics [seed, ...]."""
    natural = learned.state.params[0]
    chained = getattr(config.method, "prior", "none") == "previous" and task > 1
    prior = natural if chained else jax.tree.map(jnp.zeros_like, natural)
    of_task = tasks.Task(learned.orders[:, task - 1], prior)
    predictor = "mode" if classifier.eval_samples(config) is None else "mean"
    learned, curve = learned._replace(state=compiled.start(learned.state)), []
    for first, end in itertools.pairwise([0, *curve_epochs(config)]):
        state, metrics, finite = compiled.train(jnp.int32(end - first), learned.state, of_task)
        epoch = (task - 1) * config.epochs + end
        runs.stop_if_not_finite(finite, config.seed, state.step.min(), epoch, out, state)
        statistics = compiled.keep(learned.statistics, jnp.int32(task - 1), state.batch_stats)
        learned = learned._replace(state=state, statistics=statistics)
        if compiled.store is not None:
            learned = learned._replace(stored=compiled.store(learned.stored, jnp.int32(task - 1), state.params))
        scores = compiled.test_within(jnp.int32(task), learned)
        curve.append(scores[f"accuracy_{predictor}"])
    if compiled.test is not compiled.test_within:
        scores = compiled.test(jnp.int32(task), learned)
    values = {"train_loss": metrics.loss, "train_accuracy": metrics.accuracy}
    values |= {name: score[:, :task] for name, score in scores.items()}
    return learned, values | {"curve_accuracy": jnp.stack(curve, axis=1)[:, :, :task]}


def judge_stored(compiled: programs.Programs, learned: tasks.Learned, task: int) -> list[dict[str, Any]]:
    """How well the posteriors stored until a task, counted from 1, know which of them is asked, and what they take."""
    num_seeds = len(learned.orders)
    if compiled.compare is None or learned.stored is None:
        return [{}] * num_seeds
    found = jax.device_get(compiled.compare(jnp.int32(task), learned))
    of_seeds = jax.device_get((learned.stored, learned.statistics))
    lines = []
    for i in range(num_seeds):
        (natural, real), statistics = prediction.part(of_seeds, i)
        flat = np.concatenate([x[:task].reshape(task, -1) for x in jax.tree.leaves(natural)], axis=1)
        num_real = sum(x[0].size for x in jax.tree.leaves((real, statistics)))
        lines.append(stored.choose(prediction.part(found, i), task) | stored.bits(flat, num_real))
    return lines
