"""Image data sets as arrays on the device, normalized and split.

``digits`` comes with scikit-learn. ``mnist`` is read from a folder that
TensorFlow Datasets has prepared (`python -m experiments.prepare mnist`), without
importing TensorFlow and without touching the network.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Pixels = tuple[np.ndarray, np.ndarray]  # images [n, height, width, channel] in [0, 1], labels [n]


class Split(NamedTuple):
    """Images [n, height, width, channel] float32, labels [n] int32."""

    images: jax.Array
    labels: jax.Array


class Dataset(NamedTuple):
    """The three parts of a data set. Images are (pixel - mean) / std of the training images."""

    train: Split
    validation: Split
    test: Split
    num_classes: int
    mean: float
    std: float


def load(name: str, *, validation_fraction: float, seed: int) -> Dataset:
    """Loads a data set and holds back a validation part.

    Args:
        name: "digits" or "mnist".
        validation_fraction: share of the training images, drawn at random, in (0, 1).
        seed: of that draw. The test images are always the same.

    Raises:
        FileNotFoundError: the data set has not been prepared.
        ValueError: the prepared files cannot be read, or no such data set.
    """
    if name not in LOADERS:
        raise ValueError(f"dataset must be one of {sorted(LOADERS)}, got {name!r}")
    train, test, num_classes = LOADERS[name]()
    train_images, train_labels = train
    order = np.random.default_rng(seed).permutation(len(train_labels))
    num_validation = round(validation_fraction * len(order))
    if not 0 < num_validation < len(order):
        raise ValueError(
            f"validation_fraction must leave images on both sides of {len(order)}, got {validation_fraction!r}"
        )
    mean, std = float(train_images.mean()), float(train_images.std())

    def split(images: np.ndarray, labels: np.ndarray) -> Split:
        return Split(jnp.asarray((images - mean) / std, jnp.float32), jnp.asarray(labels, jnp.int32))

    return Dataset(
        train=split(train_images[order[num_validation:]], train_labels[order[num_validation:]]),
        validation=split(train_images[order[:num_validation]], train_labels[order[:num_validation]]),
        test=split(*test),
        num_classes=num_classes,
        mean=mean,
        std=std,
    )


def _load_digits() -> tuple[Pixels, Pixels, int]:
    """1,797 images of 8x8 pixels; 20 % are for testing, stratified, always the same."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = np.float32(images).reshape(-1, 8, 8, 1) / 16
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return (x_train, y_train), (x_test, y_test), 10


def _load_mnist() -> tuple[Pixels, Pixels, int]:
    train, test = load_tfds("mnist", ("train", "test"))
    return train, test, 10


LOADERS: dict[str, Callable[[], tuple[Pixels, Pixels, int]]] = {"digits": _load_digits, "mnist": _load_mnist}


def data_dir() -> Path:
    """The folder of prepared data sets: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def load_tfds(name: str, splits: tuple[str, ...]) -> list[Pixels]:
    """Reads splits of a prepared TFDS data set, pixels scaled to [0, 1].

    Raises:
        FileNotFoundError: there is no prepared data set (said at once, nothing is downloaded).
        ValueError: there is one and it cannot be read.
    """
    folder = data_dir() / name
    if not list(folder.glob("**/dataset_info.json")):
        raise FileNotFoundError(
            f"data set {name!r} is not prepared: looked in {folder} (TFDS_DATA_DIR="
            f"{os.environ.get('TFDS_DATA_DIR', '')!r}); prepare it with: python -m experiments.prepare {name}"
        )
    import absl.logging
    import tensorflow_datasets as tfds

    absl.logging.set_verbosity("error")  # it recommends OpenCV otherwise
    try:
        sources = tfds.data_source(name, data_dir=data_dir(), download=False)
        return [_read(sources[split]) for split in splits]
    except Exception as error:  # tfds, array_record and pillow raise whatever they like
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"data set {name!r} in {folder} cannot be read: {reason}; delete that folder and prepare it again "
            f"with: python -m experiments.prepare {name}"
        ) from error


def _read(source: Any) -> Pixels:
    records = source.__getitems__(range(len(source)))
    images = np.stack([record["image"] for record in records])
    return images.astype(np.float32) / 255, np.array([record["label"] for record in records])
