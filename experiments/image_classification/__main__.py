"""Trains a binary network on images and shows what it knows and what it does not.

    python -m experiments.image_classification --preset digits
    python -m experiments.image_classification --preset mnist-short --method ste
    python -m experiments.image_classification --preset cifar10 --seeds 5 --resume

Every field of `presets.Config` is a flag. The run folder holds config.json,
metrics.jsonl, checkpoints, results.json and a figure.
"""

import contextlib
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import checkpoints, console, data, endings, methods, networks, prediction, runs, training
from experiments.common import config as cli
from experiments.common import devices as sharding
from experiments.common.presets import METHODS, PRESETS, Config
from experiments.image_classification.figure import image_classification as draw_figure

EXPERIMENT = "image_classification"


@endings.command
def main(argv: list[str] | None = None) -> dict[str, Any]:
    """The command line; returns what results.json holds."""
    config = cli.parse(Config, PRESETS, METHODS, "python -m experiments.image_classification", argv)
    out = config.out or Path("runs") / f"{EXPERIMENT}-{config.preset}-{config.method}-{config.seed}"
    lock = contextlib.ExitStack()

    def start() -> None:
        lock.enter_context(runs.start(out, EXPERIMENT, config))

    with endings.user_errors():
        sharding.join(config)
        results = sharding.on_first(partial(runs.check, out, EXPERIMENT, config))
        if results and results["epochs"] >= (config.stop_after_epochs or config.epochs):
            console.write(f"run folder {out} holds a finished run of {results['epochs']} epochs, nothing is left to do")
            console.write_results(results)
            return results
        methods.check_fields(config, PRESETS[config.preset](config.method))
        dataset = data.load(config.dataset)
        dataset = dataset._replace(test=data.Split(*(part[: config.eval_images] for part in dataset.test)))
        index = split(config, dataset)
        method = methods.make(config, index.train.shape[1])
        model = make_network(config, dataset)
        mesh = sharding.make_mesh(config)
        sharding.on_first(start)
    with lock:
        return run(config, method, model, dataset, index, mesh, out)


class Index(NamedTuple):
    """Which images of ``dataset.train`` each seed uses, indices [seed, n].

    Attributes:
        train: it trains on these.
        validation: it holds these back.
        reference: of those it trains on, the ones that set the batch norms of networks that predict.
    """

    train: jax.Array
    validation: jax.Array
    reference: jax.Array


def split(config: Config, dataset: data.Dataset) -> Index:
    """The images of each seed."""
    num_images = len(dataset.train.labels)
    seeds = range(config.seed, config.seed + config.seeds)
    split_seeds = [seed if config.split_seed is None else config.split_seed for seed in seeds]
    parts = [data.holdout(num_images, config.validation_fraction, seed) for seed in split_seeds]
    train, validation = (jnp.asarray(np.stack(part)) for part in zip(*parts, strict=True))
    train, validation = train[:, : config.train_images], validation[:, : config.eval_images]
    if config.batch_size > train.shape[1]:
        raise ValueError(f"batch_size must be at most {train.shape[1]}, got {config.batch_size!r}")
    return Index(train, validation, train[:, : config.batch_norm_images])


def make_network(config: Config, dataset: data.Dataset) -> networks.MLP | networks.VGG:
    """The network that a config describes."""
    settings: dict[str, Any] = {
        "num_classes": dataset.num_classes,
        "hidden": config.hidden,
        "dropout": config.dropout,
        "batch_norm_decay": config.batch_norm_decay,
        "batch_norm_eps": config.batch_norm_eps,
        "batch_norm_gain": config.batch_norm_gain,
        "output_scale": config.output_scale,
    }
    if config.network == "mlp":
        if config.channels != Config.channels:
            raise ValueError(f"channels is of --network vgg, got {config.channels!r} with --network mlp")
        return networks.MLP(**settings)
    smallest = min(dataset.train.images.shape[1:3])
    if smallest >> len(config.channels) == 0:
        raise ValueError(f"channels must leave something of images {smallest} pixels wide, got {config.channels!r}")
    return networks.VGG(channels=config.channels, **settings)


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
        Posterior, apply_fn for images [n, height, width, channel], and what makes them of pixels in [0, 1].

    Raises:
        ValueError, FileNotFoundError: what `bbinn_jax.load_posterior` and `data.load` refuse.
    """
    posterior = bb.load_posterior(path)
    config = runs.config_of(Config, posterior.config)
    dataset = data.load(config.dataset) if dataset is None else dataset
    reference = dataset.train.images[prediction.part(split(config, dataset), 0).reference]
    apply_fn = prediction.network(make_network(config, dataset), prediction.kept_state(posterior), reference)
    known = {"input_mean": dataset.mean, "input_std": dataset.std} | posterior.config  # files of old have neither
    return prediction.Network(posterior, apply_fn, prediction.preprocessing(known))


def run(
    config: Config,
    method: training.Method,
    model: networks.MLP | networks.VGG,
    dataset: data.Dataset,
    index: Index,
    mesh: jax.sharding.Mesh | None,
    out: Path,
) -> dict[str, Any]:
    """Trains, evaluates, writes the run folder and returns the results."""
    seeds = list(range(config.seed, config.seed + config.seeds))
    keys = jax.vmap(partial(jax.random.split, num=3), out_axes=1)(jnp.stack([jax.random.key(s) for s in seeds]))
    init_keys, train_keys, test_keys = keys
    states = jax.jit(jax.vmap(partial(training.init, method, model), (0, None)))(init_keys, dataset.train.images)
    device = jax.devices()[0].device_kind
    if mesh is not None:
        device = f"{mesh.size} x {device}"
    natural, real = prediction.part(states, 0).params
    if not method.is_binary:
        natural, real = bb.partition(bb.combine(natural, real), {"": "real"})
    console.write(
        f"{config.dataset}: {index.train.shape[1]:,} training, {index.validation.shape[1]:,} validation, "
        f"{len(dataset.test.labels):,} test images; {config.method} on {device}; run folder {out}",
        *bb.partition_table(natural, real).splitlines(),
    )

    states, history, seconds = train(config, method, model, states, train_keys, dataset, index, mesh, out)

    def predict(dataset: data.Dataset, *of_seeds: Any) -> dict[str, tuple[bb.Prediction, bb.Prediction]]:
        return bb.over_leading_axis(partial(prediction.predict, method, model, config.eval_samples, dataset))(*of_seeds)

    predictions = jax.jit(predict)(dataset, states, test_keys, index.validation, index.reference)

    def results_of(i: int, seed: int) -> dict[str, Any]:
        last = history[i - len(seeds)]
        labels = dataset.test.labels, dataset.train.labels[index.validation[i]]
        scored: dict[str, float | None] = {
            f"test_{score}_{name}": None for name in ("mode", "mean") for score in prediction.SCORES
        }
        for name, predicted in prediction.part(predictions, i).items():
            scored |= prediction.scores(name, predicted, labels)
        return {
            "experiment": EXPERIMENT,
            "preset": config.preset,
            "dataset": config.dataset,
            "method": config.method,
            "seed": seed,
            "epochs": last["epoch"],
            "device": device,
            "jax_version": jax.__version__,
            **seconds,
            **{name: value for name, value in last.items() if name != "epoch"},
            **scored,
            "num_binary_weights": sum(x.size for x in jax.tree.leaves(natural)),
            "num_real_parameters": sum(x.size for x in jax.tree.leaves(real)),
            "eval_samples": config.eval_samples,
            "command": runs.command(),
            "commit": runs.commit(),
        }

    results = runs.summary([results_of(i, seed) for i, seed in enumerate(seeds)])
    first_history = [line for line in history if line["seed"] == seeds[0]]
    statistics = jax.jit(partial(prediction.statistics, model))
    for i, seed in enumerate(seeds):
        state = prediction.part(states, i)
        reference = dataset.train.images[index.reference[i]]
        batch_stats = statistics(state, prediction.shipped(method, state), reference)
        kept = bb.Posterior(
            state.params[0], state.params[1], batch_stats, runs.kept_config(config, seed, dataset.mean, dataset.std)
        )
        sharding.on_first(partial(bb.save_posterior, out / f"network-{seed}.safetensors", kept))
    shown = prediction.part({name: on_test for name, (on_test, _) in predictions.items()}, 0)
    draw = partial(draw_figure, out / "figure.png", results, first_history, dataset, shown)
    figure = sharding.on_first(draw)
    results = sharding.on_first(partial(runs.write_results, out, results))
    console.write_results(results)
    console.write(f"figure:  {figure}", f"results: {out / 'results.json'}")
    return results


def train(
    config: Config,
    method: training.Method,
    model: networks.MLP | networks.VGG,
    states: training.State,
    keys: jax.Array,
    dataset: data.Dataset,
    index: Index,
    mesh: jax.sharding.Mesh | None,
    out: Path,
) -> tuple[training.State, list[dict[str, Any]], dict[str, float]]:
    """Trains for the epochs of the config, or for what a checkpoint leaves of them.

    Returns the states, the metrics of each epoch and seed, and the times.
    """
    identity = runs.identity(EXPERIMENT, config)
    clock = partial(sharding.on_first, time.perf_counter)
    mode = jax.jit(bb.mode)
    first_mode = mode(states.params[0])
    done, seconds, lines_before = sharding.on_first(partial(checkpoints.latest, out)) or 0, 0.0, ""
    with endings.user_errors():
        if done:
            restore = partial(checkpoints.restore, out, done, states, identity)
            states, seconds, lines_before = sharding.state_on_first(restore, states)
        history = sharding.on_first(partial(runs.rewind_metrics, out, lines_before, done, config.seeds))
    if done:
        console.write(f"continuing after epoch {done}")
    elif config.resume:
        console.write("no checkpoint to continue from: starting at the first epoch")

    start = time.perf_counter()
    fill = jnp.asarray(-dataset.mean / dataset.std, jnp.float32)  # black
    augment = partial(data.crop_and_flip, fill=fill) if config.crop_and_flip else lambda key, images: images
    epoch_fn = partial(training.train_epoch, method, model, augment, config.batch_size)
    train_epoch, args = sharding.compiled(epoch_fn, mesh, states, keys, dataset.train, index.train)

    def evaluate_fn(dataset: data.Dataset, *of_seeds: Any) -> dict[str, Any]:
        temperature = 1.0 if method.noisy_activations else config.temperature
        evaluate_epoch = partial(prediction.evaluate_epoch, method, model, temperature, dataset)
        return bb.over_leading_axis(evaluate_epoch)(*of_seeds)

    last_mode = mode(states.params[0])
    of_index = (index.validation, index.reference)
    evaluate = jax.jit(evaluate_fn).lower(dataset, states, (first_mode, last_mode), *of_index).compile()
    compile_seconds = time.perf_counter() - start

    last = config.stop_after_epochs or config.epochs
    start = saved = clock()
    for epoch, report in console.epochs(done + 1, last):
        everywhere = train_epoch(*args)
        args = (everywhere[0], *args[1:])
        states, metrics, finite = sharding.here(everywhere)
        stop_if_not_finite(finite, config.seed, int(states.step[0]), epoch, out, states)
        scored = evaluate(dataset, states, (first_mode, last_mode), *of_index)
        last_mode = mode(states.params[0])
        values = {"train_loss": metrics.loss, "train_accuracy": metrics.accuracy, **scored}
        lines = [
            {"epoch": epoch, "seed": config.seed + i}
            | {name: None if x is None else float(x[i]) for name, x in values.items()}
            for i in range(config.seeds)
        ]
        history += lines
        sharding.on_first(partial(runs.append_metrics, out, lines))
        now = clock()
        if now - saved >= config.checkpoint_seconds or epoch == last:
            text = runs.metrics_text(history)
            sharding.on_first(partial(checkpoints.save, out, epoch, states, seconds + now - start, identity, text))
            saved = clock()
        mean = {name: np.mean([line[name] for line in lines]) for name in lines[0] if lines[0][name] is not None}
        report(
            f"loss {mean['train_loss']:.3f}  train {mean['train_accuracy']:.2%}  val {mean['validation_accuracy']:.2%}"
        )
    seconds += clock() - start
    return states, history, {"wall_seconds": seconds, "compile_seconds": compile_seconds}


def stop_if_not_finite(
    finite: training.Finite, first_seed: int, step: int, epoch: int, out: Path, states: training.State | None = None
) -> None:
    """Ends the program if a loss, a gradient or (in states) what the last step made of them is not finite."""
    found: dict[str, Any] = {"loss": finite.loss, "gradient of": finite.gradient}
    if states is not None:
        after = {"parameter": bb.combine(*states.params), "batch-norm statistic": states.batch_stats}
        found |= _are_finite(after)
    for what, tree in found.items():
        for path, is_finite in jax.tree_util.tree_leaves_with_path(tree):
            for i in np.flatnonzero(~np.asarray(is_finite)):
                checkpoint = checkpoints.latest(out)
                kept = "there is no checkpoint yet" if checkpoint is None else f"{out}/checkpoints/{checkpoint} is kept"
                leaf = jax.tree_util.keystr(path, simple=True, separator="/")
                name = f"the {what} {leaf}".rstrip()
                where = f"in step {step} (epoch {epoch}, seed {first_seed + i})"
                raise SystemExit(endings.printable(f"error: {name} is not finite {where}; {kept}"))


@jax.jit
def _are_finite(tree: Any) -> Any:
    """Whether all numbers of each seed, the first axis, are finite."""
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))), tree)


if __name__ == "__main__":
    main()
