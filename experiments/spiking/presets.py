"""The settings of spiking networks, and where they start from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from experiments.common.config import (
    MOST_EPOCHS,
    MOST_SAMPLES,
    MOST_SEEDS,
    Run,
    check_ranges,
    check_resume,
    check_widths,
)

Name = Literal["bayesbinn", "ste", "full_precision"]
METHODS: tuple[Name, ...] = get_args(Name)
Update = Literal["each_step", "one_sample", "one_update", "through_time"]


@dataclass(frozen=True)
class Config(Run):
    """Trains spiking networks with binary weights by rules that are local in space and time."""

    resume: bool = False
    """Continues the interrupted run in that folder, or starts where there is none."""
    seeds: int = 5
    """Trains this many networks of each method in one program, with seeds counted up from --seed."""
    dataset: Literal["moons", "digits"] = "moons"
    """Names what is told by spikes: two half moons, or the digits that come with scikit-learn."""
    validation: bool = False
    """Scores on other examples than those of the test, to compare settings by."""
    methods: tuple[Name, ...] = METHODS
    """Names the methods that are compared."""
    hidden: tuple[int, ...] = (128, 128)
    """Sets the number of neurons of each layer."""
    time_steps: int = 100
    """Sets how many steps an example is shown."""
    burn_in: int = 10
    """Skips the first steps of an example, in training and in prediction."""
    epochs: int = 25
    """Sets the length of the training, in which learning rates fall to 0."""
    batch_size: int = 40
    """Sets the number of examples in a batch; a last incomplete batch is left out."""
    update: Update = "each_step"
    """Chooses when a sample is drawn and an update made. The default does both in each time step, one_sample draws one
    sample for all steps of a batch, one_update also makes one update, and through_time does so by the gradient through
    all steps and layers."""
    learning_rate: float = 2e-2
    """Sets the learning rate of the rule at the start of the schedule, for one time step."""
    temperature: float = 0.1
    """Sets the temperature of the relaxed samples."""
    kl_weight: float = 0.01
    """Weighs the KL term, and so the prior; 1 is Bayes."""
    init_scale: float = 1.0
    """Sets the size of the natural parameters at the start."""
    ste_learning_rate: float = 3.0
    """Sets the learning rate of gradient descent in straight-through training, with the same schedule."""
    real_learning_rate: float = 1e-3
    """Sets the learning rate of Adam on real weights, with the same schedule."""
    eval_samples: int = 10
    """Draws this many networks from the posterior for the committee."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range (the library checks its own arguments)."""
        check_ranges(
            self,
            (
                ("seed", 0, 2**32 - 1),
                ("seeds", 1, min(MOST_SEEDS, 2**32 - self.seed)),
                ("time_steps", 2, 100_000),
                ("burn_in", 0, self.time_steps - 1),
                ("epochs", 1, MOST_EPOCHS),
                ("batch_size", 1, 100_000),
                ("learning_rate", 0, None),
                ("temperature", 0, None, 0),
                ("kl_weight", 0, None),
                ("init_scale", 0, None),
                ("ste_learning_rate", 0, None),
                ("real_learning_rate", 0, None),
                ("eval_samples", 2, MOST_SAMPLES),
            ),
        )
        check_widths(self, "hidden")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods must be some of {', '.join(METHODS)}, each once, got {self.methods!r}")
        check_resume(self)


_digits: dict[str, Any] = {
    "dataset": "digits",
    "time_steps": 40,
    "batch_size": 50,
    "epochs": 15,
    "learning_rate": 1e-2,
    "temperature": 0.3,
    "kl_weight": 0.1,
    "ste_learning_rate": 1.0,
    "real_learning_rate": 1e-2,
}

PRESETS: dict[str, Callable[..., Config]] = {
    "moons": partial(Config, preset="moons"),
    "digits": partial(Config, preset="digits", **_digits),
    # Start, temperature, rate (0.1 / 200) and prior (5e-4 * 200) of the authors' code, and not its 5,000 epochs:
    # it has 25, as moons.
    "as-released": partial(
        Config,
        preset="as-released",
        methods=("bayesbinn",),
        init_scale=10.0,
        temperature=1.0,
        learning_rate=5e-4,
        kl_weight=0.1,
    ),
    "quick": partial(Config, preset="quick", hidden=(64, 64), epochs=20, seeds=2),
}
