"""Trains a binary network on images and shows what it knows and what it does not.

    python -m experiments.image_classification --preset digits
    python -m experiments.image_classification --preset mnist --stop-after-epochs 3
    python -m experiments.image_classification --preset mnist --method ste

Every field of `Config` is a flag. The run folder holds config.json,
metrics.jsonl, results.json and a figure.
"""

import dataclasses
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

import bbinn_jax as bb
from experiments import cli, console, data, networks, plots, runs, training

METHODS = ("bayesbinn", "ste")


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a binary network on images and shows what it knows and what it does not."""

    preset: str = "digits"
    """Which preset the other fields start from: digits, mnist."""
    method: Literal["bayesbinn", "ste"] = "bayesbinn"
    """How the binary weights are trained."""
    dataset: Literal["digits", "mnist"] = "digits"
    """Digits comes with scikit-learn, mnist is read from TFDS_DATA_DIR."""
    seed: int = 0
    """Of everything random: split, initialization, order, samples."""
    out: Path | None = None
    """Run folder. Default: runs/image_classification-PRESET-METHOD-SEED."""
    overwrite: bool = False
    """Whether to replace a finished run in that folder."""

    epochs: int = 200
    """Length of the learning-rate schedule (a cosine to 0)."""
    stop_after_epochs: int | None = None
    """End early, with the schedule of the full run."""
    batch_size: int = 50
    """Images in a batch."""
    validation_fraction: float = 0.1
    """Share of the training images held back."""
    eval_samples: int = 50
    """Networks drawn from the posterior for the mean prediction (bayesbinn)."""

    hidden: tuple[int, ...] = (512, 512)
    """Width of each hidden layer."""
    dropout: float = 0.0
    """Rate before each layer."""
    batch_norm_decay: float = 0.98
    """Of the running statistics."""
    output_scale: bool = True
    """Whether a trained real scalar multiplies the logits."""

    learning_rate: float = 0.1
    """Of the binary weights, at the start of the schedule."""
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
    init_scale: float = 3.0
    """Size of the natural parameters at the start (bayesbinn)."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range (the library checks its own arguments)."""
        for name, low, high in (
            ("epochs", 1, None),
            ("stop_after_epochs", 1, self.epochs),
            ("batch_size", 1, None),
            ("eval_samples", 1, None),
            ("seed", 0, 2**32 - 1),
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
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be widths of at least 1, got {self.hidden!r}")


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
    if method == "ste":
        return dataclasses.replace(config, method="ste", learning_rate=1e-2)
    return config


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
    )
    if method == "ste":
        return dataclasses.replace(config, method="ste", learning_rate=1e-2)
    return config


PRESETS = {"digits": digits, "mnist": mnist}


def make_method(config: Config, train_set_size: int) -> training.Method:
    """The learning rule that the config names, for this many training images."""
    total_steps = config.epochs * (train_set_size // config.batch_size)
    real_optimizer = optax.adam(optax.cosine_decay_schedule(config.real_learning_rate, total_steps))
    schedule = optax.cosine_decay_schedule(config.learning_rate, total_steps)

    def pair(binary_optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.partition({"binary": binary_optimizer, "real": real_optimizer}, ("binary", "real"))

    if config.method == "ste":
        preset = PRESETS[config.preset](config.method)
        for name in ("temperature", "num_samples", "momentum", "kl_weight", "init_scale", "eval_samples"):
            if getattr(config, name) != getattr(preset, name):
                raise ValueError(f"{name} is of --method bayesbinn, got {getattr(config, name)!r} with --method ste")
        optimizer = bb.ste(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)))
        return training.Method(
            # The tanh of half a logistic variate is uniform on (-1, 1).
            init=lambda key, natural: bb.bernoulli.expectation(bb.logistic_noise(key, natural)),
            expected_loss=lambda loss_fn: lambda latent, key, *args: loss_fn(bb.straight_through(latent), *args),
            optimizer=pair(optimizer),
            is_posterior=False,
        )
    optimizer = bb.bayesbinn(schedule, train_set_size, momentum=config.momentum, kl_weight=config.kl_weight)
    expected_loss = partial(
        bb.expected_loss, temperature=config.temperature, num_samples=config.num_samples, has_aux=True
    )
    expected_loss(max)  # raises for a temperature or num_samples out of range now, not when it is traced
    return training.Method(
        init=partial(bb.init_natural, scale=config.init_scale),
        expected_loss=expected_loss,
        optimizer=pair(optimizer),
        is_posterior=True,
    )


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """The command line; returns what results.json holds."""
    config = cli.parse(Config, PRESETS, METHODS, "python -m experiments.image_classification", argv)
    out = config.out or Path("runs") / f"image_classification-{config.preset}-{config.method}-{config.seed}"
    with cli.user_errors():
        runs.check_free(out, overwrite=config.overwrite)
        dataset = data.load(config.dataset, validation_fraction=config.validation_fraction, seed=config.seed)
        if config.batch_size > len(dataset.train.labels):
            raise ValueError(f"batch_size must be at most {len(dataset.train.labels)}, got {config.batch_size!r}")
        method = make_method(config, len(dataset.train.labels))
        lock = runs.start(out, "image_classification", config)
    with lock:
        return run(config, method, dataset, out)


def run(config: Config, method: training.Method, dataset: data.Dataset, out: Path) -> dict[str, Any]:
    """Trains, evaluates, writes the run folder and returns the results."""
    model = networks.MLP(
        hidden=config.hidden,
        num_classes=dataset.num_classes,
        dropout=config.dropout,
        batch_norm_decay=config.batch_norm_decay,
        output_scale=config.output_scale,
    )
    init_key, train_key, test_key = jax.random.split(jax.random.key(config.seed), 3)
    state = training.init(method, model, init_key, dataset.train.images)
    device = jax.devices()[0].device_kind
    console.write(
        f"{config.dataset}: {len(dataset.train.labels):,} training, {len(dataset.validation.labels):,} validation, "
        f"{len(dataset.test.labels):,} test images; {config.method} on {device}; run folder {out}\n"
        f"{bb.partition_table(*state.params)}"
    )

    state, history, seconds = train(config, method, model, state, train_key, dataset, out)

    images, labels = dataset.test
    predictions = {"mode": jax.jit(partial(training.predict_mode, model))(state, images)}
    if method.is_posterior:
        predict_mean = jax.jit(partial(training.predict_mean, model, config.eval_samples))
        predictions["mean"] = predict_mean(state, test_key, images)

    last = history[-1]
    results = {
        "experiment": "image_classification",
        "preset": config.preset,
        "dataset": config.dataset,
        "method": config.method,
        "seed": config.seed,
        "epochs": last["epoch"],
        "device": device,
        "jax_version": jax.__version__,
        **seconds,
        "train_accuracy": last["train_accuracy"],
        "validation_accuracy": last["validation_accuracy"],
        **{f"test_{score}_{name}": None for name in ("mode", "mean") for score in ("accuracy", "nll", "brier", "ece")},
        **{
            f"test_{score}_{name}": float(value)
            for name, prediction in predictions.items()
            for score, value in scores(prediction, labels).items()
        },
        "posterior_entropy_bits_per_weight": last["posterior_entropy_bits_per_weight"],
        "num_binary_weights": sum(x.size for x in jax.tree.leaves(state.params[0])),
        "num_real_parameters": sum(x.size for x in jax.tree.leaves(state.params[1])),
        "eval_samples": config.eval_samples,
        "command": runs.command(),
        "commit": runs.commit(),
    }
    figure = plots.image_classification(out / "figure.png", results, history, dataset.test, predictions)
    runs.write_json(out / "results.json", results)
    console.write_results(results)
    console.write(f"figure:  {figure}\nresults: {out / 'results.json'}")
    return results


def train(
    config: Config,
    method: training.Method,
    model: networks.MLP,
    state: training.State,
    key: jax.Array,
    dataset: data.Dataset,
    out: Path,
) -> tuple[training.State, list[dict[str, Any]], dict[str, float]]:
    """Trains for the epochs of the config; returns the state, the metrics of each epoch, and the times."""
    start = time.perf_counter()
    epoch_fn = jax.jit(partial(training.train_epoch, method, model, config.batch_size), donate_argnums=0)
    train_epoch = epoch_fn.lower(state, key, *dataset.train).compile()
    evaluate_fn = jax.jit(partial(evaluate_epoch, method, model))
    evaluate = evaluate_fn.lower(state, dataset.validation, dataset.test).compile()
    compile_seconds = time.perf_counter() - start

    history: list[dict[str, Any]] = []
    start = time.perf_counter()
    for epoch, report in console.epochs(config.stop_after_epochs or config.epochs):
        state, (loss, accuracy) = train_epoch(state, key, *dataset.train)
        if not jnp.isfinite(loss):
            raise SystemExit(f"error: the training loss is {loss} in epoch {epoch}; earlier metrics are in {out}")
        metrics = {"epoch": epoch, "train_loss": float(loss), "train_accuracy": float(accuracy)}
        scored = evaluate(state, dataset.validation, dataset.test)
        metrics |= {name: None if x is None else float(x) for name, x in scored.items()}
        history.append(metrics)
        runs.append_metrics(out, metrics)
        report(
            f"loss {metrics['train_loss']:.3f}  train {metrics['train_accuracy']:.2%}  "
            f"val {metrics['validation_accuracy']:.2%}"
        )
    return state, history, {"wall_seconds": time.perf_counter() - start, "compile_seconds": compile_seconds}


def evaluate_epoch(
    method: training.Method, model: networks.MLP, state: training.State, validation: data.Split, test: data.Split
) -> dict[str, Any]:
    """How the mode network does after an epoch, and what the posterior looks like."""
    on_validation = scores(training.predict_mode(model, state, validation.images), validation.labels)
    on_test = scores(training.predict_mode(model, state, test.images), test.labels)
    return {
        "validation_accuracy": on_validation["accuracy"],
        "test_accuracy_mode": on_test["accuracy"],
        "test_nll_mode": on_test["nll"],
        "posterior_entropy_bits_per_weight": bb.entropy_bits_per_weight(state.params[0])
        if method.is_posterior
        else None,
    }


def scores(prediction: bb.Prediction, labels: jax.Array) -> dict[str, jax.Array]:
    """Accuracy and the scores of a prediction's probabilities."""
    return {
        "accuracy": bb.metrics.accuracy(prediction.probabilities, labels),
        "nll": bb.metrics.negative_log_likelihood(prediction.probabilities, labels),
        "brier": bb.metrics.brier_score(prediction.probabilities, labels),
        "ece": bb.metrics.expected_calibration_error(prediction.probabilities, labels),
    }


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the metrics so far are in the run folder")
