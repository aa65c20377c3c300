"""Spiking networks with binary weights: do rules that are local in space and time know what they do not know?

    python -m experiments.spiking
    python -m experiments.spiking --preset digits
    python -m experiments.spiking --methods bayesbinn --update through_time

Neurons that fire learn from the step that they are in. Three methods side by side: the Bayesian learning
rule, whose posterior gives a mode and a committee, straight-through training, and real weights.
Every field of `presets.Config` is a flag. The run folder holds config.json, pieces.jsonl,
results.json, networks and a figure. Source: arXiv 2012.08300.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.spiking")

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import bbinn_jax as bb
from experiments.common import command, console, full_batch, kept, pieces, runs
from experiments.common.endings import printable
from experiments.common.tables import cell
from experiments.spiking import data, figure, learning, model, neuron
from experiments.spiking.presets import PRESETS, Config
from experiments.spiking.published import COLUMNS

ECE_BINS, GRID, FAR = 20, 21, 0.15  # the points of a grid that are further than this from all training points are far


class Prepared(NamedTuple):
    """What a run needs: the network, its examples with a first axis of seeds, and the number of classes."""

    network: neuron.Network
    examples: data.Data
    num_classes: int


def prepare(config: Config) -> Prepared:
    """Draws or loads the examples of all seeds, and makes the network.

    Raises:
        ValueError: a setting out of its range.
    """
    seeds = range(config.seed, config.seed + config.seeds)
    of_seeds = [data.load(config.dataset, seed, config.validation) for seed in seeds]
    num_train = len(of_seeds[0].train)
    if config.batch_size > num_train:
        raise ValueError(f"batch_size must be at most the {num_train} training examples, got {config.batch_size!r}")
    for name in config.methods:
        learning.make(config, name, num_train)  # raises for what is out of range now, not in the middle of a run
    num_classes = 1 + int(of_seeds[0].train_labels.max())
    return Prepared(
        neuron.Network(config.hidden), jax.tree.map(lambda *leaves: np.stack(leaves), *of_seeds), num_classes
    )


def run(config: Config, prepared: Prepared, out: Path) -> dict[str, Any]:
    """Trains with each method, predicts, draws and returns the results."""
    examples = prepared.examples
    console.write(f"{examples.train.shape[1]:,} training, {examples.test.shape[1]:,} test examples a seed")
    work = {str(name): partial(of_method, config, prepared, out, name) for name in config.methods}

    def is_kept(method: str) -> bool:
        if not (there := model.are_kept(out, config, method)):
            console.write(f"a network of {method} is missing or damaged: it is trained again")
        return there

    rows, seconds = pieces.done(out, work, is_kept)
    first = jax.tree.map(lambda x: x[0], examples)
    figure.draw(out, config, rows, first)
    like = prepared.network.weights_like(data.num_inputs(config.dataset, first.train.shape[1]))
    return {
        "dataset": config.dataset,
        "seeds": config.seeds,
        "wall_seconds": seconds,
        "compile_seconds": sum({row["method"]: row["compile_seconds"] for row in rows}.values()),
        **kept.counts(like),
        "rows": rows,
    }


def of_method(config: Config, prepared: Prepared, out: Path, name: str) -> list[dict[str, Any]]:
    """Trains the networks of all seeds by a method and keeps them; a row for each predictor and seed."""
    network, examples, num_classes = prepared
    readouts_of = partial(neuron.draw_readouts, widths=config.hidden, num_classes=num_classes)
    train = learning.fit(config, name, network)

    def fit(seed: jax.Array, of_seed: data.Data) -> learning.Fit:
        keys = model.keys_of(seed)
        spikes = data.spikes_of(config.dataset, keys.train_spikes, of_seed.train, config.time_steps)
        return train(keys.fit, readouts_of(keys.readouts), spikes, of_seed.train_labels)

    seeds = jnp.asarray(np.arange(config.seed, config.seed + config.seeds).astype(np.uint32))
    fitted, seconds = full_batch.compile_and_run(bb.over_leading_axis(fit), seeds, examples)
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(fitted)):
        raise SystemExit(printable(f"error: {learning.diverged(config, name)}; run folder {out}"))
    ask = jax.jit(partial(answers, config, name, network))
    rows: list[dict[str, Any]] = []
    for i, seed in enumerate(seeds.tolist()):
        trained, of_seed = jax.tree.map(lambda x, i=i: x[i], (fitted, examples))
        keep(config, out, name, seed, (trained, of_seed))
        asked, far = questions(config, of_seed)
        entropy = bb.diagnostics.entropy_bits_per_weight(trained.params)
        facts = {
            "method": name,
            "seed": seed,
            "train_loss": float(trained.losses[-1]),
            "posterior_entropy_bits_per_weight": float(entropy) if name == "bayesbinn" else None,
            "flipped_since_start": float(bb.diagnostics.flip_rate(trained.params, trained.start)),
            **seconds,
        }
        said = ask(model.keys_of(seed), trained, asked)
        for predictor in (x for x in ("mode", "committee") if x in said):
            rows.append(
                facts | {"predictor": predictor} | scores(said[predictor], jnp.asarray(of_seed.test_labels), far)
            )
    return rows


def questions(config: Config, of_seed: data.Data) -> tuple[np.ndarray, int]:
    """The test examples, and for two moons behind them the points of a grid that are far away; how many these are."""
    if config.dataset != "moons":
        return of_seed.test, 0
    x = np.linspace(0, 1, GRID, dtype=np.float32)
    grid = np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2)
    nearest = np.sqrt(((grid[:, None] - of_seed.train) ** 2).sum(-1)).min(1)
    order = np.argsort(nearest)  # those that are far away stand last
    return np.concatenate([of_seed.test, grid[order]]), int((nearest > FAR).sum())


def answers(
    config: Config, name: str, network: neuron.Network, keys: model.Keys, trained: learning.Fit, asked: jax.Array
) -> dict[str, neuron.Answer]:
    """What the predictors of a method say of examples."""
    spikes = data.spikes_of(config.dataset, keys.spikes, asked, config.time_steps)
    of_weights = partial(neuron.answer, network, trained.readouts, config.burn_in, spikes=spikes)
    said = {"mode": of_weights(trained.params if name == "full_precision" else bb.mode(trained.params))}
    if name == "bayesbinn":
        drawn = {"num_samples": config.eval_samples, "chunk_size": 1}
        said["committee"] = bb.posterior_expectation(of_weights, trained.params, keys.committee, **drawn)
    return said


def scores(said: neuron.Answer, labels: jax.Array, far: int) -> dict[str, float | None]:
    """How good answers are, and how unsure, at the test examples and at the points far from the training points."""
    probabilities = said.probabilities[: len(labels)]
    whole = bb.mixture_prediction(said.probabilities, said.entropy)
    return {
        "test_accuracy": float(bb.metrics.accuracy(probabilities, labels)),
        "test_nll": float(bb.metrics.negative_log_likelihood(probabilities, labels)),
        "test_ece": float(bb.metrics.expected_calibration_error(probabilities, labels, num_bins=ECE_BINS)),
        "test_entropy": float(whole.entropy[: len(labels)].mean()),
        "test_mutual_information": float(whole.mutual_information[: len(labels)].mean()),
        "far_entropy": float(whole.entropy[-far:].mean()) if far else None,
        "far_mutual_information": float(whole.mutual_information[-far:].mean()) if far else None,
        "spikes_per_neuron_and_step": float(said.spikes[: len(labels)].mean()),
    }


def keep(config: Config, out: Path, name: str, seed: int, found: tuple[learning.Fit, data.Data]) -> None:
    """Writes the network of a seed, and of binary weights the mode and a committee at one bit a weight."""
    (params, _, _, drawn), of_seed = found
    readouts = {f"layer_{i}": readout for i, readout in enumerate(drawn)}
    network = bb.Posterior(params, None, readouts, runs.kept_config(config, seed, of_seed.low, of_seed.size))
    packed = {}
    if name != "full_precision":
        key = model.keys_of(seed).committee
        committee = partial(kept.committee, lambda _: readouts, key, params, config.eval_samples)
        packed = kept.packed(params, readouts, committee if name == "bayesbinn" else None)
    kept.save(out, model.file_name(name, seed), model.NAME, network, packed)


def show(results: dict[str, Any]) -> None:
    """The closing table: the mean and the sample deviation over seeds, of each predictor."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in results["rows"]:
        groups.setdefault(model.title(row), []).append(row)
    columns = [x for x in COLUMNS if any(row[x.field] is not None for row in results["rows"])]
    lines = [
        (title, *(cell(pd.Series([row[x.field] for row in rows]), x) or "-" for x in columns))
        for title, rows in groups.items()
    ]
    seeds = "1 seed" if results["seeds"] == 1 else f"{results['seeds']} seeds"
    what = f"{results['dataset']}, {results['preset']} preset, {seeds}"
    console.write_table(what, ("", *(x.title for x in columns)), lines)
    if any(x.title == "far" for x in columns):
        console.write(f"far: further than {FAR:g} from all training points, in the square that spikes tell of (nats)")
    console.write(f"trained in {results['wall_seconds']:.0f} s, {results['compile_seconds']:.0f} s of them compilation")


def finished(config: Config, results: dict[str, Any], out: Path) -> bool:
    """Whether a run that is there still has all its networks."""
    return all(model.are_kept(out, config, name) for name in config.methods)


EXPERIMENT = command.Experiment(model.NAME, Config, PRESETS, prepare, run, show, finished=finished)
main = partial(command.main, EXPERIMENT)

if __name__ == "__main__":
    main()
