"""What tests of trees of arrays have in common."""

import jax
import numpy as np


def assert_equal_to_the_bit(actual, expected):
    """The same trees, shapes and dtypes, and the same numbers: NaN is NaN, and 0 is not -0."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes()
