"""Trains a binary network on images and shows what it knows and what it does not.

    python -m experiments.image_classification --preset digits
    python -m experiments.image_classification --preset mnist-short --method ste
    python -m experiments.image_classification --preset cifar10 --seeds 5 --resume

Every field of `Config` is a flag. The run folder holds config.json,
metrics.jsonl, checkpoints, results.json and a figure.
"""

import dataclasses
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments import checkpoints, cli, console, data, methods, networks, plots, runs, training

EXPERIMENT = "image_classification"


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a binary network on images and shows what it knows and what it does not."""

    preset: str = "digits"
    """Which preset the other fields start from: digits, or mnist, cifar10, cifar100 with or without -short."""
    method: Literal["bayesbinn", "ste", "bop", "pmf", "full_precision"] = "bayesbinn"
    """How the weights are trained."""
    dataset: Literal["digits", "mnist", "cifar10", "cifar100"] = "digits"
    """Digits comes with scikit-learn, the others are read from TFDS_DATA_DIR."""
    seed: int = 0
    """Of everything random: split, initialization, order, samples."""
    seeds: int = 1
    """Train this many networks in one program, with seeds counted up from --seed."""
    out: Path | None = None
    """Run folder. Default: runs/image_classification-PRESET-METHOD-SEED."""
    overwrite: bool = False
    """Whether to replace a run in that folder."""
    resume: bool = False
    """Continue the interrupted run in that folder (from the start where there is none)."""
    checkpoint_seconds: float = 60.0
    """At least this time between checkpoints, which are written at the ends of epochs."""

    epochs: int = 200
    """Length of the learning-rate schedule (a cosine to 0)."""
    stop_after_epochs: int | None = None
    """End early, with the schedule of the full run."""
    batch_size: int = 50
    """Images in a batch."""
    validation_fraction: float = 0.1
    """Share of the training images held back."""
    train_images: int | None = None
    """Train on no more than this many of the others."""
    crop_and_flip: bool = False
    """Whether to move and mirror the training images at random."""
    eval_samples: int = 50
    """Networks drawn from the posterior for the mean prediction (bayesbinn)."""

    network: Literal["mlp", "vgg"] = "mlp"
    """Dense layers, or convolutions before them."""
    channels: tuple[int, ...] = (128, 256, 512)
    """Width of each pair of convolutions (vgg)."""
    hidden: tuple[int, ...] = (512, 512)
    """Width of each hidden dense layer."""
    dropout: float = 0.0
    """Rate before each dense layer."""
    batch_norm_decay: float = 0.98
    """Of the running statistics."""
    batch_norm_eps: float = 1e-4
    """Added to the variance."""
    batch_norm_gain: bool = False
    """Whether batch norms have a trained real gain and bias."""
    output_scale: bool = True
    """Whether a trained real scalar multiplies the logits."""

    learning_rate: float = 0.1
    """Of the weights, at the start of the schedule; for bop its gamma."""
    real_learning_rate: float = 1e-2
    """Of the real parameters (Adam, same schedule)."""
    temperature: float = 0.2
    """Of the relaxed samples (bayesbinn)."""
    num_samples: int = 1
    """Relaxed samples in a step (bayesbinn); 0 trains at the expectation."""
    momentum: float = 0.0
    """Of the learning rule (bayesbinn)."""
    kl_weight: float = 0.001
    """Weight of the KL term (bayesbinn); 1 is Bayes."""
    train_set_factor: float = 1.0
    """How many times its training images the data set counts for (bayesbinn): more with random crops."""
    init_scale: float = 3.0
    """Size of the natural parameters at the start (bayesbinn)."""
    threshold: float = 1e-8
    """Average gradient above which a weight flips (bop)."""
    final_beta: float = 1000.0
    """Sharpness of the tanh at the end of the schedule, from 1 (pmf)."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range (the library checks its own arguments)."""
        for name, low, high in (
            ("epochs", 1, None),
            ("stop_after_epochs", 1, self.epochs),
            ("batch_size", 1, None),
            ("eval_samples", 1, None),
            ("train_images", 1, None),
            ("seed", 0, 2**32 - 1),
            ("seeds", 1, 2**32 - self.seed),
            ("checkpoint_seconds", 0, None),
            ("train_set_factor", 1, None),
            ("batch_norm_eps", 0, None),
            ("final_beta", 1, None),
            ("learning_rate", 0, None),
            ("real_learning_rate", 0, None),
            ("init_scale", 0, None),
            ("batch_norm_decay", 0, 1),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= (sys.float_info.max if high is None else high):
                wanted = f"at least {low}" if high is None else f"between {low} and {high}"
                raise ValueError(f"{name} must be {wanted}, got {value!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in (0, 1), got {self.validation_fraction!r}")
        for name in ("hidden", "channels"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be widths of at least 1, got {getattr(self, name)!r}")
        if self.overwrite and self.resume:
            raise ValueError("resume must not be given together with overwrite, got both")


def digits(method: str) -> Config:
    """1,797 images of 8x8 pixels: seconds on a CPU, nothing to download; a posterior that stays alive."""
    config = Config(
        preset="digits",
        dataset="digits",
        epochs=200,
        batch_size=50,
        eval_samples=50,
        hidden=(512, 512),
        dropout=0.0,
        batch_norm_decay=0.98,
        output_scale=True,
        learning_rate=0.1,
        temperature=0.2,
        kl_weight=0.001,
        init_scale=3.0,
    )
    return _with_method(config, method, {"bop": 1e-2})


def mnist(method: str) -> Config:
    """The paper's setting (arXiv 2002.10778, table 10): the posterior saturates in one step."""
    config = Config(
        preset="mnist",
        dataset="mnist",
        epochs=500,
        batch_size=100,
        eval_samples=10,
        hidden=(2048, 2048, 2048),
        dropout=0.2,
        batch_norm_decay=0.85,
        output_scale=False,
        learning_rate=1e-4,
        temperature=1e-10,
        kl_weight=1.0,
        # The authors start at 10, where tanh is 1 in float32 and their Fisher information 0. It is 8e-9 without that
        # cancellation, and would shorten the first step 80 times. At 20 it is far below eps, as it was for them.
        init_scale=20.0,
        threshold=1e-8,
    )
    return _with_method(config, method, {"bop": 1e-5})


def cifar10(method: str) -> Config:
    """The paper's setting, with its VGG-like network."""
    config = Config(
        preset="cifar10",
        dataset="cifar10",
        epochs=500,
        batch_size=50,
        eval_samples=10,
        crop_and_flip=True,
        network="vgg",
        channels=(128, 256, 512),
        hidden=(1024, 1024),
        batch_norm_decay=0.8,
        batch_norm_eps=1e-5,
        output_scale=False,
        learning_rate=3e-4,
        temperature=1e-10,
        kl_weight=1.0,
        train_set_factor=10.0,
        init_scale=20.0,
        threshold=1e-8,
    )
    return _with_method(config, method, {"bop": 1e-4})


def cifar100(method: str) -> Config:
    """The paper's setting: that of CIFAR-10 but for the temperature, and Bop's threshold."""
    return dataclasses.replace(cifar10(method), preset="cifar100", dataset="cifar100", temperature=1e-8, threshold=1e-9)


def _with_method(config: Config, method: str, learning_rates: dict[str, float]) -> Config:
    """The config for another method, with its learning rate."""
    defaults = {"bayesbinn": config.learning_rate, "ste": 1e-2, "pmf": 1e-3, "full_precision": 1e-3}
    rate = (defaults | learning_rates)[method]
    return dataclasses.replace(config, method=method, learning_rate=rate)  # type: ignore[arg-type]


def mnist_short(method: str) -> Config:
    """The paper's setting in 20 epochs, with a rate for Bop that averages over no more than them."""
    config = dataclasses.replace(mnist(method), preset="mnist-short", epochs=20)
    return dataclasses.replace(config, learning_rate=1e-4) if method == "bop" else config


def cifar10_short(method: str) -> Config:
    """The paper's setting in 50 epochs."""
    return dataclasses.replace(cifar10(method), preset="cifar10-short", epochs=50)


def cifar100_short(method: str) -> Config:
    """The paper's setting in 50 epochs."""
    return dataclasses.replace(cifar100(method), preset="cifar100-short", epochs=50)


PRESETS = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "mnist-short": mnist_short,
    "cifar10-short": cifar10_short,
    "cifar100-short": cifar100_short,
}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """The command line; returns what results.json holds."""
    config = cli.parse(Config, PRESETS, methods.METHODS, "python -m experiments.image_classification", argv)
    out = config.out or Path("runs") / f"{EXPERIMENT}-{config.preset}-{config.method}-{config.seed}"
    with cli.user_errors():
        runs.check_free(out, overwrite=config.overwrite, resume=config.resume)
        if config.resume:
            runs.check_same(out, EXPERIMENT, config)
            results = runs.read_results(out)
            if results and results["epochs"] >= (config.stop_after_epochs or config.epochs):
                console.write(f"run folder {out} holds a finished run, nothing is left to do")
                console.write_results(results)
                return results
        methods.check_fields(config, PRESETS[config.preset](config.method))
        dataset = data.load(config.dataset)
        index = split(config, dataset)
        method = methods.make(config, index[0].shape[1])
        model = make_network(config, dataset)
        lock = runs.start(out, EXPERIMENT, config, resume=config.resume)
    with lock:
        return run(config, method, model, dataset, index, out)


def split(config: Config, dataset: data.Dataset) -> tuple[jax.Array, jax.Array]:
    """The images that each seed trains on and those it holds back: indices [seed, n] of ``dataset.train``."""
    num_images = len(dataset.train.labels)
    seeds = range(config.seed, config.seed + config.seeds)
    parts = [data.holdout(num_images, config.validation_fraction, seed) for seed in seeds]
    train, validation = (jnp.asarray(np.stack(part)) for part in zip(*parts, strict=True))
    train = train[:, : config.train_images]
    if config.batch_size > train.shape[1]:
        raise ValueError(f"batch_size must be at most {train.shape[1]}, got {config.batch_size!r}")
    return train, validation


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


def run(
    config: Config,
    method: training.Method,
    model: networks.MLP | networks.VGG,
    dataset: data.Dataset,
    index: tuple[jax.Array, jax.Array],
    out: Path,
) -> dict[str, Any]:
    """Trains, evaluates, writes the run folder and returns the results."""
    seeds = list(range(config.seed, config.seed + config.seeds))
    keys = jax.vmap(partial(jax.random.split, num=3), out_axes=1)(jnp.stack([jax.random.key(s) for s in seeds]))
    init_keys, train_keys, test_keys = keys
    states = jax.vmap(partial(training.init, method, model), (0, None))(init_keys, dataset.train.images)
    device = jax.devices()[0].device_kind
    natural, real = one_seed(states).params
    if not method.is_binary:
        natural, real = bb.partition(bb.combine(natural, real), {"": "real"})
    console.write(
        f"{config.dataset}: {index[0].shape[1]:,} training, {index[1].shape[1]:,} validation, "
        f"{len(dataset.test.labels):,} test images; {config.method} on {device}; run folder {out}\n"
        f"{bb.partition_table(natural, real)}"
    )

    states, history, seconds = train(config, method, model, states, train_keys, dataset, index, out)

    predict_mode = jax.vmap(partial(training.predict_mode, method, model), (0, None))
    predictions = {"mode": jax.jit(predict_mode)(states, dataset.test.images)}
    if method.is_posterior:
        predict_mean = jax.vmap(partial(training.predict_mean, model, config.eval_samples), (0, 0, None))
        predictions["mean"] = jax.jit(predict_mean)(states, test_keys, dataset.test.images)

    def results_of(i: int, seed: int) -> dict[str, Any]:
        last = history[i - len(seeds)]
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
            "train_accuracy": last["train_accuracy"],
            "validation_accuracy": last["validation_accuracy"],
            **{f"test_{score}_{name}": None for name in ("mode", "mean") for score in SCORES},
            **{
                f"test_{score}_{name}": float(score_fn(one_seed(prediction, i).probabilities, dataset.test.labels))
                for name, prediction in predictions.items()
                for score, score_fn in SCORES.items()
            },
            "posterior_entropy_bits_per_weight": last["posterior_entropy_bits_per_weight"],
            "num_binary_weights": sum(x.size for x in jax.tree.leaves(natural)),
            "num_real_parameters": sum(x.size for x in jax.tree.leaves(real)),
            "eval_samples": config.eval_samples,
            "command": runs.command(),
            "commit": runs.commit(),
        }

    results = runs.summary([results_of(i, seed) for i, seed in enumerate(seeds)])
    first_history = [line for line in history if line["seed"] == seeds[0]]
    figure = plots.image_classification(out / "figure.png", results, first_history, dataset, one_seed(predictions))
    runs.write_json(out / "results.json", results)
    console.write_results(results)
    console.write(f"figure:  {figure}\nresults: {out / 'results.json'}")
    return results


def train(
    config: Config,
    method: training.Method,
    model: networks.MLP | networks.VGG,
    states: training.State,
    keys: jax.Array,
    dataset: data.Dataset,
    index: tuple[jax.Array, jax.Array],
    out: Path,
) -> tuple[training.State, list[dict[str, Any]], dict[str, float]]:
    """Trains for the epochs of the config, or for what a checkpoint leaves of them.

    Returns the states, the metrics of each epoch and seed, and the times.
    """
    identity = runs.identity(EXPERIMENT, config)
    done, seconds = checkpoints.latest(out) or 0, 0.0
    with cli.user_errors():
        if done:
            states, seconds = checkpoints.restore(out, done, states, identity)
        history = runs.rewind_metrics(out, done, config.seeds)
    if done:
        console.write(f"continuing after epoch {done}")

    start = time.perf_counter()
    fill = jnp.asarray(-dataset.mean / dataset.std, jnp.float32)  # black
    augment = partial(data.crop_and_flip, fill=fill) if config.crop_and_flip else lambda key, images: images
    epoch_fn = jax.jit(partial(training.train_epoch, method, model, augment, config.batch_size), donate_argnums=0)
    train_epoch = epoch_fn.lower(states, keys, dataset.train, index[0]).compile()
    evaluate_fn = jax.jit(jax.vmap(partial(evaluate_epoch, method, model), (0, None, 0)))
    evaluate = evaluate_fn.lower(states, dataset, index[1]).compile()
    compile_seconds = time.perf_counter() - start

    last = config.stop_after_epochs or config.epochs
    start = saved = time.perf_counter()
    for epoch, report in console.epochs(done + 1, last):
        states, metrics, finite = train_epoch(states, keys, dataset.train, index[0])
        stop_if_not_finite(finite, config.seed, int(states.step[0]), epoch, out)
        scored = evaluate(states, dataset, index[1])
        values = {"train_loss": metrics.loss, "train_accuracy": metrics.accuracy, **scored}
        lines = [
            {"epoch": epoch, "seed": config.seed + i}
            | {name: None if x is None else float(x[i]) for name, x in values.items()}
            for i in range(config.seeds)
        ]
        history += lines
        runs.append_metrics(out, lines)
        now = time.perf_counter()
        if now - saved >= config.checkpoint_seconds or epoch == last:
            checkpoints.save(out, epoch, states, seconds + now - start, identity)
            saved = time.perf_counter()
        mean = {name: np.mean([line[name] for line in lines]) for name in lines[0] if lines[0][name] is not None}
        report(
            f"loss {mean['train_loss']:.3f}  train {mean['train_accuracy']:.2%}  val {mean['validation_accuracy']:.2%}"
        )
    seconds += time.perf_counter() - start
    return states, history, {"wall_seconds": seconds, "compile_seconds": compile_seconds}


def stop_if_not_finite(finite: training.Finite, first_seed: int, step: int, epoch: int, out: Path) -> None:
    """Ends the program if the loss or the gradient of the last step was not finite, and says where."""
    for path, is_finite in jax.tree_util.tree_leaves_with_path(finite):
        for i in np.flatnonzero(~np.asarray(is_finite)):
            leaf = jax.tree_util.keystr(path[1:], simple=True, separator="/")
            what = f"the gradient of {leaf}" if leaf else "the loss"
            checkpoint = checkpoints.latest(out)
            kept = "there is no checkpoint yet" if checkpoint is None else f"{out}/checkpoints/{checkpoint} is kept"
            raise SystemExit(
                f"error: {what} is not finite in step {step} (epoch {epoch}, seed {first_seed + i}); {kept}"
            )


def evaluate_epoch(
    method: training.Method,
    model: networks.MLP | networks.VGG,
    state: training.State,
    dataset: data.Dataset,
    validation: jax.Array,
) -> dict[str, Any]:
    """How the network of one seed does after an epoch, and what the posterior looks like."""
    on_validation = training.predict_mode(method, model, state, dataset.train.images[validation])
    on_test = training.predict_mode(method, model, state, dataset.test.images)
    return {
        "validation_accuracy": bb.metrics.accuracy(on_validation.probabilities, dataset.train.labels[validation]),
        "test_accuracy_mode": bb.metrics.accuracy(on_test.probabilities, dataset.test.labels),
        "test_nll_mode": bb.metrics.negative_log_likelihood(on_test.probabilities, dataset.test.labels),
        "posterior_entropy_bits_per_weight": bb.entropy_bits_per_weight(state.params[0])
        if method.is_posterior
        else None,
    }


def one_seed(tree: Any, i: int = 0) -> Any:
    """One seed's part of a tree with a leading seed axis."""
    return jax.tree.map(lambda x: x[i], tree)


SCORES = {
    "accuracy": bb.metrics.accuracy,
    "nll": bb.metrics.negative_log_likelihood,
    "brier": bb.metrics.brier_score,
    "ece": bb.metrics.expected_calibration_error,
}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command with --resume continues after the last checkpoint")
