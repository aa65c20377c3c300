"""Who is asked, what they answer, and how good their answers are."""

from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import prediction
from experiments.common.colours import GREY, RED
from experiments.common.methods import STE, BayesBiNN, FullPrecision
from experiments.common.prediction import Network

NUM_SAMPLES = (1, 5, 10, 30, 100)
EACH = 20  # networks of each of several posteriors
SIGNALS = ("entropy", "mutual_information")  # fields of a prediction that say how unsure it is


class Predictor(NamedTuple):
    """One that is asked."""

    name: str
    networks: int  # that it is the mean of; one alone has no mutual information
    answers: dict[str, Any]  # a `bb.Prediction` for each array of images
    look: tuple[str, str] | None = None  # colour and line in figures; None: it is not shown
    bits: float | None = None  # of entropy, that a weight of its posterior has


def ask(networks: dict[str, list[Network]], images: dict[str, Any], key: jax.Array, most: int) -> list[Predictor]:
    """What each predictor says of all images.

    Args:
        networks: by kind: "ste", "bayesbinn" and, where they are compared, "full_precision" and "saturated".
        images: a tree of arrays.
        key: for the networks that are drawn from the posteriors.
        most: so many are drawn from the first posterior, and no more from each of the others.
    """
    leaves, tree = jax.tree.flatten(images)
    every, ends = jnp.concatenate(leaves), np.cumsum([len(x) for x in leaves])[:-1]
    found: list[Predictor] = []

    def add(name: str, count: int, said: bb.Prediction, look: Any = None, of: tuple[Network, ...] = ()) -> None:
        parts = zip(*(jnp.split(field, ends) for field in said), strict=True)
        bits = [float(bb.diagnostics.entropy_bits_per_weight(network.posterior.natural)) for network in of]
        answers = jax.tree.unflatten(tree, map(bb.Prediction._make, parts))
        found.append(Predictor(name, count, answers, look, fmean(bits) if bits else None))

    for network in networks.get("full_precision", ()):
        add(FullPrecision.label, 1, shipped(network, every), (FullPrecision.color, "-"))
    members = [shipped(network, every) for network in networks["ste"]]
    add(STE.label, 1, members[0], (STE.color, "-"))
    if len(members) > 1:
        add(f"{STE.label}, {len(members)} networks", len(members), average(members), (STE.color, "--"))
    for network in networks.get("saturated", ()):
        add(f"{BayesBiNN.label}, saturated", 1, shipped(network, every), (RED, ":"), (network,))
    first, *others = posteriors = networks["bayesbinn"]
    add(f"{BayesBiNN.label}, mode", 1, shipped(first, every), (GREY, "-"), (first,))
    counts, each = {*(n for n in NUM_SAMPLES if n < most), most}, {1, min(EACH, most)}
    drawn = [means(first, counts | each if others else counts, key, every)]
    for count in sorted(counts):
        look = (BayesBiNN.color, "-") if count == most else None
        add(f"{BayesBiNN.label}, mean of {count}", count, drawn[0][count], look, (first,))
    drawn += [means(network, each, jax.random.fold_in(key, i), every) for i, network in enumerate(others, 1)]
    for count in sorted(each) if others else ():
        name, look = f"{BayesBiNN.label}, {len(drawn)} posteriors x {count}", (BayesBiNN.color, "--")
        said = average([x[count] for x in drawn])
        add(name, len(drawn) * count, said, look if count == max(each) else None, tuple(posteriors))
    return found


def shipped(network: Network, images: jax.Array) -> bb.Prediction:
    """What a network says by itself: that of a posterior, or of straight-through training, by its mode."""
    natural = network.posterior.natural
    weights = natural if network.posterior.config["method"] == FullPrecision.name else bb.mode(natural)
    return jax.jit(lambda w, x: bb.mode_predictive(lambda _, x: network.apply_fn(w, x), w, x))(weights, images)


def means(network: Network, counts: set[int], key: jax.Array, images: jax.Array) -> dict[int, bb.Prediction]:
    """The means of the first networks that are drawn from a posterior, by their number."""
    committee = bb.sample_packed(key, network.posterior.natural, max(counts))
    predict = jax.jit(partial(bb.committee_predictive, network.apply_fn))
    parts: dict[int, bb.Prediction] = {}
    found: dict[int, bb.Prediction] = {}
    for start, stop in pairwise((0, *sorted(counts))):
        parts[stop] = predict(prediction.part(committee, slice(start, stop)), images)
        found[stop] = average(list(parts.values()), np.diff([0, *parts]))
    return found


def average(predictions: list[bb.Prediction], weights: Any = None) -> bb.Prediction:
    """The prediction of an ensemble: the mean of its members' probabilities, and what they disagree on."""
    mean = partial(jnp.average, axis=0, weights=weights)
    probabilities = mean(jnp.stack([p.probabilities for p in predictions]))
    return bb.mixture_prediction(probabilities, mean(jnp.stack([p.expected_entropy for p in predictions])))


def scores(predictor: Predictor, labels: tuple[jax.Array, jax.Array]) -> Any:
    """All scores of a predictor, a tree of floats; labels are those of the test and of the validation images."""
    answers = predictor.answers

    def quality(test: bb.Prediction) -> dict[str, Any]:
        as_it_is, scaled, temperature = prediction.score((test, answers["validation"]), labels)
        correct = jnp.argmax(test.probabilities, axis=-1) == labels[0]
        return as_it_is | {
            "output_temperature": temperature,
            "scaled": scaled,
            "risk_coverage_area": bb.metrics.risk_coverage(test.entropy, correct).area,
            "entropy": jnp.mean(test.entropy),
        }

    def told_apart(foreign: bb.Prediction, signal: str) -> dict[str, jax.Array]:
        pair = getattr(foreign, signal), getattr(answers["test"], signal)
        return {"auroc": bb.metrics.auroc(*pair), "fpr95": bb.metrics.false_positive_rate(*pair)}

    signals = SIGNALS if predictor.networks > 1 else SIGNALS[:1]
    values = quality(answers["test"]) | {
        "foreign": {title: {x: told_apart(said, x) for x in signals} for title, said in answers["foreign"].items()},
        "corrupted": {
            kind: {severity: quality(said) for severity, said in by_severity.items()}
            for kind, by_severity in answers["corrupted"].items()
        },
    }
    if predictor.bits is not None:
        values["posterior_entropy_bits_per_weight"] = predictor.bits
    return jax.tree.map(float, values)
