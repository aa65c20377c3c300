"""What a run of benchmarks is made of: every setting, and the presets of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from experiments.common.config import LARGEST, Run, check_ranges, check_widths

PartName = Literal["step", "epoch", "sampling", "predictive", "seeds", "width", "batch", "devices"]
PARTS: tuple[PartName, ...] = get_args(PartName)


@dataclass(frozen=True)
class Config(Run):
    """Times the library and what it is compared with; --quick, tiny sizes, is short for --preset quick."""

    parts: tuple[PartName, ...] = PARTS
    """Chooses what is timed: a training step, an epoch, sampling alone, prediction, several seeds, other widths, other
    batches, several devices."""
    seconds: float = 10.0
    """Sets the time for each program, without its compilation and its first run."""
    min_rounds: int = 5
    """Runs each program at least so often, however long it takes."""
    hidden: tuple[int, ...] = (2048, 2048, 2048)
    """Sets the width of each hidden layer of the large network, which sees random images of 784 pixels."""
    small_hidden: tuple[int, ...] = (100, 100)
    """Sets the width of each hidden layer of the small network, which sees random images of 64 pixels."""
    batch_size: int = 100
    """Sets the number of images in a batch."""
    epoch_steps: int = 10
    """Sets the steps in an epoch (parts epoch and seeds)."""
    num_weights: int = 10_000_000
    """Draws so many random numbers at a time (part sampling)."""
    samples: tuple[int, ...] = (1, 10, 100, 1000)
    """Draws so many networks from the posterior (part predictive)."""
    chunk_sizes: tuple[int, ...] = (0, 1)
    """Evaluates so many of them at a time; 0 means all (part predictive)."""
    max_gigabytes: float = 2.0
    """Skips a prediction that the compiler plans more memory for (part predictive)."""
    seed_counts: tuple[int, ...] = (1, 2, 5)
    """Trains so many networks in one program (part seeds)."""
    widths: tuple[int, ...] = (512, 1024, 2048, 4096)
    """Sets the width of all three hidden layers (part width)."""
    batch_sizes: tuple[int, ...] = (50, 100, 200, 400, 800, 1600)
    """Sets the number of images in a batch (part batch)."""
    device_counts: tuple[int, ...] = (1, 2, 4)
    """Splits a batch among so many devices, made of the CPU (part devices)."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        check_ranges(
            self,
            (
                ("seconds", 0, None),
                ("min_rounds", 2, LARGEST),
                ("batch_size", 2, LARGEST),
                ("epoch_steps", 1, LARGEST),
                ("num_weights", 1, LARGEST),
                ("max_gigabytes", 0, None),
            ),
        )
        check_widths(self, "hidden")
        check_widths(self, "small_hidden")
        at_least = {"samples": 1, "chunk_sizes": 0, "seed_counts": 1, "widths": 1, "batch_sizes": 2, "device_counts": 1}
        for name, least in at_least.items():
            values = getattr(self, name)
            if not values or min(values) < least or max(values) > LARGEST or len(set(values)) < len(values):
                raise ValueError(f"{name} must be different numbers between {least} and {LARGEST}, got {values!r}")
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts must be one or more, each once, got {self.parts!r}")
        for count in self.device_counts if "devices" in self.parts else ():
            if self.batch_size % count:
                raise ValueError(f"device_counts must divide batch_size {self.batch_size}, got {count!r}")


def quick() -> Config:
    """Sizes at which every part takes seconds: to see that it runs, not to learn how fast."""
    return Config(
        preset="quick",
        seconds=0.1,
        min_rounds=3,
        hidden=(64,),
        small_hidden=(16,),
        batch_size=20,
        epoch_steps=3,
        num_weights=100_000,
        samples=(1, 20),
        seed_counts=(1, 2),
        widths=(32, 64),
        batch_sizes=(10, 20),
        device_counts=(1, 2),
    )


PRESETS: dict[str, Callable[[], Config]] = {"full": partial(Config, preset="full"), "quick": quick}
