"""What a run of image_classification is made of: every setting, and the presets of them.

A preset is the record of an experiment: its command and numbers are in experiments/README.md.
"""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from experiments.common.ranges import (
    BELOW_ONE,
    LARGEST,
    MOST_EPOCHS,
    MOST_EVAL_SAMPLES,
    MOST_SAMPLES,
    MOST_SEEDS,
    check_ranges,
    check_widths,
)

MethodName = Literal["bayesbinn", "ste", "bop", "pmf", "full_precision"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a binary network on images and shows what it knows and what it does not."""

    preset: str = "digits"
    """Chooses where the other fields start from: digits, mnist, cifar10, cifar100, some also with -short or -bayes."""
    method: MethodName = "bayesbinn"
    """Chooses how the weights are trained."""
    dataset: Literal["digits", "mnist", "cifar10", "cifar100"] = "digits"
    """Names the images: digits comes with scikit-learn, the others are read from TFDS_DATA_DIR."""
    seed: int = 0
    """Seeds everything random: split, initialization, order, samples."""
    seeds: int = 1
    """Trains this many networks in one program, with seeds counted up from --seed. Each is its own run to rounding."""
    split_seed: int | None = None
    """Seeds the split alone, so that networks hold back the same images. Default: each seed has its own."""
    out: Path | None = None
    """Names the run folder. Default: runs/image_classification-PRESET-METHOD-SEED."""
    overwrite: bool = False
    """Replaces a run that is already in that folder."""
    resume: bool = False
    """Continues the interrupted run in that folder, or starts where there is none."""
    checkpoint_seconds: float = 60.0
    """Sets the least time between checkpoints, which are written at the ends of epochs."""

    data_parallel: int = 1
    """Divides each batch over this many devices."""
    sample_parallel: int = 1
    """Divides the relaxed samples of a step over this many devices, for each part of the batch (bayesbinn)."""
    distributed: bool = False
    """Says that this is one of several processes of a run, which JAX finds by itself on Slurm and TPU pods."""
    coordinator_address: str | None = None
    """Gives HOST:PORT of the first of several processes, where JAX cannot find it."""
    num_processes: int | None = None
    """Says how many processes there are, where JAX cannot find out."""
    process_id: int | None = None
    """Says which of them this is, counted from 0, where JAX cannot find out."""

    epochs: int = 200
    """Sets the length of the training and of the learning-rate schedule, a cosine to 0."""
    stop_after_epochs: int | None = None
    """Ends early, with the schedule of the full run."""
    batch_size: int = 50
    """Sets the number of images in a batch."""
    validation_fraction: float = 0.1
    """Holds back this share of the training images."""
    train_images: int | None = None
    """Trains on no more than this many of the others."""
    eval_images: int | None = None
    """Scores no more than this many validation images, and as many test images, to save time."""
    crop_and_flip: bool = False
    """Moves and mirrors the training images at random."""
    eval_samples: int = 50
    """Draws this many networks from the posterior for the mean prediction (bayesbinn)."""

    network: Literal["mlp", "vgg"] = "mlp"
    """Chooses dense layers (mlp), or convolutions before them (vgg)."""
    channels: tuple[int, ...] = (128, 256, 512)
    """Sets the width of each pair of convolutions (vgg)."""
    hidden: tuple[int, ...] = (512, 512)
    """Sets the width of each hidden dense layer."""
    dropout: float = 0.0
    """Drops this share of the inputs of each dense layer in training."""
    batch_norm_decay: float = 0.98
    """Sets how slowly the running statistics of batch norms change: this much of them stays in a step."""
    batch_norm_eps: float = 1e-4
    """Is added to the variance in batch norms."""
    batch_norm_gain: bool = False
    """Gives batch norms a trained real gain and bias."""
    batch_norm_images: int = 1000
    """Measures the batch-norm statistics of a network that predicts on so many images; 0 keeps the running ones."""
    output_scale: bool = True
    """Multiplies the logits by a trained real number."""

    learning_rate: float = 1e-4
    """Sets the learning rate of the weights at the start of the schedule; for bop it is the gamma."""
    real_learning_rate: float = 1e-2
    """Sets the learning rate of the real parameters, which Adam trains with the same schedule."""
    noise: Literal["weights", "activations"] = "weights"
    """Chooses what is random in a step (bayesbinn): relaxed weights, or activations of the same mean and variance."""
    temperature: float = 1e-10
    """Sets the temperature of the relaxed samples (bayesbinn, noise of weights)."""
    num_samples: int = 1
    """Draws so many relaxed samples in a step (bayesbinn); 0 trains at the expectation."""
    momentum: float = 0.0
    """Averages the steps of the learning rule with this momentum (bayesbinn)."""
    kl_weight: float = 1.0
    """Weighs the KL term, and so the prior (bayesbinn); 1 is Bayes."""
    train_set_factor: float = 1.0
    """Says how many times its training images the data set counts for (bayesbinn): more with random crops."""
    init_scale: float = 20.0
    """Sets the size of the natural parameters at the start (bayesbinn)."""
    threshold: float = 1e-8
    """Sets the average gradient above which a weight flips (bop)."""
    final_beta: float = 1000.0
    """Sets the sharpness that the tanh, which starts with 1, has at the end of the schedule (pmf)."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range (the library checks its own arguments)."""
        check_ranges(
            self,
            (
                ("epochs", 1, MOST_EPOCHS),
                ("stop_after_epochs", 1, self.epochs),
                ("batch_size", 1, LARGEST),
                ("eval_samples", 1, MOST_EVAL_SAMPLES),
                ("num_samples", 0, MOST_SAMPLES),
                ("train_images", 1, LARGEST),
                ("eval_images", 1, LARGEST),
                ("batch_norm_images", 0, LARGEST),
                ("seed", 0, 2**32 - 1),
                ("split_seed", 0, 2**32 - 1),
                ("seeds", 1, min(MOST_SEEDS, 2**32 - self.seed)),
                ("checkpoint_seconds", 0, None),
                ("data_parallel", 1, LARGEST),
                ("sample_parallel", 1, LARGEST),
                ("num_processes", 1, LARGEST),
                ("process_id", 0, LARGEST),
                ("train_set_factor", 1, 1e6),
                ("batch_norm_eps", 0, None),
                ("final_beta", 1, None),
                ("learning_rate", 0, None),
                ("real_learning_rate", 0, None),
                ("init_scale", 0, None),
                ("batch_norm_decay", *BELOW_ONE),
                ("dropout", *BELOW_ONE),
                ("momentum", *BELOW_ONE),
                ("validation_fraction", 0, 1, 0, 1),
            ),
        )
        if 0 < self.batch_norm_images < 50:  # a variance needs some
            raise ValueError(f"batch_norm_images must be 0 or at least 50, got {self.batch_norm_images!r}")
        check_widths(self, "hidden")
        check_widths(self, "channels")
        if self.overwrite and self.resume:
            raise ValueError("resume must not be given together with overwrite, got both")


def digits(method: str) -> Config:
    """1,797 images of 8x8 pixels, seconds on a CPU, nothing to download; the paper's way: the posterior saturates."""
    config = Config(
        preset="digits",
        dataset="digits",
        epochs=200,
        batch_size=50,
        eval_samples=50,
        hidden=(512, 512),
        dropout=0.0,
        batch_norm_decay=0.98,
        batch_norm_images=1000,
        output_scale=True,
        learning_rate=1e-4,
        temperature=1e-10,
        kl_weight=1.0,
        init_scale=20.0,
    )
    return _with_method(config, method, {"bop": 1e-2})


def digits_bayes(method: str) -> Config:
    """The same with a posterior whose weights stay undecided: it keeps its uncertainty."""
    config = dataclasses.replace(digits(method), preset="digits-bayes")
    return _with_uncertainty(config, learning_rate=1.0, kl_weight=0.001)


def mnist(method: str) -> Config:
    """The paper's setting (arXiv 2002.10778, table 10): the posterior saturates in one step."""
    config = Config(
        preset="mnist",
        dataset="mnist",
        epochs=500,
        batch_size=100,
        eval_samples=10,
        hidden=(2048, 2048, 2048),
        dropout=0.2,
        batch_norm_decay=0.85,
        batch_norm_images=0,
        output_scale=False,
        learning_rate=1e-4,
        temperature=1e-10,
        kl_weight=1.0,
        # The authors start at 10, where tanh is 1 in float32 and their Fisher information 0. It is 8e-9 without that
        # cancellation, and would shorten the first step 80 times. At 20 it is far below eps, as it was for them.
        init_scale=20.0,
        threshold=1e-8,
    )
    return _with_method(config, method, {"bop": 1e-5})


def cifar10(method: str) -> Config:
    """The paper's setting, with its VGG-like network."""
    config = Config(
        preset="cifar10",
        dataset="cifar10",
        epochs=500,
        batch_size=50,
        eval_samples=10,
        crop_and_flip=True,
        network="vgg",
        channels=(128, 256, 512),
        hidden=(1024, 1024),
        batch_norm_decay=0.8,
        batch_norm_eps=1e-5,
        batch_norm_images=0,
        output_scale=False,
        learning_rate=3e-4,
        temperature=1e-10,
        kl_weight=1.0,
        train_set_factor=10.0,
        init_scale=20.0,
        threshold=1e-8,
    )
    return _with_method(config, method, {"bop": 1e-4})


def cifar100(method: str) -> Config:
    """The paper's setting: that of CIFAR-10 but for the temperature, and Bop's threshold."""
    return dataclasses.replace(cifar10(method), preset="cifar100", dataset="cifar100", temperature=1e-8, threshold=1e-9)


def _with_uncertainty(config: Config, learning_rate: float, kl_weight: float) -> Config:
    """With noise of activations and a little pull to the prior: the posterior does not saturate (bayesbinn)."""
    if config.method != "bayesbinn":
        return config
    return dataclasses.replace(
        config, noise="activations", learning_rate=learning_rate, temperature=1.0, kl_weight=kl_weight, init_scale=3.0
    )


def _with_method(config: Config, method: str, learning_rates: dict[str, float]) -> Config:
    """The config for another method, with its learning rate."""
    defaults = {"bayesbinn": config.learning_rate, "ste": 1e-2, "pmf": 1e-3, "full_precision": 1e-3}
    rate = (defaults | learning_rates)[method]
    return dataclasses.replace(config, method=method, learning_rate=rate)  # type: ignore[arg-type]


def mnist_short(method: str) -> Config:
    """The paper's setting in 20 epochs, with a rate for Bop that averages over no more than them."""
    config = dataclasses.replace(mnist(method), preset="mnist-short", epochs=20)
    return dataclasses.replace(config, learning_rate=1e-4) if method == "bop" else config


def mnist_bayes(method: str) -> Config:
    """Half as wide, with an output scale, batch norms set anew and no dropout; the posterior keeps its uncertainty."""
    config = dataclasses.replace(
        mnist_short(method),
        preset="mnist-bayes",
        hidden=(1024, 1024, 1024),
        dropout=0.0,
        output_scale=True,
        batch_norm_images=5000,
        eval_samples=30,
    )
    return _with_uncertainty(config, learning_rate=0.1, kl_weight=0.01)


def cifar10_short(method: str) -> Config:
    """The paper's setting in 50 epochs."""
    return dataclasses.replace(cifar10(method), preset="cifar10-short", epochs=50)


def cifar100_short(method: str) -> Config:
    """The paper's setting in 50 epochs."""
    return dataclasses.replace(cifar100(method), preset="cifar100-short", epochs=50)


PRESETS = {
    "digits": digits,
    "digits-bayes": digits_bayes,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "mnist-short": mnist_short,
    "mnist-bayes": mnist_bayes,
    "cifar10-short": cifar10_short,
    "cifar100-short": cifar100_short,
}
