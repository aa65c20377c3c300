"""Two half moons: is a network less sure where it has seen nothing?

    python -m experiments.two_moons
    python -m experiments.two_moons --preset tuned --seed 1

Three predictors on a plane that extends well beyond the data: straight-through training,
and the mode and the mean of a posterior that the Bayesian learning rule has learned.
Every field of `Config` is a flag. The run folder holds config.json, metrics.jsonl,
results.json and a figure. Source: arXiv 2002.10778, figure 2.
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
from sklearn.datasets import make_moons

import bbinn_jax as bb
from experiments.common import config as cli
from experiments.common import console, endings, full_batch, networks, prediction, runs
from experiments.two_moons.figure import two_moons as draw_figure

EXPERIMENT = "two_moons"
NUM_TEST = 1000
FAR = 1.0  # a point of the plane is far away if no training point is nearer than this


@dataclass(frozen=True)
class Config(full_batch.Settings):
    """Classifies two half moons and shows how sure a network is far away from them."""


def tuned() -> Config:
    """Start closer to a fair coin, and relaxed samples closer to -1 and +1: then the mode is good, too."""
    return Config(preset="tuned", temperature=0.3, init_scale=5.0)


PRESETS: dict[str, Callable[[], Config]] = {"paper": Config, "tuned": tuned}


class Data(NamedTuple):
    """Points [n, 2] and their labels [n]."""

    points: jax.Array
    labels: jax.Array


@endings.command
def main(argv: list[str] | None = None) -> dict[str, Any]:
    """The command line; returns what results.json holds."""
    config = cli.parse(Config, PRESETS, (), "python -m experiments.two_moons", argv)
    out = config.out or Path("runs") / f"{EXPERIMENT}-{config.preset}-{config.seed}"
    with endings.user_errors():
        runs.check(out, EXPERIMENT, config)
        train, test = (moons(config, n, stream) for stream, n in enumerate((config.num_train, NUM_TEST)))
        model = networks.TanhMLP(config.hidden)
        shapes = jax.eval_shape(model.init, jax.random.key(0), train.points)["params"]
        params, _ = bb.partition(shapes, {"": "binary"})
        logits_fn = partial(logits, model)

        def loss_fn(weights: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(
                logits_fn(weights, train.points), train.labels
            ).mean()

        def schedule(learning_rate: float) -> optax.Schedule:
            drops = {config.steps // 2: 0.1, config.steps * 5 // 6: 0.1}
            return optax.piecewise_constant_schedule(learning_rate, drops)

        fit = full_batch.fit(config, schedule, loss_fn, params, config.num_train)
        lock = runs.start(out, EXPERIMENT, config)
    with lock:
        return run(config, fit, logits_fn, train, test, out)


def logits(model: networks.TanhMLP, weights: Any, points: jax.Array) -> jax.Array:
    """The logits of class 0, always 0, and of class 1, [n, 2]."""
    logit: Any = model.apply({"params": weights}, points)
    return jnp.stack([jnp.zeros_like(logit), logit], axis=-1)


def load_network(path: str | Path) -> prediction.Network:
    """A network that a run has kept: posterior, ``apply_fn(weights, points)``, and points as they are.

    The mean in results.json is of networks drawn with ``jax.random.split(jax.random.key(seed))[1]``.

    Args:
        path: network-SEED.safetensors of a run folder, or network-ste-SEED.safetensors.

    Raises:
        ValueError, OSError: what `bbinn_jax.load_posterior` refuses.
    """
    posterior = bb.load_posterior(path)
    model = networks.TanhMLP(runs.config_of(Config, posterior.config).hidden)
    return prediction.Network(posterior, partial(logits, model), prediction.preprocessing(posterior.config))


def moons(config: Config, num_points: int, stream: int) -> Data:
    """Points of two half moons; another stream of the same seed gives other points."""
    random_state = np.random.RandomState(np.random.SeedSequence((config.seed, stream)).generate_state(1)[0])
    points, labels = make_moons(num_points, noise=config.noise, random_state=random_state)
    return Data(jnp.asarray(points, jnp.float32), jnp.asarray(labels, jnp.int32))


def run(
    config: Config,
    fit: Callable[[jax.Array], tuple[full_batch.Fit, full_batch.Fit]],
    logits_fn: bb.ApplyFn,
    train: Data,
    test: Data,
    out: Path,
) -> dict[str, Any]:
    """Trains, predicts, writes the run folder and returns the results."""
    fit_key, sample_key = jax.random.split(jax.random.key(config.seed))
    console.write(f"{EXPERIMENT}: {config.num_train:,} training, {NUM_TEST:,} test points; run folder {out}")
    (posterior, ste), seconds = full_batch.compile_and_run(fit, fit_key)
    full_batch.write_metrics(out, posterior, ste)

    x, y = np.linspace(-3, 4, 141), np.linspace(-3, 3, 121)
    plane = jnp.stack(jnp.meshgrid(x, y), axis=-1)  # [y, x, 2]
    nearest = jax.lax.map(lambda point: jnp.min(jnp.sum((point - train.points) ** 2, axis=-1)), plane.reshape(-1, 2))
    distance = jnp.sqrt(nearest).reshape(plane.shape[:2])

    @jax.jit
    def predict(points: jax.Array) -> dict[str, bb.Prediction]:
        return {
            "ste": bb.mode_predictive(logits_fn, ste.params, points),
            "mode": bb.mode_predictive(logits_fn, posterior.params, points),
            "mean": bb.posterior_predictive(
                logits_fn, posterior.params, sample_key, points, num_samples=config.eval_samples, chunk_size=1
            ),
        }

    everywhere = predict(jnp.concatenate([test.points, plane.reshape(-1, 2)]))
    on_test = jax.tree.map(lambda p: p[:NUM_TEST], everywhere)
    on_plane = jax.tree.map(lambda p: p[NUM_TEST:], everywhere)
    far = np.asarray(distance.ravel() > FAR)
    results = full_batch.common_results(EXPERIMENT, config, posterior, seconds)
    for name in on_test:
        results |= {
            f"test_accuracy_{name}": float(bb.metrics.accuracy(on_test[name].probabilities, test.labels)),
            f"test_nll_{name}": float(bb.metrics.negative_log_likelihood(on_test[name].probabilities, test.labels)),
            f"test_entropy_{name}": float(on_test[name].entropy.mean()),
            f"near_entropy_{name}": mean_of(on_plane[name].entropy[~far]),
            f"far_entropy_{name}": mean_of(on_plane[name].entropy[far]),
        }
    mutual_information = on_plane["mean"].mutual_information
    results |= {
        "test_mutual_information_mean": float(on_test["mean"].mutual_information.mean()),
        "near_mutual_information_mean": mean_of(mutual_information[~far]),
        "far_mutual_information_mean": mean_of(mutual_information[far]),
    }
    runs.to_json(results)  # raises for what is not finite before it is drawn
    probabilities = {name: p.probabilities[:, 1].reshape(distance.shape) for name, p in on_plane.items()}
    full_batch.keep_networks(out, config, posterior, ste)
    figure = draw_figure(out / "figure.png", results, x, y, probabilities, distance > FAR, *train)
    results = runs.write_results(out, results)
    write_results(results)
    console.write(f"figure:  {figure}", f"results: {out / 'results.json'}")
    return results


def mean_of(values: jax.Array) -> float | None:
    """The mean; None of nothing, as where points that are spread wide leave no place that is far away."""
    return float(values.mean()) if values.size else None


def write_results(results: dict[str, Any]) -> None:
    """The closing table: three predictors side by side."""
    rows = [
        ("test accuracy", "test_accuracy", "{:.2%}"),
        ("test negative log likelihood", "test_nll", "{:.3f}"),
        ("entropy at the test points", "test_entropy", "{:.3f}"),
        (f"entropy within {FAR:g} of the data", "near_entropy", "{:.3f}"),
        ("entropy far away", "far_entropy", "{:.3f}"),
        ("  of it mutual information", "far_mutual_information", "{:.3f}"),
    ]

    def cell(style: str, value: float | None) -> str:
        return "-" if value is None else style.format(value)

    console.write_table(
        f"two moons, {results['num_train']} points, {results['preset']} preset, {results['steps']:,} steps",
        ("", "straight-through", "mode", f"mean of {results['eval_samples']}"),
        [
            (title, *(cell(style, results.get(f"{score}_{name}", 0.0)) for name in ("ste", "mode", "mean")))
            for title, score, style in rows
        ],
    )
    console.write(f"in nats; far away: in the square of the figure, further than {FAR:g} from every training point")
    console.write_totals(results)


if __name__ == "__main__":
    main()
