"""Image data sets as arrays on the device, and what is done to them before a network sees them.

``digits`` comes with scikit-learn. The others are read from a folder that
TensorFlow Datasets has prepared (`python -m experiments.prepare mnist`), without
importing TensorFlow and without touching the network.
"""

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.endings import first_line

Pixels = tuple[np.ndarray, np.ndarray]  # images [n, height, width, channel] in [0, 1], labels [n]


class Split(NamedTuple):
    """Images [n, height, width, channel] float32, labels [n] int32."""

    images: jax.Array
    labels: jax.Array


def sha256(split: Split) -> str:
    """The digest of examples and labels, by which a run that goes on knows its data again."""
    digest = hashlib.sha256()
    for array in split:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Dataset(NamedTuple):
    """A data set. Images are (pixel - mean) / std, both [channel] and of the training images."""

    train: Split  # of which `holdout` holds back the validation part
    test: Split
    num_classes: int
    mean: np.ndarray
    std: np.ndarray


class Index(NamedTuple):
    """Which images of ``Dataset.train`` a seed uses; with a first axis, [seed, n], those of several.

    Attributes:
        train: it trains on these.
        validation: it holds these back.
        reference: of those it trains on, the ones that set the batch norms of networks that predict.
    """

    train: jax.Array
    validation: jax.Array
    reference: jax.Array


def load(name: str) -> Dataset:
    """Loads a data set.

    Args:
        name: a key of `DATASETS`.

    Raises:
        FileNotFoundError: the data set has not been prepared.
        ValueError: no such data set, the prepared files cannot be read, or they do not hold images and labels to
            train and test on.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {sorted(DATASETS)}, got {name!r}")
    train, test, num_classes = DATASETS[name]()
    for part, pixels in (("training", train), ("test", test)):
        check(f"data set {name!r}: the {part}", *pixels, num_classes)
    if train[0].shape[1:] != test[0].shape[1:]:
        shapes = f"{train[0].shape[1:]} for training and {test[0].shape[1:]} for testing"
        raise ValueError(f"data set {name!r}: all images must have one shape, got {shapes}")
    if np.any(train[0].min((0, 1, 2)) == train[0].max((0, 1, 2))):  # a standard deviation of 0
        raise ValueError(f"data set {name!r}: the training images have one value everywhere in a channel")
    mean = np.asarray(train[0].mean(axis=(0, 1, 2), dtype=np.float64))
    std = np.asarray(train[0].std(axis=(0, 1, 2), dtype=np.float64))

    def split(images: np.ndarray, labels: np.ndarray) -> Split:
        return Split(jnp.asarray((images - np.float32(mean)) / np.float32(std)), jnp.asarray(labels, jnp.int32))

    return Dataset(split(*train), split(*test), num_classes, mean, std)


def check(what: str, images: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    """Raises ValueError unless there are images [n, height, width, channel], n > 0, finite, and a class for each."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or images.size == 0 or images.dtype.kind not in "fiu":
        found = f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"{what} images must be numbers [n, height, width, channel], n > 0, got {found}")
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(images.astype(np.float32)).all((1, 2, 3))
    if bad.any():
        raise ValueError(f"{what} images must be finite float32 numbers, not so image {bad.argmax()}")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"{what} labels must be {len(images)} integers, got {labels.dtype} {list(labels.shape)}")
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        raise ValueError(f"{what} labels must be in [0, {num_classes}), got {labels[bad][0]} for image {bad.argmax()}")


def holdout(num_images: int, validation_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws the validation part: the indices of the images to train on, and of those held back.

    Args:
        num_images: how many there are.
        validation_fraction: share that is held back, in (0, 1).
        seed: of the draw.

    Raises:
        ValueError: a side without images.
    """
    order = np.random.default_rng(seed).permutation(num_images)
    num_validation = round(validation_fraction * num_images)
    if not 0 < num_validation < num_images:
        raise ValueError(
            f"validation_fraction must leave images on both sides of {num_images}, got {validation_fraction!r}"
        )
    return order[num_validation:], order[:num_validation]


def crop_and_flip(key: jax.Array, images: jax.Array, *, fill: jax.Array | float, padding: int = 4) -> jax.Array:
    """Moves each image by up to ``padding`` pixels either way, and mirrors it with probability 1/2.

    Args:
        key: a `jax.random` key.
        images: [n, height, width, channel].
        fill: the value of pixels from outside of the image, a scalar or [channel].
        padding: how far an image moves at most.

    Returns:
        As images.
    """
    shift_key, mirror_key = jax.random.split(key)
    n, height, width, channels = images.shape
    inside = slice(padding, padding + height), slice(padding, padding + width)
    padded = jnp.broadcast_to(jnp.asarray(fill, images.dtype), (n, height + 2 * padding, width + 2 * padding, channels))
    padded = padded.at[:, *inside].set(images)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    corners = jax.random.randint(shift_key, (n, 2), 0, 2 * padding + 1)
    cropped = jax.vmap(crop)(padded, corners)
    mirrored = jax.random.bernoulli(mirror_key, 0.5, (n, 1, 1, 1))
    return jnp.where(mirrored, cropped[:, :, ::-1], cropped)


def _load_digits() -> tuple[Pixels, Pixels, int]:
    """1,797 images of 8x8 pixels; 20 % are for testing, stratified, always the same."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = np.float32(images).reshape(-1, 8, 8, 1) / 16
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return (x_train, y_train), (x_test, y_test), 10


def _load_tfds(name: str, num_classes: int) -> tuple[Pixels, Pixels, int]:
    train, test = load_tfds(name, ("train", "test"))
    return train, test, num_classes


PREPARED = {"mnist": 10, "cifar10": 10, "cifar100": 100}  # by TensorFlow Datasets, with so many classes
DATASETS: dict[str, Callable[[], tuple[Pixels, Pixels, int]]] = {
    "digits": _load_digits,
    **{name: partial(_load_tfds, name, num_classes) for name, num_classes in PREPARED.items()},
}


def data_dir() -> Path:
    """The folder of prepared data sets: TFDS_DATA_DIR, or ~/tensorflow_datasets.

    Raises:
        ValueError: there is no home folder to look in.
    """
    folder = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{folder} cannot be found: {error} Set TFDS_DATA_DIR to the folder of data sets") from None


def load_tfds(name: str, splits: tuple[str, ...]) -> list[Pixels]:
    """Reads splits of a prepared TFDS data set, pixels scaled to [0, 1].

    Raises:
        FileNotFoundError: there is no prepared data set (said at once, nothing is downloaded).
        ValueError: there is one and it cannot be read.
    """
    folder = data_dir() / name
    if not list(folder.glob("*/dataset_info.json")):  # of a version, whose folder may be a link
        raise FileNotFoundError(
            f"data set {name!r} is not prepared: looked in {folder} (TFDS_DATA_DIR="
            f"{os.environ.get('TFDS_DATA_DIR', '')!r}); prepare it with: python -m experiments.prepare {name}"
        )
    import absl.logging
    import tensorflow_datasets as tfds

    absl.logging.set_verbosity("error")  # it recommends OpenCV otherwise
    try:
        version = tfds.builder(name, data_dir=data_dir()).data_path
        builder = tfds.builder_from_directory(version)  # by the types in the folder: those of the name would be cast to
        return [_read(builder, split) for split in splits]
    except Exception as error:  # tfds, array_record and pillow raise whatever they like
        raise ValueError(
            f"data set {name!r} in {folder} cannot be read: {first_line(error)}; delete that folder and prepare "
            f"it again with: python -m experiments.prepare {name}"
        ) from error


def _read(builder: Any, split: str) -> Pixels:
    if builder.info.splits[split].num_examples == 0:
        raise ValueError(f"its part {split!r} has no images")
    source = builder.as_data_source(split)
    records = source.__getitems__(range(len(source)))
    images = np.stack([record["image"] for record in records])
    return images.astype(np.float32) / 255, np.array([record["label"] for record in records])
