"""One-dimensional regression: does a network know where it has seen nothing?

    python -m experiments.regression
    python -m experiments.regression --preset bumps --seed 1
    python -m experiments.regression --data FOLDER

Three predictors on a line that extends beyond the data: straight-through training, and the
mode and the mean of a posterior that the Bayesian learning rule has learned. Every field of
`Config` is a flag. The run folder holds config.json, metrics.jsonl, results.json and a
figure. Source: arXiv 2002.10778, figure 3.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.regression")

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bbinn_jax as bb
from bbinn_jax import ApplyFn
from experiments.common import command, console, full_batch, runs
from experiments.common.config import check_ranges
from experiments.regression import figure, model
from experiments.regression.data import Data, generate, read, standardised


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


PRESETS = {
    "paper": partial(Config, preset="paper"),
    # A likelihood as narrow as the noise. Bumps are silent where there are no data: there the weights of those bumps
    # stay fair coins, as they start.
    "bumps": partial(
        Config,
        preset="bumps",
        hidden=(64,),
        bump_width=0.3,
        likelihood_std=0.15,
        steps=3000,
        learning_rate=5e-3,
        temperature=0.5,
        num_samples=5,
        kl_weight=0.1,
        init_scale=0.1,
        ste_learning_rate=3e-2,
        eval_samples=100,
    ),
}


class Prepared(NamedTuple):
    """What a run needs."""

    fit: full_batch.FitBoth
    curve: ApplyFn
    data: Data  # standardised
    scales: dict[str, float]  # of what was measured


def prepare(config: Config) -> Prepared:
    """Generates or reads the pairs, and makes network and training.

    Raises:
        ValueError, FileNotFoundError: the files do not hold pairs, or a field is of generated pairs alone.
    """
    for name in ("num_train", "noise"):
        if config.data is not None and getattr(config, name) != getattr(Config, name):
            raise ValueError(f"{name} is of generated pairs, got {getattr(config, name)!r} together with data")
    measured = generate(config) if config.data is None else read(config.data, config.seed)
    data = standardised(measured)
    curve = partial(model.curve, full_batch.model_of(vars(config)), data.inputs)

    def loss_fn(weights: Any) -> jax.Array:
        squared_error = (curve(weights, data.inputs) - data.targets) ** 2
        return jnp.mean(squared_error) / (2 * config.likelihood_std**2)

    schedule = partial(optax.exponential_decay, transition_steps=config.steps, decay_rate=0.1)
    scales = {
        "input_mean": measured.inputs.mean(),
        "input_std": measured.inputs.std(),
        "target_mean": measured.targets.mean(),
        "target_std": measured.targets.std(),
    }
    return Prepared(full_batch.fit(config, schedule, loss_fn, data.inputs[:, None]), curve, data, scales)


def run(config: Config, prepared: Prepared, out: Path) -> dict[str, Any]:
    """Trains, predicts, draws and returns the results."""
    fit, curve, data, scales = prepared
    console.write(f"{len(data.inputs)} training, {len(data.test_inputs)} test pairs")
    trained = full_batch.run(config, fit, out, EXPERIMENT.name, {"train_inputs": data.inputs}, scales)

    def of_mode(natural: Any, inputs: Any) -> jax.Array:
        return curve(bb.mode(natural), inputs)

    def of_samples(natural: Any, key: jax.Array, inputs: Any) -> jax.Array:
        keys = jax.random.split(key, config.eval_samples)
        return jax.vmap(lambda key: curve(bb.sample(key, natural), inputs))(keys)

    inputs = np.concatenate([data.line, data.test_inputs])
    curves = jax.device_get(full_batch.predict(trained, of_mode, of_samples, inputs))
    samples = curves["mean"]
    curves |= {"samples": samples, "mean": samples.mean(0), "std": samples.std(0, ddof=1)}
    on_line = {name: curve[..., : len(data.line)] for name, curve in curves.items()}
    dataset = "generated" if config.data is None else config.data.name
    results = trained.results | {"dataset": dataset, "num_train": len(data.inputs)}
    for name in full_batch.PREDICTORS:
        error = curves[name][len(data.line) :] - data.test_targets
        results[f"test_rmse_{name}"] = float(np.sqrt(np.mean(error**2)))
    outside = (data.line < data.inputs.min()) | (data.line > data.inputs.max())
    in_gap = (data.line > data.gap[0]) & (data.line < data.gap[1])
    for name, chosen in (("near", ~outside & ~in_gap), ("gap", in_gap), ("far", outside)):
        results[f"{name}_std_mean"] = full_batch.mean_of(on_line["std"][chosen])
    runs.to_json(results)  # raises for what is not finite before it is drawn
    figure.draw(out / "figure.png", results, data, on_line)
    return results


def show(results: dict[str, Any]) -> None:
    """The closing table: three predictors side by side."""
    errors = (f"{results[f'test_rmse_{name}']:.3f}" for name in full_batch.PREDICTORS)
    rows = [("test error (root mean square)", *errors)]
    for name, title in (("near", "among the data"), ("gap", "in their gap"), ("far", "beyond them")):
        std = results[f"{name}_std_mean"]
        if std is not None:
            rows.append((f"standard deviation {title}", "0", "0", f"{std:.3f}"))
    note = "in standard deviations of the training targets; that of the mean is between its networks"
    full_batch.show(results, f"{results['num_train']} {results['dataset']} pairs", rows, note)


EXPERIMENT = command.Experiment("regression", Config, PRESETS, prepare, run, show)
main = partial(command.main, EXPERIMENT)

if __name__ == "__main__":
    main()
