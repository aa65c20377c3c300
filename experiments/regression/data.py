"""Pairs of an input and a target: generated ones, or those in files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common import full_batch

GAP = (2.2, 3.4)  # of the generated inputs
TEST_FRACTION = 0.2  # of the pairs in a folder


class Data(NamedTuple):
    """Inputs and targets [n], standardised by the mean and standard deviation of those of training."""

    inputs: np.ndarray
    targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    line: np.ndarray  # inputs of the figure
    gap: np.ndarray  # of the inputs, from and to


def generate(config: full_batch.Settings) -> Data:
    """Noisy values of a curve at inputs in [0, 6] with a gap, and the curve itself at as many inputs like them."""
    rng = np.random.default_rng(config.seed)

    def draw_inputs() -> np.ndarray:
        x = rng.uniform(0, 6 - (GAP[1] - GAP[0]), config.num_train)
        return np.where(x < GAP[0], x, x + GAP[1] - GAP[0])

    def curve(x: np.ndarray) -> np.ndarray:
        return 2 * np.sin(1.2 * x) + 0.2 * x

    inputs, test_inputs = draw_inputs(), draw_inputs()
    targets = curve(inputs) + config.noise * rng.standard_normal(config.num_train)
    return Data(inputs, targets, test_inputs, curve(test_inputs), np.linspace(-3, 9, 241), np.array(GAP))


def read(folder: Path, seed: int) -> Data:
    """The pairs in a folder, of which a fifth is drawn for testing.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file holds something else than the numbers expected.
    """
    inputs, targets, line = (read_column(folder / name) for name in ("train_inputs", "train_outputs", "test_inputs"))
    if len(inputs) != len(targets):
        raise ValueError(f"--data {folder}: train_inputs has {len(inputs)} numbers and train_outputs {len(targets)}")
    if len(inputs) < 10 or np.ptp(inputs) == 0 or np.ptp(targets) == 0:
        raise ValueError(f"--data {folder}: needs at least 10 pairs, not all of one input or one output")
    order = np.random.default_rng(seed).permutation(len(inputs))
    test, train = np.split(order, [round(TEST_FRACTION * len(order))])
    return Data(inputs[train], targets[train], inputs[test], targets[test], np.sort(line), np.full(2, np.nan))


def read_column(path: Path) -> np.ndarray:
    """The numbers in a file, one a line."""
    if not path.is_file():
        raise FileNotFoundError(f"--data {path.parent}: has no file {path.name}")
    numbers = []
    for i, text in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        try:
            numbers.append(float(text))
        except ValueError:
            raise ValueError(f"--data {path.parent}: line {i} of {path.name} is not a number: {text[:40]!r}") from None
        if not abs(numbers[-1]) < 1e30:  # whose squares float64 can add
            raise ValueError(
                f"--data {path.parent}: line {i} of {path.name} must be finite and below 1e30, got {text[:40]!r}"
            )
    if not numbers:
        raise ValueError(f"--data {path.parent}: {path.name} must hold numbers, one a line")
    return np.array(numbers)


def standardised(data: Data) -> Data:
    """All inputs and targets minus the mean and over the standard deviation of those of training."""

    def scale(name: str, values: np.ndarray) -> np.ndarray:
        like = data.targets if "targets" in name else data.inputs
        return ((values - like.mean()) / like.std()).astype(np.float32)

    return Data(**{name: scale(name, values) for name, values in data._asdict().items()})
