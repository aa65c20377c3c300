"""One-dimensional regression: does a network know where it has seen nothing?

    python -m experiments.regression
    python -m experiments.regression --preset tuned --seed 1
    python -m experiments.regression --data FOLDER

Three predictors on a line that extends beyond the data: straight-through training, and the
mode and the mean of a posterior that the Bayesian learning rule has learned. Every field of
`Config` is a flag. The run folder holds config.json, metrics.jsonl, results.json and a
figure. Source: arXiv 2002.10778, figure 3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bbinn_jax as bb
from experiments.common import config as cli
from experiments.common import console, endings, full_batch, networks, prediction, runs
from experiments.common.ranges import check_ranges
from experiments.regression.figure import regression as draw_figure

EXPERIMENT = "regression"
GAP = (2.2, 3.4)  # of the generated inputs
TEST_FRACTION = 0.2  # of the pairs in a folder


@dataclass(frozen=True)
class Config(full_batch.Settings):
    """Fits a curve and shows how sure a network is beyond the data and in a gap of them."""

    data: Path | None = None
    """Names a folder with files train_inputs, train_outputs and test_inputs (where to predict), a number a line.
    Default: noisy values of 2 sin(1.2 x) + 0.2 x are generated at inputs in [0, 6] with a gap."""
    noise: float = 0.15
    """Sets the standard deviation of the noise that is added to the generated targets."""
    likelihood_std: float = 0.5**0.5
    """Sets the standard deviation of a target in the model; sqrt(1/2) makes the loss the mean squared error."""
    steps: int = 5000
    """Sets the length of the training, in which learning rates decay to a tenth."""
    learning_rate: float = 1e-4
    """Sets the learning rate of the rule at the start of the schedule."""
    num_samples: int = 1
    """Draws so many relaxed samples in a step; 0 trains at the expectation."""
    init_scale: float = 10.0
    """Sets the size of the natural parameters at the start."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        check_ranges(self, [("likelihood_std", 0, 1e6, 0)])


def tuned() -> Config:
    """A likelihood as narrow as the noise, a start closer to a fair coin, samples closer to -1 and +1; still Bayes."""
    return Config(
        preset="tuned", likelihood_std=0.15, learning_rate=1e-3, temperature=0.2, num_samples=5, init_scale=5.0
    )


PRESETS: dict[str, Callable[[], Config]] = {"paper": Config, "tuned": tuned}


class Data(NamedTuple):
    """Inputs and targets [n], standardised by the mean and standard deviation of those of training."""

    inputs: np.ndarray
    targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    line: np.ndarray  # inputs of the figure
    gap: np.ndarray  # of the inputs, from and to


@endings.command
def main(argv: list[str] | None = None) -> dict[str, Any]:
    """The command line; returns what results.json holds."""
    config = cli.parse(Config, PRESETS, (), "python -m experiments.regression", argv)
    out = config.out or Path("runs") / f"{EXPERIMENT}-{config.preset}-{config.seed}"
    with endings.user_errors():
        runs.check(out, EXPERIMENT, config)
        for name in ("num_train", "noise"):
            if config.data is not None and getattr(config, name) != getattr(PRESETS[config.preset](), name):
                raise ValueError(f"{name} is of generated pairs, got {getattr(config, name)!r} together with data")
        measured = generate(config) if config.data is None else read(config.data, config.seed)
        data = standardised(measured)
        model = networks.TanhMLP(config.hidden)
        shapes = jax.eval_shape(model.init, jax.random.key(0), data.inputs[:, None])["params"]
        params, _ = bb.partition(shapes, {"": "binary"})
        curve = partial(normalised, model, data.inputs)

        def loss_fn(weights: Any) -> jax.Array:
            squared_error = (curve(weights, data.inputs) - data.targets) ** 2
            return jnp.mean(squared_error) / (2 * config.likelihood_std**2)

        schedule = partial(optax.exponential_decay, transition_steps=config.steps, decay_rate=0.1)
        fit = full_batch.fit(config, schedule, loss_fn, params, len(data.inputs))
        lock = runs.start(out, EXPERIMENT, config)
    with lock:
        return run(config, fit, curve, data, measured, out)


def normalised(model: networks.TanhMLP, train_inputs: np.ndarray, weights: Any, inputs: np.ndarray) -> jax.Array:
    """The network with a batch norm (no gain) of its output, [n] to [n].

    Mean and variance are always those over the training inputs, with the weights at hand. They are part
    of what these weights compute: no network, sampled or mode, is normalised by the statistics of another.
    """
    output: Any = model.apply({"params": weights}, train_inputs[:, None])
    raw: Any = model.apply({"params": weights}, inputs[:, None])
    return (raw - output.mean()) * jax.lax.rsqrt(output.var() + 1e-4)


def load_network(path: str | Path) -> prediction.Network:
    """A network that a run has kept: posterior, ``apply_fn(weights, inputs)``, and what standardises inputs [n].

    Targets are standardised, too: multiply by ``target_std`` and add ``target_mean``, both in the posterior's config.
    The networks in results.json are drawn with the keys that ``jax.random.split`` makes of
    ``jax.random.split(jax.random.key(seed))[1]``.

    Args:
        path: network-SEED.safetensors of a run folder, or network-ste-SEED.safetensors.

    Raises:
        ValueError, OSError: what `bbinn_jax.load_posterior` refuses.
    """
    posterior = bb.load_posterior(path)
    model = networks.TanhMLP(runs.config_of(Config, posterior.config).hidden)
    curve = partial(normalised, model, posterior.batch_stats["train_inputs"])
    return prediction.Network(posterior, curve, prediction.preprocessing(posterior.config, np.float64))


def generate(config: Config) -> Data:
    """Noisy values of a curve at inputs in [0, 6] with a gap, and the curve itself at as many inputs like them."""
    rng = np.random.default_rng(config.seed)

    def draw_inputs() -> np.ndarray:
        x = rng.uniform(0, 6 - (GAP[1] - GAP[0]), config.num_train)
        return np.where(x < GAP[0], x, x + GAP[1] - GAP[0])

    def curve(x: np.ndarray) -> np.ndarray:
        return 2 * np.sin(1.2 * x) + 0.2 * x

    inputs, test_inputs = draw_inputs(), draw_inputs()
    targets = curve(inputs) + config.noise * rng.standard_normal(config.num_train)
    return Data(inputs, targets, test_inputs, curve(test_inputs), np.linspace(-3, 9, 241), np.array(GAP))


def read(folder: Path, seed: int) -> Data:
    """The pairs in a folder, of which a fifth is drawn for testing.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file holds something else than the numbers expected.
    """
    inputs, targets, line = (read_column(folder / name) for name in ("train_inputs", "train_outputs", "test_inputs"))
    if len(inputs) != len(targets):
        raise ValueError(f"--data {folder}: train_inputs has {len(inputs)} numbers and train_outputs {len(targets)}")
    if len(inputs) < 10 or np.ptp(inputs) == 0 or np.ptp(targets) == 0:
        raise ValueError(f"--data {folder}: needs at least 10 pairs, not all of one input or one output")
    order = np.random.default_rng(seed).permutation(len(inputs))
    test, train = np.split(order, [round(TEST_FRACTION * len(order))])
    return Data(inputs[train], targets[train], inputs[test], targets[test], np.sort(line), np.full(2, np.nan))


def read_column(path: Path) -> np.ndarray:
    """The numbers in a file, one a line."""
    if not path.is_file():
        raise FileNotFoundError(f"--data {path.parent}: has no file {path.name}")
    numbers = []
    for i, text in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        try:
            numbers.append(float(text))
        except ValueError:
            raise ValueError(f"--data {path.parent}: line {i} of {path.name} is not a number: {text[:40]!r}") from None
        if not abs(numbers[-1]) < 1e30:  # whose squares float64 can add
            raise ValueError(
                f"--data {path.parent}: line {i} of {path.name} must be finite and below 1e30, got {text[:40]!r}"
            )
    if not numbers:
        raise ValueError(f"--data {path.parent}: {path.name} must hold numbers, one a line")
    return np.array(numbers)


def standardised(data: Data) -> Data:
    """All inputs and targets minus the mean and over the standard deviation of those of training."""

    def scale(x: np.ndarray, like: np.ndarray) -> np.ndarray:
        return ((x - like.mean()) / like.std()).astype(np.float32)

    return Data(
        inputs=scale(data.inputs, data.inputs),
        targets=scale(data.targets, data.targets),
        test_inputs=scale(data.test_inputs, data.inputs),
        test_targets=scale(data.test_targets, data.targets),
        line=scale(data.line, data.inputs),
        gap=scale(data.gap, data.inputs),
    )


def run(
    config: Config,
    fit: Callable[[jax.Array], tuple[full_batch.Fit, full_batch.Fit]],
    curve: Callable[[Any, np.ndarray], jax.Array],
    data: Data,
    measured: Data,
    out: Path,
) -> dict[str, Any]:
    """Trains, predicts, writes the run folder and returns the results; data are the measured ones, standardised."""
    fit_key, sample_key = jax.random.split(jax.random.key(config.seed))
    console.write(f"{EXPERIMENT}: {len(data.inputs)} training, {len(data.test_inputs)} test pairs; run folder {out}")
    (posterior, ste), seconds = full_batch.compile_and_run(fit, fit_key)
    full_batch.write_metrics(out, posterior, ste)

    @jax.jit
    def predict(inputs: np.ndarray) -> dict[str, jax.Array]:
        """Curves [n], and [sample, n] of networks drawn from the posterior."""
        keys = jax.random.split(sample_key, config.eval_samples)
        return {
            "ste": curve(bb.mode(ste.params), inputs),
            "mode": curve(bb.mode(posterior.params), inputs),
            "samples": jax.vmap(lambda key: curve(bb.sample(key, posterior.params), inputs))(keys),
        }

    everywhere = jax.device_get(predict(np.concatenate([data.line, data.test_inputs])))
    everywhere |= {"mean": everywhere["samples"].mean(0), "std": everywhere["samples"].std(0, ddof=1)}
    on_line = {name: curve[..., : len(data.line)] for name, curve in everywhere.items()}
    on_test = {name: curve[..., len(data.line) :] for name, curve in everywhere.items()}
    results = full_batch.common_results(EXPERIMENT, config, posterior, seconds)
    results |= {"dataset": "generated" if config.data is None else config.data.name, "num_train": len(data.inputs)}
    for name in ("ste", "mode", "mean"):
        error = on_test[name] - data.test_targets
        results[f"test_rmse_{name}"] = float(np.sqrt(np.mean(error**2)))
    outside = (data.line < data.inputs.min()) | (data.line > data.inputs.max())
    in_gap = (data.line > data.gap[0]) & (data.line < data.gap[1])
    for name, chosen in (("near", ~outside & ~in_gap), ("gap", in_gap), ("far", outside)):
        results[f"{name}_std_mean"] = float(on_line["std"][chosen].mean()) if chosen.any() else None
    scales = {
        f"{name}_{score}": getattr(getattr(measured, f"{name}s"), score)()
        for name in ("input", "target")
        for score in ("mean", "std")
    }
    full_batch.keep_networks(out, config, posterior, ste, {"train_inputs": data.inputs}, **scales)
    runs.to_json(results)  # raises for what is not finite before it is drawn
    figure = draw_figure(out / "figure.png", results, data.line, on_line, data.inputs, data.targets)
    results = runs.write_results(out, results)
    write_results(results)
    console.write(f"figure:  {figure}", f"results: {out / 'results.json'}")
    return results


def write_results(results: dict[str, Any]) -> None:
    """The closing table: three predictors side by side."""
    rows = [("test error (root mean square)", *(f"{results[f'test_rmse_{x}']:.3f}" for x in ("ste", "mode", "mean")))]
    for name, title in (("near", "among the data"), ("gap", "in their gap"), ("far", "beyond them")):
        std = results[f"{name}_std_mean"]
        if std is not None:
            rows.append((f"standard deviation {title}", "0", "0", f"{std:.3f}"))
    console.write_table(
        f"{results['num_train']} {results['dataset']} pairs, {results['preset']} preset, {results['steps']:,} steps",
        ("", "straight-through", "mode", f"mean of {results['eval_samples']}"),
        rows,
    )
    console.write("in standard deviations of the training targets; that of the mean is between its networks")
    console.write_totals(results)


if __name__ == "__main__":
    main()
