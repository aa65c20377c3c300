import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbinn_jax import diagnostics, logistic_noise, mode
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


def test_saturated_share_equals_a_count():
    x = np.random.default_rng(0).normal(scale=3, size=1000).astype(np.float32)
    certainty = 1 / (1 + np.exp(-2 * np.abs(x).astype(float)))
    for level in (0.5, 0.9, 0.99):
        share = diagnostics.saturated_share({"a": x[:300], "b": x[300:]}, certainty=level)
        np.testing.assert_allclose(share, np.mean(certainty > level), rtol=1e-6)


def test_flip_rate_counts_changed_signs():
    """0 counts as -1, as it does for the mode; the mode may stand for the posterior before."""
    before = {"a": jnp.array([1.0, -1.0, 0.0, 2.0]), "b": jnp.array([-3.0])}
    now = {"a": jnp.array([0.1, 0.1, -1.0, -2.0]), "b": jnp.array([-0.1])}
    np.testing.assert_allclose(diagnostics.flip_rate(now, before), 0.4)
    np.testing.assert_allclose(diagnostics.flip_rate(now, mode(before)), 0.4)
    assert diagnostics.flip_rate(now, now) == 0


@pytest.mark.parametrize("temperature", [1e-10, 0.05, 0.3])
@pytest.mark.parametrize("eps", [1e-10, 1e-3])
def test_frozen_share_is_that_of_samples(key, temperature, eps):
    """Of 10^6 samples, five standard errors of which are at most 0.0025."""
    natural = jnp.tile(jnp.array([0.0, 0.7, -2.0, 5.0]), 250_000)
    z = (np.asarray(natural) + np.asarray(logistic_noise(key, natural))).astype(np.float64) / temperature
    expected = np.mean(1 / np.cosh(np.minimum(np.abs(z), 300)) ** 2 < eps)
    np.testing.assert_allclose(
        diagnostics.frozen_share(natural, temperature=temperature, eps=eps), expected, atol=0.0025
    )


@pytest.mark.parametrize(
    "function",
    [
        diagnostics.saturated_share,
        lambda natural: diagnostics.flip_rate(natural, natural),
        lambda natural: diagnostics.frozen_share(natural, temperature=0.1),
    ],
)
def test_shares_are_scalars_under_jit_and_refuse_what_is_no_weight(function):
    natural = {"a": jnp.linspace(-2, 2, 7, dtype=jnp.bfloat16), "b": None}
    value = jax.jit(function)(natural)
    assert value.shape == () and value.dtype == jnp.float32
    np.testing.assert_allclose(value, function(natural), rtol=1e-6)
    with pytest.raises(ValueError, match="natural must have at least one weight"):
        function({"a": None})
    with pytest.raises(TypeError, match="natural must have floating-point arrays"):
        function({"a": jnp.arange(3)})


LOST = {
    "all": {"a": jnp.full(4, jnp.nan)},
    "one": {"a": jnp.array([9.0, jnp.nan]), "b": jnp.zeros(3)},
    "bfloat16": {"a": jnp.array([jnp.nan, 1.0], jnp.bfloat16)},
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST.keys())
def test_a_lost_weight_makes_every_diagnostic_nan(lost):
    """A comparison with NaN is false, which would look like a posterior that is undecided and does not move."""
    kept = jax.tree.map(jnp.ones_like, lost)
    values = {
        "entropy": entropy_bits_per_weight(lost),
        "saturated": diagnostics.saturated_share(lost),
        "flip, now": diagnostics.flip_rate(lost, kept),
        "flip, before": diagnostics.flip_rate(kept, lost),
        "flip, mode before": diagnostics.flip_rate(kept, mode(lost)),
        "frozen": diagnostics.frozen_share(lost, temperature=0.1),
    }
    assert {name: bool(jnp.isnan(value)) for name, value in values.items()} == dict.fromkeys(values, True)


def test_infinite_weights_are_decided_and_not_lost():
    natural = jnp.array([jnp.inf, -jnp.inf])
    assert diagnostics.saturated_share(natural) == 1
    assert diagnostics.flip_rate(natural, -natural) == 1
    assert diagnostics.frozen_share(natural, temperature=0.1) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_numpy_numbers_and_strict_promotion_change_no_dtype(dtype, x64):
    natural = {"a": jnp.linspace(-2, 2, 6, dtype=dtype).reshape(2, 3), "b": jnp.ones(3, "float32")}
    before = jax.tree.map(jnp.negative, natural)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        shares = [
            entropy_bits_per_weight(natural),
            diagnostics.flip_rate(natural, before),
            diagnostics.saturated_share(natural, certainty=np.float64(0.9)),
            diagnostics.frozen_share(natural, temperature=np.float64(0.5), eps=np.float64(1e-3)),
        ]
    assert [x.dtype for x in shares] == [jnp.float32] * 4
    assert shares[1] == 1
    np.testing.assert_allclose(shares[2], diagnostics.saturated_share(natural, certainty=0.9))
    np.testing.assert_allclose(shares[3], diagnostics.frozen_share(natural, temperature=0.5, eps=1e-3), rtol=1e-6)
