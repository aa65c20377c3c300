"""What trained networks answer, and how good their answers are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common.data import Dataset, Index
from experiments.common.training import Method, Problem, State

SCORES = {
    "accuracy": bb.metrics.accuracy,
    "nll": bb.metrics.negative_log_likelihood,
    "brier": bb.metrics.brier_score,
    "ece": bb.metrics.expected_calibration_error,
}


class Network(NamedTuple):
    """A network that a run has kept, ready to predict.

    Attributes:
        posterior: what its file holds. A posterior's ``natural`` are natural parameters, those of other methods what
            they trained; the weights of the network that is shipped are ``bb.mode(natural)``, but for full_precision,
            whose ``natural`` are the weights.
        apply_fn: ``apply_fn(weights, inputs)`` gives the output of the network for any weights, the mode or a sample.
        preprocess: makes inputs of what was measured: ``(x - input_mean) / input_std``, both in ``posterior.config``.
        held_back: the training images that its validation had, a `data.Split`, where there are any.
    """

    posterior: bb.Posterior
    apply_fn: bb.ApplyFn
    preprocess: Callable[[Any], jax.Array]
    held_back: Any = None


class Packed(NamedTuple):
    """The mode or a committee that a run has kept at one bit a weight, ready to predict without training images.

    Attributes:
        network: what its file holds.
        apply_fn: ``apply_fn((weights, batch_stats), inputs)`` gives the output of one network, whose weights are
            unpacked. `bbinn_jax.committee_predictive` takes it with ``(network.weights, network.batch_stats)``.
        preprocess: makes inputs of what was measured, as in `Network`.
    """

    network: bb.PackedNetwork
    apply_fn: bb.ApplyFn
    preprocess: Callable[[Any], jax.Array]

    def predict(self, inputs: Any) -> bb.Prediction:
        """What the mode, or the committee, says of inputs; its output must be logits."""
        weights, batch_stats = self.network.weights, self.network.batch_stats
        if jax.tree.leaves(weights)[0].ndim == 2:
            return bb.committee_predictive(self.apply_fn, (weights, batch_stats), inputs)
        return bb.mode_predictive(lambda w, x: self.apply_fn((w, batch_stats), x), bb.unpack(weights), inputs)


def preprocessing(config: dict[str, Any], dtype: Any = np.float32) -> Callable[[Any], jax.Array]:
    """Standardizes inputs as those of training were, given the config of a kept network."""
    mean, std = (np.asarray(config[name], dtype) for name in ("input_mean", "input_std"))
    return lambda inputs: jnp.asarray((np.asarray(inputs, dtype) - mean) / std, jnp.float32)


def kept_state(kept: bb.Posterior) -> State:
    """A kept network as a state, for what predicts; it has no optimizer to train on with."""
    return State((kept.natural, kept.real), None, kept.batch_stats or {}, jnp.zeros((), jnp.int32))


def network(model: Any, state: State, reference: jax.Array, batch_size: int = 1000) -> bb.ApplyFn:
    """The network in prediction, a function ``apply_fn(weights, images)``: logits [n, class].

    Of a text, which has a class for each character, they are [n * character, class].

    Args:
        model: it draws no dropout where it has no key for it.
        state: of one seed.
        reference: training images. Each network that predicts has the statistics of its own
            activations on them in its batch norms; where there are none, those kept in training.
        batch_size: images at a time, so that memory does not grow with their number.
    """

    def apply_fn(weights: Any, images: jax.Array) -> jax.Array:
        variables = {
            "params": bb.combine(weights, state.params[1]),
            "batch_stats": statistics(model, state, weights, reference, batch_size),
        }
        logits = jax.lax.map(
            lambda image: model.apply(variables, image[None], train=False)[0], images, batch_size=batch_size
        )
        return logits.reshape(-1, logits.shape[-1])

    return apply_fn


def packed(kept: bb.PackedNetwork, model: Any) -> Packed:
    """A packed network of a model, whose inputs are scaled as its config says."""

    def apply_fn(weights_and_statistics: Any, inputs: jax.Array) -> jax.Array:
        weights, batch_stats = weights_and_statistics
        state = kept_state(bb.Posterior(weights, kept.real, batch_stats))
        return network(model, state, jnp.zeros(0))(weights, inputs)

    return Packed(kept, apply_fn, preprocessing(kept.config))


def statistics(model: Any, state: State, weights: Any, reference: jax.Array, batch_size: int = 1000) -> Any:
    """The batch-norm statistics of a network that predicts: its own on reference images, or those of training."""
    if not (len(reference) and state.batch_stats):
        return state.batch_stats
    return reestimate(model, bb.combine(weights, state.params[1]), state.batch_stats, reference, batch_size)


def reestimate(model: Any, params: Any, batch_stats: Any, images: jax.Array, batch_size: int) -> Any:
    """The batch-norm statistics that one network has on images; a last incomplete batch is left out."""
    batch_size = min(batch_size, len(images))
    num_batches = len(images) // batch_size
    batches = images[: num_batches * batch_size].reshape(num_batches, batch_size, *images.shape[1:])

    def update(batch_stats: Any, batch: jax.Array) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        return model.apply(variables, batch, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    return bb.recalibrate_batch_norm(update, batch_stats, batches)


def predict(
    problem: Problem, num_samples: int, dataset: Dataset, state: State, key: jax.Array, index: Index
) -> dict[str, tuple[bb.Prediction, bb.Prediction]]:
    """What one seed's predictors, "mode" and where there is a posterior "mean", say of test and validation images.

    Args:
        problem: what was trained.
        num_samples: networks in the mean.
        dataset: all images.
        state, key, index: of one seed; the key is for the samples.
    """
    method = problem.method
    apply_fn = network(problem.model, state, dataset.train.images[index.reference])
    images = jnp.concatenate([dataset.test.images, dataset.train.images[index.validation]])
    predictions = {"mode": predict_mode(method, apply_fn, state, images)}
    if method.is_posterior:
        # One network at a time: memory does not grow with their number.
        predictions["mean"] = bb.posterior_predictive(
            apply_fn, state.params[0], key, images, num_samples=num_samples, chunk_size=1
        )
    num_test = len(dataset.test.labels)
    return {name: (part(p, slice(num_test)), part(p, slice(num_test, None))) for name, p in predictions.items()}


def part(tree: Any, index: Any) -> Any:
    """A part of each array along its first axis."""
    return jax.tree.map(lambda x: x[index], tree)


def predict_mode(method: Method, apply_fn: bb.ApplyFn, state: State, images: jax.Array) -> bb.Prediction:
    """The prediction of the network that is shipped."""
    weights = shipped(method, state)
    return bb.mode_predictive(lambda _, images: apply_fn(weights, images), weights, images)


def shipped(method: Method, state: State) -> Any:
    """The weights of the network that is shipped: the mode, or the real weights themselves."""
    return bb.mode(state.params[0]) if method.is_binary else state.params[0]


def evaluate_epoch(
    problem: Problem, temperature: float, dataset: Dataset, state: State, modes: tuple[Any, Any], index: Index
) -> dict[str, Any]:
    """How the network of one seed does after an epoch, what the posterior looks like and how far it has moved.

    Args:
        problem: what is trained.
        temperature: of the relaxed samples.
        dataset: all images.
        state, index: of one seed, after the epoch.
        modes: the binary weights before the first epoch, and before this one.

    Returns:
        Scalars by name; None where the method has no such thing.
    """
    method, validation = problem.method, part(dataset.train, index.validation)
    apply_fn = network(problem.model, state, dataset.train.images[index.reference])
    natural = state.params[0]
    on_validation = predict_mode(method, apply_fn, state, validation.images)
    on_test = predict_mode(method, apply_fn, state, dataset.test.images)
    validation_labels, test_labels = validation.labels.ravel(), dataset.test.labels.ravel()
    values = {
        "validation_accuracy": bb.metrics.accuracy(on_validation.probabilities, validation_labels),
        "validation_nll_mode": bb.metrics.negative_log_likelihood(on_validation.probabilities, validation_labels),
        "test_accuracy_mode": bb.metrics.accuracy(on_test.probabilities, test_labels),
        "test_nll_mode": bb.metrics.negative_log_likelihood(on_test.probabilities, test_labels),
        "flip_rate": bb.diagnostics.flip_rate(natural, modes[1]) if method.is_binary else None,
        "flipped_since_start": bb.diagnostics.flip_rate(natural, modes[0]) if method.is_binary else None,
        "posterior_entropy_bits_per_weight": None,
    }
    if not method.is_posterior:
        return values
    kl = bb.bernoulli.kl_divergence(natural, 0.0)
    entropies = {
        jax.tree_util.keystr(path, simple=True, separator="/"): bb.diagnostics.entropy_bits_per_weight(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(natural)
    }
    return values | {
        "posterior_entropy_bits_per_weight": bb.diagnostics.entropy_bits_per_weight(natural),
        "saturated_share": bb.diagnostics.saturated_share(natural),
        "frozen_share": bb.diagnostics.frozen_share(natural, temperature=temperature),
        "kl_nats": kl,
        "kl_bits": kl / jnp.log(2),
        **{f"entropy_bits_per_weight/{name}": value for name, value in entropies.items()},
    }


def scores(
    name: str, prediction: tuple[bb.Prediction, bb.Prediction], labels: tuple[jax.Array, jax.Array]
) -> dict[str, float]:
    """Scores of a predictor by that name, as they are and with an output temperature fitted on validation images.

    ``prediction`` and ``labels`` are those of the test images, and of the validation images.
    """
    as_it_is, scaled, t = score(prediction, labels)
    values = {f"test_{score}_{name}": value for score, value in as_it_is.items()}
    values[f"output_temperature_{name}"] = t
    values |= {f"test_{score}_{name}_scaled": scaled[score] for score in SCORES if score != "accuracy"}  # the same
    return {key: float(value) for key, value in values.items()}


class Scores(NamedTuple):
    """Scores of a predictor on test images: as it is, and with an output temperature fitted on validation images."""

    as_it_is: dict[str, jax.Array]
    scaled: dict[str, jax.Array]
    output_temperature: jax.Array


@jax.jit  # one program instead of a hundred
def score(prediction: tuple[bb.Prediction, bb.Prediction], labels: tuple[jax.Array, jax.Array]) -> Scores:
    """All scores; ``prediction`` and ``labels`` are those of the test images, and of the validation images."""
    on_test, on_validation = prediction
    test_labels, validation_labels = labels
    t = bb.calibration.fit_output_temperature(on_validation.probabilities, validation_labels)

    def all_scores(probabilities: jax.Array) -> dict[str, jax.Array]:
        values = {score: function(probabilities, test_labels) for score, function in SCORES.items()}
        equal_mass = bb.metrics.expected_calibration_error(probabilities, test_labels, equal_mass=True)
        return values | {"ece_equal_mass": equal_mass}

    probabilities = on_test.probabilities
    scaled = bb.calibration.apply_output_temperature(probabilities, t)
    return Scores(all_scores(probabilities), all_scores(scaled), t)
