"""Images that a network was not trained for, made of those that it was, or taken from elsewhere.

All of them are standardized as the data set is, and have the shape of its images.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import data


def foreign_images(dataset: data.Dataset, name: str, key: jax.Array) -> dict[str, jax.Array]:
    """Foreign images for a data set, as many as it has test images.

    Args:
        dataset: whose test images are changed.
        name: of it; mnist has natural images as well, of CIFAR-10, and cifar10 has digits in place of turned and noisy
            images, which are still pictures of its classes.
        key: of all that is random.

    Raises:
        FileNotFoundError: the other data set is needed and has not been prepared.
    """
    keys = jax.random.split(key, 3)
    pixels = pixels_of(dataset)
    found = {"shuffled": shuffle_pixels(keys[0], pixels)}
    if name == "cifar10":
        digits, _ = data.load_tfds("mnist", ("test",))[0]
        found["MNIST in colour"] = colour(keys[1], digits[: len(pixels)], pixels.shape[1:3])
    else:
        found |= {"rotated": rotate(keys[1], pixels), "noisy": add_noise(keys[2], pixels)}
    if name == "mnist":
        natural, _ = data.load_tfds("cifar10", ("test",))[0]
        found["CIFAR-10 in grey"] = grey(natural[: len(pixels)], pixels.shape[1:3])
    return {title: standardized(dataset, images) for title, images in found.items()}


def pixels_of(dataset: data.Dataset) -> jax.Array:
    """The test images of a data set, in [0, 1]."""
    return dataset.test.images * jnp.float32(dataset.std) + jnp.float32(dataset.mean)


def standardized(dataset: data.Dataset, pixels: jax.Array) -> jax.Array:
    """Images of pixels in [0, 1] as the networks of a data set see them."""
    return (pixels - jnp.float32(dataset.mean)) / jnp.float32(dataset.std)


def shuffle_pixels(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image's pixels in an order of its own: the same histogram, and no shape is left."""
    n, height, width, channels = images.shape
    flat = images.reshape(n, height * width, channels)
    return jax.vmap(jax.random.permutation)(jax.random.split(key, n), flat).reshape(images.shape)


def rotate(key: jax.Array, images: jax.Array, *, lowest: float = 45.0, highest: float = 135.0) -> jax.Array:
    """Each image turned about its centre by a random angle in degrees, either way; black comes in at the corners."""
    n, height, width, channels = images.shape
    angle_key, side_key = jax.random.split(key)
    degrees = jax.random.uniform(angle_key, (n,), minval=lowest, maxval=highest)
    radians = jnp.deg2rad(degrees * jax.random.rademacher(side_key, (n,)))
    rows, columns = jnp.meshgrid(
        jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
    )

    def turn(image: jax.Array, angle: jax.Array) -> jax.Array:
        places = [
            rows * jnp.cos(angle) - columns * jnp.sin(angle) + (height - 1) / 2,
            rows * jnp.sin(angle) + columns * jnp.cos(angle) + (width - 1) / 2,
        ]
        sample = partial(jax.scipy.ndimage.map_coordinates, coordinates=places, order=1)
        return jnp.stack([sample(image[:, :, c]) for c in range(channels)], axis=-1)

    return jax.vmap(turn)(images, radians)


def add_noise(key: jax.Array, images: jax.Array, *, std: float = 0.5) -> jax.Array:
    """Gaussian noise on each pixel, cut off at black and white."""
    return jnp.clip(images + std * jax.random.normal(key, images.shape), 0, 1)


def grey(images: np.ndarray, size: tuple[int, ...]) -> jax.Array:
    """Colour images [n, height, width, 3] as grey ones [n, *size, 1] (Rec. 601 luma)."""
    luma = jnp.asarray(images) @ jnp.array([0.299, 0.587, 0.114])
    return jax.image.resize(luma, (len(images), *size), "linear")[..., None]


def colour(key: jax.Array, images: np.ndarray, size: tuple[int, ...]) -> jax.Array:
    """Grey images [n, height, width, 1] as [n, *size, 3]: each has a random colour, and black stays black."""
    resized = jax.image.resize(jnp.asarray(images), (len(images), *size, 1), "linear")
    return resized * jax.random.uniform(key, (len(images), 1, 1, 3))
