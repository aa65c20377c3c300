"""Who knows best when it does not know? Straight-through networks, ensembles of them, and a binary posterior.

    python -m experiments.uncertainty --preset digits
    python -m experiments.uncertainty --preset mnist

For each seed: one STE network, an ensemble of 5, the mode of BayesBiNN, and the mean of 1 to 100 networks
drawn from its posterior. They are scored on the test images, as they are and with an output temperature fitted on
validation images, and asked to tell test images from foreign ones. The networks are trained as those of
`image_classification`, in folders of their own: with --resume an interrupted comparison goes on where it was.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.uncertainty")

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import jax

import bbinn_jax as bb
from experiments.common import command, console, data, presets, runs
from experiments.common.config import LARGEST, MOST_EPOCHS, MOST_SEEDS, Run, check_ranges, check_resume
from experiments.common.endings import user_errors
from experiments.common.prediction import Network, part
from experiments.uncertainty import figure, members
from experiments.uncertainty.foreign import foreign_images
from experiments.uncertainty.predictors import SIGNALS, ask, scores


@dataclass(frozen=True)
class Config(Run):
    """Compares the uncertainty of binary networks, on digits or MNIST (whose foreign images are also of CIFAR-10)."""

    seeds: int = 3
    """Repeats everything so often, with other networks and another validation split."""
    ensemble: int = 5
    """Sets the number of STE networks in an ensemble."""
    epochs: int | None = None
    """Trains each network for so many epochs. Default: those of its preset."""
    eval_images: int = 2000
    """Looks at no more than this many test images, validation images and foreign images of each kind."""
    resume: bool = False
    """Continues the interrupted run in that folder."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        rows = (("seeds", 1, MOST_SEEDS), ("ensemble", 2, MOST_SEEDS))
        check_ranges(self, (*rows, ("epochs", 1, MOST_EPOCHS), ("eval_images", 1, LARGEST)))
        if (self.seed + self.seeds) * self.ensemble > 2**32:
            raise ValueError(f"seed must leave room for seeds * ensemble networks below 2**32, got {self.seed!r}")
        check_resume(self)


PRESETS = {name: partial(Config, preset=name) for name in ("digits", "mnist")}
# What is compared on each of them: how straight-through networks are trained, and how a posterior.
STE = {"digits": "digits", "mnist": "mnist-bayes"}
BAYESBINN = {"digits": "digits-bayes", "mnist": "mnist-bayes"}


Prepared = tuple[data.Dataset, dict[str, jax.Array]]


def prepare(config: Config) -> Prepared:
    """Loads the images, and makes foreign ones, by title."""
    dataset = data.load(config.preset)
    foreign = foreign_images(dataset, config.preset, jax.random.key(0))
    return dataset, {title: x[: config.eval_images] for title, x in foreign.items()}


def run(config: Config, prepared: Prepared, out: Path) -> dict[str, Any]:
    """Trains what is not trained yet, compares, draws and returns the results."""
    start = time.perf_counter()
    dataset, foreign = prepared
    lines, entropies = [], []
    for seed in range(config.seed, config.seed + config.seeds):
        ste, bayesbinn = networks_of(config, seed, dataset, out / "networks")
        test, held_back = (part(x, slice(config.eval_images)) for x in (dataset.test, bayesbinn.held_back))
        images = {"test": test.images, "validation": held_back.images, **foreign}
        console.write(f"seed {seed}: {sum(map(len, images.values())):,} images before {len(ste) + 1} networks")
        compared = ask(ste, bayesbinn, images, jax.random.key(seed))
        entropies.append(float(bb.diagnostics.entropy_bits_per_weight(bayesbinn.posterior.natural)))
        predictors = [*compared[:3], *compared.means]
        for name, count, answers in predictors:
            scored = scores(answers, (test.labels, held_back.labels), list(foreign))
            runs.to_json(scored | {"seed": seed})  # raises for what is not finite before it is drawn
            lines.append({"seed": seed, "predictor": name, "networks": count, "scores": scored})
        if seed == config.seed:
            figure.draw(out / "figure.png", f"{config.preset}, seed {seed}", compared, test.labels)
    return {
        "dataset": config.preset,
        "seeds": config.seeds,
        "wall_seconds": time.perf_counter() - start,
        "posterior_entropy_bits_per_weight": statistics.fmean(entropies),
        "foreign": list(foreign),
        "predictors": [summary([line for line in lines if line["predictor"] == x.name]) for x in predictors],
        "runs": lines,
    }


def networks_of(config: Config, seed: int, dataset: data.Dataset, folder: Path) -> tuple[list[Network], Network]:
    """The straight-through networks of a seed and its posterior, trained with one validation split."""
    ste = presets.PRESETS[STE[config.preset]]("ste")
    bayesbinn = presets.PRESETS[BAYESBINN[config.preset]]("bayesbinn")
    changes = {"split_seed": seed} | ({} if config.epochs is None else {"epochs": config.epochs})
    wanted = [(ste, seed * config.ensemble + member) for member in range(config.ensemble)] + [(bayesbinn, seed)]
    paths = [members.train(of, dataset, folder, config.resume, seed=of_seed, **changes) for of, of_seed in wanted]
    with user_errors():
        *ensemble, posterior = (members.load(path, dataset) for path in paths)
    return ensemble, posterior


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """A predictor's mean scores and, of several seeds, their sample deviations."""
    scored = [line["scores"] for line in lines]
    mean = jax.tree.map(lambda *x: statistics.fmean(x), *scored)
    std = jax.tree.map(lambda *x: statistics.stdev(x), *scored) if len(scored) > 1 else None
    return {"name": lines[0]["predictor"], "networks": lines[0]["networks"], "mean": mean, "std": std}


# Titles, and how and where to look in the scores.
QUALITY = (
    ("accuracy", "{:.2%}", "accuracy"),
    ("NLL", "{:.4f}", "nll"),
    ("Brier", "{:.4f}", "brier"),
    ("ECE", "{:.4f}", "ece"),
    ("NLL, scaled", "{:.4f}", "scaled", "nll"),
    ("ECE, scaled", "{:.4f}", "scaled", "ece"),
    ("risk-coverage", "{:.5f}", "risk_coverage_area"),
)


def show(results: dict[str, Any]) -> None:
    """The closing tables: a line for each predictor."""
    of_seeds = f"seed {results['seed']}" if results["seeds"] == 1 else f"mean +- std of {results['seeds']} seeds"
    title = f"{results['dataset']}, {of_seeds}"

    def cell(predictor: dict[str, Any], style: str, *path: str) -> str:
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
    console.write(
        "scaled: with an output temperature fitted on validation images; NLL in nats; AUROC: how surely foreign "
        "images are told from test images (0.5: by chance)",
        f"posterior of BayesBiNN: {results['posterior_entropy_bits_per_weight']:.3f} bits per weight",
    )


EXPERIMENT = command.Experiment("uncertainty", Config, PRESETS, prepare, run, show)
main = partial(command.main, EXPERIMENT)

if __name__ == "__main__":
    main()
