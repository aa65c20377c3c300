"""Test images made worse in three ways, each in three strengths. Their labels are still right.

Formulas and strengths are those of CIFAR-10-C at severities 1, 3 and 5 (arXiv 1903.12261, and `make_cifar_c.py` in
https://github.com/hendrycks/robustness), for images ``x`` [n, height, width, channel] of pixels in [0, 1]. CIFAR-10-C
rounds its pixels to 256 values, and here they stay as they are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.common import data
from experiments.uncertainty.foreign import add_noise, pixels_of, standardized

# By kind and severity: the standard deviation of noise, that of the blur in pixels, and what is left of the contrast.
STRENGTHS = {
    "noise": {"1": 0.04, "3": 0.08, "5": 0.10},
    "blur": {"1": 0.4, "3": 0.7, "5": 1.0},
    "contrast": {"1": 0.75, "3": 0.4, "5": 0.15},
}
TITLES = {(kind, at): f"{kind} {x:g}" for kind, strengths in STRENGTHS.items() for at, x in strengths.items()}


def corrupted_images(dataset: data.Dataset, key: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """The test images of a data set, standardized, by kind and severity; all strengths of noise are of one draw."""
    x = pixels_of(dataset)
    kinds: dict[str, Callable[[float], jax.Array]] = {
        "noise": lambda std: add_noise(key, x, std=std),
        "blur": lambda std: blur(x, std),
        "contrast": lambda factor: contrast(x, factor),
    }
    return {
        kind: {severity: standardized(dataset, kinds[kind](strength)) for severity, strength in strengths.items()}
        for kind, strengths in STRENGTHS.items()
    }


def blur(images: jax.Array, std: float) -> jax.Array:
    """``y_rc = sum_ij g_i g_j x_(r+i)(c+j)``, ``g_i ~ exp(-i^2 / 2 std^2)`` with sum 1, for ``|i| <= 4 std`` (rounded).

    Beyond its edges an image goes on with the pixels there.
    """
    radius = round(4 * std)
    weights = jax.nn.softmax(-(jnp.arange(-radius, radius + 1.0) ** 2) / (2 * std**2))
    for axis in (1, 2):
        padded = jnp.pad(images, [(radius, radius) if i == axis else (0, 0) for i in range(4)], mode="edge")
        ends = [(i, i + images.shape[axis]) for i in range(2 * radius + 1)]
        images = sum(w * jax.lax.slice_in_dim(padded, *x, axis=axis) for w, x in zip(weights, ends, strict=True))
    return images


def contrast(images: jax.Array, factor: float) -> jax.Array:
    """``y = factor (x - m) + m``, where ``m`` is the mean of each image and channel."""
    mean = jnp.mean(images, axis=(1, 2), keepdims=True)
    return factor * (images - mean) + mean
