"""Two half moons: is a network less sure where it has seen nothing?

    python -m experiments.two_moons
    python -m experiments.two_moons --preset bumps --seed 1

Three predictors on a plane that extends well beyond the data: straight-through training,
and the mode and the mean of a posterior that the Bayesian learning rule has learned.
Every field of `Config` is a flag. The run folder holds config.json, metrics.jsonl,
results.json and a figure. Source: arXiv 2002.10778, figure 2.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.two_moons")

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
from experiments.common.prediction import part
from experiments.two_moons import figure
from experiments.two_moons.data import FAR, Data, moons, plane_around
from experiments.two_moons.model import logits

NUM_TEST = 1000


@dataclass(frozen=True)
class Config(full_batch.Settings):
    """Classifies two half moons and shows how sure a network is far away from them."""


PRESETS = {
    "paper": partial(Config, preset="paper"),
    # Bumps are silent where there are no data: there the weights of those bumps stay fair coins, as they start.
    "bumps": partial(
        Config,
        preset="bumps",
        hidden=(64,),
        bump_width=0.7,
        output_scale=16.0,
        learning_rate=1e-2,
        temperature=0.5,
        kl_weight=0.1,
        init_scale=0.1,
        ste_learning_rate=3e-2,
        eval_samples=100,
    ),
}


class Prepared(NamedTuple):
    """What a run needs."""

    fit: full_batch.FitBoth
    logits: ApplyFn
    train: Data
    test: Data


def prepare(config: Config) -> Prepared:
    """Draws the points, and makes network and training."""
    train, test = (moons(config, n, stream) for stream, n in enumerate((config.num_train, NUM_TEST)))
    logits_fn = partial(logits, full_batch.model_of(vars(config)))

    def loss_fn(weights: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits_fn(weights, train.points), train.labels).mean()

    def schedule(learning_rate: float) -> optax.Schedule:
        drops = {config.steps // 2: 0.1, config.steps * 5 // 6: 0.1}
        return optax.piecewise_constant_schedule(learning_rate, drops)

    return Prepared(full_batch.fit(config, schedule, loss_fn, train.points), logits_fn, train, test)


def run(config: Config, prepared: Prepared, out: Path) -> dict[str, Any]:
    """Trains, predicts, draws and returns the results."""
    fit, logits_fn, train, test = prepared
    console.write(f"{config.num_train:,} training, {NUM_TEST:,} test points")
    trained = full_batch.run(config, fit, out, EXPERIMENT.name)
    plane = plane_around(train)
    of_mode = partial(bb.mode_predictive, logits_fn)
    mean = partial(bb.posterior_predictive, logits_fn, num_samples=config.eval_samples, chunk_size=1)
    points = jnp.concatenate([test.points, plane.points.reshape(-1, 2)])
    everywhere = full_batch.predict(trained, of_mode, mean, points)
    on_test, on_plane = part(everywhere, slice(NUM_TEST)), part(everywhere, slice(NUM_TEST, None))
    results = trained.results | {"dataset": "two_moons", "num_train": config.num_train}
    results |= scores(on_test, on_plane, test.labels, plane.far.ravel())
    runs.to_json(results)  # raises for what is not finite before it is drawn
    probabilities = {name: p.probabilities[:, 1].reshape(plane.far.shape) for name, p in on_plane.items()}
    figure.draw(out / "figure.png", results, plane, probabilities, train)
    return results


def scores(
    on_test: dict[str, bb.Prediction], on_plane: dict[str, bb.Prediction], labels: jax.Array, far: np.ndarray
) -> dict[str, float | None]:
    """How good three predictors are at the test points, and how unsure there and in the plane, near and far away."""
    results: dict[str, float | None] = {}
    for name, predicted in on_test.items():
        results |= {
            f"test_accuracy_{name}": float(bb.metrics.accuracy(predicted.probabilities, labels)),
            f"test_nll_{name}": float(bb.metrics.negative_log_likelihood(predicted.probabilities, labels)),
        }
        for unsure in ("entropy", "mutual_information") if name == "mean" else ("entropy",):
            of_plane = getattr(on_plane[name], unsure)
            results |= {
                f"test_{unsure}_{name}": float(getattr(predicted, unsure).mean()),
                f"near_{unsure}_{name}": full_batch.mean_of(of_plane[~far]),
                f"far_{unsure}_{name}": full_batch.mean_of(of_plane[far]),
            }
    return results


def show(results: dict[str, Any]) -> None:
    """The closing table: three predictors side by side."""

    def row(title: str, score: str, style: str = "{:.3f}") -> list[str]:
        values = [results.get(f"{score}_{name}", 0.0) for name in full_batch.PREDICTORS]
        return [title, *("-" if value is None else style.format(value) for value in values)]

    rows = (
        row("test accuracy", "test_accuracy", "{:.2%}"),
        row("test negative log likelihood", "test_nll"),
        row("entropy at the test points", "test_entropy"),
        row(f"entropy within {FAR:g} of the data", "near_entropy"),
        row("entropy far away", "far_entropy"),
        row("  of it mutual information", "far_mutual_information"),
    )
    note = f"in nats; far away: in the square of the figure, further than {FAR:g} from every training point"
    full_batch.show(results, f"two moons, {results['num_train']} points", rows, note)


EXPERIMENT = command.Experiment("two_moons", Config, PRESETS, prepare, run, show)
main = partial(command.main, EXPERIMENT)

if __name__ == "__main__":
    main()
