"""The predictive distribution against a loop over samples and against enumeration of all networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb
from tests import reference

RNG = np.random.default_rng(0)
NUM_WEIGHTS, NUM_CLASSES = 6, 3
X = RNG.normal(size=(5, 4)).astype(np.float32)
MATRICES = RNG.normal(size=(NUM_WEIGHTS, 4, NUM_CLASSES)).astype(np.float32)
NATURAL = {"a": jnp.array([0.5, -1.0, 0.1]), "b": jnp.array([0.0, 0.3, -0.2])}


def apply_fn(weights, x):
    """Logits of a random non-linear network of six weights."""
    w = jnp.concatenate([weights["a"], weights["b"]])
    return 1.5 * jnp.tanh(jnp.einsum("bi,wio,w->bo", x, MATRICES, w))


def log_probabilities(w):
    """[batch, class] of the same network, in NumPy float64."""
    logits = 1.5 * np.tanh(np.einsum("bi,wio,w->bo", X.astype(np.float64), MATRICES, w))
    return reference.log_softmax(logits)


def entropy(p):
    return -np.sum(p * np.log(p), axis=-1)


@partial(jax.jit, static_argnames=("num_samples", "chunk_size"))
def jitted(natural, key, num_samples, chunk_size):
    return bb.posterior_predictive(apply_fn, natural, key, X, num_samples=num_samples, chunk_size=chunk_size)


def predict(num_samples, key, chunk_size=None, natural=NATURAL):
    return jitted(natural, key, num_samples, chunk_size)


@jax.jit
def predict_mode(natural):
    return bb.mode_predictive(apply_fn, natural, X)


# Definition ----------------------------------------------------------------------------------------------------------


def test_prediction_equals_a_loop_over_samples(key):
    prediction = predict(7, key)
    samples = [jax.jit(bb.sample)(k, NATURAL) for k in jax.random.split(key, 7)]
    p = np.exp([log_probabilities(np.concatenate([w["a"], w["b"]])) for w in samples])
    mean, aleatoric = p.mean(axis=0), entropy(p).mean(axis=0)
    np.testing.assert_allclose(prediction.probabilities, mean, rtol=1e-5)
    np.testing.assert_allclose(prediction.entropy, entropy(mean), rtol=1e-5)
    np.testing.assert_allclose(prediction.expected_entropy, aleatoric, rtol=1e-5)
    np.testing.assert_allclose(prediction.mutual_information, entropy(mean) - aleatoric, atol=1e-6)


def test_logit_average_equals_a_loop_over_samples(key):
    p = bb.logit_average_predictive(apply_fn, NATURAL, key, X, num_samples=7, chunk_size=3)
    samples = [jax.jit(bb.sample)(k, NATURAL) for k in jax.random.split(key, 7)]
    # The mean of log p_s is that of the logits, up to a constant for each example.
    log_p = np.mean([log_probabilities(np.concatenate([w["a"], w["b"]])) for w in samples], axis=0)
    expected = np.exp(reference.log_softmax(log_p))
    np.testing.assert_allclose(p.probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(p.entropy, entropy(expected), rtol=1e-5)
    np.testing.assert_array_equal(p.expected_entropy, p.entropy)
    np.testing.assert_array_equal(p.mutual_information, np.zeros(len(X)))


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 10])
def test_prediction_does_not_depend_on_chunk_size(chunk_size, key):
    """Of 7 samples: chunks that divide their number, one that does not, and one that is larger."""
    for chunked, whole in zip(predict(7, key, chunk_size), predict(7, key), strict=True):
        np.testing.assert_allclose(chunked, whole, rtol=1e-6, atol=1e-6)


def test_jit_equals_no_jit(key):
    eager = bb.posterior_predictive(apply_fn, NATURAL, key, X, num_samples=7)
    for a, b in zip(predict(7, key), eager, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_one_sample_is_one_network(key):
    prediction = predict(1, key)
    np.testing.assert_array_equal(
        prediction.mutual_information, np.zeros(len(X))
    )  # no rounding to tell inputs apart by
    np.testing.assert_allclose(prediction.entropy, prediction.expected_entropy, rtol=1e-5)


# Uncertainty ---------------------------------------------------------------------------------------------------------


def test_uncertainty_keeps_its_identities_and_bounds(key):
    p = predict(100, key)
    np.testing.assert_allclose(np.sum(p.probabilities, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(p.entropy, p.expected_entropy + p.mutual_information, rtol=1e-5)
    np.testing.assert_allclose(p.entropy, entropy(np.asarray(p.probabilities)), rtol=1e-5)
    for part in (p.entropy, p.expected_entropy, p.mutual_information):
        assert part.shape == (len(X),)
        assert np.all(part >= 0)
        assert np.all(part <= np.log(NUM_CLASSES) + 1e-6)
    assert np.all(p.mutual_information > 0.01)  # this posterior is far from certain


def test_saturated_posterior_has_no_mutual_information(key):
    natural = jax.tree.map(lambda x: jnp.where(x > 0, 50.0, -50.0), NATURAL)
    prediction = predict(100, key, natural=natural)
    # 100 additions in float32, each rounded by up to 6e-8 of a sum
    np.testing.assert_allclose(prediction.mutual_information, 0, atol=6e-6)
    assert np.all(prediction.mutual_information >= 0)
    for a, b in zip(prediction, predict_mode(natural), strict=True):
        np.testing.assert_allclose(a, b, atol=6e-6)


def test_mode_prediction_is_that_of_the_signs():
    prediction = predict_mode(NATURAL)
    p = np.exp(log_probabilities(np.array([1, -1, 1, -1, 1, -1])))
    np.testing.assert_allclose(prediction.probabilities, p, rtol=1e-5)
    np.testing.assert_allclose(prediction.entropy, entropy(p), rtol=1e-5)
    np.testing.assert_array_equal(prediction.expected_entropy, prediction.entropy)
    np.testing.assert_array_equal(prediction.mutual_information, np.zeros(len(X)))


def test_two_certain_networks_that_disagree_are_all_epistemic(key):
    """A fair coin between the classes, each network being sure: the entropy is log 2, and no network has any.

    The share of heads is within 5 standard errors of 1/2, which changes the entropy by less than 1 %.
    """
    prediction = bb.posterior_predictive(
        lambda w, x: 100 * jnp.stack([w, -w], axis=1) * x, jnp.zeros(1), key, jnp.ones((1, 1)), num_samples=10_000
    )
    np.testing.assert_allclose(prediction.expected_entropy, 0, atol=1e-6)
    np.testing.assert_allclose(prediction.mutual_information, np.log(2), rtol=0.01)


def test_prediction_approaches_that_of_all_networks(key):
    """Each probability and each network's mean entropy within 5 standard errors of 2^14 samples."""
    num_samples = 2**14
    prediction = predict(num_samples, key, chunk_size=1024)
    weights = reference.all_weights(NUM_WEIGHTS)
    natural = np.concatenate([NATURAL["a"], NATURAL["b"]]).astype(np.float64)
    q = reference.probabilities(natural, weights)
    p = np.exp([log_probabilities(w) for w in weights])  # [network, batch, class]

    mean = np.einsum("n,nbk->bk", q, p)
    standard_error = np.sqrt(np.einsum("n,nbk->bk", q, (p - mean) ** 2) / num_samples)
    assert np.all(np.abs(prediction.probabilities - mean) < 5 * standard_error)

    aleatoric = q @ entropy(p)
    standard_error = np.sqrt(q @ (entropy(p) - aleatoric) ** 2 / num_samples)
    assert np.all(np.abs(prediction.expected_entropy - aleatoric) < 5 * standard_error)
    np.testing.assert_allclose(prediction.mutual_information, entropy(mean) - aleatoric, atol=0.01)


# Numerics ------------------------------------------------------------------------------------------------------------


def test_probabilities_of_zero_have_no_entropy(key):
    """Logits that are far apart, and minus infinity for a class that cannot be."""
    logits = jnp.array([[1e4, 0.0, -1e4], [0.0, 0.0, -jnp.inf]])
    prediction = bb.posterior_predictive(lambda w, x: logits, jnp.zeros(1), key, X, num_samples=3)
    np.testing.assert_allclose(prediction.probabilities, [[1, 0, 0], [0.5, 0.5, 0]], rtol=1e-6)
    for entropies in (prediction.entropy, prediction.expected_entropy):
        np.testing.assert_allclose(entropies, [0, np.log(2)], rtol=1e-6, atol=1e-7)


def test_bfloat16_logits_are_averaged_in_float32(key):
    def half(weights, x):
        return apply_fn(weights, x).astype(jnp.bfloat16)

    prediction = bb.posterior_predictive(half, NATURAL, key, X, num_samples=100)
    assert {leaf.dtype for leaf in prediction} == {jnp.dtype("float32")}
    np.testing.assert_allclose(np.sum(prediction.probabilities, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(prediction.probabilities, predict(100, key).probabilities, atol=0.01)


def test_memory_does_not_grow_with_the_number_of_samples(key):
    """In chunks of 4 only the keys of the samples are kept, 8 bytes each, and which of them count.

    All at once, 2,000 networks of 20,800 weights would need 650 MB.
    """
    natural = {"a": np.zeros((50, 400), np.float32), "b": np.zeros((400, 2), np.float32)}

    def apply_fn(w, x):
        return jnp.tanh(x @ w["a"]) @ w["b"]

    def temporary_bytes(num_samples):
        def predict(natural, key, x):
            return bb.posterior_predictive(apply_fn, natural, key, x, num_samples=num_samples, chunk_size=4)

        lowered = jax.jit(predict).lower(natural, key, np.ones((5, 50), np.float32))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    few, many = temporary_bytes(20), temporary_bytes(2_000)
    assert few > 4 * 20_800 * 4  # the weights of one chunk
    assert many - few < 2_000 * 20


def test_entropy_of_a_certain_prediction_has_a_gradient(key):
    """Where a probability is 0 in float32."""

    def total_entropy(x):
        network = lambda w, x: jnp.stack([x @ w, -x @ w], axis=-1)  # noqa: E731
        return jnp.sum(bb.posterior_predictive(network, jnp.full(3, 9.0), key, x, num_samples=4).entropy)

    assert np.all(np.isfinite(jax.grad(total_entropy)(60 * jnp.eye(3))))
