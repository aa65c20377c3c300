"""Who knows best when it does not know? Straight-through networks, ensembles of them, and binary posteriors.

    python -m experiments.uncertainty --preset digits
    python -m experiments.uncertainty --preset mnist-fast --posteriors 5
    python -m experiments.uncertainty --preset cifar10-small

For each seed: one STE network, an ensemble of them, the mode of BayesBiNN, and the mean of 1 to 100 networks drawn from
its posterior; with --posteriors also networks of as many posteriors as the ensemble has members. They are scored on the
test images, as they are and with an output temperature fitted on validation images, and asked to tell test images from
foreign ones. On CIFAR-10 real weights and a saturated posterior are compared as well, also on corrupted test images.
The networks are trained as those of `image_classification`, in folders of their own: with --resume an interrupted
comparison goes on where it was.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.uncertainty")

import dataclasses
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import jax

from experiments.common import command, console, data, image_config, presets, runs
from experiments.common.config import (
    LARGEST,
    MOST_EPOCHS,
    MOST_EVAL_SAMPLES,
    MOST_SEEDS,
    Run,
    check_ranges,
    check_resume,
)
from experiments.common.endings import user_errors
from experiments.common.prediction import Network, part
from experiments.uncertainty import figure, members
from experiments.uncertainty.corruptions import TITLES, corrupted_images
from experiments.uncertainty.foreign import foreign_images
from experiments.uncertainty.predictors import SIGNALS, ask, scores


@dataclass(frozen=True)
class Config(Run):
    """Compares the uncertainty of binary networks, on digits, MNIST or CIFAR-10.

    Foreign images of MNIST are also of CIFAR-10, and the other way round.
    """

    seeds: int = 3
    """Repeats everything so often, with other networks and another validation split."""
    ensemble: int = 5
    """Sets the number of STE networks in an ensemble; 1 leaves the ensemble out."""
    posteriors: int = 1
    """Sets the number of posteriors in a mixture, each trained by itself; 1 leaves the mixture out."""
    eval_samples: int = 100
    """Draws no more than this many networks from a posterior."""
    epochs: int | None = None
    """Trains each network for so many epochs. Default: those of its preset."""
    eval_images: int = 2000
    """Looks at no more than this many test images, validation images and foreign images of each kind."""
    resume: bool = False
    """Continues the interrupted run in that folder."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        counts = (("seeds", 1, MOST_SEEDS), ("ensemble", 1, MOST_SEEDS), ("posteriors", 1, MOST_SEEDS))
        lengths = (("epochs", 1, MOST_EPOCHS), ("eval_images", 1, LARGEST), ("eval_samples", 1, MOST_EVAL_SAMPLES))
        check_ranges(self, (*counts, *lengths))
        for name in ("ensemble", "posteriors"):
            if (self.seed + self.seeds) * getattr(self, name) > 2**32:
                raise ValueError(f"seed must leave room for seeds * {name} networks below 2**32, got {self.seed!r}")
        check_resume(self)


# What is compared: the kinds of networks, and the presets of image_classification that they are trained with. Those of
# kind "bayesbinn" are posteriors that keep their uncertainty, and those of kind "saturated" have none.
NETWORKS = {
    "digits": {"ste": "digits", "bayesbinn": "digits-bayes"},
    "mnist": {"ste": "mnist-bayes", "bayesbinn": "mnist-bayes"},
    "mnist-fast": {"ste": "mnist-fast", "bayesbinn": "mnist-fast-bayes"},
    "cifar10-small": {
        **dict.fromkeys(("full_precision", "ste", "saturated"), "cifar10-small"),
        "bayesbinn": "cifar10-small-bayes",
    },
}
PRESETS = {name: partial(Config, preset=name) for name in NETWORKS}
PRESETS["cifar10-small"] = partial(Config, preset="cifar10-small", ensemble=1, eval_samples=30)


Prepared = tuple[data.Dataset, dict[str, Any]]


def prepare(config: Config) -> Prepared:
    """Loads the images, and makes foreign and corrupted ones, by title."""
    name = data_set(config)
    dataset, shown = data.load(name), slice(config.eval_images)
    foreign = {title: x[shown] for title, x in foreign_images(dataset, name, jax.random.key(0)).items()}
    corrupted = {}
    if name == "cifar10":
        corrupted = corrupted_images(dataset._replace(test=part(dataset.test, shown)), jax.random.key(1))
    return dataset, {"foreign": foreign, "corrupted": corrupted}


def run(config: Config, prepared: Prepared, out: Path) -> dict[str, Any]:
    """Trains what is not trained yet, compares, draws and returns the results."""
    start = time.perf_counter()
    dataset, made = prepared
    lines = []
    for seed in range(config.seed, config.seed + config.seeds):
        networks = networks_of(config, seed, dataset, out / "networks")
        held_back = networks["bayesbinn"][0].held_back
        test, held_back = (part(x, slice(config.eval_images)) for x in (dataset.test, held_back))
        images = {"test": test.images, "validation": held_back.images, **made}
        num_images, num_networks = (sum(map(len, x)) for x in (jax.tree.leaves(images), networks.values()))
        console.write(f"seed {seed}: {num_images:,} images before {num_networks} networks")
        predictors = ask(networks, images, jax.random.key(seed), config.eval_samples)
        for predictor in predictors:
            scored = scores(predictor, (test.labels, held_back.labels))
            runs.to_json(scored | {"seed": seed})  # raises for what is not finite before it is drawn
            about = {"seed": seed, "predictor": predictor.name, "networks": predictor.networks}
            lines.append(about | {"scores": scored})
        if seed == config.seed:
            figure.draw(out / "figure.png", f"{config.preset}, seed {seed}", predictors, test.labels)
    summaries = [summary([line for line in lines if line["predictor"] == x.name]) for x in predictors]
    if made["corrupted"]:
        looks = {x.name: x.look for x in predictors if x.look}
        figure.draw_corrupted(
            out / "corrupted.png", f"{config.preset}, {of_seeds(config.seed, config.seeds)}", summaries, looks
        )
    return {
        "dataset": data_set(config),
        "seeds": config.seeds,
        "wall_seconds": time.perf_counter() - start,
        "posterior_entropy_bits_per_weight": summaries[-1]["mean"]["posterior_entropy_bits_per_weight"],
        "foreign": list(made["foreign"]),
        "predictors": summaries,
        "runs": lines,
    }


def data_set(config: Config) -> str:
    """The name of the images that the networks are trained on."""
    return trained(config, config.seed)["ste"][0].dataset


def trained(config: Config, seed: int) -> dict[str, list[image_config.Config]]:
    """How the networks of a seed are trained, by kind, with one validation split."""
    counts = {"ste": config.ensemble, "bayesbinn": config.posteriors}
    changes: dict[str, Any] = {"split_seed": seed} | ({} if config.epochs is None else {"epochs": config.epochs})

    def of_kind(kind: str, preset: str) -> list[image_config.Config]:
        first = presets.PRESETS[preset]("bayesbinn" if kind == "saturated" else kind)
        count = counts.get(kind, 1)
        return [dataclasses.replace(first, seed=seed * count + member, **changes) for member in range(count)]

    return {kind: of_kind(kind, preset) for kind, preset in NETWORKS[config.preset].items()}


def networks_of(config: Config, seed: int, dataset: data.Dataset, folder: Path) -> dict[str, list[Network]]:
    """The networks of a seed by kind, each trained in the folder KIND-SEED with the seed that it is trained with."""
    paths = {
        kind: [members.train(x, dataset, folder / f"{kind}-{x.seed}", config.resume) for x in of_kind]
        for kind, of_kind in trained(config, seed).items()
    }
    with user_errors():
        return {kind: [members.load(path, dataset) for path in of_kind] for kind, of_kind in paths.items()}


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """A predictor's mean scores and, of several seeds, their sample deviations."""
    scored = [line["scores"] for line in lines]
    mean = jax.tree.map(lambda *x: statistics.fmean(x), *scored)
    std = jax.tree.map(lambda *x: statistics.stdev(x), *scored) if len(scored) > 1 else None
    return {"name": lines[0]["predictor"], "networks": lines[0]["networks"], "mean": mean, "std": std}


def of_seeds(seed: int, seeds: int) -> str:
    """What a title says of seeds."""
    return f"seed {seed}" if seeds == 1 else f"mean +- std of {seeds} seeds"


# Titles, and how and where to look in the scores.
QUALITY = (
    ("accuracy", "{:.2%}", "accuracy"),
    ("NLL", "{:.4f}", "nll"),
    ("Brier", "{:.4f}", "brier"),
    ("ECE", "{:.4f}", "ece"),
    ("NLL, scaled", "{:.4f}", "scaled", "nll"),
    ("ECE, scaled", "{:.4f}", "scaled", "ece"),
    ("risk-coverage", "{:.5f}", "risk_coverage_area"),
    ("bits a weight", "{:.3f}", "posterior_entropy_bits_per_weight"),
)


def show(results: dict[str, Any]) -> None:
    """The closing tables: a line for each predictor."""
    title = f"{results['preset']}, {of_seeds(results['seed'], results['seeds'])}"

    def cell(predictor: dict[str, Any], style: str, *path: str) -> str:
        if path[0] not in predictor["mean"]:
            return ""
        found = (reduce(getitem, path, predictor[which]) for which in ("mean", "std") if predictor[which])
        return " +- ".join(map(style.format, found))

    def table(title: str, predictors: list[dict[str, Any]], columns: Sequence[tuple[str, ...]]) -> None:
        rows = [[x["name"], *(cell(x, *how) for _, *how in columns)] for x in predictors]
        console.write_table(title, ["", *(name for name, *_ in columns)], rows)

    table(f"Test images of {title}", results["predictors"], QUALITY)
    for signal in SIGNALS:
        told = f"Foreign images by {signal.replace('_', ' ')}, AUROC: {title}"
        able = [x for x in results["predictors"] if x["networks"] > 1 or signal == "entropy"]
        table(told, able, [(kind, "{:.4f}", "foreign", kind, signal, "auroc") for kind in results["foreign"]])
    for name, style, score in QUALITY[:2] if results["predictors"][0]["mean"]["corrupted"] else ():
        columns = [(TITLES[place], style, "corrupted", *place, score) for place in TITLES]
        table(f"Corrupted test images, {name}: {title}", results["predictors"], columns)
    console.write(
        "scaled: with an output temperature fitted on validation images; NLL in nats; AUROC: how surely foreign "
        "images are told from test images (0.5: by chance)",
        "bits a weight: the entropy of the posterior that a network is the mode of, or is drawn from",
    )


EXPERIMENT = command.Experiment("uncertainty", Config, PRESETS, prepare, run, show)
main = partial(command.main, EXPERIMENT)

if __name__ == "__main__":
    main()
