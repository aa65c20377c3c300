"""Against formulas in NumPy float64 and against enumeration of all 2^n weight vectors."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb
from bbinn_jax import bernoulli
from tests import reference

DRAWS = 2**20
SHAPE = (2500, 4000)  # of logistic noise
NOISES = 2500 * 4000
EDGES = np.array([-1e4, -40.0, -20.0, -9.0, -1.0, -1e-4, 0.0, 1e-4, 1.0, 9.0, 20.0, 40.0, 1e4])
DTYPES = ["bfloat16", "float32", "float64"]
LEAFWISE = {
    "expectation": (bernoulli.expectation, np.tanh),
    "fisher_information": (bernoulli.fisher_information, reference.fisher_information),
    "mode": (bb.mode, lambda x: np.where(x > 0, 1.0, -1.0)),
}


def as_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(as_float64(tree))])


def assert_same_form(tree, like):
    """Same tree, shapes and dtypes."""
    assert jax.tree.structure(tree) == jax.tree.structure(like)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), tree) == jax.tree.map(lambda x: (x.shape, x.dtype), like)


# Formulas, over several trees ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEAFWISE)
def test_leafwise_function_equals_its_formula(name, natural):
    function, formula = LEAFWISE[name]
    result = function(natural)
    assert_same_form(result, natural)
    np.testing.assert_allclose(flat(result), formula(flat(natural)), rtol=2e-6, atol=1e-30)


def test_natural_from_expectation_inverts_expectation(natural):
    natural = jax.tree.map(lambda x: x / 3, natural)
    back = bernoulli.natural_from_expectation(bernoulli.expectation(natural))
    assert_same_form(back, natural)
    np.testing.assert_allclose(flat(back), flat(natural), rtol=2e-4, atol=1e-6)  # at 3, mu is 0.995


def test_natural_from_expectation_of_certain_weights_is_infinite():
    mu = jnp.array([-1.0, 0.0, 1.0, 1.5])
    np.testing.assert_array_equal(bernoulli.natural_from_expectation(mu), [-np.inf, 0, np.inf, np.nan])


def test_scalars_equal_their_formulas(natural):
    x = flat(natural)
    weights = jax.tree.map(lambda leaf: np.where(leaf > 0.5, 1, -1).astype(np.float32), natural)
    prior = jax.tree.map(lambda leaf: np.float32(0.5) - np.float32(0.2) * np.asarray(leaf), natural)

    @jax.jit
    def scalars(natural, weights, prior):
        kl = bernoulli.kl_divergence(natural, prior), bernoulli.kl_divergence(natural, 0.3)
        return bernoulli.entropy(natural), bernoulli.log_prob(natural, weights), *kl

    expected = [
        reference.entropy(x),
        reference.log_prob(x, flat(weights)),
        reference.kl_divergence(x, flat(prior)),
        reference.kl_divergence(x, np.full(x.shape, 0.3)),
    ]
    np.testing.assert_allclose(scalars(natural, weights, prior), expected, rtol=1e-5)


def test_scalars_of_an_empty_tree_are_zero():
    assert bernoulli.entropy({"a": None}) == 0
    assert bernoulli.log_prob({}, {}) == 0
    assert bernoulli.kl_divergence([None], 1.0) == 0


def test_kl_of_equal_distributions_is_zero(natural):
    assert bernoulli.kl_divergence(natural, natural) == 0


# Enumeration ---------------------------------------------------------------------------------------------------------


@cache
def log_prob_of_all_weights(n):
    """(natural, all weights, their log probabilities by the library) in float64."""
    natural, weights = np.random.default_rng(n).normal(size=n), reference.all_weights(n)
    with jax.enable_x64(True):
        return natural, weights, np.asarray(jax.jit(jax.vmap(bernoulli.log_prob, (None, 0)))(natural, weights))


@pytest.fixture(params=[4, 7, 10])
def enumerated(request, x64):
    return log_prob_of_all_weights(request.param)


def test_log_prob_sums_to_one(enumerated):
    _, _, log_p = enumerated
    assert abs(np.exp(log_p).sum() - 1) < 1e-12


def test_log_prob_equals_enumeration(enumerated):
    natural, weights, log_p = enumerated
    np.testing.assert_allclose(np.exp(log_p), reference.probabilities(natural, weights), rtol=1e-12)


def test_entropy_equals_enumeration(enumerated):
    natural, _, log_p = enumerated
    exact = -np.sum(np.exp(log_p) * log_p)
    assert abs(bernoulli.entropy(jnp.asarray(natural)) - exact) < 1e-12


def test_kl_divergence_equals_enumeration(enumerated):
    natural, weights, log_p = enumerated
    prior = np.linspace(-1, 1, len(natural))
    exact = np.sum(np.exp(log_p) * (log_p - np.log(reference.probabilities(prior, weights))))
    assert abs(bernoulli.kl_divergence(jnp.asarray(natural), jnp.asarray(prior)) - exact) < 1e-12


def test_expectation_and_fisher_information_equal_enumeration(enumerated):
    natural, weights, log_p = enumerated
    mean = np.exp(log_p) @ weights
    variance = np.exp(log_p) @ (weights - mean) ** 2
    np.testing.assert_allclose(bernoulli.expectation(jnp.asarray(natural)), mean, rtol=1e-12)
    np.testing.assert_allclose(bernoulli.fisher_information(jnp.asarray(natural)), variance, rtol=1e-12)


def test_mode_is_the_most_probable_network(enumerated):
    natural, weights, log_p = enumerated
    np.testing.assert_array_equal(bb.mode(jnp.asarray(natural)), weights[np.argmax(log_p)])


def test_frequencies_of_samples_equal_enumeration(key):
    """Chi-square over all 64 networks: its mean is 63 and its variance 126; below 5 standard deviations above."""
    n, draws = 6, 200_000
    natural = np.linspace(-0.5, 0.5, n)
    keys = jax.random.split(key, draws)
    weights = jax.jit(jax.vmap(bb.sample, (0, None)))(keys, {"a": jnp.array(natural[:2]), "b": jnp.array(natural[2:])})
    bits = np.concatenate([weights["a"], weights["b"]], axis=1) > 0
    counts = np.bincount(bits @ 2 ** np.arange(n)[::-1], minlength=2**n)
    expected = draws * reference.probabilities(natural, reference.all_weights(n))
    assert expected.min() > 50  # for the normal approximation
    chi_square = np.sum((counts - expected) ** 2 / expected)
    assert chi_square < 63 + 5 * np.sqrt(126)


def test_share_of_plus_equals_its_probability(key):
    """Each of 2^20 draws within 5 standard errors."""
    natural = jnp.array([-4.0, -1.0, 0.0, 0.5, 4.0])
    share = jax.jit(lambda: jnp.mean(bb.sample(key, jnp.broadcast_to(natural, (DRAWS, 5))) > 0, axis=0))()
    p = reference.probability_of_plus(as_float64(natural))
    assert np.max(np.abs(share - p) / np.sqrt(p * (1 - p) / DRAWS)) < 5


@pytest.mark.parametrize("x", [-1.0, 1.0])
def test_rounding_to_bfloat16_favours_neither_sign(x, key):
    """Noise of 8 bits may cancel natural exactly, and mode(0) = -1 would then decide it always the same way.

    Of the draws that rounding changes, as many must go up as down: within 5 standard errors, 5 sqrt(changed).
    """
    full, rounded = (jax.jit(bb.sample)(key, jnp.full(DRAWS, x, dtype)) > 0 for dtype in ("float32", "bfloat16"))
    up, down = int(jnp.sum(rounded & ~full)), int(jnp.sum(full & ~rounded))
    assert abs(up - down) <= 5 * np.sqrt(up + down)


# The edge of float32 -------------------------------------------------------------------------------------------------


def test_entropy_is_right_at_the_edge():
    values, grads = jax.jit(jax.vmap(jax.value_and_grad(bernoulli.entropy)))(EDGES.astype(np.float32))
    exact = [reference.entropy(x) for x in EDGES]
    np.testing.assert_allclose(values, exact, rtol=3e-6, atol=1e-37)
    np.testing.assert_allclose(grads, -EDGES * reference.fisher_information(EDGES), rtol=1e-3, atol=1e-33)


@pytest.mark.parametrize("weight", [-1.0, 1.0])
def test_log_prob_is_right_at_the_edge(weight):
    value_and_grad = jax.jit(jax.vmap(jax.value_and_grad(bernoulli.log_prob), (0, None)))
    values, grads = value_and_grad(EDGES.astype(np.float32), weight)
    exact = [reference.log_prob(x, weight) for x in EDGES]
    np.testing.assert_allclose(values, exact, rtol=3e-6, atol=1e-37)
    exact = 2 * weight * reference.probability_of_plus(-EDGES * weight)
    np.testing.assert_allclose(grads, exact, rtol=1e-5, atol=1e-33)


@pytest.mark.parametrize("prior", [0.0, 2.0, -1e4, 1e4])
def test_kl_divergence_is_right_at_the_edge(prior):
    values = jax.jit(jax.vmap(bernoulli.kl_divergence, (0, None)))(EDGES.astype(np.float32), prior)
    exact = [reference.kl_divergence(x, prior) for x in EDGES]
    np.testing.assert_allclose(values, exact, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("prior", [0.0, 2.0, -1e4, 1e4])
def test_gradient_of_kl_divergence_is_right_at_the_edge(prior):
    """It is F (lambda - lambda0). It is divided by F again in the learning rule: its relative precision counts."""
    x = np.array([-40.0, -20.0, -12.0, -9.0, -4.0, -1.0, 0.0, 1.0, 4.0, 9.0, 12.0, 20.0, 40.0])
    grads = jax.jit(jax.vmap(jax.grad(bernoulli.kl_divergence), (0, None)))(jnp.array(x, jnp.float32), prior)
    np.testing.assert_allclose(grads, reference.fisher_information(x) * (x - prior), rtol=1e-4, atol=1e-33)


@pytest.mark.parametrize("prior", [0.0, 2.0, -1e4, 1e4])
def test_gradient_of_kl_divergence_is_finite(prior):
    grads = jax.jit(jax.vmap(jax.grad(bernoulli.kl_divergence, (0, 1)), (0, None)))(
        jnp.array(EDGES, jnp.float32), prior
    )
    assert np.all(np.isfinite(grads))


def test_gradient_of_kl_divergence_wrt_prior_is_a_difference_of_means():
    x, x0 = np.meshgrid(EDGES, EDGES)
    grad = jax.jit(jax.vmap(jax.grad(bernoulli.kl_divergence, 1)))
    grads = grad(jnp.array(x.ravel(), jnp.float32), jnp.array(x0.ravel(), jnp.float32))
    np.testing.assert_allclose(grads, np.tanh(x0.ravel()) - np.tanh(x.ravel()), rtol=1e-5, atol=3e-7)


def test_fisher_information_keeps_its_relative_precision():
    """1 - tanh^2 is 0 or negative in float32 from 9 on."""
    x = np.concatenate([np.linspace(-40, -20, 501), np.linspace(-20, 20, 1001), np.linspace(20, 40, 501)])
    x = x.astype(np.float32)
    fisher = jax.jit(bernoulli.fisher_information)(jnp.array(x))
    np.testing.assert_allclose(fisher, reference.fisher_information(x.astype(np.float64)), rtol=1e-5)


def test_fisher_information_is_never_negative():
    x = np.random.default_rng(0).normal(size=100_000) * np.logspace(-3, 6, 100_000)
    fisher = np.asarray(jax.jit(bernoulli.fisher_information)(jnp.array(x, jnp.float32)))
    assert np.all(fisher >= 0)
    assert np.all(fisher <= 1 + 2e-7)  # 1 but for the last bit


def test_gradient_of_fisher_information_is_right_at_the_edge():
    grads = jax.vmap(jax.grad(bernoulli.fisher_information))(EDGES.astype(np.float32))
    exact = -2 * np.tanh(EDGES) * reference.fisher_information(EDGES)
    np.testing.assert_allclose(grads, exact, rtol=2e-3, atol=1e-33)  # a difference: at 1e-4 of numbers near 1


def test_mode_of_zero_is_minus_one():
    np.testing.assert_array_equal(bb.mode(jnp.array([0.0, -0.0])), [-1, -1])


# dtypes, transformations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_leafwise_functions_keep_the_dtype(dtype, key, x64):
    natural = {"a": np.zeros(5, jnp.dtype(dtype)), "b": None}
    functions = [bernoulli.expectation, bernoulli.fisher_information, bb.mode, bernoulli.natural_from_expectation]
    for function in functions:
        assert_same_form(jax.eval_shape(function, natural), natural)
    assert_same_form(jax.eval_shape(bb.logistic_noise, key, natural), natural)
    assert_same_form(jax.eval_shape(bb.sample, key, natural), natural)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scalars_are_float32_or_wider(dtype, x64):
    natural = {"a": np.zeros(5, jnp.dtype(dtype))}
    expected = "float64" if dtype == "float64" else "float32"
    assert jax.eval_shape(bernoulli.entropy, natural).dtype == expected
    assert jax.eval_shape(bernoulli.log_prob, natural, natural).dtype == expected
    assert jax.eval_shape(bernoulli.kl_divergence, natural, 0.0).dtype == expected


def test_sums_of_bfloat16_leaves_are_not_rounded():
    """Added up or returned in bfloat16, 1001 entropies would be a multiple of 4."""
    one = bernoulli.entropy(jnp.zeros(1, jnp.bfloat16))
    np.testing.assert_allclose(bernoulli.entropy(jnp.zeros(1001, jnp.bfloat16)), 1001 * one, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sample_and_mode_are_exactly_plus_or_minus_one(dtype, key, x64):
    natural = jnp.asarray(np.linspace(-3, 3, 1001), dtype)
    sampled, mode = jax.jit(lambda key, natural: (bb.sample(key, natural), bb.mode(natural)))(key, natural)
    assert set(np.unique(as_float64(sampled))) == {-1.0, 1.0}
    assert set(np.unique(as_float64(mode))) == {-1.0, 1.0}


def test_sample_is_the_limit_of_relaxed_sample(natural, key):
    sampled = flat(jax.jit(bb.sample)(key, natural))
    relaxed = flat(jax.jit(partial(bb.relaxed_sample, temperature=1e-6))(key, natural))
    np.testing.assert_array_equal(sampled, np.sign(relaxed))
    np.testing.assert_allclose(sampled, relaxed, atol=1e-6)


def test_jit_equals_no_jit(key):
    natural = {"a": EDGES[2:-2].astype(np.float32), "b": [None, EDGES[2:-2].astype(np.float32)]}

    def everything(key, natural):
        weights = bb.sample(key, natural)
        scalars = (
            bernoulli.entropy(natural),
            bernoulli.log_prob(natural, weights),
            bernoulli.kl_divergence(natural, 1.0),
        )
        leafwise = [function(natural) for function, _ in LEAFWISE.values()]
        return weights, bb.logistic_noise(key, natural), scalars, leafwise

    eager, jitted = everything(key, natural), jax.jit(everything)(key, natural)
    assert jax.tree.structure(eager) == jax.tree.structure(jitted)
    np.testing.assert_allclose(flat(jitted), flat(eager), rtol=1e-5, atol=1e-7)


def test_vmap_over_keys_equals_a_loop(key):
    natural = {"a": EDGES.astype(np.float32), "b": [None, np.zeros((2, 3), np.float32)]}

    @jax.jit
    def both(key):
        keys = jax.random.split(key, 3)
        return jax.vmap(bb.sample, (0, None))(keys, natural), [bb.sample(keys[i], natural) for i in range(3)]

    together, alone = both(key)
    for i in range(3):
        np.testing.assert_array_equal(flat(jax.tree.map(lambda x, i=i: x[i], together)), flat(alone[i]))


# Logistic noise ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noise():
    """Two leaves of 10 million draws each, the weights of a layer."""
    template = {"a": jnp.zeros(SHAPE), "b": jnp.zeros(SHAPE)}
    return jax.tree.map(np.ravel, as_float64(bb.logistic_noise(jax.random.key(1), template)))


def test_noise_has_the_distribution_of_half_a_logistic_variate(noise):
    """Kolmogorov-Smirnov: the distance exceeds 2.5 / sqrt(n) with probability 2 exp(-2 * 2.5^2) = 7e-6."""
    cdf = reference.probability_of_plus(np.sort(noise["a"]))  # P(delta < x) = sigmoid(2 x)
    steps = np.arange(NOISES + 1) / NOISES
    distance = max(np.max(np.abs(cdf - steps[1:])), np.max(np.abs(cdf - steps[:-1])))
    assert distance < 2.5 / np.sqrt(NOISES)


def test_noise_has_mean_zero_and_variance_pi_squared_over_12(noise):
    """Within 5 standard errors; the kurtosis of the logistic distribution is 4.2."""
    variance = np.pi**2 / 12
    assert abs(noise["a"].mean()) < 5 * np.sqrt(variance / NOISES)
    assert abs(noise["a"].var() - variance) < 5 * variance * np.sqrt(3.2 / NOISES)


@pytest.mark.parametrize("t", [0.5, 2.0, 4.0, 6.5])
def test_noise_has_equal_and_right_tails(noise, t):
    """P(delta > t) = sigmoid(-2 t), each within 5 standard errors; t = 6.5 expects 23 of 10 million on a side."""
    p = reference.probability_of_plus(-t)
    standard_error = np.sqrt(p * (1 - p) / NOISES)
    assert abs(np.mean(noise["a"] > t) - p) < 5 * standard_error
    assert abs(np.mean(noise["a"] < -t) - p) < 5 * standard_error


def test_noise_reaches_beyond_8(key):
    """P(abs(delta) > 8) = 2.3e-7: 15 of 2^26 draws are expected, none with probability 3e-7. Floats from [0, 1) that
    are put into log(u / (1 - u)) never get there.
    """
    template, threshold = jnp.zeros(2**22), 8.0
    count = jax.jit(lambda k: jnp.sum(jnp.abs(bb.logistic_noise(k, template)) > threshold))
    count = int(sum(map(count, jax.random.split(key, 16))))
    expected = 2**26 * 2 * reference.probability_of_plus(-threshold)
    assert 0 < count < expected + 5 * np.sqrt(expected)


@pytest.mark.parametrize("dtype, bound", [("float32", 11.44), ("float64", 22.53)])
def test_noise_of_the_extreme_bits_is_the_bound(dtype, bound, x64, monkeypatch, key):
    width = jnp.finfo(dtype).bits
    bits = np.array([0, 1, 2**width - 1, 2**width - 2], f"uint{width}")  # both ends, the middle from both sides
    monkeypatch.setattr(bernoulli, "random_bits", lambda key, shape, dtype: jnp.array(bits, dtype))
    noise = bb.logistic_noise(key, jnp.zeros(4, dtype))
    np.testing.assert_allclose(noise[:2], [-bound, bound], atol=0.01)
    np.testing.assert_allclose(noise[2:], 0, atol=1e-6)


def test_noise_is_the_quantile_of_its_bits(monkeypatch, key):
    """Bit 0 is the side and the rest the distance from the end: every quantile comes out right, deep in the tails."""
    k = np.unique(np.geomspace(1, 2**31 - 1, 2000).astype(np.uint64)) - 1
    bits = np.concatenate([2 * k, 2 * k + 1])
    monkeypatch.setattr(bernoulli, "random_bits", lambda key, shape, dtype: jnp.array(bits, dtype))
    noise = np.asarray(bb.logistic_noise(key, jnp.zeros(len(bits))))
    quantile = reference.half_logistic((k + 0.5) / 2**32)
    np.testing.assert_allclose(noise[: len(k)], quantile, rtol=1e-6, atol=3e-7)
    np.testing.assert_allclose(noise[len(k) :], -quantile, rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("of", ["neighbour", "row", "leaf", "key", "step"])
def test_noise_is_independent(noise, of):
    """Of the next weight and the next row, the other leaf, another key and the next step: correlations of the noise, of
    its size and of its sign within 5 standard errors, 5 / sqrt(n), of the first 2 million draws.
    """
    key, some = jax.random.key(1), slice(2_000_000)

    def drawn(key):
        return np.asarray(jax.jit(bb.logistic_noise)(key, jnp.zeros((500, 4000))), np.float64).ravel()

    a = noise["a"][some]
    lag = {"neighbour": 1, "row": SHAPE[1]}.get(of)
    if lag:
        x, y = a[lag:], a[:-lag]
    elif of == "leaf":
        x, y = a, noise["b"][some]
    else:  # steps are told apart as training does it
        x, y = map(drawn, (key, jax.random.key(2)) if of == "key" else (jax.random.fold_in(key, i) for i in (0, 1)))
    for function in (lambda v: v, np.abs, np.sign):
        assert abs(np.corrcoef(function(x), function(y))[0, 1]) < 5 / np.sqrt(len(x))


def test_sign_of_noise_is_independent_of_its_size(noise):
    """Sign and size come from one word of random bits. Within 5 standard errors."""
    a = noise["a"]
    assert abs(np.corrcoef(np.sign(a), np.abs(a))[0, 1]) < 5 / np.sqrt(NOISES)


def test_noise_depends_on_shapes_only(key):
    zeros, ones = {"a": np.zeros(5, np.float32)}, {"a": np.full(5, np.nan, np.float32)}
    noise = jax.jit(bb.logistic_noise)
    np.testing.assert_array_equal(noise(key, zeros)["a"], noise(key, ones)["a"])


def test_noise_is_finite_in_every_dtype(key, x64):
    noise = jax.jit(bb.logistic_noise)(key, [np.zeros(10_000, jnp.dtype(dtype)) for dtype in (*DTYPES, "float16")])
    for leaf in as_float64(noise):
        assert np.all(np.isfinite(leaf))
        assert 3 < np.max(np.abs(leaf)) < 12


def test_nan_stays_nan(key):
    """A run that diverged must not look like a network that is certain."""
    natural = jnp.array([jnp.nan, 1.0])
    assert np.isnan(bb.mode(natural)[0])
    assert np.isnan(bb.sample(key, natural)[0])
    assert bb.mode(natural)[1] == 1


def test_infinite_natural_parameter_is_certain():
    """It is what natural_from_expectation gives for -1 and +1."""
    natural = bernoulli.natural_from_expectation(jnp.array([-1.0, 1.0]))
    assert bernoulli.entropy(natural) == 0
    np.testing.assert_allclose(bernoulli.kl_divergence(natural, 0.0), 2 * np.log(2), rtol=1e-6)


def test_noise_of_a_large_leaf_is_the_same_under_jit_and_vmap(key):
    keys, natural = jax.random.split(key, 3), jnp.zeros((300, 500))
    alone = [bb.logistic_noise(k, natural) for k in keys]
    together = jax.jit(jax.vmap(bb.logistic_noise, (0, None)))(keys, natural)
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert len(np.unique(np.sign(together), axis=0)) == 3


# Dtypes and names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_nothing_is_promoted_in_silence(dtype, key):
    natural = {"a": jnp.linspace(-2, 2, 6, dtype=dtype).reshape(2, 3), "b": jnp.ones(3, dtype)}
    weights, prior = bb.mode(natural), jax.tree.map(lambda x: x / 2, natural)
    small = jax.tree.map(lambda w: w.astype(jnp.int8), weights)  # a network as it is shipped
    leafwise = [
        *(bernoulli.expectation, bernoulli.variance, bb.mode, bb.straight_through),
        lambda x: bernoulli.natural_from_expectation(bernoulli.expectation(x)),
        *(partial(f, key) for f in (bb.sample, bb.logistic_noise, bb.init_natural)),
        partial(bb.relaxed_sample, key, temperature=0.5),
        jax.grad(bernoulli.entropy),
        jax.grad(lambda x: bernoulli.kl_divergence(x, prior)),
        jax.grad(lambda x: bernoulli.log_prob(x, weights)),
        jax.grad(lambda x: bb.relaxed_sample(key, x, temperature=0.5)["a"].sum()),
    ]
    totals = [
        bernoulli.entropy,
        lambda x: bernoulli.kl_divergence(x, 0.5),
        lambda x: bernoulli.kl_divergence(x, prior),
        lambda x: bernoulli.log_prob(x, weights),
        lambda x: bernoulli.log_prob(x, small),
    ]
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for function in leafwise:
            assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(function, natural))} == {jnp.dtype(dtype)}
        assert [jax.eval_shape(f, natural).dtype for f in totals] == [jnp.float32] * len(totals)


def test_a_tree_of_two_dtypes_has_the_wider_sum(x64):
    natural = {"a": jnp.ones(3, "float32"), "b": jnp.ones(2, "float64"), "c": jnp.ones(2, "float16")}
    with jax.numpy_dtype_promotion("strict"):
        total = bernoulli.entropy(natural)
    assert total.dtype == jnp.float64
    np.testing.assert_allclose(total, 7 * reference.entropy(np.ones(1)).sum(), rtol=1e-3)


def test_variance_is_that_of_the_two_values():
    x = np.linspace(-5, 5, 21)
    plus = 1 / (1 + np.exp(-2 * x))
    mean = plus - (1 - plus)
    exact = plus * (1 - mean) ** 2 + (1 - plus) * (-1 - mean) ** 2
    variance = bernoulli.variance({"a": jnp.asarray(x, jnp.float32), "b": None})
    assert variance["b"] is None
    np.testing.assert_allclose(variance["a"], exact, rtol=1e-5)


@pytest.mark.parametrize("scalar", [np.float64, np.float32, np.int64, np.uint8])
def test_numpy_numbers_are_as_good_as_python_ones(scalar, key, x64):
    natural = jnp.linspace(-1, 1, 5, dtype=jnp.float32)

    def values(number):
        relax = partial(bb.relax, natural, natural, temperature=number, eps=number)
        gradient = jax.grad(lambda x: bb.relaxed_sample(key, x, temperature=number, eps=number).sum())
        return relax(), gradient(natural), bb.init_natural(key, natural, scale=number)

    for x, y in zip(values(scalar(2)), values(2), strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey, partial(jax.random.key, impl="rbg")])
def test_every_form_of_key_is_taken_and_shapes_are_enough_for_noise(make_key):
    natural = {"a": jnp.zeros((2, 3))}
    shapes = jax.eval_shape(lambda: natural)
    for function in (bb.logistic_noise, bb.init_natural):
        np.testing.assert_array_equal(function(make_key(0), shapes)["a"], function(make_key(0), natural)["a"])
    assert jax.jit(bb.sample)(make_key(0), natural)["a"].shape == (2, 3)
    assert jax.vmap(bb.sample, (0, None))(jax.random.split(make_key(0), 4), natural)["a"].shape == (4, 2, 3)
