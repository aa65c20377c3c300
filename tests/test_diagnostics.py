import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbinn_jax.diagnostics import entropy_bits_per_weight
from tests import reference


def test_entropy_in_bits_equals_its_formula(natural):
    x = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(natural)]).astype(np.float64)
    expected = reference.entropy(x) / np.log(2) / len(x)
    np.testing.assert_allclose(entropy_bits_per_weight(natural), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(entropy_bits_per_weight)(natural), expected, rtol=1e-5)


@pytest.mark.parametrize("x, bits", [(0.0, 1.0), (50.0, 0.0), (-1e4, 0.0)])
def test_fair_coin_has_one_bit_and_a_decided_weight_none(x, bits):
    np.testing.assert_allclose(entropy_bits_per_weight({"a": jnp.full((3, 2), x)}), bits, atol=1e-6)


def test_mean_is_over_weights_and_not_over_leaves():
    natural = {"a": jnp.zeros(1), "b": [jnp.full((3, 3), 50.0), None]}
    np.testing.assert_allclose(entropy_bits_per_weight(natural), 0.1, rtol=1e-6)


def test_bfloat16_is_accumulated_in_float32():
    value = entropy_bits_per_weight(jnp.zeros(100_000, jnp.bfloat16))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, 1, rtol=0.01)


def test_tree_without_a_weight_is_refused():
    with pytest.raises(ValueError, match="natural must have at least one weight"):
        entropy_bits_per_weight({"a": None})
