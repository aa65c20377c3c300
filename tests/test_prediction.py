"""What trained networks answer: batch norms set anew for each network, scores with an output temperature."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb
from experiments.common import console, data, methods, prediction, training
from experiments.common.networks import MLP, VGG, Network
from experiments.common.presets import PRESETS

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(90, 4, 4, 1)) + 0.5, jnp.float32)
LABELS = jnp.asarray(RNG.integers(3, size=90))
DATASET = data.Dataset(data.Split(IMAGES, LABELS), data.Split(IMAGES[:20], LABELS[:20]), 3, np.zeros(1), np.ones(1))
MODELS = {
    "mlp": Network(MLP(hidden=(16,), dropout=0.3, batch_norm_gain=True, output_scale=True), 3),
    "vgg": Network(VGG(channels=(4,), hidden=(8,), dropout=0.3), 3),
}


def state_of(model, method="bayesbinn"):
    config = PRESETS["digits"](method)
    plan = methods.Plan(90, config.batch_size, config.epochs)
    problem = training.Problem(methods.make(config.method, config.real_learning_rate, plan), model, config.batch_size)
    return problem, jax.jit(partial(training.init, problem))(jax.random.key(0), IMAGES)


@pytest.mark.parametrize("name", MODELS)
def test_reestimated_network_answers_as_in_training_without_dropout(name):
    """Of the images that set its batch norms, all in one batch; the state's statistics are others."""
    model = MODELS[name]
    _, state = state_of(model)
    weights = bb.mode(state.params[0])
    params = bb.combine(weights, state.params[1])
    undropped = model.clone(settings=dataclasses.replace(model.settings, dropout=0.0))
    expected, _ = undropped.apply(
        {"params": params, "batch_stats": state.batch_stats}, IMAGES, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(
        prediction.network(model, state, IMAGES, batch_size=90)(weights, IMAGES), expected, rtol=1e-3, atol=1e-4
    )
    as_trained = prediction.network(model, state, IMAGES[:0])(weights, IMAGES)
    assert np.max(np.abs(as_trained - expected)) > 0.1
    plain = model.apply({"params": params, "batch_stats": state.batch_stats}, IMAGES, train=False)
    np.testing.assert_allclose(as_trained, plain, rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_all_images_and_not_the_mean_over_batches():
    """Batches that differ: the variance between them counts. Of 90 images in batches of 40 the last 10 are left out."""
    model = MODELS["mlp"]
    _, state = state_of(model)
    weights = bb.mode(state.params[0])
    images = IMAGES.at[:40].add(2.0)
    measured = prediction.reestimate(model, bb.combine(weights, state.params[1]), state.batch_stats, images, 40)
    activations = np.asarray(images[:80]).reshape(80, 16) @ np.asarray(weights["BinaryDense_0"]["binary_kernel"])
    np.testing.assert_allclose(measured["BatchNorm_0"]["mean"], activations.mean(axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(measured["BatchNorm_0"]["var"], activations.var(axis=0), rtol=1e-3)
    assert jax.tree.structure(measured) == jax.tree.structure(state.batch_stats)


def test_each_sampled_network_has_statistics_of_its_own():
    """The mean of two samples is that of two networks, each with its batch norms set for it."""
    model = MODELS["mlp"]
    problem, state = state_of(model)
    state = state._replace(params=(jax.tree.map(lambda x: 0.1 * x, state.params[0]), state.params[1]))
    key, index = jax.random.key(3), data.Index(jnp.arange(60), 60 + jnp.arange(30), jnp.arange(60))
    predicted = prediction.predict(problem, 2, DATASET, state, key, index)
    apply_fn = prediction.network(model, state, IMAGES[:60])
    samples = [bb.sample(k, state.params[0]) for k in jax.random.split(key, 2)]
    expected = np.mean([jax.nn.softmax(apply_fn(w, IMAGES)) for w in samples], axis=0)
    on_test, on_validation = predicted["mean"]
    np.testing.assert_allclose(on_test.probabilities, expected[:20], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(on_validation.probabilities, expected[60:], rtol=1e-3, atol=1e-5)
    on_test, on_validation = predicted["mode"]
    expected = jax.nn.softmax(apply_fn(bb.mode(state.params[0]), IMAGES))
    np.testing.assert_allclose(on_validation.probabilities, expected[60:], rtol=1e-3, atol=1e-5)


def test_scaled_scores_use_the_validation_images_alone():
    rng = np.random.default_rng(1)
    logits = 3 * rng.normal(size=(400, 3))
    labels = jnp.asarray(np.argmax(logits / 3 + rng.gumbel(size=logits.shape), axis=1))
    p = bb.mode_predictive(lambda w, x: jnp.asarray(logits), jnp.ones(1), labels)
    halves = prediction.part(p, slice(200)), prediction.part(p, slice(200, None))
    values = prediction.scores("mode", halves, (labels[:200], labels[200:]))
    t = bb.calibration.fit_output_temperature(p.probabilities[200:], labels[200:])
    scaled = jax.nn.softmax(jnp.asarray(logits[:200]) / t)
    assert 2 < values["output_temperature_mode"] < 4.5
    np.testing.assert_allclose(values["output_temperature_mode"], t, rtol=1e-5)
    np.testing.assert_allclose(
        values["test_nll_mode_scaled"], bb.metrics.negative_log_likelihood(scaled, labels[:200]), rtol=1e-4
    )
    assert values["test_nll_mode_scaled"] < values["test_nll_mode"]
    assert values["test_ece_mode_scaled"] < values["test_ece_mode"]


@pytest.mark.parametrize("name", ["bayesbinn", "ste", "full_precision"])
def test_epoch_tells_how_far_the_posterior_has_moved(name):
    model = MODELS["mlp"]
    problem, state = state_of(model, name)
    flipped = jax.tree.map(lambda x: x.at[0].multiply(-1), state.params[0])
    first, last = bb.mode(state.params[0]), bb.mode(flipped)
    index = data.Index(jnp.arange(90), jnp.arange(9), jnp.arange(0))
    values = prediction.evaluate_epoch(problem, 0.2, DATASET, state, (first, last), index)
    rows = 16 + 3  # the first row of both matrices
    if name == "full_precision":
        assert values["flip_rate"] is None
    else:
        assert values["flipped_since_start"] == 0
        np.testing.assert_allclose(values["flip_rate"], rows / (16 * 16 + 16 * 3), rtol=1e-5)
    assert ("kl_bits" in values) == (name == "bayesbinn")
    if name == "bayesbinn":
        natural = state.params[0]
        np.testing.assert_allclose(values["kl_bits"] * np.log(2), values["kl_nats"], rtol=1e-5)
        np.testing.assert_allclose(values["kl_nats"], bb.bernoulli.kl_divergence(natural, 0.0), rtol=1e-5)
        np.testing.assert_allclose(
            values["entropy_bits_per_weight/BinaryDense_1/binary_kernel"],
            bb.diagnostics.entropy_bits_per_weight(natural["BinaryDense_1"]),
            rtol=1e-5,
        )


@pytest.mark.parametrize(
    "entropy, flipped, advice",
    [
        (0.3, 0.2, "at the start$"),
        (0.3, 0.0005, "its mode is the start: train longer, raise --learning-rate, or lower --init-scale"),
        (0.001, 0.2, "saturated .* --noise activations with a lower --learning-rate"),
        (0.99, 0.4, "fell back to its prior: lower --kl-weight"),
    ],
)
def test_diagnosis_names_the_flag_to_turn(entropy, flipped, advice):
    results = {
        "posterior_entropy_bits_per_weight": entropy,
        "flipped_since_start": flipped,
        "saturated_share": 0.5,
    }
    line = console.diagnosis(results)
    assert "\n" not in line
    assert re.search(advice, line), line
