"""Bad input of every public function: one line that names the argument and the value it got."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbinn_jax as bb
from bbinn_jax import bernoulli, metrics

KEY = jax.random.key(0)
W = jnp.zeros(3)
TREE = {"a": jnp.zeros(3), "b": jnp.zeros(2)}
SIGNS = {"a": jnp.ones(3), "b": -jnp.ones(2)}
INTEGERS = {"a": jnp.arange(3)}
IMAGE = jnp.zeros((4, 2))
HALVES = jnp.full((4, 2), 0.5)
LABELS = jnp.zeros(4, int)
NAN = float("nan")


def bayesbinn(**changes):
    return bb.bayesbinn(**{"learning_rate": 0.1, "train_set_size": 10, **changes})


def update(tx, grads=TREE, params=TREE, **extra_args):
    return tx.update(grads, tx.init(TREE if params is None else params), params, **extra_args)


def bop(**changes):
    return bb.bop(**{"gamma": 0.1, "threshold": 0.0, **changes})


def bimu(**changes):
    return bb.bimu(**{"max_step": 1.0, "memory_window": 10, **changes})


def pmf(**changes):
    return bb.pmf(**{"optimizer": optax.sgd(1.0), "beta": 1.0, **changes})


def partitioned():
    return optax.partition({"binary": bayesbinn(), "real": optax.sgd(1.0)}, ("binary", "real"))


def expected_loss(loss_fn=jnp.sum, **changes):
    return bb.expected_loss(loss_fn, **{"temperature": 1.0, **changes})


def linear(w, x):
    return x @ jnp.stack([w[:2], -w[:2]], axis=1)


def predictive(apply_fn=linear, **changes):
    return bb.posterior_predictive(apply_fn, W, KEY, IMAGE, **{"num_samples": 2, **changes})


def partition(rules, params=None):
    return bb.partition({"binary_kernel": W, "bias": W} if params is None else params, rules)


def init(layer, shape):
    return layer.init(KEY, jnp.zeros(shape))


# what is done, the error, what its message must contain
CASES = {
    # numbers
    "learning_rate < 0": (lambda: bayesbinn(learning_rate=-0.1), ValueError, ["learning_rate", "-0.1"]),
    "learning_rate nan": (lambda: bayesbinn(learning_rate=NAN), ValueError, ["learning_rate", "nan"]),
    "learning_rate text": (lambda: bayesbinn(learning_rate="fast"), TypeError, ["learning_rate", "fast"]),
    "learning_rate None": (lambda: bayesbinn(learning_rate=None), TypeError, ["learning_rate", "None"]),
    "learning_rate array": (lambda: bayesbinn(learning_rate=-jnp.ones(())), ValueError, ["learning_rate", "-1"]),
    "train_set_size 0": (lambda: bayesbinn(train_set_size=0), ValueError, ["train_set_size", "0"]),
    "train_set_size < 0": (lambda: bayesbinn(train_set_size=-5), ValueError, ["train_set_size", "-5"]),
    "train_set_size 0.5": (lambda: bayesbinn(train_set_size=0.5), ValueError, ["train_set_size", "0.5"]),
    "train_set_size nan": (lambda: bayesbinn(train_set_size=NAN), ValueError, ["train_set_size", "nan"]),
    "momentum 1": (lambda: bayesbinn(momentum=1.0), ValueError, ["momentum", "1.0"]),
    "momentum < 0": (lambda: bayesbinn(momentum=-0.1), ValueError, ["momentum", "-0.1"]),
    "momentum nan": (lambda: bayesbinn(momentum=NAN), ValueError, ["momentum", "nan"]),
    "kl_weight < 0": (lambda: bayesbinn(kl_weight=-1.0), ValueError, ["kl_weight", "-1.0"]),
    "kl_weight nan": (lambda: bb.add_prior(NAN), ValueError, ["kl_weight", "nan"]),
    "eps < 0": (lambda: bayesbinn(eps=-1e-10), ValueError, ["eps", "-1e-10"]),
    "eps nan, precondition": (lambda: bb.precondition_by_fisher(NAN), ValueError, ["eps", "nan"]),
    "eps < 0, relax": (lambda: bb.relax(W, W, temperature=1.0, eps=-1.0), ValueError, ["eps", "-1.0"]),
    "eps < 0, expected_loss": (lambda: expected_loss(eps=-1.0), ValueError, ["eps", "-1.0"]),
    "scale < 0": (lambda: bb.init_natural(KEY, W, scale=-1.0), ValueError, ["scale", "-1.0"]),
    "scale nan": (lambda: bb.init_natural(KEY, W, scale=NAN), ValueError, ["scale", "nan"]),
    "scale < 0, layer": (lambda: bb.natural_initializer(-1.0)(KEY, (2,)), ValueError, ["scale", "-1.0"]),
    "temperature 0": (lambda: bb.relax(W, W, temperature=0.0), ValueError, ["temperature", "0.0"]),
    "temperature < 0": (lambda: bb.relaxed_sample(KEY, W, temperature=-1.0), ValueError, ["temperature", "-1.0"]),
    "temperature nan": (lambda: expected_loss(temperature=NAN), ValueError, ["temperature", "nan"]),
    "temperature 0, loss": (lambda: expected_loss(temperature=0), ValueError, ["temperature", "0"]),
    "temperature text": (lambda: expected_loss(temperature="hot"), TypeError, ["temperature", "hot"]),
    "temperature vector": (lambda: bb.relax(W, W, temperature=jnp.ones(3)), TypeError, ["temperature", "1., 1., 1."]),
    "temperature matrix": (lambda: bb.relax(W, W, temperature=np.ones((2, 2))), TypeError, ["temperature", "1."]),
    "temperature inf": (lambda: expected_loss(temperature=float("inf")), ValueError, ["temperature", "inf"]),
    "train_set_size inf": (lambda: bayesbinn(train_set_size=float("inf")), ValueError, ["train_set_size", "inf"]),
    "gamma < 0": (lambda: bop(gamma=-0.1), ValueError, ["gamma", "[0, 1]", "-0.1"]),
    "gamma > 1": (lambda: bop(gamma=1.5), ValueError, ["gamma", "[0, 1]", "1.5"]),
    "gamma nan": (lambda: bop(gamma=NAN), ValueError, ["gamma", "nan"]),
    "gamma text": (lambda: bop(gamma="slow"), TypeError, ["gamma", "slow"]),
    "gamma None": (lambda: bop(gamma=None), TypeError, ["gamma", "None"]),
    "threshold < 0": (lambda: bop(threshold=-1e-8), ValueError, ["threshold", "-1e-08"]),
    "threshold nan": (lambda: bop(threshold=NAN), ValueError, ["threshold", "nan"]),
    "threshold inf": (lambda: bop(threshold=float("inf")), ValueError, ["threshold", "inf"]),
    "threshold text": (lambda: bop(threshold="low"), TypeError, ["threshold", "low"]),
    "threshold schedule": (lambda: bop(threshold=optax.constant_schedule(0.1)), TypeError, ["threshold", "function"]),
    "beta 0": (lambda: pmf(beta=0.0), ValueError, ["beta", "> 0", "0.0"]),
    "beta < 0": (lambda: pmf(beta=-1.0), ValueError, ["beta", "-1.0"]),
    "beta nan": (lambda: pmf(beta=NAN), ValueError, ["beta", "nan"]),
    "beta inf": (lambda: pmf(beta=float("inf")), ValueError, ["beta", "inf"]),
    "beta text": (lambda: pmf(beta="hard"), TypeError, ["beta", "hard"]),
    "beta None": (lambda: pmf(beta=None), TypeError, ["beta", "None"]),
    "weights of pmf 1": (
        lambda: pmf().init({"a": W, "b": {"c": jnp.array([0.5, 1.0])}}),
        ValueError,
        ["weights", "(-1, 1)", "1.0", "'b/c'"],
    ),
    "weights of pmf < -1": (lambda: pmf().init({"a": np.array([-3.5])}), ValueError, ["weights", "-3.5", "'a'"]),
    "weights of pmf nan": (lambda: pmf().init({"a": NAN * W}), ValueError, ["weights", "nan", "'a'"]),
    "Python number as a leaf": (lambda: bb.mode({"a": 0.5}), TypeError, ["natural", "float", "'a'"]),
    # counts
    "num_samples < 0": (lambda: expected_loss(num_samples=-1), ValueError, ["num_samples", "-1"]),
    "num_samples float": (lambda: expected_loss(num_samples=2.0), TypeError, ["num_samples", "2.0"]),
    "num_samples bool": (lambda: expected_loss(num_samples=True), ValueError, ["num_samples", "True"]),
    "num_samples None": (lambda: expected_loss(num_samples=None), TypeError, ["num_samples", "None"]),
    "num_samples traced": (lambda: jax.jit(lambda n: predictive(num_samples=n))(2), TypeError, ["num_samples"]),
    "num_samples 0": (lambda: predictive(num_samples=0), ValueError, ["num_samples", "0"]),
    "num_samples 1.5": (lambda: predictive(num_samples=1.5), TypeError, ["num_samples", "1.5"]),
    "chunk_size 0": (lambda: predictive(chunk_size=0), ValueError, ["chunk_size", "0"]),
    "chunk_size text": (lambda: predictive(chunk_size="4"), TypeError, ["chunk_size", "4"]),
    "num_bins 0": (
        lambda: metrics.expected_calibration_error(HALVES, LABELS, num_bins=0),
        ValueError,
        ["num_bins", "0"],
    ),
    "num_bins float": (
        lambda: metrics.expected_calibration_error(HALVES, LABELS, num_bins=1.5),
        TypeError,
        ["num_bins", "1.5"],
    ),
    "max_step < 0": (lambda: bimu(max_step=-0.1), ValueError, ["max_step", "-0.1"]),
    "max_step text": (lambda: bimu(max_step="large"), TypeError, ["max_step", "large"]),
    "memory_window 0": (lambda: bimu(memory_window=0), ValueError, ["memory_window", "0"]),
    "memory_window nan": (lambda: bimu(memory_window=NAN), ValueError, ["memory_window", "nan"]),
    "memory_window inf": (lambda: bimu(memory_window=float("inf")), ValueError, ["memory_window", "inf"]),
    "learning_rate < 0, bimu": (lambda: bimu(learning_rate=-1.0), ValueError, ["learning_rate", "-1.0"]),
    "likelihood_weight < 0": (lambda: bimu(likelihood_weight=-1.0), ValueError, ["likelihood_weight", "-1.0"]),
    "kl_weight < 0, bimu": (lambda: bimu(kl_weight=-1.0), ValueError, ["kl_weight", "-1.0"]),
    # integer leaves
    "integers, expectation": (lambda: bernoulli.expectation(INTEGERS), TypeError, ["natural", "int32", "'a'"]),
    "integers, fisher_information": (lambda: bernoulli.fisher_information(INTEGERS), TypeError, ["natural", "int32"]),
    "integers, from expectation": (lambda: bernoulli.natural_from_expectation(INTEGERS), TypeError, ["mu", "int32"]),
    "integers, entropy": (lambda: bernoulli.entropy(INTEGERS), TypeError, ["natural", "int32"]),
    "integers, log_prob": (lambda: bernoulli.log_prob(INTEGERS, INTEGERS), TypeError, ["natural", "int32"]),
    "integers, kl_divergence": (lambda: bernoulli.kl_divergence(INTEGERS, 0.0), TypeError, ["natural", "int32"]),
    "integers, sample": (lambda: bb.sample(KEY, INTEGERS), TypeError, ["natural", "int32"]),
    "integers, mode": (lambda: bb.mode(INTEGERS), TypeError, ["natural", "int32"]),
    "integers, logistic_noise": (lambda: bb.logistic_noise(KEY, INTEGERS), TypeError, ["natural", "int32"]),
    "integers, relax": (lambda: bb.relax(INTEGERS, INTEGERS, temperature=1.0), TypeError, ["natural", "int32"]),
    "integers, straight_through": (lambda: bb.straight_through(INTEGERS), TypeError, ["latent", "int32"]),
    "integers, ste": (lambda: bb.ste(optax.sgd(1.0)).init(INTEGERS), TypeError, ["latent", "int32", "'a'"]),
    "integers, bop": (lambda: bop().init(INTEGERS), TypeError, ["weights", "int32", "'a'"]),
    "integers, bimu": (lambda: bimu().init(INTEGERS), TypeError, ["natural", "int32", "'a'"]),
    "integers, pmf": (lambda: pmf().init(INTEGERS), TypeError, ["weights", "int32", "'a'"]),
    "integers, bayesbinn": (lambda: bayesbinn().init(INTEGERS), TypeError, ["natural", "int32", "'a'"]),
    "integers, init_natural": (lambda: bb.init_natural(KEY, INTEGERS), TypeError, ["params", "int32", "'a'"]),
    "integers, partition": (lambda: partition({"a": "binary"}, INTEGERS), TypeError, ["params", "int32", "'a'"]),
    "integers, diagnostics": (lambda: bb.diagnostics.entropy_bits_per_weight(INTEGERS), TypeError, ["int32", "'a'"]),
    "booleans, mode": (lambda: bb.mode(jnp.array([True])), TypeError, ["natural", "bool"]),
    # trees that do not match
    "weights, tree": (lambda: bernoulli.log_prob(TREE, [W]), ValueError, ["weights", "natural", "'a'", "list"]),
    "weights, shape": (lambda: bernoulli.log_prob(W, jnp.zeros(4)), ValueError, ["weights", "(3,)", "(4,)"]),
    "prior, tree": (lambda: bernoulli.kl_divergence(TREE, {"a": W}), ValueError, ["prior_natural", "'b'"]),
    "prior, shape": (lambda: bernoulli.kl_divergence(W, jnp.zeros((3, 1))), ValueError, ["prior_natural", "(3, 1)"]),
    "prior, None": (lambda: bernoulli.kl_divergence(W, None), ValueError, ["prior_natural", "None"]),
    "noise, tree": (lambda: bb.relax(TREE, W, temperature=1.0), ValueError, ["noise", "'b'"]),
    "noise, shape": (lambda: bb.relax(W, jnp.zeros(1), temperature=1.0), ValueError, ["noise", "(3,)", "(1,)"]),
    "noise, scalar": (lambda: bb.relax(W, 0.0, temperature=1.0), ValueError, ["noise", "(3,)", "()"]),
    "noise, None leaf": (lambda: bb.relax({"a": W}, {"a": None}, temperature=1.0), ValueError, ["noise", "'a'"]),
    "grads, tree": (lambda: update(bayesbinn(), {"a": W}), ValueError, ["grads", "natural", "'b'"]),
    "grads, shape": (
        lambda: update(bayesbinn(), {"a": W, "b": W}),
        ValueError,
        ["grads", "'b'", "(2,)", "(3,)"],
    ),
    "grads, subtree": (
        lambda: update(bayesbinn(), {"a": W, "b": {"c": W}}),
        ValueError,
        ["grads", "'b'", "dict"],
    ),
    "grads, None leaf": (lambda: update(bayesbinn(), {"a": W, "b": None}), ValueError, ["grads", "'b'"]),
    "grads, None": (lambda: update(bayesbinn(), None), ValueError, ["grads", "None"]),
    "params, missing": (lambda: update(bayesbinn(), TREE, None), ValueError, ["natural", "None"]),
    "params, missing, precondition": (
        lambda: update(bb.precondition_by_fisher(), TREE, None),
        ValueError,
        ["natural", "None"],
    ),
    "params, missing, add_prior": (lambda: update(bb.add_prior(), TREE, None), ValueError, ["natural", "None"]),
    "prior of update, tree": (
        lambda: update(bayesbinn(), prior_natural={"a": W}),
        ValueError,
        ["prior_natural", "natural", "'b'"],
    ),
    "prior of update, shape": (
        lambda: update(bayesbinn(), prior_natural={"a": W, "b": W}),
        ValueError,
        ["prior_natural", "'b'", "(2,)", "(3,)"],
    ),
    "prior of bayesbinn, tree": (lambda: update(bayesbinn(prior_natural=[W])), ValueError, ["prior_natural", "list"]),
    "prior of partition, half a pair": (
        lambda: update(partitioned(), (TREE, W), (TREE, W), prior_natural=TREE),
        ValueError,
        ["prior_natural"],
    ),
    "ste, grads, tree": (lambda: update(bb.ste(optax.sgd(1.0)), {"a": W}), ValueError, ["grads", "latent", "'b'"]),
    "ste, grads, shape": (
        lambda: update(bb.ste(optax.sgd(1.0)), {"a": W, "b": W}),
        ValueError,
        ["grads", "latent", "(2,)", "(3,)"],
    ),
    "ste(adam), grads, tree": (
        lambda: update(bb.ste(optax.adam(1.0)), {"a": W}),
        ValueError,
        ["grads", "latent", "'b'"],
    ),
    "ste(adam), grads, shape": (
        lambda: update(bb.ste(optax.adam(1.0)), {"a": W, "b": W}),
        ValueError,
        ["grads", "latent", "(2,)", "(3,)"],
    ),
    "ste, params": (lambda: update(bb.ste(optax.sgd(1.0)), TREE, None), ValueError, ["latent", "None"]),
    "ste, optimizer": (lambda: bb.ste(0.1), TypeError, ["optimizer", "0.1"]),
    "ste, factory": (lambda: bb.ste(optax.sgd), TypeError, ["optimizer", "sgd"]),
    "bop, grads, tree": (lambda: update(bop(), {"a": W}, SIGNS), ValueError, ["grads", "weights", "'b'"]),
    "bop, grads, shape": (lambda: update(bop(), {"a": W, "b": W}, SIGNS), ValueError, ["grads", "(2,)", "(3,)"]),
    "bop, weights": (lambda: bop().init({"a": jnp.array([1.0, -1.0, 0.5])}), ValueError, ["weights", "0.5", "'a'"]),
    "bop, params": (lambda: bop().update(TREE, bop().init(SIGNS)), ValueError, ["weights", "None"]),
    "bimu, grads, tree": (lambda: update(bimu(), {"a": W}), ValueError, ["grads", "natural", "'b'"]),
    "bimu, prior": (lambda: update(bimu(), prior_natural={"a": W}), ValueError, ["prior_natural", "'b'"]),
    "bimu, params": (lambda: update(bimu(), TREE, None), ValueError, ["natural", "None"]),
    "pmf, grads, tree": (lambda: update(pmf(), {"a": W}), ValueError, ["grads", "weights", "'b'"]),
    "pmf, grads, shape": (lambda: update(pmf(), {"a": W, "b": W}), ValueError, ["grads", "weights", "(2,)", "(3,)"]),
    "pmf, params": (lambda: update(pmf(), TREE, None), ValueError, ["weights", "None"]),
    "pmf, optimizer": (lambda: pmf(optimizer=0.1), TypeError, ["optimizer", "0.1"]),
    "pmf, factory": (lambda: pmf(optimizer=optax.sgd), TypeError, ["optimizer", "sgd"]),
    # a key that is forgotten, or not the first
    "sample, no key": (lambda: bb.sample(TREE), TypeError, ["key", "comes first", "natural", "'a'"]),
    "sample, swapped": (lambda: bb.sample(W, KEY), TypeError, ["key", "comes first", "natural", "float32"]),
    "sample, seed": (lambda: bb.sample(0, W), TypeError, ["key", "jax.random key", "got 0"]),
    "sample, None": (lambda: bb.sample(None, W), TypeError, ["key", "got None"]),
    "sample, large tree": (lambda: bb.sample({"a": jnp.arange(900.0)}), TypeError, ["key", "..."]),
    "sample, no lambda": (lambda: bb.sample(KEY), TypeError, ["natural"]),
    "sample in jit": (lambda: jax.jit(bb.sample)(W, KEY), TypeError, ["key", "comes first", "float32[3]"]),
    "noise, no key": (lambda: bb.logistic_noise(TREE), TypeError, ["key", "comes first", "natural"]),
    "noise, swapped": (lambda: bb.logistic_noise(TREE, KEY), TypeError, ["key", "comes first", "natural"]),
    "relaxed, no key": (lambda: bb.relaxed_sample(W, temperature=1.0), TypeError, ["key", "comes first", "natural"]),
    "relaxed, swapped": (lambda: bb.relaxed_sample(W, KEY, temperature=1.0), TypeError, ["key", "comes first"]),
    "init, no key": (lambda: bb.init_natural(TREE), TypeError, ["key", "comes first", "params"]),
    "init, swapped": (lambda: bb.init_natural(TREE, KEY, scale=1.0), TypeError, ["key", "comes first", "params"]),
    # numbers that no float can hold, and that Python does not print
    "learning_rate 10^400": (lambda: bayesbinn(learning_rate=10**400), ValueError, ["learning_rate", "finite", "1329"]),
    "train_set_size 10^5000": (lambda: bayesbinn(train_set_size=10**5000), ValueError, ["train_set_size", "finite"]),
    "threshold -10^400": (lambda: bop(threshold=-(10**400)), ValueError, ["threshold", "finite"]),
    "num_samples -10^5000": (lambda: predictive(num_samples=-(10**5000)), ValueError, ["num_samples", "bits"]),
    # losses and networks
    "loss vector": (lambda: expected_loss(lambda w: w)(W, KEY), ValueError, ["loss_fn", "scalar", "(3,)"]),
    "loss vector with aux": (
        lambda: expected_loss(lambda w: (w, 0.0), has_aux=True)(W, KEY),
        ValueError,
        ["loss_fn", "scalar", "(3,)"],
    ),
    "forgotten has_aux": (lambda: expected_loss(lambda w: (w.sum(), 1.0))(W, KEY), TypeError, ["loss_fn", "tuple"]),
    "forgotten aux": (lambda: expected_loss(jnp.sum, has_aux=True)(W, KEY), TypeError, ["loss_fn", "pair", "has_aux"]),
    "forgotten return": (lambda: expected_loss(lambda w: None)(W, KEY), TypeError, ["loss_fn", "NoneType"]),
    "logits vector": (lambda: predictive(lambda w, x: x @ w[:2]), ValueError, ["apply_fn", "(4,)"]),
    "logits of one class": (lambda: predictive(lambda w, x: x @ w[:2, None]), ValueError, ["apply_fn", "(4, 1)"]),
    "logits vector, mode": (
        lambda: bb.mode_predictive(lambda w, x: x @ w[:2], W, IMAGE),
        ValueError,
        ["apply_fn", "(4,)"],
    ),
    "BinaryConv, no batch": (lambda: init(bb.BinaryConv(2, (3, 3)), (8, 8, 1)), ValueError, ["x", "(8, 8, 1)"]),
    # partition
    "unknown label": (lambda: partition({"kernel": "bin"}), ValueError, ["rules", "bin", "kernel"]),
    "label None": (lambda: partition({"kernel": None}), ValueError, ["rules", "None", "kernel"]),
    "rule without a leaf": (lambda: partition({"kernal": "binary"}), ValueError, ["rules", "kernal", "binary_kernel"]),
    "no binary leaf": (lambda: partition(None, {"w": W}), ValueError, ["rules", "binary_kernel", "'w'"]),
    "rule that comes too late": (lambda: partition({"": "binary", "bias": "real"}), ValueError, ["rules", "'bias'"]),
    "rules as text": (lambda: partition("binary"), TypeError, ["rules", "'binary'"]),
    "invalid expression": (lambda: partition({"(": "binary"}), ValueError, ["rules", "'('"]),
    "combine, trees": (lambda: bb.combine({"a": W}, {"b": None}), ValueError, ["weights", "real", "'a'", "'b'"]),
    "combine, both": (lambda: bb.combine({"a": W}, {"a": W}), ValueError, ["weights", "real", "'a'"]),
    # metrics
    "labels out of range": (lambda: metrics.accuracy(HALVES, LABELS + 2), ValueError, ["labels", "2"]),
    "labels negative": (lambda: metrics.brier_score(HALVES, LABELS - 1), ValueError, ["labels", "-1"]),
    "logits": (lambda: metrics.brier_score(5 * HALVES, LABELS), ValueError, ["probabilities", "sum to 1", "4"]),
    "probabilities nan": (lambda: metrics.accuracy(NAN * HALVES, LABELS), ValueError, ["probabilities", "nan"]),
    "labels float": (
        lambda: metrics.negative_log_likelihood(HALVES, LABELS.astype(float)),
        TypeError,
        ["labels", "float32"],
    ),
    "labels, shape": (lambda: metrics.accuracy(HALVES, LABELS[:3]), ValueError, ["labels", "(3,)"]),
    "labels one-hot": (lambda: metrics.accuracy(HALVES, jnp.zeros((4, 2), int)), ValueError, ["labels", "(4, 2)"]),
    "probabilities, shape": (
        lambda: metrics.expected_calibration_error(HALVES[:, 0], LABELS),
        ValueError,
        ["probabilities", "(4,)"],
    ),
    "no examples": (lambda: metrics.accuracy(HALVES[:0], LABELS[:0]), ValueError, ["probabilities", "(0, 2)"]),
    "no weights": (lambda: bb.diagnostics.entropy_bits_per_weight({"a": None}), ValueError, ["natural", "None"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_in_one_line(case):
    call, error, words = CASES[case]
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    for word in words:
        assert word in message
