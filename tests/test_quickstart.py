"""What a newcomer copies out of the README learns on other data too, and is likelier than straight-through training."""

from functools import cache

import numpy as np
import pytest

from tests.quickstart import of_readme, scores, straight_through

pytestmark = pytest.mark.long

of_readme = cache(of_readme)


@pytest.mark.parametrize(
    "name, lowest_accuracy, most_nats",
    [("digits", 0.965, 0.12), ("odd digits", 0.965, 0.08), ("breast cancer", 0.93, 0.2), ("wine", 0.9, 0.15)],
)
def test_quickstart_learns_whatever_the_data_line_loads(name, lowest_accuracy, most_nats):
    run = of_readme(name, 0)
    accuracy, nats = scores(run["prediction"].probabilities, run["test_y"])
    assert accuracy >= lowest_accuracy
    assert nats <= most_nats


def test_quickstart_is_likelier_than_straight_through_training_of_the_same_network():
    """Of digits, the mean of 3 seeds. (Of 5, and of other data, `python -m tests.quickstart` tells more.)"""
    runs = [of_readme("digits", seed) for seed in range(3)]
    ours = [scores(run["prediction"].probabilities, run["test_y"]) for run in runs]
    theirs = [scores(*straight_through(seed=seed)) for seed in range(3)]
    (accuracy, nats), (their_accuracy, their_nats) = np.mean(ours, axis=0), np.mean(theirs, axis=0)
    assert nats < their_nats
    assert accuracy > their_accuracy - 0.005
