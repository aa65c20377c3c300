"""Who is asked, what they answer, and how good their answers are."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import prediction
from experiments.common.methods import STE, BayesBiNN
from experiments.common.prediction import Network

NUM_SAMPLES = (1, 5, 10, 30, 100)
SIGNALS = ("entropy", "mutual_information")  # fields of a prediction that say how unsure it is


class Predictor(NamedTuple):
    """One that is asked."""

    name: str
    networks: int  # that it is the mean of; one alone has no mutual information
    answers: dict[str, bb.Prediction]  # by the title of the images: "test", "validation", and foreign ones


class Compared(NamedTuple):
    """All that are asked."""

    ste: Predictor
    ensemble: Predictor
    mode: Predictor
    means: list[Predictor]  # of `NUM_SAMPLES` networks


def ask(ste: list[Network], bayesbinn: Network, images: dict[str, jax.Array], key: jax.Array) -> Compared:
    """What each predictor says of all images; the key is for the networks that are drawn from the posterior."""
    every = jnp.concatenate(list(images.values()))
    ends = np.cumsum([len(x) for x in images.values()])[:-1]

    def predictor(name: str, networks: int, every: bb.Prediction) -> Predictor:
        parts = zip(*(jnp.split(field, ends) for field in every), strict=True)
        return Predictor(name, networks, dict(zip(images, map(bb.Prediction._make, parts), strict=True)))

    def of_mode(network: Network) -> bb.Prediction:
        return jax.jit(partial(bb.mode_predictive, network.apply_fn))(network.posterior.natural, every)

    def mean_of(num_samples: int) -> Predictor:
        predict: Any = partial(bb.posterior_predictive, bayesbinn.apply_fn, num_samples=num_samples, chunk_size=1)
        name = f"{BayesBiNN.label}, mean of {num_samples}"
        return predictor(name, num_samples, jax.jit(predict)(bayesbinn.posterior.natural, key, every))

    members = [of_mode(network) for network in ste]
    return Compared(
        predictor(STE.label, 1, members[0]),
        predictor(f"{STE.label}, {len(ste)} networks", len(ste), average(members)),
        predictor(f"{BayesBiNN.label}, mode", 1, of_mode(bayesbinn)),
        [mean_of(num_samples) for num_samples in NUM_SAMPLES],
    )


def average(predictions: list[bb.Prediction]) -> bb.Prediction:
    """The prediction of an ensemble: the mean of its members' probabilities, and what they disagree on."""
    probabilities = jnp.mean(jnp.stack([p.probabilities for p in predictions]), axis=0)
    expected_entropy = jnp.mean(jnp.stack([p.expected_entropy for p in predictions]), axis=0)
    return bb.mixture_prediction(probabilities, expected_entropy)


def scores(answers: dict[str, bb.Prediction], labels: tuple[jax.Array, jax.Array], foreign: list[str]) -> Any:
    """All scores of a predictor, a tree of floats; labels are those of the test and of the validation images."""
    test = answers["test"]
    as_it_is, scaled, temperature = prediction.score((test, answers["validation"]), labels)
    correct = jnp.argmax(test.probabilities, axis=-1) == labels[0]

    def told_apart(title: str, signal: str) -> dict[str, jax.Array]:
        pair = getattr(answers[title], signal), getattr(test, signal)
        return {"auroc": bb.metrics.auroc(*pair), "fpr95": bb.metrics.false_positive_rate(*pair)}

    values = as_it_is | {
        "output_temperature": temperature,
        "scaled": scaled,
        "risk_coverage_area": bb.metrics.risk_coverage(test.entropy, correct).area,
        "foreign": {title: {signal: told_apart(title, signal) for signal in SIGNALS} for title in foreign},
    }
    return jax.tree.map(float, values)
