"""Who knows best when it does not know? Straight-through networks, ensembles of them, and a binary posterior.

    python -m experiments.uncertainty --preset digits
    python -m experiments.uncertainty --preset mnist

For each seed: one STE network, an ensemble of 5, the mode of BayesBiNN, and the mean of 1 to 100 networks
drawn from its posterior. They are scored on the test images, as they are and with an output temperature fitted on
validation images, and asked to tell test images from foreign ones. The networks are trained by
`image_classification` in folders of their own: with --resume an interrupted comparison goes on where it was.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import config as cli
from experiments.common import console, data, endings, prediction, presets, runs
from experiments.common.ranges import LARGEST, MOST_EPOCHS, MOST_SEEDS, check_ranges
from experiments.image_classification import __main__ as image_classification
from experiments.uncertainty.figure import uncertainty as draw_figure
from experiments.uncertainty.foreign import foreign_images

EXPERIMENT = "uncertainty"
# The presets of straight-through training and of BayesBiNN that are compared.
PRESETS = {"digits": ("digits", "digits-bayes"), "mnist": ("mnist-bayes", "mnist-bayes")}
NUM_SAMPLES = (1, 5, 10, 30, 100)


@dataclasses.dataclass(frozen=True)
class Config:
    """Compares the uncertainty of binary networks."""

    preset: Literal["digits", "mnist"] = "digits"
    """Chooses the images: scikit-learn's digits, or MNIST from TFDS_DATA_DIR (with CIFAR-10 as foreign images)."""
    seed: int = 0
    """Sets the first seed."""
    seeds: int = 3
    """Repeats everything so often, with other networks and another validation split."""
    ensemble: int = 5
    """Sets the number of STE networks in an ensemble."""
    epochs: int | None = None
    """Trains each network for so many epochs. Default: those of its preset."""
    eval_images: int = 2000
    """Looks at no more than this many test images, validation images and foreign images of each kind."""
    out: Path | None = None
    """Names the run folder. Default: runs/uncertainty-PRESET-SEED."""
    overwrite: bool = False
    """Replaces a run that is already in that folder."""
    resume: bool = False
    """Continues the interrupted run in that folder."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        rows = (("seed", 0, 2**32 - 1), ("seeds", 1, MOST_SEEDS), ("ensemble", 2, MOST_SEEDS))
        check_ranges(self, (*rows, ("epochs", 1, MOST_EPOCHS), ("eval_images", 1, LARGEST)))
        if (self.seed + self.seeds) * self.ensemble > 2**32:
            raise ValueError(f"seed must leave room for seeds * ensemble networks below 2**32, got {self.seed!r}")


CONFIGS: dict[str, Callable[[], Config]] = {name: partial(Config, preset=name) for name in PRESETS}  # type: ignore[arg-type]
Answers = dict[str, bb.Prediction]  # of a predictor, by the title of the images


@endings.command
def main(argv: list[str] | None = None) -> dict[str, Any]:
    """The command line; returns what results.json holds."""
    config = cli.parse(Config, CONFIGS, (), "python -m experiments.uncertainty", argv)
    out = config.out or Path("runs") / f"{EXPERIMENT}-{config.preset}-{config.seed}"
    with endings.user_errors():
        results = runs.check(out, EXPERIMENT, config)
        if results:
            console.write(f"run folder {out} holds a finished comparison, nothing is left to do")
            return results
        dataset = data.load(config.preset)
        foreign = foreign_images(dataset, config.preset, jax.random.key(0))
        lock = runs.start(out, EXPERIMENT, config)
    with lock:
        return run(config, dataset, foreign, out)


def run(config: Config, dataset: data.Dataset, foreign: dict[str, jax.Array], out: Path) -> dict[str, Any]:
    """Trains what is not trained yet, compares, writes the run folder and returns the results."""
    start = time.perf_counter()
    test = data.Split(*(part[: config.eval_images] for part in dataset.test))
    foreign = {title: images[: config.eval_images] for title, images in foreign.items()}
    rows, entropies = [], []
    shown: dict[str, Answers] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        paths = train_networks(config, seed, out)
        with endings.user_errors():
            ste = [load(path, dataset) for path in paths["ste"]]
            bayesbinn = load(paths["bayesbinn"][0], dataset)
        held_back = ste[0].held_back
        images = {"test": test.images, "validation": held_back.images[: config.eval_images], **foreign}
        console.write(f"seed {seed}: {sum(map(len, images.values())):,} images before {len(ste) + 1} networks")
        answers = ask(ste, bayesbinn, images, jax.random.key(seed))
        labels = test.labels, held_back.labels[: config.eval_images]
        rows.append({name: scores(answer, labels, list(foreign)) for name, answer in answers.items()})
        entropies.append(float(bb.diagnostics.entropy_bits_per_weight(bayesbinn.natural)))
        shown = shown or answers
    results: dict[str, Any] = {
        "experiment": EXPERIMENT,
        "preset": config.preset,
        "dataset": config.preset,
        "seed": config.seed,
        "seeds": config.seeds,
        "device": jax.devices()[0].device_kind,
        "jax_version": jax.__version__,
        "wall_seconds": time.perf_counter() - start,
        "posterior_entropy_bits_per_weight": statistics.fmean(entropies),
        "command": runs.command(),
        "commit": runs.commit(),
    }
    for name in rows[0]:
        for score in rows[0][name]:
            values = [row[name][score] for row in rows]
            results[f"{name}: {score}"] = statistics.fmean(values)
            results[f"{name}: {score}_std"] = statistics.pstdev(values)
    results["runs"] = [
        {"seed": config.seed + i, **{f"{name}: {score}": row[name][score] for name in row for score in row[name]}}
        for i, row in enumerate(rows)
    ]
    title = f"{config.preset}: what binary networks know of what they do not know, seed {config.seed}"
    figure = draw_figure(out / "figure.png", title, shown, test.labels)
    results = runs.write_results(out, results)
    write_results(results, list(rows[0]), list(foreign))
    console.write(f"figure:  {figure}", f"results: {out / 'results.json'}")
    return results


def train_networks(config: Config, seed: int, out: Path) -> dict[str, list[Path]]:
    """Trains the networks of one seed, all with one validation split; returns the files they are kept in."""
    ste_preset, bayesbinn_preset = PRESETS[config.preset]
    wanted = [("ste", ste_preset, seed * config.ensemble + member) for member in range(config.ensemble)]
    wanted += [("bayesbinn", bayesbinn_preset, seed)]
    kept: dict[str, list[Path]] = {"ste": [], "bayesbinn": []}
    for method, preset, network_seed in wanted:
        folder = out / "networks" / f"{method}-{network_seed}"
        flags = {"preset": preset, "method": method, "seed": network_seed, "split-seed": seed, "out": folder}
        if config.epochs is not None:
            flags["epochs"] = config.epochs
        arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        image_classification.main([*arguments, "--resume" if config.resume else "--overwrite"])
        kept[method].append(folder / f"network-{network_seed}.safetensors")
    return kept


class Loaded(NamedTuple):
    """A trained network: what predicts, its natural parameters, and the images that it held back."""

    apply_fn: bb.ApplyFn
    natural: Any
    held_back: data.Split


def load(path: Path, dataset: data.Dataset) -> Loaded:
    """Builds a network that `image_classification` has kept; raises ValueError if its file is damaged or gone."""
    try:
        network = image_classification.load_network(path, dataset)
    except (OSError, ValueError) as error:
        raise ValueError(f"{error}; remove the folder {path.parent}, and --resume trains that network again") from error
    config = runs.config_of(presets.Config, network.posterior.config)
    index = prediction.part(image_classification.split(config, dataset), 0)
    held_back = data.Split(*(part[index.validation] for part in dataset.train))
    return Loaded(network.apply_fn, network.posterior.natural, held_back)


def ask(ste: list[Loaded], bayesbinn: Loaded, images: dict[str, jax.Array], key: jax.Array) -> dict[str, Answers]:
    """What each predictor says of all images."""
    every = jnp.concatenate(list(images.values()))
    ends = np.cumsum([len(x) for x in images.values()])

    def answers(predict: Any, natural: Any) -> Answers:
        prediction_of_every = jax.jit(predict)(natural, inputs=every)
        return {
            title: prediction.part(prediction_of_every, slice(end - len(images[title]), end))
            for title, end in zip(images, ends, strict=True)
        }

    def mode_answers(network: Loaded) -> Answers:
        return answers(partial(bb.mode_predictive, network.apply_fn), network.natural)

    members = [mode_answers(network) for network in ste]
    asked = {
        "STE": members[0],
        f"STE, {len(ste)} networks": {title: average([member[title] for member in members]) for title in images},
        "BayesBiNN, mode": mode_answers(bayesbinn),
    }
    for num_samples in NUM_SAMPLES:
        predict = partial(bb.posterior_predictive, bayesbinn.apply_fn, key=key, num_samples=num_samples, chunk_size=1)
        asked[f"BayesBiNN, mean of {num_samples}"] = answers(predict, bayesbinn.natural)
    return asked


def average(predictions: list[bb.Prediction]) -> bb.Prediction:
    """The prediction of an ensemble: the mean of its members' probabilities, and what they disagree on."""
    probabilities = jnp.mean(jnp.stack([p.probabilities for p in predictions]), axis=0)
    expected_entropy = jnp.mean(jnp.stack([p.expected_entropy for p in predictions]), axis=0)
    return bb.mixture_prediction(probabilities, expected_entropy)


def scores(answers: Answers, labels: tuple[jax.Array, jax.Array], foreign: list[str]) -> dict[str, float]:
    """All scores of a predictor; labels are those of the test and of the validation images."""
    test = answers["test"]
    values = prediction.scores("", (test, answers["validation"]), labels)
    values = {name.removeprefix("test_").replace("__", "_").rstrip("_"): value for name, value in values.items()}
    correct = jnp.argmax(test.probabilities, axis=-1) == labels[0]
    values["risk_coverage_area"] = float(bb.metrics.risk_coverage(test.entropy, correct).area)
    for title in foreign:
        for name, uncertainty in (("entropy", "entropy"), ("information", "mutual_information")):
            pair = getattr(answers[title], uncertainty), getattr(test, uncertainty)
            values[f"auroc_{name}, {title}"] = float(bb.metrics.auroc(*pair))
            values[f"fpr95_{name}, {title}"] = float(bb.metrics.false_positive_rate(*pair))
    return values


def write_results(results: dict[str, Any], predictors: list[str], foreign: list[str]) -> None:
    """The closing tables: a line for each predictor."""

    def cells(name: str, columns: dict[str, str]) -> list[str]:
        pairs = [
            (results[f"{name}: {score}"], results[f"{name}: {score}_std"], style) for score, style in columns.items()
        ]
        if results["seeds"] == 1:
            return [style.format(mean) for mean, _, style in pairs]
        return [f"{style.format(mean)} +- {style.format(std)}" for mean, std, style in pairs]

    of_seeds = f"seed {results['seed']}" if results["seeds"] == 1 else f"mean +- std of {results['seeds']} seeds"
    title = f"{results['dataset']}, {of_seeds}"
    quality = {"accuracy": "{:.2%}", "nll": "{:.4f}", "brier": "{:.4f}", "ece": "{:.4f}"}
    quality |= {"nll_scaled": "{:.4f}", "ece_scaled": "{:.4f}", "risk_coverage_area": "{:.5f}"}
    head = ("", "accuracy", "NLL", "Brier", "ECE", "NLL, scaled", "ECE, scaled", "risk-coverage")
    console.write_table(f"Test images of {title}", head, [(name, *cells(name, quality)) for name in predictors])
    for uncertainty, what in (("entropy", "predictive entropy"), ("information", "mutual information")):
        apart = {f"auroc_{uncertainty}, {kind}": "{:.4f}" for kind in foreign}
        rows = [(name, *cells(name, apart)) for name in predictors]
        if uncertainty == "information":  # of one network it is 0
            rows = [row for row in rows if row[0] not in ("STE", "BayesBiNN, mode", "BayesBiNN, mean of 1")]
        console.write_table(
            f"Foreign images told from test images by their {what}, AUROC: {title}", ("", *foreign), rows
        )
    console.write(
        "scaled: with an output temperature fitted on validation images; NLL in nats; "
        f"posterior of BayesBiNN: {results['posterior_entropy_bits_per_weight']:.3f} bits per weight"
    )


if __name__ == "__main__":
    main()
