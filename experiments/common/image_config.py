"""The settings of a network that is trained, and of one that is trained on images."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from experiments.common import methods, networks
from experiments.common.config import LARGEST, MOST_EPOCHS, MOST_SEEDS, Run, check_ranges, check_resume
from experiments.common.data import DATASETS
from experiments.common.devices import Devices


@dataclass(frozen=True)
class Training(Run):
    """What all experiments that train in batches have in common."""

    method: methods.Settings = field(default_factory=methods.BayesBiNN)
    seeds: int = 1
    """Trains this many networks in one program, with seeds counted up from --seed. Each is its own run to rounding."""
    resume: bool = False
    """Continues the interrupted run in that folder, or starts where there is none."""

    epochs: int = 200
    """Sets the length of the training (of each task), in which learning rates fall to 0."""
    batch_size: int = 50
    """Sets the number of examples in a batch."""
    real_learning_rate: float = 1e-2
    """Sets the learning rate of the real parameters, which Adam trains with the same schedule."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range (the library checks its own arguments)."""
        super().__post_init__()
        check_ranges(
            self,
            (
                ("epochs", 1, MOST_EPOCHS),
                ("batch_size", 1, LARGEST),
                ("seeds", 1, min(MOST_SEEDS, 2**32 - self.seed)),
                ("real_learning_rate", 0, None),
            ),
        )
        check_resume(self)


@dataclass(frozen=True)
class Settings(Training):
    """What all experiments that train on images have in common."""

    dataset: Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(DATASETS)}}}")] = "digits"
    """Names the images: digits comes with scikit-learn, the others are read from TFDS_DATA_DIR."""
    validation_fraction: float = 0.1
    """Holds back this share of the training images."""
    train_images: int | None = None
    """Trains on no more than this many of the others."""
    eval_images: int | None = None
    """Scores no more than this many validation images, and as many test images, to save time."""
    batch_norm_images: int = 1000
    """Measures the batch-norm statistics of a network that predicts on so many images."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range (the library checks its own arguments)."""
        super().__post_init__()
        check_ranges(
            self,
            (("train_images", 1, LARGEST), ("eval_images", 1, LARGEST), ("batch_norm_images", 0, LARGEST)),
        )
        if 0 < self.batch_norm_images < 50:  # a variance needs some
            raise ValueError(f"batch_norm_images must be 0 or at least 50, got {self.batch_norm_images!r}")


@dataclass(frozen=True)
class Config(Settings):
    """Trains a binary network on images and shows what it knows and what it does not."""

    network: networks.Settings = field(default_factory=networks.MLP)
    split_seed: int | None = None
    """Seeds the split alone, so that networks hold back the same images. Default: each seed has its own."""
    stop_after_epochs: int | None = None
    """Ends early, with the schedule of the full run."""
    checkpoint_seconds: float = 60.0
    """Sets the least time between checkpoints, which are written at the ends of epochs."""
    crop_and_flip: bool = False
    """Moves and mirrors the training images at random."""
    devices: Devices = field(default_factory=Devices)

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        check_ranges(
            self,
            (
                ("stop_after_epochs", 1, self.epochs),
                ("split_seed", 0, 2**32 - 1),
                ("checkpoint_seconds", 0, None),
                ("validation_fraction", 0, 1, 0, 1),
            ),
        )
