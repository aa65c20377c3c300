"""What a run is made of: every setting, and the presets of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import numpy as np
import tyro

from experiments.common import networks
from experiments.common.config import (
    LARGEST,
    MOST_EPOCHS,
    MOST_EVAL_SAMPLES,
    MOST_SEEDS,
    Run,
    check_ranges,
    check_resume,
)
from experiments.common.data import DATASETS
from experiments.learning_rates.rules import Name

# Of arXiv 2605.20009; the claim is (1 - sqrt(2) p)^2 and sqrt(2) p for p = (sqrt(5) - 1) / 2, 0.01587 and 0.87403.
RATES = (1e-4, 1e-3, 0.01, 0.016, 0.1, 0.2)
MOMENTA = (0.0, 0.2, 0.4, 0.6, 0.8, 0.825, 0.85, 0.874, 0.9, 0.925)
CLAIMED = (0.016, 0.874)
METHODS: tuple[Name, ...] = ("sgd", "ste", "bayesbinn", "bayesbinn_heavy_ball")
MOST_CELLS = 10_000


@dataclass(frozen=True)
class Config(Run):
    """Trains a network at every pair of a rate and a momentum, and shows where the claimed pair stands."""

    methods: tuple[Name, ...] = METHODS
    """Chooses how weights are trained, each method on the whole grid."""
    rates: tuple[float, ...] = RATES
    """Sets the rates of the grid, which do not fall in training."""
    momenta: tuple[float, ...] = MOMENTA
    """Sets the momenta of the grid."""
    seeds: int = 3
    """Repeats the grid with so many seeds, counted up from --seed."""
    resume: bool = False
    """Continues the interrupted run in that folder, or starts where there is none."""
    cells_at_once: int = 10
    """Trains so many cells at once; memory grows with it, and rounding differs, which a high rate amplifies."""

    dataset: Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(DATASETS)}}}")] = "digits"
    """Names the images: digits comes with scikit-learn, the others are read from TFDS_DATA_DIR."""
    validation_fraction: float = 0.2
    """Holds back this share of the training images, on which cells are judged."""
    train_images: int | None = None
    """Trains on no more than this many of the others."""
    eval_images: int | None = None
    """Scores no more than this many of the images held back, to save time."""
    network: networks.Settings = field(default_factory=partial(networks.MLP, hidden=(64,), norm="none"))
    epochs: int = 100
    """Sets the length of the training."""
    batch_size: int = 64
    """Sets the number of images in a batch."""
    kl_weight: float = 0.01
    """Weighs the KL term of the learning rule, and so the prior; 1 is Bayes."""
    init_scale: float = 1.0
    """Sets the size of the natural parameters of the learning rule at the start."""
    eval_samples: int = 10
    """Draws this many networks from the posterior for the mean prediction."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range (the library checks its own arguments)."""
        super().__post_init__()
        check_ranges(
            self,
            (
                ("seeds", 1, min(MOST_SEEDS, 2**32 - self.seed)),
                ("cells_at_once", 1, MOST_CELLS),
                ("validation_fraction", 0, 1, 0, 1),
                ("train_images", 1, LARGEST),
                ("eval_images", 1, LARGEST),
                ("epochs", 1, MOST_EPOCHS),
                ("batch_size", 1, LARGEST),
                ("kl_weight", 0, None),
                ("init_scale", 0, None),
                ("eval_samples", 1, MOST_EVAL_SAMPLES),
            ),
        )
        check_resume(self)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods must be one or more, each once, got {self.methods!r}")
        _check_axis("rates", self.rates, "above 0 and at most 1e30", lambda x: 1e-38 < x <= 1e30)
        _check_axis(
            "momenta", self.momenta, "at least 0 and, in float32, below 1", lambda x: 0 <= float(np.float32(x)) < 1
        )
        if len(self.rates) * len(self.momenta) > MOST_CELLS:
            shape = f"{len(self.rates)} x {len(self.momenta)}"
            raise ValueError(f"rates and momenta must make a grid of at most {MOST_CELLS} cells, got {shape}")


def _check_axis(name: str, values: tuple[float, ...], wanted: str, accepted: Callable[[float], bool]) -> None:
    """Raises ValueError unless an axis of the grid has different numbers, all of them accepted."""
    if not values or len(set(values)) < len(values) or not all(map(accepted, values)):
        raise ValueError(f"{name} must be different numbers {wanted}, got {values!r}")


def quick() -> Config:
    """A short training of one seed: to see that it runs."""
    return Config(preset="quick", seeds=1, epochs=5)


def mnist() -> Config:
    """5,000 images and as many to judge by: what one core does in minutes."""
    return Config(preset="mnist", dataset="mnist", train_images=5000, eval_images=5000, epochs=10)


def mnist_cnn() -> Config:
    """SGD on the network that the claim was tested on, in a training that is far shorter."""
    return Config(
        preset="mnist-cnn",
        dataset="mnist",
        methods=("sgd",),
        network=networks.CNN(norm="none", dropout=0.25),
        train_images=1000,
        eval_images=1000,
        epochs=5,
        cells_at_once=1,
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "digits": partial(Config, preset="digits"),
    "quick": quick,
    "mnist": mnist,
    "mnist-cnn": mnist_cnn,
}
