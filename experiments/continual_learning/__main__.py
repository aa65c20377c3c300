"""Trains a binary network on one task after the other: does yesterday's posterior keep it from forgetting?

    python -m experiments.continual_learning
    python -m experiments.continual_learning --prior none
    python -m experiments.continual_learning --preset permuted-mnist --seeds 3 --resume

The prior of each task is the posterior after the task before. No example of an earlier task is
kept. Every field of `continual_presets.Config` is a flag. The run folder holds config.json,
metrics.jsonl (a line a task and seed), checkpoints, results.json and figures.
Source: arXiv 2002.10778, section 4.3.
"""

import itertools
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import checkpoints, console, data, endings, networks, prediction, reading, runs, training
from experiments.common import config as cli
from experiments.continual_learning import figure as continual_plots
from experiments.continual_learning import programs as continual_programs
from experiments.continual_learning import tables as continual_tables
from experiments.continual_learning import tasks
from experiments.continual_learning.presets import METHODS, PRESETS, Config, check_fields
from experiments.image_classification.__main__ import stop_if_not_finite

EXPERIMENT = "continual_learning"


@endings.command
def main(argv: list[str] | None = None) -> dict[str, Any]:
    """The command line; returns what results.json holds."""
    config = cli.parse(Config, PRESETS, METHODS, "python -m experiments.continual_learning", argv)
    name = f"{EXPERIMENT}-{config.preset}-{config.method}-prior-{config.prior}-{config.seed}"
    out = config.out or Path("runs") / name
    with endings.user_errors():
        results = runs.check(out, EXPERIMENT, config)
        beside = read_beside(config.beside)
        if results and results["tasks"] >= (config.stop_after_tasks or config.tasks):
            console.write(f"run folder {out} holds a finished run of {results['tasks']} tasks: it is shown again")
            continual_tables.write_results(results)
            write_paths(draw(results, beside, out), out)
            return results
        check_fields(config)
        dataset = load(config)
        method_at = continual_programs.make_method(config, len(dataset.train.labels))
        model = continual_programs.make_network(config, dataset)
        lock = runs.start(out, EXPERIMENT, config)
    with lock:
        return run(config, method_at, model, dataset, beside, out)


def read_beside(folder: Path | None) -> dict[str, Any] | None:
    """The results of the run that the figure shows next to this one."""
    results = None if folder is None else reading.read(folder).results
    of_this_kind = results is not None and results.get("experiment") == EXPERIMENT and "curve_accuracy" in results
    if folder is not None and not of_this_kind:
        raise ValueError(f"beside must be the folder of a finished run of {EXPERIMENT}, got {str(folder)!r}")
    return results


def draw(results: dict[str, Any], beside: dict[str, Any] | None, out: Path) -> list[Path]:
    """Draws the figures of a run into its folder and returns their paths."""
    figures = [continual_plots.accuracy_of_tasks(out / "figure.png", results, beside)]
    if results["weight_probability_histograms"] is not None:
        figures.append(continual_plots.weight_probabilities(out / "weights.png", results))
    return figures


def write_paths(figures: list[Path], out: Path) -> None:
    """The last lines of a run: where its files are."""
    console.write(f"figures: {' '.join(map(str, figures))}", f"results: {out / 'results.json'}")


def load(config: Config) -> data.Dataset:
    """The images [n, pixel] of all tasks, before their permutations."""
    dataset = data.load(config.dataset)
    train, test = (
        split._replace(images=split.images.reshape(len(split.labels), -1)) for split in (dataset.train, dataset.test)
    )
    if config.validation_fraction:
        rest, held_back = data.holdout(len(train.labels), config.validation_fraction, seed=0)
        train, test = prediction.part(train, rest), prediction.part(train, held_back)
    train, test = prediction.part(train, slice(config.train_images)), prediction.part(test, slice(config.eval_images))
    if config.batch_size > len(train.labels):
        raise ValueError(f"batch_size must be at most {len(train.labels)}, got {config.batch_size!r}")
    return dataset._replace(train=train, test=test)


def load_network(path: str | Path, task: int) -> tuple[bb.Posterior, prediction.ApplyFn, data.Split]:
    """A network that a run has kept, as it was tested on one of the run's tasks.

    Args:
        path: network-SEED.safetensors of a run folder.
        task: counted from 1.

    Returns:
        The posterior, ``apply_fn(weights, images)`` for its weights, and the task's test images [n, pixel] and labels:
        ``(pixel - input_mean) / input_std`` with what is in the posterior's config, in the order that
        `tasks.permutations` gives. The mean in results.json is of networks drawn with ``tasks.keys(seed)[2]``.

    Raises:
        ValueError: no such task, or what `bbinn_jax.load_posterior` and `data.load` refuse.
    """
    kept = bb.load_posterior(path)
    config = runs.config_of(Config, kept.config)
    if not 1 <= task <= config.tasks:
        raise ValueError(f"task must be from 1 to {config.tasks}, got {task!r}")
    dataset = load(config)
    order = tasks.permutations(config.seed, config.tasks, dataset.test.images.shape[1])[task - 1]
    state = prediction.kept_state(kept)
    statistics = prediction.part(kept.batch_stats, task - 1) if config.batch_norm == "per-task" else None
    model = continual_programs.make_network(config, dataset)
    apply_fn = continual_programs.make_apply_fn(config, model, dataset.train.images, state, statistics, order)
    return kept, apply_fn, dataset.test._replace(images=dataset.test.images[:, order])


def run(
    config: Config,
    method_at: tasks.MethodAt,
    model: networks.MLP,
    dataset: data.Dataset,
    beside: dict[str, Any] | None,
    out: Path,
) -> dict[str, Any]:
    """Trains on all tasks, writes the run folder and returns the results."""
    seeds = list(range(config.seed, config.seed + config.seeds))
    keys = jnp.stack([tasks.keys(seed) for seed in seeds], axis=1)
    images = dataset.train.images
    states = jax.jit(jax.vmap(partial(training.init, method_at(0), model), (0, None)))(keys[0], images)
    orders = jnp.stack([tasks.permutations(seed, config.tasks, images.shape[1]) for seed in seeds])
    device = jax.devices()[0].device_kind
    natural, real = prediction.part(states, 0).params
    is_posterior = method_at(0).is_posterior
    tested = "validation" if config.validation_fraction else "test"
    console.write(
        f"{config.tasks} task{'s' * (config.tasks > 1)}, each {config.dataset} with its pixels in another order: "
        f"{len(images):,} training, {len(dataset.test.labels):,} {tested} images; {config.method} on {device}; "
        f"run folder {out}",
        *bb.partition_table(natural, real).splitlines(),
    )
    states, statistics, history, seconds = train(config, method_at, model, states, keys[1:3], orders, dataset, out)

    common = {
        "experiment": EXPERIMENT,
        "preset": config.preset,
        "dataset": config.dataset,
        "method": config.method,
        "prior": config.prior if config.method == "bayesbinn" else None,
        "batch_norm": config.batch_norm,
        "needs_task_identity": config.batch_norm in ("per-task", "reestimated"),
        "tested_on": tested,
        "epochs": config.epochs,
        "device": device,
        "jax_version": jax.__version__,
        **seconds,
        "num_binary_weights": sum(x.size for x in jax.tree.leaves(natural)),
        "num_real_parameters": sum(x.size for x in jax.tree.leaves(real)),
        "eval_samples": config.eval_samples if is_posterior else None,
        "curve_samples": config.curve_samples if is_posterior else None,
        "command": runs.command(),
        "commit": runs.commit(),
    }
    of_seeds = [[line for line in history if line["seed"] == seed] for seed in seeds]
    results = runs.summary([common | continual_tables.results_of(lines) for lines in of_seeds])
    for i, seed in enumerate(seeds):
        state = prediction.part(states, i)
        batch_stats = prediction.part(statistics, i) if config.batch_norm == "per-task" else state.batch_stats
        kept = bb.Posterior(
            state.params[0], state.params[1], batch_stats, runs.kept_config(config, seed, dataset.mean, dataset.std)
        )
        bb.save_posterior(out / f"network-{seed}.safetensors", kept)
    figures = draw(results, beside, out)
    results = runs.write_results(out, results)
    continual_tables.write_results(results)
    write_paths(figures, out)
    if results["tasks"] < config.tasks:
        console.write(f"stopped after task {results['tasks']} of {config.tasks}: --resume goes on")
    return results


def train(
    config: Config,
    method_at: tasks.MethodAt,
    model: networks.MLP,
    states: training.State,
    keys: jax.Array,
    orders: jax.Array,
    dataset: data.Dataset,
    out: Path,
) -> tuple[training.State, Any, list[dict[str, Any]], dict[str, float]]:
    """Trains on every task, or on those that a checkpoint leaves.

    Args:
        config, method_at, model: what is trained, and how.
        states: of every seed, before the first task.
        keys: [2, seed], for training and for testing.
        orders: [seed, task, pixel].
        dataset: images before the permutations.
        out: run folder.

    Returns:
        The states, the batch-norm statistics that each task ended with, [seed, task, ...], the metrics of each task
        and seed, and the times.
    """
    train_keys, test_keys = keys
    identity = runs.identity(EXPERIMENT, config)
    statistics = jax.tree.map(
        lambda x: jnp.zeros((config.seeds, config.tasks, *x.shape[1:]), x.dtype), states.batch_stats
    )
    done, seconds = checkpoints.latest(out) or 0, 0.0
    lines_before: str | None = ""
    with endings.user_errors():
        if done:
            (states, statistics), seconds, lines_before = checkpoints.restore(out, done, (states, statistics), identity)
        history = runs.rewind_metrics(out, lines_before, done, config.seeds, unit="task")
    if done:
        console.write(f"continuing after task {done}")
    elif config.resume:
        console.write("no checkpoint to continue from: starting at the first task")

    start = time.perf_counter()
    programs = continual_programs.compile_programs(
        config, method_at, model, states, statistics, train_keys, orders, dataset
    )
    compile_seconds = time.perf_counter() - start

    last = config.stop_after_tasks or config.tasks
    predictor = "mean" if method_at(0).is_posterior else "mode"
    start = time.perf_counter()
    ends = sorted({round(config.epochs * i / config.curve_points) for i in range(config.curve_points + 1)})
    for task, report in console.epochs(done + 1, last, unit="task"):
        before = states.params[0]
        prior = before if config.prior == "previous" and task > 1 else jax.tree.map(jnp.zeros_like, before)
        rate_factor = config.later_rate_factor if task > 1 else 1.0
        states, curve = programs.start(states), []
        for first, end in itertools.pairwise(ends):
            span = jnp.int32(first), jnp.int32(end - first), jnp.float32(rate_factor)
            of_seeds = (states, train_keys, orders[:, task - 1], prior)
            states, metrics, finite = programs.train(dataset.train, *span, *of_seeds)
            step, epoch = int(states.step.min()), (task - 1) * config.epochs + end
            stop_if_not_finite(finite, config.seed, step, epoch, out, states)
            statistics = programs.keep(statistics, jnp.int32(task - 1), states.batch_stats)
            tested = (dataset, jnp.int32(task), states, statistics, test_keys, orders)
            scores = programs.test_within(*tested)
            curve.append(scores[f"accuracy_{predictor}"])
        if programs.test is not programs.test_within:
            scores = programs.test(*tested)
        values = {"train_loss": metrics.loss, "train_accuracy": metrics.accuracy, **programs.describe(states, before)}
        values |= {name: score[:, :task] for name, score in scores.items()}
        values |= {"curve_accuracy": jnp.stack(curve, axis=1)[:, :, :task]}
        lines = [
            {"task": task, "seed": config.seed + i, "curve_progress": [end / config.epochs for end in ends[1:]]}
            | {name: np.asarray(value[i]).tolist() for name, value in values.items()}
            for i in range(config.seeds)
        ]
        history += lines
        runs.append_metrics(out, lines)
        now = time.perf_counter()
        text = runs.metrics_text(history)
        checkpoints.save(out, task, (states, statistics), seconds + now - start, identity, text)
        report(continual_tables.progress(lines))
    seconds += time.perf_counter() - start
    return states, statistics, history, {"wall_seconds": seconds, "compile_seconds": compile_seconds}


if __name__ == "__main__":
    main()
