"""What a run of continual_learning is made of: every setting, and the presets of them.

A preset is the record of an experiment: its command and numbers are in experiments/README.md.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

from experiments.common import methods
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

MethodName = Literal["bayesbinn", "ste", "bop", "bimu"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)

# Fields that only some methods read.
FIELDS: dict[str, tuple[str, ...]] = {
    "prior": ("bayesbinn",),
    "noise": ("bayesbinn", "bimu"),
    "temperature": ("bayesbinn", "bimu"),
    "final_temperature": ("bayesbinn", "bimu"),
    "num_samples": ("bayesbinn", "bimu"),
    "momentum": ("bayesbinn",),
    "kl_weight": ("bayesbinn", "bimu"),
    "train_set_factor": ("bayesbinn",),
    "later_rate_factor": ("bayesbinn", "ste", "bimu"),
    "init_scale": ("bayesbinn", "bimu"),
    "eps": ("bayesbinn", "bimu"),
    "eval_samples": ("bayesbinn", "bimu"),
    "average": ("bayesbinn", "bimu"),
    "curve_samples": ("bayesbinn", "bimu"),
    "memory_window": ("bimu",),
    "threshold": ("bop",),
}
# Fields that only some treatments of the batch norms read.
OF_BATCH_NORM: dict[str, tuple[str, ...]] = {
    "batch_norm_decay": ("shared", "per-task"),
    "batch_norm_eps": ("shared", "per-task", "reestimated", "layer"),
    "batch_norm_images": ("reestimated",),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a binary network on one task after the other and shows what it forgets."""

    preset: str = "permuted-digits"
    """Chooses where the other fields start from: permuted-digits, permuted-mnist, permuted-mnist-best,
    permuted-mnist-stream."""
    method: MethodName = "bayesbinn"
    """Chooses how the weights are trained."""
    prior: Literal["previous", "none"] = "previous"
    """Chooses the prior of a task: the posterior after the task before, or always the uniform one (bayesbinn)."""
    dataset: Literal["digits", "mnist"] = "digits"
    """Names the images whose pixels each task permutes: digits (of scikit-learn), or mnist, from TFDS_DATA_DIR."""
    seed: int = 0
    """Seeds everything random: permutations, initialization, order, samples."""
    seeds: int = 1
    """Trains this many networks in one program, with seeds counted up from --seed."""
    out: Path | None = None
    """Names the run folder. Default: a folder in runs, named after preset, method, prior and seed."""
    overwrite: bool = False
    """Replaces a run that is already in that folder."""
    resume: bool = False
    """Continues the interrupted run in that folder after its last finished task, or starts where there is none."""
    beside: Path | None = None
    """Names the folder of a finished run that the figure shows next to this one: the same without the prior, say."""

    tasks: int = 5
    """Sets how many tasks are learned, one after the other."""
    epochs: int = 50
    """Sets the epochs of each task, in which the learning rate falls from its start to 0."""
    stop_after_tasks: int | None = None
    """Ends early; --resume goes on."""
    batch_size: int = 50
    """Sets the number of images in a batch."""
    train_images: int | None = None
    """Trains on no more than this many images."""
    validation_fraction: float = 0.0
    """Holds back this share of the training images in place of the test images, to choose settings by."""
    eval_images: int | None = None
    """Tests on no more than this many images of each task, to save time."""
    eval_samples: int = 50
    """Draws this many networks from the posterior for the mean prediction (bayesbinn, bimu)."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """Chooses what the mean prediction averages; the paper's authors average logits."""
    curve_points: int = 10
    """Tests every task so far at so many times in each task, for the figure."""
    curve_samples: int = 10
    """Draws so many networks for the mean prediction of the figure (bayesbinn, bimu); tables have --eval-samples."""

    hidden: tuple[int, ...] = (100, 100)
    """Sets the width of each hidden dense layer."""
    batch_norm: Literal["shared", "per-task", "reestimated", "none", "layer"] = "shared"
    """Chooses the statistics at test time: those of the last training batches for all tasks (shared); those that each
    task's training ended with (per-task); those of a task, measured on --batch-norm-images of it (reestimated). With
    none and layer there is no batch norm: nothing takes its place, or layer norms do."""
    batch_norm_decay: float = 0.85
    """Sets how slowly the running statistics of batch norms change: this much of them stays in a step."""
    batch_norm_eps: float = 1e-4
    """Is added to the variance in norms."""
    batch_norm_images: int = 1000
    """Measures the statistics on so many images of a task, without their labels (reestimated)."""
    output_scale: bool = False
    """Multiplies the logits by a trained real number."""

    learning_rate: float = 1e-3
    """Sets the learning rate of the weights at the start of each task; for bop the gamma, for bimu the largest step."""
    later_rate_factor: float = 1.0
    """Multiplies the steps of the binary weights from the second task on."""
    real_learning_rate: float = 1e-2
    """Sets the learning rate of the real parameters, which Adam trains with the same schedule."""
    noise: Literal["weights", "activations"] = "weights"
    """Chooses what is random in a step (bayesbinn, bimu): relaxed weights, or activations of like mean and variance."""
    temperature: float = 1e-2
    """Sets the temperature of the relaxed samples (bayesbinn, bimu; noise of weights)."""
    final_temperature: float | None = None
    """Sets the temperature at the end of a task, reached geometrically epoch by epoch. Default: that at its start."""
    num_samples: int = 1
    """Draws so many relaxed samples in a step (bayesbinn, bimu); 0 trains at the expectation."""
    momentum: float = 0.0
    """Averages the steps of the learning rule with this momentum (bayesbinn)."""
    kl_weight: float = 1.0
    """Weighs the KL term (bayesbinn; 1 is Bayes), or the prior (bimu)."""
    train_set_factor: float = 1.0
    """Says how many times its training images the data set counts for (bayesbinn)."""
    init_scale: float = 10.0
    """Sets the size of the natural parameters at the start (bayesbinn, bimu)."""
    eps: float = 1e-10
    """Is added in the relaxed samples and in the Fisher information (bayesbinn, bimu)."""
    memory_window: float = 60_000.0
    """Sets the steps after which an unsure weight has forgotten; the surer it is, the slower it forgets (bimu)."""
    threshold: float = 1e-8
    """Sets the average gradient above which a weight flips (bop)."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range (the library checks its own arguments)."""
        check_ranges(
            self,
            (
                ("tasks", 1, 10_000),
                ("epochs", 1, MOST_EPOCHS),
                ("stop_after_tasks", 1, self.tasks),
                ("batch_size", 1, LARGEST),
                ("train_images", 1, LARGEST),
                ("eval_images", 1, LARGEST),
                ("eval_samples", 1, MOST_EVAL_SAMPLES),
                ("num_samples", 0, MOST_SAMPLES),
                ("curve_points", 1, 10_000),
                ("curve_samples", 1, MOST_EVAL_SAMPLES),
                ("seed", 0, 2**32 - 1),
                ("seeds", 1, min(MOST_SEEDS, 2**32 - self.seed)),
                ("batch_norm_decay", *BELOW_ONE),
                ("batch_norm_eps", 0, None),
                ("batch_norm_images", 50, LARGEST),  # a variance needs some
                ("learning_rate", 0, None),
                ("later_rate_factor", 0, None),
                ("real_learning_rate", 0, None),
                ("train_set_factor", 0, 1e6),
                ("init_scale", 0, None),
                ("momentum", *BELOW_ONE),
                ("final_temperature", 0, None, 0),
                ("validation_fraction", *BELOW_ONE),
            ),
        )
        check_widths(self, "hidden")
        if self.overwrite and self.resume:
            raise ValueError("resume must not be given together with overwrite, got both")


def permuted_digits(method: str) -> Config:
    """1,437 images of 8x8 pixels, half a minute on a CPU, nothing to download."""
    config = Config(
        preset="permuted-digits",
        dataset="digits",
        tasks=5,
        epochs=50,
        batch_size=50,
        eval_samples=50,
        batch_norm="none",
        output_scale=True,
        learning_rate=1e-2,
        noise="activations",
        kl_weight=0.2,
        init_scale=1.0,
    )
    return _with_method(config, method, bop={"learning_rate": 1e-2, "threshold": 1e-3})


def permuted_mnist(method: str) -> Config:
    """The paper's setting (arXiv 2002.10778, section 4.3, and its authors' program)."""
    config = Config(
        preset="permuted-mnist",
        dataset="mnist",
        tasks=5,
        epochs=100,
        batch_size=100,
        eval_samples=100,
        batch_norm="shared",
        batch_norm_decay=0.85,
        output_scale=False,
        learning_rate=1e-3,
        temperature=1e-2,
        num_samples=1,
        kl_weight=1.0,
        init_scale=10.0,
    )
    return _with_method(config, method, bop={"learning_rate": 1e-4})


def permuted_mnist_best(method: str) -> Config:
    """Noise of activations, and layer norms, which have no statistics to forget."""
    config = dataclasses.replace(permuted_mnist(method), preset="permuted-mnist-best", batch_norm="layer")
    return _with_uncertainty(config, init_scale=3.0)


def permuted_mnist_stream(method: str) -> Config:
    """A hundred tasks, each image seen once."""
    config = dataclasses.replace(
        _with_uncertainty(permuted_mnist_best(method), init_scale=1.0),
        preset="permuted-mnist-stream",
        tasks=100,
        epochs=1,
        eval_images=300,
        eval_samples=10,
        curve_points=1,
    )
    changes: dict[str, dict[str, Any]] = {
        "bayesbinn": {"learning_rate": 1e-2, "train_set_factor": 0.1},
        "ste": {"learning_rate": 1e-3},
        "bop": {},
        "bimu": {"noise": "activations", "learning_rate": 1000.0, "memory_window": 3000.0},
    }
    return dataclasses.replace(config, **changes[method])


def _with_uncertainty(config: Config, init_scale: float) -> Config:
    """With noise of activations, and a start closer to a fair coin (bayesbinn)."""
    if config.method != "bayesbinn":
        return config
    return dataclasses.replace(config, noise="activations", init_scale=init_scale)


def _with_method(config: Config, method: str, bop: dict[str, float]) -> Config:
    """The config for another method, with its settings."""
    changes: dict[str, dict[str, float]] = {
        "bayesbinn": {},
        "ste": {"learning_rate": 1e-2},
        "bop": bop,
        "bimu": {"learning_rate": 1.0, "kl_weight": 1.0, "temperature": 1.0, "init_scale": 1.0},
    }
    return dataclasses.replace(config, method=method, **changes[method])  # type: ignore[arg-type]


def check_fields(config: Config) -> None:
    """Raises ValueError for a field that differs from the preset and that the run would ignore."""
    preset = PRESETS[config.preset](config.method)
    methods.check_fields(config, preset, FIELDS)
    for name, treatments in OF_BATCH_NORM.items():
        value = getattr(config, name)
        if value != getattr(preset, name) and config.batch_norm not in treatments:
            of = " or ".join(treatments)
            raise ValueError(f"{name} is of --batch-norm {of}, got {value!r} with --batch-norm {config.batch_norm}")


PRESETS = {
    "permuted-digits": permuted_digits,
    "permuted-mnist": permuted_mnist,
    "permuted-mnist-best": permuted_mnist_best,
    "permuted-mnist-stream": permuted_mnist_stream,
}
