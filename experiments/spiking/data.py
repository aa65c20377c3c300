"""Points and images as trains of spikes.

A number x in [0, 1] is told by 10 neurons with centres m_k, evenly spaced from 0 to 1 at a distance D, which fire at
random in each step with

    rate_k = 1/2 + 1/2 cos(clip(pi (x - m_k) / D, -pi, pi))                 the population code of arXiv 2012.08300

and a pixel in [0, 1] by one neuron, whose rate it is. The spikes of an example are drawn once: training sees the same
ones in each epoch.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import data

NEURONS = 10  # that tell one number
NUM_TRAIN, NUM_TEST, NOISE = 200, 1000, 0.1  # of two moons


class Data(NamedTuple):
    """The examples of one seed.

    Attributes:
        train, train_labels: [n, feature] in [0, 1], and [n].
        test, test_labels: those that are held out; of two moons a few lie outside of [0, 1].
        low, size: an example is (what was measured - low) / size, both [feature], or [1] for all.
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    low: np.ndarray
    size: np.ndarray


def population_rates(x: jax.Array) -> jax.Array:
    """The rates of the neurons that tell numbers, [n, feature] to [n, feature * NEURONS]."""
    distance = 1 / (NEURONS - 1)
    from_centre = (x[..., None] - distance * jnp.arange(NEURONS)) / distance
    return (0.5 + 0.5 * jnp.cos(jnp.pi * jnp.clip(from_centre, -1, 1))).reshape(*x.shape[:-1], -1)


def spikes_of(dataset: str, key: jax.Array, examples: jax.typing.ArrayLike, num_steps: int) -> jax.Array:
    """Draws the spikes that tell of examples, [time, n, neuron]; those of one do not depend on what comes after it."""
    rates = population_rates(jnp.asarray(examples)) if dataset == "moons" else jnp.asarray(examples)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(rates)))
    return jax.vmap(lambda key, p: jax.random.bernoulli(key, p, (num_steps, len(p))), out_axes=1)(keys, rates)


def num_inputs(dataset: str, num_features: int) -> int:
    """How many neurons tell of an example."""
    return num_features * (NEURONS if dataset == "moons" else 1)


def load(dataset: str, seed: int, validation: bool) -> Data:
    """The examples of a seed; validation ones take the place of test ones where settings are compared."""
    return {"moons": _moons, "digits": _digits}[dataset](seed, validation)


def _moons(seed: int, validation: bool) -> Data:
    from sklearn.datasets import make_moons

    def draw(num_points: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
        random_state = np.random.RandomState(np.random.SeedSequence((seed, stream)).generate_state(1)[0])
        points, labels = make_moons(num_points, noise=NOISE, random_state=random_state)
        return points, labels.astype(np.int32)

    (train, train_labels), (test, test_labels) = draw(NUM_TRAIN, 0), draw(NUM_TEST, 2 if validation else 1)
    low = train.min(0)
    size = train.max(0) - low
    in_square = [((x - low) / size).astype(np.float32) for x in (train, test)]
    return Data(in_square[0], train_labels, in_square[1], test_labels, low, size)


def _digits(seed: int, validation: bool) -> Data:
    images, test_images, *_ = dataset = data.load("digits")
    flat = partial(_pixels, dataset)
    if validation:
        train, held = data.holdout(len(images.labels), 0.2, seed)
        test_images = data.Split(images.images[held], images.labels[held])
        images = data.Split(images.images[train], images.labels[train])
    train_labels, test_labels = np.asarray(images.labels), np.asarray(test_images.labels)
    return Data(flat(images), train_labels, flat(test_images), test_labels, np.zeros(1), np.ones(1))


def _pixels(dataset: data.Dataset, split: data.Split) -> np.ndarray:
    """Images as they were before they were standardized, [n, pixel] in [0, 1]."""
    images = np.asarray(split.images) * np.float32(dataset.std) + np.float32(dataset.mean)
    return np.clip(images.reshape(len(images), -1), 0, 1)
