"""A binary transformer that predicts the next character, and says what it does not know.

    python -m experiments.language_model
    python -m experiments.language_model --preset saturated --seed 1
    python -m experiments.language_model --method ste
    python -m experiments.language_model --text FILE

Every field of `presets.Config` is a flag. The run folder holds config.json, metrics.jsonl,
checkpoints, results.json, network-SEED.safetensors, samples.txt and a figure.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.language_model")

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import classifier, command, console, data, kept, methods, prediction, runs, training
from experiments.common.config import of_flat
from experiments.language_model import answers, figure
from experiments.language_model.presets import PRESETS, Config
from experiments.language_model.text import FOREIGN, Text, Vocabulary, foreign, load, windows
from experiments.language_model.transformer import Network

NAME = "language_model"
MOST_FOREIGN = 8192  # characters of each text of another kind
WRITTEN, TEMPERATURE, DRAWN = 400, 0.7, 2


class Prepared(NamedTuple):
    """What a run needs."""

    training: classifier.Prepared
    text: Text
    vocabulary: Vocabulary


def prepare(config: Config) -> Prepared:
    """Loads the text, divides it, and makes method and transformer.

    Raises:
        ValueError, OSError: what the user gave cannot be.
    """
    text = load(config.text)
    for part in (text.train, text.validation, text.test):
        if len(part) <= config.context:
            parts = f"{len(text.train):,}, {len(text.validation):,} and {len(text.test):,} characters"
            raise ValueError(
                f"context must be less than each part of the text {text.name} has ({parts}), got {config.context}"
            )
    vocabulary = Vocabulary("".join(sorted(set(text.train))))
    # Rows overlap by half, so that each character is predicted twice in an epoch, at two places.
    learned = windows(vocabulary.encode(text.train), config.context, config.context // 2)
    held = windows(vocabulary.encode(text.validation), config.context, config.context)
    num_rows = len(learned.labels)
    if num_rows < config.batch_size:
        raise ValueError(
            f"batch_size must be at most {num_rows}, as many rows as the text has, got {config.batch_size}"
        )
    half = config.context // 2
    plan = methods.Plan(num_rows * half, config.batch_size * half, config.epochs)  # it counts characters, each once
    problem = training.Problem(
        methods.make(config.method, config.real_learning_rate, plan),
        Network(config.shape(vocabulary.size)),
        config.batch_size,
    )
    every = data.Split(*(jnp.concatenate(pair) for pair in zip(learned, held, strict=True)))
    test = windows(vocabulary.encode(text.test), config.context, config.context)
    rows = np.arange(len(every.labels))
    index = data.Index(*(jnp.tile(x, (config.seeds, 1)) for x in (rows[:num_rows], rows[num_rows:], rows[:0])))
    dataset = data.Dataset(every, test, vocabulary.size, np.zeros(()), np.ones(()))
    known = {"vocabulary": vocabulary.characters}  # to networks that are kept
    return Prepared(classifier.Prepared(problem, dataset, index, None, NAME, "rows", known), text, vocabulary)


def run(config: Config, prepared: Prepared, out: Path) -> dict[str, Any]:
    """Trains, evaluates, writes, draws and returns the results."""
    of_training, text, vocabulary = prepared
    fitted = classifier.fit(config, of_training, out)
    texts = {"validation": text.validation, "test": text.test, **foreign(text.test, MOST_FOREIGN, config.seed)}
    rows = answers.rows_of(texts, vocabulary, config.context)
    facts = text.facts() | {"num_symbols": vocabulary.size}
    results, shown = [], []
    for i, line in enumerate(fitted.results):
        asked = answers.ask(of_training, fitted, i)
        values, said = answers.of_seed(asked, rows, classifier.eval_samples(config))
        bits = line["num_binary_weights"] + 32 * line["num_real_parameters"]
        if not line["num_binary_weights"]:  # what real weights lose where they take 16 bits each
            half = answers.predict(answers.ask(of_training, fitted, i, half=True), {"test": rows["test"]}, None)
            values["test_bits_per_character_half"] = float(answers.surprise(half["test"], rows["test"].labels).mean())
        results.append(line | facts | {"size_bits": bits} | values)
        shown.append(said)
    asked = answers.ask(of_training, fitted, 0)
    written = answers.write(asked, rows["test"].images[0], WRITTEN, TEMPERATURE, DRAWN)
    samples(out / "samples.txt", vocabulary, rows["test"].images[0], written)
    history = [line for line in fitted.history if line["seed"] == config.seed]
    page = vocabulary.decode(np.asarray(rows["test"].labels).ravel().tolist())
    figure.draw(out / "figure.png", results[0], history, page, shown[0])
    return runs.summary(results)


def samples(path: Path, vocabulary: Vocabulary, prompt: Any, written: Any) -> None:
    """Writes what networks wrote."""
    titles = ["the mode", *(f"network {i} drawn from the posterior" for i in range(1, len(written)))]
    parts = [f"--- The beginning of the held-out text\n{vocabulary.decode(prompt.tolist())}\n"]
    for title, symbols in zip(titles, written, strict=True):
        parts.append(
            f"--- {title}, at temperature {TEMPERATURE}, goes on with\n{vocabulary.decode(symbols.tolist())}\n"
        )
    path.write_text("\n".join(parts), "utf-8")


def load_network(path: str | Path) -> tuple[bb.Posterior, bb.ApplyFn, Vocabulary]:
    """A network that a run has kept, and what makes symbols of a text.

    Returns:
        The posterior; ``apply_fn(weights, rows)``, of symbols [n, context], which gives logits [n * context, symbol]
        of the symbols that follow each; and the vocabulary.

    Raises:
        ValueError, OSError: what `kept.load` refuses.
    """
    posterior = kept.load(path, NAME)
    vocabulary = Vocabulary(posterior.config["vocabulary"])
    config = of_flat(Config, posterior.config)
    model = Network(config.shape(vocabulary.size))
    return posterior, prediction.network(model, prediction.kept_state(posterior), jnp.zeros(0)), vocabulary


def load_packed(path: str | Path) -> tuple[prediction.Packed, Vocabulary]:
    """The mode, or a committee, that a run has kept at one bit a weight, and what makes symbols of a text.

    Raises:
        ValueError, OSError: what `kept.load_packed` refuses.
    """
    network = kept.load_packed(path, NAME)
    vocabulary = Vocabulary(network.config["vocabulary"])
    model = Network(of_flat(Config, network.config).shape(vocabulary.size))
    return prediction.packed(network, model), vocabulary


def show(results: dict[str, Any]) -> None:
    """The closing tables: the predictors side by side, and what they say of text of other kinds."""
    titles = {
        "mode": "mode" if results["num_binary_weights"] else "network",
        "mean": f"mean of {results['eval_samples']}",
    }
    fewer = {f"mean_{n}": f"mean of {n}" for n in answers.FEWER}
    predictors = [x for x in ("mode", *fewer, "mean") if f"test_ece_{x}" in results]
    titles |= fewer
    rows = [
        (title, *(f"{results[f'test_{field}_{x}']:.4f}" for x in predictors))
        for title, field in (
            ("bits per character", "bits_per_character"),
            ("expected calibration error", "ece"),
            ("total uncertainty (bits)", "entropy_bits"),
            ("mutual information (bits)", "mutual_information_bits"),
        )
    ]
    console.write_table(f"held-out text, {results['method']}", ("", *(titles[x] for x in predictors)), rows)
    last = predictors[-1]
    console.write_table(
        f"{titles[last]}: how well it tells text of other kinds from it (AUROC of a character, of a window)",
        ("", "bits per character", "by total uncertainty", "by mutual information"),
        [
            (
                kind,
                f"{results[f'{kind}_bits_per_character_{last}']:.2f}",
                *(
                    " ".join(f"{results[f'{kind}_auroc_{x}{of}_{last}']:.3f}" for of in ("", "_of_windows"))
                    for x in ("entropy", "mutual_information")
                ),
            )
            for kind in FOREIGN
        ],
    )
    console.write(f"{results['size_bits']:,} bits: one for each binary weight, 32 for each real number")
    console.write_totals(results)


EXPERIMENT = command.Experiment(
    NAME,
    Config,
    PRESETS,
    prepare,
    run,
    show,
    classifier.folder,
    classifier.finished,
)
main = partial(command.main, EXPERIMENT)

if __name__ == "__main__":
    main()
