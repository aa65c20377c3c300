"""A network that is trained on images: what is made for it, how it is trained, tested, kept, and loaded again.

What is said of images here holds for the rows of a text as well: see `Prepared`.
"""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import console, data, devices, kept, methods, networks, prediction, runs, training
from experiments.common.config import of_flat
from experiments.common.image_config import Config, Training

EXPERIMENT = "image_classification"


class Prepared(NamedTuple):
    """What a run needs."""

    problem: training.Problem
    dataset: data.Dataset
    split: data.Index  # of each seed
    mesh: jax.sharding.Mesh | None = None
    experiment: str = EXPERIMENT
    unit: str = "images"
    kept: Mapping[str, Any] = MappingProxyType({})  # what networks are kept with, besides the config


class Fitted(NamedTuple):
    """What training has made."""

    states: training.State  # of every seed
    keys: jax.Array  # [seed], for networks that are drawn
    results: list[dict[str, Any]]  # of each seed, without what is said of the test images after training
    history: list[dict[str, Any]]


class Outcome(NamedTuple):
    """What a run has found: its results, and of its first seed what a figure shows."""

    results: dict[str, Any]
    history: list[dict[str, Any]]
    predictions: dict[str, bb.Prediction]  # of the test images


def prepare(config: Config, dataset: data.Dataset | None = None) -> Prepared:
    """Loads the images, if they are not given, divides them, and makes method and network.

    Raises:
        ValueError, FileNotFoundError: what the user gave cannot be.
    """
    dataset = data.load(config.dataset) if dataset is None else dataset
    dataset = dataset._replace(test=prediction.part(dataset.test, slice(config.eval_images)))
    index = split(config, dataset)
    plan = methods.Plan(index.train.shape[1], config.batch_size, config.epochs)
    problem = training.Problem(
        methods.make(config.method, config.real_learning_rate, plan),
        networks.Network(config.network, dataset.num_classes),
        config.batch_size,
        *([partial(data.crop_and_flip, fill=black(dataset))] if config.crop_and_flip else []),
    )
    jax.eval_shape(partial(training.init, problem), jax.random.key(0), dataset.train.images)  # now, not later
    return Prepared(problem, dataset, index, devices.make_mesh(config))


def black(dataset: data.Dataset) -> jax.Array:
    """The value of a black pixel, [channel]."""
    return jnp.asarray(-dataset.mean / dataset.std, jnp.float32)


def split(config: Config, dataset: data.Dataset) -> data.Index:
    """The images of each seed."""
    num_images = len(dataset.train.labels)
    seeds = range(config.seed, config.seed + config.seeds)
    split_seeds = [seed if config.split_seed is None else config.split_seed for seed in seeds]
    parts = [data.holdout(num_images, config.validation_fraction, seed) for seed in split_seeds]
    train, validation = (jnp.asarray(np.stack(part)) for part in zip(*parts, strict=True))
    train, validation = train[:, : config.train_images], validation[:, : config.eval_images]
    if config.batch_size > train.shape[1]:
        raise ValueError(f"batch_size must be at most {train.shape[1]}, got {config.batch_size!r}")
    return data.Index(train, validation, train[:, : config.batch_norm_images])


def load_network(path: str | Path, dataset: data.Dataset | None = None) -> prediction.Network:
    """A network that a run has kept, as it was tested.

    The numbers of results.json come back, of the mode and of the mean: where the config has batch_norm_images, each
    network measures its batch-norm statistics on these training images, the mode and every sample its own. The
    statistics in the file are those of the mode, for programs that have no training images. The mean in results.json
    is of ``eval_samples`` networks, drawn with ``jax.random.split(jax.random.key(seed), 3)[2]``.

    Args:
        path: network-SEED.safetensors of a run folder.
        dataset: from `data.load`, where it is loaded already.

    Returns:
        Posterior, apply_fn for images [n, height, width, channel], what makes them of pixels in [0, 1], and the
        training images that were held back.

    Raises:
        ValueError, OSError: what `kept.load` and `data.load` refuse.
    """
    posterior = kept.load(path, EXPERIMENT)
    config = of_flat(Config, posterior.config)
    dataset = data.load(config.dataset) if dataset is None else dataset
    index = prediction.part(split(config, dataset), 0)
    model = networks.Network(config.network, dataset.num_classes)
    apply_fn = prediction.network(model, prediction.kept_state(posterior), dataset.train.images[index.reference])
    known = {"input_mean": dataset.mean, "input_std": dataset.std} | posterior.config  # files of old have neither
    held_back = prediction.part(dataset.train, index.validation)
    return prediction.Network(posterior, apply_fn, prediction.preprocessing(known), held_back)


def load_packed(path: str | Path) -> prediction.Packed:
    """The mode, or a committee, that a run has kept at one bit a weight, as it was tested.

    It needs no images: the file has the statistics that the batch norms of each network predict with. The networks of
    a committee are drawn with ``jax.random.split(jax.random.key(seed), 3)[2]``.

    Args:
        path: network-SEED.packed.safetensors or committee-SEED.packed.safetensors of a run folder.

    Raises:
        ValueError, OSError: what `kept.load_packed` refuses.
    """
    network = kept.load_packed(path, EXPERIMENT)
    model = networks.Network(of_flat(Config, network.config).network, network.config["num_classes"])
    return prediction.packed(network, model)


def fit(config: Any, prepared: Prepared, out: Path) -> Fitted:
    """Trains and keeps the networks of all seeds."""
    problem, dataset, index, mesh, _, unit, *_ = prepared
    seeds = list(range(config.seed, config.seed + config.seeds))
    keys = jax.vmap(partial(jax.random.split, num=3), out_axes=1)(jnp.stack([jax.random.key(s) for s in seeds]))
    states = jax.jit(jax.vmap(partial(training.init, problem), (0, None)))(keys[0], dataset.train.images)
    device = jax.devices()[0].device_kind if mesh is None else f"{mesh.size} x {jax.devices()[0].device_kind}"
    natural, real = leaves_of(problem, states)
    console.write(
        f"{config.dataset}: {index.train.shape[1]:,} training, {index.validation.shape[1]:,} validation, "
        f"{len(dataset.test.labels):,} test {unit}; {config.method.name} on {device}",
        *bb.partition_table(natural, real).splitlines(),
    )
    states, progress, compile_seconds = train(config, prepared, states, keys[1], out)
    common = {
        "dataset": config.dataset,
        "method": config.method.name,
        "epochs": progress.done,
        "device": device,
        "wall_seconds": progress.seconds,
        "compile_seconds": compile_seconds,
        **kept.counts(natural, real),
        "eval_samples": eval_samples(config),
    }
    last = [{name: x for name, x in line.items() if name != "epoch"} for line in progress.history[-len(seeds) :]]
    keep(config, prepared, states, keys[2], out)
    return Fitted(states, keys[2], [common | line for line in last], progress.history)


def run(config: Config, prepared: Prepared, out: Path) -> Outcome:
    """Trains, evaluates and keeps the networks of all seeds."""
    fitted = fit(config, prepared, out)
    predictions = predict(config, prepared, fitted.states, fitted.keys)
    results = [
        line | scores(prediction.part(predictions, i), prepared.dataset, prepared.split.validation[i])
        for i, line in enumerate(fitted.results)
    ]
    shown = prediction.part({name: on_test for name, (on_test, _) in predictions.items()}, 0)
    return Outcome(runs.summary(results), [x for x in fitted.history if x["seed"] == config.seed], shown)


def eval_samples(config: Training) -> int | None:
    """How many networks the mean is of; None where there is no posterior."""
    return config.method.eval_samples if isinstance(config.method, methods.Posterior) else None


def leaves_of(problem: training.Problem, states: training.State) -> tuple[Any, Any]:
    """The binary and the real parameters of one seed; of a method with real weights all are real."""
    natural, real = prediction.part(states, 0).params
    return (natural, real) if problem.method.is_binary else bb.partition(bb.combine(natural, real), {"": "real"})


def predict(config: Config, prepared: Prepared, states: training.State, keys: jax.Array) -> Any:
    """What `prediction.predict` returns, of every seed."""

    def of_seeds(dataset: data.Dataset, *of_seeds: Any) -> Any:
        of_seed = partial(prediction.predict, prepared.problem, eval_samples(config) or 1, dataset)
        return bb.over_leading_axis(of_seed)(*of_seeds)

    return jax.jit(of_seeds)(prepared.dataset, states, keys, prepared.split)


def scores(predictions: Any, dataset: data.Dataset, validation: jax.Array) -> dict[str, float | None]:
    """The scores of one seed's predictors; None of a mean that there is not."""
    labels = dataset.test.labels, dataset.train.labels[validation]
    scored: dict[str, float | None] = dict.fromkeys(
        f"test_{score}_{name}" for name in ("mode", "mean") for score in prediction.SCORES
    )
    for name, predicted in predictions.items():
        scored |= prediction.scores(name, predicted, labels)
    return scored


def keep(config: Any, prepared: Prepared, states: training.State, keys: jax.Array, out: Path) -> None:
    """Writes network-SEED.safetensors for each seed, and beside it what is packed; the keys draw the committees."""
    problem, dataset, index, *_ = prepared
    statistics = jax.jit(partial(prediction.statistics, problem.model))

    @jax.jit
    def draw(state: training.State, key: jax.Array, reference: jax.Array) -> kept.Packed:
        of_one = partial(prediction.statistics, problem.model, state, reference=reference)
        return kept.committee(of_one, key, state.params[0])

    for i in range(config.seeds):
        state, reference = prediction.part(states, i), dataset.train.images[index.reference[i]]
        batch_stats = statistics(state, prediction.shipped(problem.method, state), reference)
        fields = runs.kept_config(config, config.seed + i, dataset.mean, dataset.std)
        fields |= {"num_classes": dataset.num_classes} | dict(prepared.kept)
        network = bb.Posterior(state.params[0], state.params[1], batch_stats, fields)
        drawn = partial(draw, state, keys[i], reference) if problem.method.is_posterior else None
        packed = kept.packed(state.params[0], batch_stats, drawn) if problem.method.is_binary else {}
        kept.save(out, config.seed + i, prepared.experiment, network, packed)


def train(
    config: Any, prepared: Prepared, states: training.State, keys: jax.Array, out: Path
) -> tuple[training.State, runs.Progress, float]:
    """Trains for the epochs of the config, or for what a checkpoint leaves of them.

    Returns the states, how far they have come, and the seconds of compilation.
    """
    problem, dataset, index, mesh, experiment, *_ = prepared
    clock = partial(devices.on_first, time.perf_counter)
    mode = jax.jit(bb.mode)
    first_mode = mode(states.params[0])
    of_data = data.sha256(dataset.train)
    states, (done, seconds, history) = runs.goes_on(out, experiment, config, of_data, states)
    start = time.perf_counter()
    train_epoch, args = devices.compiled(
        partial(training.train_epoch, problem), mesh, states, keys, dataset.train, index.train
    )
    last_mode = mode(states.params[0])
    evaluate = jax.jit(partial(_evaluate, config, problem))
    evaluate = evaluate.lower(dataset, states, (first_mode, last_mode), index).compile()  # type: ignore[assignment]
    compile_seconds = time.perf_counter() - start

    last = config.stop_after_epochs or config.epochs
    start = saved = clock()
    for epoch, report in console.epochs(done + 1, last):
        everywhere = train_epoch(*args)
        args = (everywhere[0], *args[1:])
        states, metrics, finite = devices.here(everywhere)
        runs.stop_if_not_finite(finite, config.seed, states.step[0], epoch, out, states)
        scored = evaluate(dataset, states, (first_mode, last_mode), index)
        last_mode = mode(states.params[0])
        values = {"train_loss": metrics.loss, "train_accuracy": metrics.accuracy, **scored}
        lines = [
            {"epoch": epoch, "seed": config.seed + i}
            | {name: None if x is None else float(x[i]) for name, x in values.items()}
            for i in range(config.seeds)
        ]
        history += lines
        devices.on_first(partial(runs.append_metrics, out, lines))
        now = clock()
        if now - saved >= config.checkpoint_seconds or epoch == last:
            progress = runs.Progress(epoch, seconds + now - start, history)
            runs.save_checkpoint(out, experiment, config, of_data, states, progress)
            saved = clock()
        mean = {name: np.mean([line[name] for line in lines]) for name in lines[0] if lines[0][name] is not None}
        report(
            f"loss {mean['train_loss']:.3f}  train {mean['train_accuracy']:.2%}  val {mean['validation_accuracy']:.2%}"
        )
    return states, runs.Progress(history[-1]["epoch"], seconds + clock() - start, history), compile_seconds


def _evaluate(config: Any, problem: training.Problem, dataset: data.Dataset, *of_seeds: Any) -> dict[str, Any]:
    temperature = config.method.noise.temperature if isinstance(config.method, methods.Posterior) else 1.0
    return bb.over_leading_axis(partial(prediction.evaluate_epoch, problem, temperature, dataset))(*of_seeds)


def folder(config: Any) -> str:
    """What a run folder is called where the user does not say."""
    return f"{config.preset}-{config.method.name}-{config.seed}"


def finished(config: Any, results: dict[str, Any], out: Path) -> bool:
    """Whether a run that is there has all the epochs that are asked for."""
    return results["epochs"] >= (config.stop_after_epochs or config.epochs)
