"""The settings of a transformer, and where they start from."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.common import image_config
from experiments.common.config import MOST_WIDTH, check_ranges
from experiments.common.methods import METHODS, Activations, Weights, choose
from experiments.language_model.transformer import Shape


@dataclasses.dataclass(frozen=True)
class Config(image_config.Training):
    """Trains a binary transformer to predict the next character of a text."""

    epochs: int = 3
    """Sets the length of the training, in which learning rates fall to 0; each predicts every character twice."""
    batch_size: int = 8
    """Sets the number of rows of text in a batch."""
    text: Path | None = None
    """Names a text file in UTF-8. Default: the help on Python that every Python has, pydoc_data.topics."""
    context: int = 128
    """Sets how many characters the transformer sees."""
    layers: int = 2
    """Sets the number of blocks of attention and hidden units."""
    width: int = 64
    """Sets the number of channels between blocks."""
    heads: int = 4
    """Sets the number of attention heads, which share the channels."""
    hidden: int = 256
    """Sets the number of hidden units in a block."""
    embedding: int = 16
    """Sets how many real numbers a character is embedded in."""
    joined: int = 4
    """Sets how many characters, the last ones, stand side by side where the blocks start."""
    stop_after_epochs: int | None = None
    """Ends early, with the schedule of the full run."""
    checkpoint_seconds: float = 30.0
    """Sets the least time between checkpoints, which are written at the ends of epochs."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        sizes = tuple((name, 1, MOST_WIDTH) for name in ("width", "heads", "hidden", "embedding", "joined"))
        check_ranges(
            self,
            (
                *sizes,
                ("context", 2, 100_000),
                ("layers", 1, 1000),
                ("stop_after_epochs", 1, self.epochs),
                ("checkpoint_seconds", 0, None),
            ),
        )
        if self.width % (2 * self.heads):
            raise ValueError(f"width must be a multiple of twice the {self.heads} heads, got {self.width!r}")

    @property
    def dataset(self) -> str:
        """The name of the text."""
        return "pydoc_data.topics" if self.text is None else self.text.name

    def shape(self, symbols: int) -> Shape:
        """The sizes of the transformer."""
        return Shape(symbols, self.layers, self.width, self.heads, self.hidden, self.embedding, self.joined)


_method = partial(choose, METHODS)
_undecided = {"noise": Activations(), "learning_rate": 0.003, "kl_weight": 0.03, "init_scale": 0.3}
METHOD_SETTINGS: dict[str, Any] = {
    "bayesbinn": _undecided | {"eval_samples": 30},
    "ste": {"learning_rate": 0.1},
    "full_precision": {"learning_rate": 0.01},
}


def _real(method: str, learning_rate: float) -> Any:
    """Full precision, and no other method."""
    if method != "full_precision":
        raise ValueError(f"method must be full_precision with --preset equal-32 and equal-16, got {method!r}")
    return _method(method, full_precision={"learning_rate": learning_rate})


def topics(method: str) -> Config:
    """Noise of activations: a posterior that keeps its uncertainty."""
    return Config(preset="topics", method=_method(method, **METHOD_SETTINGS))


def saturated(method: str) -> Config:
    """Noise of weights at temperature 1e-10, the paper's way: the posterior saturates."""
    decided: Any = {"bayesbinn": {"noise": Weights(), "learning_rate": 0.01, "eval_samples": 30}}
    return dataclasses.replace(topics(method), preset="saturated", method=_method(method, **METHOD_SETTINGS | decided))


def quick(method: str) -> Config:
    """A small one, for a first look."""
    return dataclasses.replace(topics(method), preset="quick", layers=1, epochs=1)


def equal_32(method: str) -> Config:
    """A full-precision network as large, at 32 bits a number, as the binary one of topics."""
    small: Any = {"layers": 1, "width": 16, "heads": 2, "hidden": 60, "embedding": 4}
    return dataclasses.replace(topics(method), preset="equal-32", method=_real(method, 0.1), **small)


def equal_16(method: str) -> Config:
    """A full-precision network as large, at 16 bits a number, as the binary one of topics."""
    small: Any = {"layers": 2, "width": 16, "heads": 2, "hidden": 88, "embedding": 8}
    return dataclasses.replace(topics(method), preset="equal-16", method=_real(method, 0.03), **small)


PRESETS: dict[str, Callable[[str], Any]] = {
    "topics": topics,
    "saturated": saturated,
    "quick": quick,
    "equal-32": equal_32,
    "equal-16": equal_16,
}
