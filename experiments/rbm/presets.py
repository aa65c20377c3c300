"""What a run of Boltzmann machines is made of: every setting, and the presets of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from experiments.common.config import (
    LARGEST,
    MOST_EVAL_SAMPLES,
    MOST_SAMPLES,
    MOST_SEEDS,
    Run,
    check_ranges,
    check_resume,
)
from experiments.rbm.machine import MOST_EXACT

MethodName = Literal["bayesbinn", "clipped_mean", "ste", "real_sign", "message_passing"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
# What tables and figures call them, and their colours; exact Bayes is what they are measured against.
LABELS = {
    "bayesbinn": ("learning rule", "#0072b2"),
    "message_passing": ("rule, message passing", "#56b4e9"),
    "clipped_mean": ("clipped mean (Huang)", "#e69f00"),
    "ste": ("STE", "#d55e00"),
    "real_sign": ("signs of real weights", "#000000"),
    "bayes": ("exact Bayes (Gibbs)", "#009e73"),
}


@dataclass(frozen=True)
class Config(Run):
    """Trains restricted Boltzmann machines whose weights are binary, on data of planted machines or on images."""

    resume: bool = False
    """Continues the interrupted run in that folder, or starts where there is none."""
    data: Literal["planted", "digits", "mnist"] = "planted"
    """Chooses what the machines learn: examples of planted machines, or black and white images."""
    methods: tuple[MethodName, ...] = METHODS
    """Names the methods that are compared."""
    seeds: int = 20
    """Sets the number of planted machines at each point, or of runs on images, with seeds counted up from --seed."""
    hidden_units: tuple[int, ...] = (1, 2, 3)
    """Sets the numbers of hidden units: planted machines of each, and of images one."""
    visible_units: int = 100
    """Sets the number of visible units of planted machines; those of images are pixels."""
    alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0)
    """Sets the numbers of examples for each visible unit of planted machines."""
    test_examples: int = 500
    """Draws so many other examples of a planted machine to test on."""
    oracle: bool = True
    """Runs exact Bayes beside the methods, by Gibbs sampling of the weights."""

    steps: int = 250
    """Sets the length of the training, in which the rates of the learning rule fall to 0."""
    learning_rate: float = 0.2
    """Sets the learning rate of the learning rule, which at 1 would forget in every step what it knew."""
    temperature: float = 0.1
    """Sets the temperature of the relaxed samples."""
    num_samples: int = 4
    """Draws so many relaxed samples in a step; 0 trains at the expectation, the mean field."""
    kl_weight: float = 1.3
    """Weighs the KL term of the learning rule; above 1 it makes up for taking weights to be independent."""
    init_scale: float = 0.1
    """Sets the size of the natural parameters at the start."""
    mean_learning_rate: float = 0.4
    """Sets the learning rate of Adam on the clipped means."""
    weight_learning_rate: float = 0.02
    """Sets the learning rate of Adam on latent weights (ste) and on real ones (real_sign)."""
    eval_samples: int = 50
    """Draws so many machines from a posterior, whose likelihoods are averaged."""

    biases: bool = True
    """Gives machines of images real biases, a learned scale of all weights and a centre."""
    scale: float = 1.0
    """Sets the scale of all weights at the start (images)."""
    real_learning_rate: float = 0.01
    """Sets the learning rate of Adam on biases and scale (images)."""
    batch_size: int = 100
    """Sets the number of images in a batch (mnist)."""
    chains: int = 100
    """Sets the number of chains that are carried from step to step (mnist)."""
    sweeps: int = 1
    """Sets how often the chains sample all units in a step (mnist)."""
    train_images: int = 10_000
    """Trains on no more than this many images (mnist)."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        check_ranges(
            self,
            (
                ("seeds", 1, min(MOST_SEEDS, 2**32 - self.seed)),
                ("visible_units", 2, 10_000),
                ("test_examples", 1, LARGEST),
                ("steps", 1, LARGEST),
                ("learning_rate", 0, 1),
                ("temperature", 0, None, 0),
                ("num_samples", 0, MOST_SAMPLES),
                ("kl_weight", 0, None),
                ("init_scale", 0, None),
                ("mean_learning_rate", 0, None),
                ("weight_learning_rate", 0, None),
                ("eval_samples", 1, MOST_EVAL_SAMPLES),
                ("scale", 0, None),
                ("real_learning_rate", 0, None),
                ("batch_size", 1, LARGEST),
                ("chains", 1, LARGEST),
                ("sweeps", 1, LARGEST),
                ("train_images", 1, LARGEST),
            ),
        )
        for name in ("methods", "hidden_units", "alphas"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be one or more, each once, got {values!r}")
        most = 10_000 if self.data == "mnist" else MOST_EXACT
        if not all(1 <= x <= most for x in self.hidden_units):
            raise ValueError(f"hidden_units must be between 1 and {most}, got {self.hidden_units!r}")
        if not all(1 / self.visible_units <= x <= 1000 for x in self.alphas):
            raise ValueError(f"alphas must be between 1 / visible_units and 1000, got {self.alphas!r}")
        if self.data != "planted" and len(self.hidden_units) > 1:
            raise ValueError(f"hidden_units must be one number with --data {self.data}, got {self.hidden_units!r}")
        check_resume(self)


_of_images: Any = {"oracle": False, "seeds": 3}
_by_chains: Any = {"steps": 2000, "learning_rate": 0.01, "kl_weight": 10.0, "num_samples": 8}
PRESETS: dict[str, Callable[[], Config]] = {
    "planted": partial(Config, preset="planted"),
    "quick": partial(Config, preset="quick", seeds=5, hidden_units=(2,), alphas=(2.0, 5.0)),
    "digits": partial(
        Config,
        preset="digits",
        data="digits",
        hidden_units=(10,),
        methods=("bayesbinn", "ste", "real_sign"),
        steps=1000,
        **_of_images,
    ),
    "mnist": partial(
        Config,
        preset="mnist",
        data="mnist",
        hidden_units=(100,),
        methods=("bayesbinn", "ste"),
        **_of_images,
        **_by_chains,
    ),
}
