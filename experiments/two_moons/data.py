"""Two half moons, and a plane that extends well beyond them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import make_moons

from experiments.common import full_batch

FAR = 1.0  # a point of the plane is far away if no training point is nearer than this


class Data(NamedTuple):
    """Points [n, 2] and their labels [n]."""

    points: jax.Array
    labels: jax.Array


class Plane(NamedTuple):
    """A square of points [y, x, 2]: its coordinates, and whether a point is far from the training points [y, x]."""

    x: np.ndarray
    y: np.ndarray
    points: jax.Array
    far: np.ndarray


def moons(config: full_batch.Settings, num_points: int, stream: int) -> Data:
    """Points of two half moons; another stream of the same seed gives other points."""
    random_state = np.random.RandomState(np.random.SeedSequence((config.seed, stream)).generate_state(1)[0])
    points, labels = make_moons(num_points, noise=config.noise, random_state=random_state)
    return Data(jnp.asarray(points, jnp.float32), jnp.asarray(labels, jnp.int32))


def plane_around(train: Data) -> Plane:
    """The plane of the figure."""
    x, y = np.linspace(-3, 4, 141), np.linspace(-3, 3, 121)
    points = jnp.stack(jnp.meshgrid(x, y), axis=-1)
    nearest = jax.lax.map(lambda point: jnp.min(jnp.sum((point - train.points) ** 2, axis=-1)), points.reshape(-1, 2))
    return Plane(x, y, points, np.asarray(jnp.sqrt(nearest) > FAR).reshape(points.shape[:2]))
