"""What a run of continual_learning is made of: every setting, and the presets of them.

A preset is the record of an experiment: its command and numbers are in RESULTS.md.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import tyro

from experiments.common import image_config, methods
from experiments.common.config import BELOW_ONE, check_ranges
from experiments.common.data import DATASETS
from experiments.common.methods import Activations, Weights, choose
from experiments.common.networks import MLP

SPLIT = {f"split-{name}": name for name in DATASETS}  # two labels a task


@dataclass(frozen=True)
class Chained(methods.BayesBiNN):
    """The Bayesian learning rule, with yesterday's posterior as today's prior."""

    prior: Literal["previous", "none"] = "previous"
    """Chooses the prior of a task: the posterior after the task before, or always the uniform one."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """Chooses what the mean prediction averages; the paper's authors average logits."""


@dataclass(frozen=True)
class ChainedBiMU(methods.BiMU):
    """Metaplasticity, which forgets, or keeps what was known before a task where the prior says so."""

    prior: Literal["previous", "none"] = "none"
    """Chooses what is left when a window is over: the posterior after the task before, or nothing."""


@dataclass(frozen=True)
class CBLN(methods.BayesBiNN):
    """The Bayesian learning rule from the same start in each task, whose posterior is then stored: see `stored`."""

    name: Annotated[str, methods.OF_METHOD] = "cbln"
    label: ClassVar[str] = "stored posteriors (CBLN)"
    color: ClassVar[str] = "#56b4e9"
    share_below: float = 0.01
    """Says up to which KL divergence from a stored posterior, in nats, a weight shares that one; 0: where they are
    equal."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        check_ranges(self, (("share_below", 0, None),))
        if self.eval_samples < 2:  # one network contradicts nobody: its mutual information is 0 on every image
            raise ValueError(f"eval_samples must be at least 2 with --method cbln, got {self.eval_samples!r}")


Methods = methods.Settings | Chained | ChainedBiMU | CBLN  # the last one of a name is taken
METHODS: dict[str, Any] = {kind.name: kind for kind in get_args(Methods)}
_method = partial(choose, METHODS)


@dataclass(frozen=True)
class Config(image_config.Settings):
    """Trains a binary network on one task after the other and shows what it forgets."""

    method: Methods = field(default_factory=Chained)
    dataset: Annotated[str, tyro.conf.arg(metavar=f"{{{','.join((*DATASETS, *SPLIT))}}}")] = "digits"
    """Names the images: digits comes with scikit-learn, the others are read from TFDS_DATA_DIR. A task is all of them
    with their pixels in another order; of split-digits and so on it is the images of two labels."""
    beside: Path | None = None
    """Names the folder of a finished run that the figure shows next to this one: the same without the prior, say."""
    tasks: int = 5
    """Sets how many tasks are learned, one after the other."""
    stop_after_tasks: int | None = None
    """Ends early; --resume goes on."""
    validation_fraction: float = 0.0
    """Holds back this share of the training images in place of the test images, to choose settings by."""
    curve_points: int = 10
    """Tests every task so far at so many times in each task, for the figure."""
    network: MLP = field(default_factory=MLP)
    batch_norm: Literal["shared", "per-task", "reestimated", "none", "layer"] = "shared"
    """Chooses the statistics at test time: those of the last training batches for all tasks (shared); those that each
    task's training ended with (per-task); those of a task, measured on --batch-norm-images of it (reestimated). With
    none and layer there is no batch norm: nothing takes its place, or layer norms do."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range, or one that the treatment of batch norms ignores."""
        super().__post_init__()
        check_ranges(
            self,
            (
                ("tasks", 1, 10_000),
                ("stop_after_tasks", 1, self.tasks),
                ("curve_points", 1, 10_000),
                ("validation_fraction", *BELOW_ONE),
                ("batch_norm_images", 50, 2**31 - 1),
            ),
        )
        if self.dataset not in (*DATASETS, *SPLIT):
            raise ValueError(f"dataset must be one of {', '.join((*DATASETS, *SPLIT))}, got {self.dataset!r}")
        if isinstance(self.method, CBLN) and self.batch_norm in ("shared", "reestimated"):
            raise ValueError(f"batch_norm must be per-task, none or layer with --method cbln, got {self.batch_norm!r}")
        for name, of, treatments in (
            ("batch_norm_decay", self.network, ("shared", "per-task")),
            ("batch_norm_eps", self.network, ("shared", "per-task", "reestimated", "layer")),
            ("batch_norm_images", self, ("reestimated",)),
        ):
            value = getattr(of, name)
            if value != getattr(type(of), name) and self.batch_norm not in treatments:
                treatment = f"--batch-norm {' or '.join(treatments)}"
                raise ValueError(f"{name} is of {treatment}, got {value!r} with --batch-norm {self.batch_norm}")


def permuted_digits(method: str) -> Config:
    """1,437 images of 8x8 pixels, half a minute on a CPU, nothing to download."""
    undecided = {"noise": Activations(), "learning_rate": 1e-2, "kl_weight": 0.2, "init_scale": 1.0}
    bop = {"gamma": 1e-2, "threshold": 1e-3}
    return Config(
        preset="permuted-digits",
        dataset="digits",
        method=_method(method, bayesbinn=undecided, cbln=undecided, bop=bop, bimu={"noise": Activations()}),
        tasks=5,
        epochs=50,
        batch_size=50,
        network=MLP(hidden=(100, 100), output_scale=True),
        batch_norm="none",
    )


def permuted_mnist(method: str) -> Config:
    """The paper's setting (arXiv 2002.10778, section 4.3, and its authors' program)."""
    posterior = {"noise": Weights(temperature=1e-2), "learning_rate": 1e-3, "init_scale": 10.0, "eval_samples": 100}
    return Config(
        preset="permuted-mnist",
        dataset="mnist",
        method=_method(method, bayesbinn=posterior, cbln=posterior, bimu={"eval_samples": 100}),
        tasks=5,
        epochs=100,
        batch_size=100,
        network=MLP(hidden=(100, 100)),
        batch_norm="per-task" if method == "cbln" else "shared",
    )


def permuted_mnist_best(method: str) -> Config:
    """Noise of activations, and layer norms, which have no statistics to forget."""
    posterior = {"noise": Activations(), "learning_rate": 1e-3, "init_scale": 3.0, "eval_samples": 100}
    few = {**posterior, "eval_samples": 20}  # of each posterior on each task
    best = _method(method, bayesbinn=posterior, cbln=few, bimu={"eval_samples": 100})
    return dataclasses.replace(permuted_mnist(method), preset="permuted-mnist-best", batch_norm="layer", method=best)


def permuted_mnist_wide(method: str) -> Config:
    """Ten tasks and 477,600 weights; of `--method bimu`, with yesterday's posterior as the prior of its window."""
    undecided = {"noise": Activations(), "init_scale": 1.0, "eval_samples": 10}
    chained = {**undecided, "learning_rate": 1e-3, "train_set_factor": 3.0}
    sure = {"max_step": 1000.0, "memory_window": 1000.0, "likelihood_weight": 3.0, "prior": "previous"}
    return dataclasses.replace(
        permuted_mnist_best(method),
        preset="permuted-mnist-wide",
        method=_method(method, bayesbinn=chained, cbln=chained, bimu={**undecided, **sure}),
        network=MLP(hidden=(400, 400), output_scale=True),
        tasks=10,
        epochs=5,
        eval_images=2000,
        curve_points=1,
    )


def permuted_mnist_stream(method: str) -> Config:
    """A hundred tasks, each image seen once."""
    undecided = {"noise": Activations(), "eval_samples": 10}
    of_stream = _method(
        method,
        bayesbinn={**undecided, "learning_rate": 1e-2, "train_set_factor": 0.1, "init_scale": 1.0},
        ste={"learning_rate": 1e-3},
        bimu={**undecided, "max_step": 1000.0, "memory_window": 3000.0},
    )
    return dataclasses.replace(
        permuted_mnist_best(method),
        preset="permuted-mnist-stream",
        method=of_stream,
        tasks=100,
        epochs=1,
        eval_images=300,
        curve_points=1,
    )


def split_digits(method: str) -> Config:
    """Two labels a task, 283 training images of 8x8 pixels, and one softmax over all ten; seconds on a CPU."""
    return dataclasses.replace(permuted_digits(method), preset="split-digits", dataset="split-digits")


def split_mnist(method: str) -> Config:
    """Two labels a task, and one softmax over all ten."""
    return dataclasses.replace(permuted_mnist_best(method), preset="split-mnist", dataset="split-mnist", epochs=20)


def quick(method: str) -> Config:
    """Three tasks, some seconds."""
    return dataclasses.replace(permuted_digits(method), preset="quick", tasks=3, epochs=20, curve_points=2)


PRESETS: dict[str, Callable[[str], Config]] = {
    "permuted-digits": permuted_digits,
    "permuted-mnist": permuted_mnist,
    "permuted-mnist-best": permuted_mnist_best,
    "permuted-mnist-wide": permuted_mnist_wide,
    "permuted-mnist-stream": permuted_mnist_stream,
    "split-digits": split_digits,
    "split-mnist": split_mnist,
    "quick": quick,
}
