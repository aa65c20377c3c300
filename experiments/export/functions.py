"""What is exported: the function from pixels to answers, of the one network that is shipped or of a committee."""

import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import classifier, data, kept, methods, networks, prediction
from experiments.common.config import of_flat
from experiments.common.image_config import Config

PIXELS = "pixels in [0, 1], float32 [n, height, width, channel], as they are before they are standardized"


class Answer(NamedTuple):
    """What one network says.

    Attributes:
        logits: [n, class].
        probabilities: their softmax [n, class].
    """

    logits: jax.Array
    probabilities: jax.Array


class Belief(NamedTuple):
    """What a committee says; the rest of a `bbinn_jax.Prediction` is the difference of these.

    Attributes:
        probabilities: mean over the networks [n, class].
        entropy: of the mean, in nats [n].
        mutual_information: what the networks disagree on, in nats [n].
        networks: probabilities of each network [n, network, class], which is how it votes.
    """

    probabilities: jax.Array
    entropy: jax.Array
    mutual_information: jax.Array
    networks: jax.Array


class Exported(NamedTuple):
    """What goes into a file.

    Attributes:
        name: of the file, without its ending.
        fn: ``fn(weights, pixels)`` gives an `Answer` or a `Belief`.
        weights: packed leaves; those of a committee have an axis of networks.
        pixels: test images in [0, 1], that the file is tried on.
        real: all other numbers: real parameters, statistics of batch norms (of each network), mean and standard
            deviation of pixels.
        about: text for the file.
        config: of the run.
        num_classes: that it tells apart.
        notes: what a user should know of it.
    """

    name: str
    fn: Callable[[Any, jax.Array], Any]
    weights: Any
    pixels: jax.Array
    real: dict[str, Any]
    about: dict[str, str]
    config: Config
    num_classes: int
    notes: tuple[str, ...] = ()


def find(run: Path, seed: int | None) -> Path:
    """The network of a run folder, or the file itself.

    Raises:
        ValueError: none, or several and no seed.
        FileNotFoundError: no such run.
    """
    if not run.exists():
        raise FileNotFoundError(f"there is no run folder or network {run}")
    if run.name.endswith(".packed.safetensors"):
        raise ValueError(f"{run} is packed already: give the network-SEED.safetensors beside it")
    if not run.is_dir():
        if seed is not None:
            raise ValueError(f"--seed is for run folders, got --seed {seed} and the file {run}")
        return run
    found = {
        int(match[1]): path
        for path in run.glob("network-*.safetensors")
        if (match := re.fullmatch(r"network-(\d+)\.safetensors", path.name))
    }
    seeds = ", ".join(map(str, sorted(found))) or "none"
    if not found:
        raise ValueError(f"{run} must hold a network-SEED.safetensors of image_classification, found none")
    if seed is None and len(found) > 1:
        raise ValueError(f"--seed must say which network of {run}: {seeds}")
    if seed is not None and seed not in found:
        raise ValueError(f"--seed must be that of a network of {run}: {seeds}; got {seed}")
    return found[min(found) if seed is None else seed]


def load(path: Path, committee: int | None, examples: int = 100) -> Exported:
    """The function of a kept network.

    Args:
        path: its file.
        committee: S networks that are drawn from its posterior, those that the run's own mean is of if S is its
            eval_samples; None for the mode.
        examples: how many test images the file is tried on.

    Raises:
        ValueError: no network of image classification, one whose weights are real, or a committee of one that has no
            posterior.
        OSError: what `kept.load` and `data.load` refuse.
    """
    posterior = kept.load(path, classifier.EXPERIMENT)
    config = of_flat(Config, posterior.config)
    if isinstance(config.method, methods.FullPrecision):
        raise ValueError(f"{path} must have binary weights to be exported as bits, got method {config.method.name}")
    if committee is not None and not isinstance(config.method, methods.Posterior):
        raise ValueError(f"--committee needs a posterior, and the method {config.method.name} of {path} has none")
    dataset = data.load(config.dataset)
    model = networks.Network(config.network, dataset.num_classes)
    mean, std = (jnp.asarray(x, jnp.float32) for x in (dataset.mean, dataset.std))
    real: dict[str, Any] = {"real": posterior.real, "input_mean": mean, "input_std": std}
    if committee is None:
        weights, real["batch_stats"] = bb.pack(bb.mode(posterior.natural)), posterior.batch_stats
        fn: Callable[[Any, jax.Array], Any] = partial(mode, model, real)
    else:
        key = jax.random.split(jax.random.key(config.seed), 3)[2]
        reference = dataset.train.images[classifier.split(config, dataset).reference[0]]
        of_one = partial(prediction.statistics, model, prediction.kept_state(posterior), reference=reference)
        draw = jax.jit(partial(kept.committee, of_one, num_networks=committee))
        weights, real["batch_stats"] = draw(key, posterior.natural)
        fn = partial(belief, model, real)
    name = f"network_{config.seed}" if committee is None else f"committee_{config.seed}"
    about = {"input": PIXELS, "config": json.dumps(posterior.config), "networks": str(committee or 1)}
    pixels = np.asarray(dataset.test.images[:examples]) * dataset.std + dataset.mean
    notes: tuple[str, ...] = ()
    if committee is not None and bb.diagnostics.entropy_bits_per_weight(posterior.natural) < kept.LIVES:
        notes = ("the posterior is saturated: its networks are one, and the committee knows no more than the mode",)
    pixels = jnp.asarray(pixels, jnp.float32)
    return Exported(name, fn, weights, pixels, real, about, config, dataset.num_classes, notes)


def num_weights(weights: Any) -> int:
    """The number of weights of packed leaves, in all networks."""
    leaves = jax.tree.leaves(weights, is_leaf=lambda x: isinstance(x, bb.Packed))
    return sum(math.prod(leaf.bits.shape[:-1]) * math.prod(leaf.shape) for leaf in leaves)


def mode(model: Any, real: dict[str, Any], weights: Any, pixels: jax.Array) -> Answer:
    """What the network says to pixels in [0, 1]."""
    logits = _logits(model, real, weights, real["batch_stats"], pixels)
    return Answer(logits, jax.nn.softmax(logits))


def belief(model: Any, real: dict[str, Any], weights: Any, pixels: jax.Array) -> Belief:
    """What a committee says to pixels in [0, 1]; each of its networks has batch-norm statistics of its own."""
    of_each = jax.vmap(partial(_logits, model, real), (0, 0, None))
    probabilities = jax.nn.softmax(of_each(weights, real["batch_stats"], pixels))
    said = bb.mixture_prediction(probabilities.mean(0), jax.scipy.special.entr(probabilities).sum(-1).mean(0))
    return Belief(said.probabilities, said.entropy, said.mutual_information, jnp.moveaxis(probabilities, 0, 1))


def _logits(model: Any, real: dict[str, Any], weights: Any, batch_stats: Any, pixels: jax.Array) -> jax.Array:
    variables = {"params": bb.combine(weights, real["real"]), "batch_stats": batch_stats or {}}
    return model.apply(variables, (pixels - real["input_mean"]) / real["input_std"], train=False)
