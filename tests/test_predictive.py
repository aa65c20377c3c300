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


# Other outputs --------------------------------------------------------------------------------------------------------


def networks(num_samples, key, natural):
    """The sampled networks, one by one."""
    return [np.asarray(bb.sample(k, natural), np.float64) for k in jax.random.split(key, num_samples)]


MATRIX = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
INPUTS = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "num_samples, chunk_size", [(1, 3), (7, None), (np.uint8(200), 1), (np.uint8(200), 3), (np.int8(127), np.uint8(7))]
)
def test_expectation_of_any_tree_is_the_mean_over_samples(num_samples, chunk_size, key):
    def function(weights):
        return {"weights": weights, "count": (weights > 0).sum(), "any": [(weights > 0).any()], "none": None}

    result = bb.posterior_expectation(function, MATRIX, key, num_samples=num_samples, chunk_size=chunk_size)
    sampled = networks(int(num_samples), key, MATRIX)
    np.testing.assert_allclose(result["weights"], np.mean(sampled, axis=0), atol=1e-6)
    np.testing.assert_allclose(result["count"], np.mean([(w > 0).sum() for w in sampled]), rtol=1e-5)
    assert result["any"][0] == 1
    assert {x.dtype for x in jax.tree.leaves(result)} == {jnp.dtype("float32")}


def test_expectation_in_half_precision_is_summed_in_float32(key):
    """1 + 2^-8 a thousand times: a sum in bfloat16 would stop at 256."""
    function = lambda w: jnp.full(2, 1 + 2**-7, jnp.bfloat16)  # noqa: E731
    mean = bb.posterior_expectation(function, MATRIX, key, num_samples=1000, chunk_size=1)
    np.testing.assert_allclose(mean, 1 + 2**-7, rtol=1e-5)


@pytest.mark.parametrize("shape", ["[batch]", "[batch, 1]", "[batch, label]"])
def test_bernoulli_predictive_is_that_of_each_label(shape, key):
    def apply_fn(weights, inputs):
        logits = 3 * inputs @ weights
        return {"[batch]": logits[:, 0], "[batch, 1]": logits[:, :1], "[batch, label]": logits}[shape]

    p = bb.bernoulli_predictive(apply_fn, MATRIX, key, INPUTS, num_samples=9, chunk_size=2)
    of_each = np.array([1 / (1 + np.exp(-apply_fn(w, INPUTS.astype(float)))) for w in networks(9, key, MATRIX)])

    def entropy(p):
        return -p * np.log(p) - (1 - p) * np.log1p(-p)

    mean = of_each.mean(axis=0)
    np.testing.assert_allclose(p.probabilities, mean, rtol=1e-5)
    np.testing.assert_allclose(p.entropy, entropy(mean), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(p.expected_entropy, entropy(of_each).mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(p.mutual_information, p.entropy - p.expected_entropy, atol=1e-6)


@pytest.mark.parametrize("logit", [100.0, -100.0, 20.0, 0.0])
def test_bernoulli_predictive_of_sure_networks_is_finite_and_its_gradient_too(logit, key):
    def entropy(x):
        p = bb.bernoulli_predictive(lambda w, x: x, MATRIX, key, x, num_samples=2)
        return jnp.sum(p.expected_entropy + p.entropy)

    value, grad = jax.value_and_grad(entropy)(jnp.full(3, logit))
    expected = np.log1p(np.exp(-abs(logit))) + abs(logit) / (1 + np.exp(abs(logit)))
    np.testing.assert_allclose(value, 6 * expected, rtol=2e-2, atol=1e-6)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_gaussian_predictive_is_the_law_of_total_variance(offset, key):
    """Far from 0 as well, where squares of means in float32 would lose the spread."""

    def apply_fn(weights, inputs):
        return offset + 0.01 * (inputs @ weights), abs(inputs[:, :1]) + 0.01 * abs(weights[0, 0])

    p = bb.gaussian_predictive(apply_fn, MATRIX, key, INPUTS, num_samples=50, chunk_size=7)
    means, stds = map(
        np.array, zip(*(apply_fn(w, INPUTS.astype(float)) for w in networks(50, key, MATRIX)), strict=True)
    )
    epistemic, aleatoric = means.std(axis=0), np.broadcast_to(np.sqrt((stds**2).mean(axis=0)), means.shape[1:])
    rounding = 2e-6 * (1 + offset)  # of the networks themselves: a float32 at 1e4 has steps of 1e-3
    np.testing.assert_allclose(p.mean, means.mean(axis=0), rtol=1e-6, atol=rounding)
    np.testing.assert_allclose(p.epistemic_std, epistemic, rtol=1e-3, atol=rounding)
    np.testing.assert_allclose(p.aleatoric_std, aleatoric, rtol=1e-5)
    np.testing.assert_allclose(p.std, np.hypot(epistemic, aleatoric), rtol=1e-3)


def test_gaussian_predictive_takes_one_number_for_the_noise_and_one_network_has_no_epistemic_part(key):
    p = bb.gaussian_predictive(lambda w, x: (x @ w, 0.5), MATRIX, key, INPUTS, num_samples=1)
    np.testing.assert_array_equal(p.aleatoric_std, np.full((5, 3), 0.5))
    np.testing.assert_allclose(p.epistemic_std, np.zeros((5, 3)), atol=1e-3)


@pytest.mark.parametrize(
    "predict, apply_fn, error, message",
    [
        (bb.posterior_predictive, lambda w, x: (x @ w)[:, :1], ValueError, "bernoulli_predictive takes one logit"),
        (bb.posterior_predictive, lambda w, x: (x @ w)[:, 0], ValueError, "gaussian_predictive takes numbers"),
        (bb.logit_average_predictive, lambda w, x: (x @ w)[:, :1], ValueError, "bernoulli_predictive"),
        (bb.bernoulli_predictive, lambda w, x: (x @ w)[None], ValueError, r"\[batch, label\], got shape \(1, 5, 3\)"),
        (bb.gaussian_predictive, lambda w, x: x @ w, TypeError, r"apply_fn must return a pair \(mean, std\), got"),
    ],
)
def test_outputs_of_another_kind_are_refused_in_one_line(predict, apply_fn, error, message, key):
    with pytest.raises(error, match=message) as caught:
        predict(apply_fn, MATRIX, key, INPUTS, num_samples=2)
    assert "\n" not in str(caught.value)


def by_committee(apply_fn, natural, key, inputs, *, num_samples, chunk_size=1):
    return bb.committee_predictive(apply_fn, bb.sample_packed(key, natural, num_samples), inputs, chunk_size=chunk_size)


PREDICTIVES = {
    "posterior": (bb.posterior_predictive, lambda w, x: x @ w),
    "committee": (by_committee, lambda w, x: x @ w),
    "logit average": (bb.logit_average_predictive, lambda w, x: x @ w),
    "bernoulli": (bb.bernoulli_predictive, lambda w, x: x @ w),
    "gaussian": (bb.gaussian_predictive, lambda w, x: (x @ w, jnp.abs(x[:, :1]))),
}


@pytest.mark.parametrize("name, check_vma", [*((name, True) for name in PREDICTIVES), ("posterior", False)])
def test_predictives_work_inside_shard_map(name, check_vma, key):
    """One device: what is checked is the types of what differs between devices."""
    predict, apply_fn = PREDICTIVES[name]
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("batch")

    def of_part(x):
        return predict(apply_fn, MATRIX, key, x, num_samples=5, chunk_size=2)

    inside = jax.jit(jax.shard_map(of_part, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma))(INPUTS)
    for a, b in zip(inside, of_part(INPUTS), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, wrap", [*((name, jax.jit) for name in PREDICTIVES), ("posterior", lambda f: f)])
def test_predictives_take_inputs_on_an_explicit_mesh(name, wrap, key):
    predict, apply_fn = PREDICTIVES[name]
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    x = jax.device_put(INPUTS, jax.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))

    def of(x):
        return predict(apply_fn, MATRIX, key, x, num_samples=5, chunk_size=2)

    expected = of(INPUTS)
    with jax.set_mesh(mesh):
        divided = wrap(of)(x)
    for a, b in zip(divided, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PREDICTIVES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_predictives_leave_nothing_to_promotion(name, dtype, key):
    """Which is an error here (see the fixture strict)."""
    predict, apply_fn = PREDICTIVES[name]
    natural, inputs = MATRIX.astype(dtype), jnp.asarray(INPUTS, dtype)
    result = predict(apply_fn, natural, key, inputs, num_samples=3)
    assert {x.dtype for x in result} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", PREDICTIVES)
def test_predictions_of_an_exported_program_come_back(name, key):
    pytest.importorskip("flatbuffers", reason="jax.export needs it to write a program")
    predict, apply_fn = PREDICTIVES[name]
    program = jax.jit(lambda natural, key, x: predict(apply_fn, natural, key, x, num_samples=3))
    kept = jax.export.export(program)(MATRIX, key, INPUTS).serialize()
    read = jax.export.deserialize(kept).call(MATRIX, key, INPUTS)
    assert type(read) is type(program(MATRIX, key, INPUTS))


def test_gaussian_predictive_takes_an_integer_for_the_noise(key):
    p = bb.gaussian_predictive(lambda w, x: (x @ w, 1), MATRIX, key, INPUTS, num_samples=2)
    np.testing.assert_array_equal(p.aleatoric_std, np.ones((5, 3)))


# Committees -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 3, 7])
def test_committee_predicts_what_the_posterior_does_to_the_bit(chunk_size, key):
    committee = bb.sample_packed(key, NATURAL, 7)
    predict_by_committee = jax.jit(partial(bb.committee_predictive, apply_fn, chunk_size=chunk_size))
    for a, b in zip(predict_by_committee(committee, X), predict(7, key, chunk_size), strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_network_of_a_committee_has_its_own_beside_its_weights(key):
    """Statistics of batch norms, as their arrays have the axis of networks too; and weights that are not packed."""
    committee = bb.sample_packed(key, NATURAL, 5)
    shifts = jnp.arange(15.0).reshape(5, 3)

    def shifted(network, x):
        weights, shift = network
        return apply_fn(weights, x) + shift[None]

    weights = bb.unpack(committee)
    p = np.mean(
        [jax.nn.softmax(shifted((jax.tree.map(lambda w, s=s: w[s], weights), shifts[s]), X)) for s in range(5)],
        axis=0,
    )
    for network in (committee, weights):
        prediction = bb.committee_predictive(shifted, (network, shifts), X)
        np.testing.assert_allclose(prediction.probabilities, p, rtol=1e-5)


def test_memory_of_a_committee_that_predicts_does_not_grow_with_it(key):
    """Its bits are an argument, and not copied: 200 networks more take as much but for their indices."""
    natural = {"a": np.zeros((50, 400), np.float32), "b": np.zeros((400, 2), np.float32)}

    def temporary_bytes(num_samples):
        committee = jax.eval_shape(lambda: bb.sample_packed(key, natural, num_samples))
        predict = jax.jit(partial(bb.committee_predictive, lambda w, x: jnp.tanh(x @ w["a"]) @ w["b"]))
        return predict.lower(committee, np.ones((5, 50), np.float32)).compile().memory_analysis().temp_size_in_bytes

    few, many = temporary_bytes(20), temporary_bytes(220)
    assert few > 4 * 20_800
    assert many - few < 200 * 20


ONE = jax.tree.map(lambda x: x[0], bb.sample_packed(jax.random.key(0), NATURAL, 1))


@pytest.mark.parametrize(
    "committee, chunk_size, error, message",
    [
        (ONE, 1, ValueError, r"uint8 \[networks, bytes\], got shape \(1,\) at 'a'"),
        (
            (bb.sample_packed(jax.random.key(0), NATURAL, 4), jnp.ones(3)),
            1,
            ValueError,
            r"got shape .3,. at '1' ",
        ),
        ((jnp.ones(()),), 1, ValueError, r"got shape \(\) at '0'"),
        (jnp.ones((0, 3)), 1, ValueError, r"got shape \(0, 3\)"),
        ({}, 1, ValueError, "committee must have at least one leaf, got {}"),
        (jnp.ones((2, 3)), 0, ValueError, "chunk_size must be an integer >= 1, got 0"),
        (jnp.ones((2, 3)), None, TypeError, "chunk_size must be an integer, got None"),
    ],
)
def test_what_is_no_committee_is_refused_in_one_line(committee, chunk_size, error, message):
    with pytest.raises(error, match=message) as caught:
        bb.committee_predictive(lambda w, x: x, committee, jnp.ones((2, 3)), chunk_size=chunk_size)
    assert "\n" not in str(caught.value)
