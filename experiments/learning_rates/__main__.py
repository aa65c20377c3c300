"""Is there one right rate? Rates and momenta on a grid, and where a pair that was claimed for all networks stands.

    python -m experiments.learning_rates
    python -m experiments.learning_rates --preset mnist
    python -m experiments.learning_rates --methods ste pmf --rates 0.1 0.3 1 3 --momenta 0 0.5 0.9

A network is trained at every pair of a rate and a momentum, all pairs in one program, by

    sgd                   SGD on real weights
    ste                   SGD on latent weights, seen through their signs
    bayesbinn             the Bayesian learning rule, whose momentum averages
    bayesbinn_heavy_ball  the same at rate / (1 - momentum), which is what the momentum of SGD makes of a rate
    pmf                   SGD on latent weights, seen through a tanh that sharpens

and judged by the images held back. Every field of `presets.Config` is a flag. The run folder holds config.json,
pieces.jsonl, results.json and a figure. Source of the claim: arXiv 2605.20009.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.learning_rates")

import itertools
import statistics
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import command, console, data, networks, pieces, prediction
from experiments.learning_rates import figure, grid, rules
from experiments.learning_rates.presets import CLAIMED, PRESETS, Config
from experiments.learning_rates.standing import standing

Row = dict[str, Any]
SCORES = {"accuracy": "accuracy", "nll": "NLL", "accuracy_mean": "accuracy of the mean", "nll_mean": "NLL of the mean"}
MEASURED = (*SCORES, "entropy_bits")


class Prepared(NamedTuple):
    """What a run needs."""

    problem: grid.Problem
    parts: list[tuple[data.Split, ...]]  # of each seed: the images to train on, and those held back


def prepare(config: Config) -> Prepared:
    """Loads the images, divides them, and makes the network.

    Raises:
        ValueError, FileNotFoundError: what the user gave cannot be.
    """
    dataset = data.load(config.dataset)
    pixels = dataset.train.images * np.float32(dataset.std) + np.float32(dataset.mean)
    everything = data.Split(2 * pixels - 1, dataset.train.labels)  # in [-1, 1], as where the claim was tested
    parts: list[tuple[data.Split, ...]] = []
    for seed in range(config.seed, config.seed + config.seeds):
        train, held_back = data.holdout(len(everything.labels), config.validation_fraction, seed)
        index = train[: config.train_images], held_back[: config.eval_images]
        parts.append(tuple(prediction.part(everything, i) for i in index))
    num_images = len(parts[0][0].labels)
    if config.batch_size > num_images:
        raise ValueError(f"batch_size must be at most {num_images}, got {config.batch_size!r}")
    setting = rules.Setting(
        num_images,
        config.epochs * (num_images // config.batch_size),
        config.kl_weight,
        config.init_scale,
        has_norm=config.network.norm != "none",
    )
    model = networks.Network(config.network, dataset.num_classes)
    jax.eval_shape(partial(model.init, train=False), jax.random.key(0), everything.images[:1])  # raises now, not later
    return Prepared(grid.Problem(model, setting, config.batch_size, config.epochs, config.eval_samples), parts)


def run(config: Config, prepared: Prepared, out: Path) -> dict[str, Any]:
    """Trains all cells, draws and returns the results."""
    problem, parts = prepared
    cells = list(itertools.product(config.rates, config.momenta))
    train, held_back = (len(split.labels) for split in parts[0])
    console.write(
        f"{config.dataset}: {train:,} training images, {held_back:,} held back; {len(cells)} cells, "
        f"{problem.setting.steps:,} steps each"
    )
    programs = {
        name: jax.jit(partial(grid.run, problem, name, min(config.cells_at_once, len(cells))))
        for name in config.methods
    }

    def piece(name: rules.Name, i: int) -> list[Row]:
        key = jax.random.key(config.seed + i)
        answer = programs[name](key, parts[i], tuple(jnp.asarray(x, jnp.float32) for x in zip(*cells, strict=True)))
        return rows_of(name, config.seed + i, cells, answer)

    work = {
        f"{name}, seed {config.seed + i}": partial(piece, name, i)
        for name in config.methods
        for i in range(config.seeds)
    }
    found, seconds = pieces.done(out, work)
    rows = summarize(found)
    results = {
        "dataset": config.dataset,
        "epochs": config.epochs,
        "seeds": config.seeds,
        "wall_seconds": seconds,  # compilation included: a program for each method
        "num_cells": len(cells),
        "train_images": train,
        "validation_images": held_back,
        "rows": rows,
        "standings": [stand(name, rows) for name in config.methods],
    }
    figure.draw(out / "figure.png", results, config)
    return results


def rows_of(name: rules.Name, seed: int, cells: list[tuple[float, float]], answer: grid.Answer) -> list[Row]:
    """A row for each cell of a method and a seed; what is not finite is None."""
    numbers = {field: np.asarray(getattr(answer, field), np.float64) for field in MEASURED}
    rows = []
    for i, (rate, momentum) in enumerate(cells):
        diverged = bool(answer.diverged[i])
        values = {field: None if diverged or not np.isfinite(x[i]) else float(x[i]) for field, x in numbers.items()}
        rows.append({"method": name, "seed": seed, "rate": rate, "momentum": momentum, **values, "diverged": diverged})
    return rows


def summarize(found: list[Row]) -> list[Row]:
    """A row for each method and cell: means over the seeds, sample deviations, and how many seeds diverged.

    There is no mean where a seed diverged: the others would be a choice of the good ones.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for line in found:
        groups.setdefault((line["method"], line["rate"], line["momentum"]), []).append(line)
    rows = []
    for (name, rate, momentum), lines in groups.items():
        effective = rate if name == "bayesbinn" else rate / (1 - momentum)
        row: Row = {"method": name, "rate": rate, "momentum": momentum, "effective_rate": effective}
        for field in MEASURED:
            values = [line[field] for line in lines]
            whole = None not in values
            row[field] = statistics.fmean(values) if whole else None
            row[f"{field}_std"] = statistics.stdev(values) if whole and len(values) > 1 else None
        row["diverged"] = sum(line["diverged"] for line in lines)
        rows.append(row | {f"{field}_of_seeds": [line[field] for line in lines] for field in SCORES})
    return rows


def stand(name: rules.Name, rows: list[Row]) -> Row:
    """Where the claimed cell stands in the grid of a method, by each score there is; no rank if it has no such cell."""
    mine = [row for row in rows if row["method"] == name]
    at = [(row["rate"], row["momentum"]) for row in mine]
    diverged_cells = sum(row["diverged"] > 0 for row in mine)
    found: Row = {"method": name, "diverged_cells": diverged_cells, "in_grid": CLAIMED in at}
    claimed = at.index(CLAIMED) if CLAIMED in at else 0
    for field in SCORES:
        scores = np.array([row[f"{field}_of_seeds"] for row in mine], np.float64)  # of None it makes NaN
        if field.endswith("_mean") and np.isnan(scores).all():
            continue
        of_field = standing(scores if field.startswith("accuracy") else -scores, claimed)
        best = of_field.pop("best")
        if CLAIMED not in at:
            of_field = {"within": of_field["within"]}
        found |= {f"{field}_{what}": value for what, value in of_field.items()}
        found[f"{field}_best_cell"] = None if best is None else list(at[best])
        found[f"{field}_best"] = None if best is None else mine[best][field]
        found[f"{field}_claimed"] = mine[claimed][field] if CLAIMED in at else None
    return found


def show(results: dict[str, Any]) -> None:
    """The closing table: the best cell of each method, and where the claimed one stands."""

    def text(value: Any, style: str = "{}") -> str:
        return "-" if value is None else style.format(value)

    def cells(found: Row, field: str) -> list[str]:
        best, style = found[f"{field}_best_cell"], "{:.2%}" if field.startswith("accuracy") else "{:.4f}"
        return [
            rules.RULES[found["method"]].label,
            SCORES[field],
            "-" if best is None else "({:g}, {:g})".format(*best),
            text(found[f"{field}_best"], style),
            text(found[f"{field}_claimed"], style),
            text(found.get(f"{field}_rank"), "{} of " + str(results["num_cells"])),
            text(found[f"{field}_within"]),
            text(found["diverged_cells"]),
        ]

    console.write_table(
        f"{results['dataset']}, seeds: {results['seeds']}, images held back: the pair ({CLAIMED[0]}, {CLAIMED[1]})",
        ("", "by", "best pair", "best", "claimed", "its rank", "pairs within 1 error of the best", "diverged"),
        [cells(found, field) for found in results["standings"] for field in SCORES if f"{field}_within" in found],
    )
    console.write(
        "a pair: (rate, momentum); the mean: of networks drawn from a posterior, else the network that is shipped; "
        "diverged: pairs of which a seed did, which have no mean over the seeds and no rank"
    )


EXPERIMENT = command.Experiment("learning_rates", Config, PRESETS, prepare, run, show)
main = partial(command.main, EXPERIMENT)

if __name__ == "__main__":
    main()
