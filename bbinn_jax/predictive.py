r"""What the posterior predicts, and how it knows that it does not know.

    p(y | x) = E_q[softmax(f(x, w))]  ~  1/S sum_s softmax(f(x, w_s)),   w_s ~ q

The uncertainty of the prediction, in nats, has two parts:

    entropy              H[E_q p(y | x, w)]     total
    expected_entropy     E_q H[p(y | x, w)]     aleatoric: noise that more data does not remove
    mutual_information   their difference       epistemic: what the weights do not know

Probabilities are averaged, not logits: arXiv 2002.10778, section 3.4, step 2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbinn_jax._checks import PyTree, check_count
from bbinn_jax._mapping import over_leading_axis
from bbinn_jax.bernoulli import mode, sample

ApplyFn = Callable[[PyTree, jax.Array], jax.Array]


class Prediction(NamedTuple):
    """A predictive distribution and its uncertainty.

    Attributes:
        probabilities: [batch, class], rows sum to 1.
        entropy: [batch], total uncertainty in nats, at most log(class).
        expected_entropy: [batch], aleatoric part.
        mutual_information: [batch], epistemic part, entropy - expected_entropy >= 0.
    """

    probabilities: jax.Array
    entropy: jax.Array
    expected_entropy: jax.Array
    mutual_information: jax.Array


def posterior_predictive(
    apply_fn: ApplyFn,
    natural: PyTree,
    key: jax.Array,
    inputs: jax.Array,
    *,
    num_samples: int,
    chunk_size: int | None = None,
) -> Prediction:
    """Averages the class probabilities of networks drawn from the posterior.

    Args:
        apply_fn: ``apply_fn(weights, inputs)`` gives logits [batch, class].
        natural: lambda, any pytree of floating-point arrays.
        key: a `jax.random` key; sample s uses the s-th of ``split(key, num_samples)``.
        inputs: a batch, as apply_fn takes it.
        num_samples: S >= 1, how many networks are drawn.
        chunk_size: how many are evaluated at a time. Memory grows with it and
            not with num_samples; the numbers do not depend on it (but for the
            rounding of apply_fn). Default: all at once.

    Returns:
        A `Prediction`.

    Raises:
        ValueError: num_samples or chunk_size below 1, or logits that are not
            [batch, class] with at least two classes.

    >>> apply_fn = lambda w, x: jnp.stack([x @ w, -x @ w], axis=-1)
    >>> x = jnp.eye(2)                        # the first weight is certain, the second is not
    >>> p = posterior_predictive(apply_fn, jnp.array([9.0, 0.0]), jax.random.key(0), x, num_samples=100)
    >>> print(p.probabilities[:, 0], p.mutual_information)
    [0.88 0.54] [0.00 0.32]
    """

    def predict(weights: PyTree) -> tuple[jax.Array, jax.Array]:
        p = jax.nn.softmax(_logits(apply_fn, weights, inputs))
        return p, _entropy(p)

    probabilities, expected_entropy = _mean_over_samples(predict, natural, key, num_samples, chunk_size)
    return mixture(probabilities, expected_entropy)


def mixture(probabilities: jax.Array, expected_entropy: jax.Array) -> Prediction:
    """The prediction of several networks.

    Args:
        probabilities: [batch, class], their mean.
        expected_entropy: [batch], the mean of their entropies in nats.

    >>> print(mixture(jnp.array([[0.5, 0.5]]), jnp.zeros(1)).mutual_information)  # each is sure, of something else
    [0.6931472]
    """
    entropy = _entropy(probabilities)
    return Prediction(probabilities, entropy, expected_entropy, jnp.maximum(entropy - expected_entropy, 0))


def logit_average_predictive(
    apply_fn: ApplyFn,
    natural: PyTree,
    key: jax.Array,
    inputs: jax.Array,
    *,
    num_samples: int,
    chunk_size: int | None = None,
) -> Prediction:
    """The softmax of the mean logits of networks drawn from the posterior, as the paper's authors' program has it.

    ``softmax(1/S sum_s f(x, w_s))``: a geometric mean of the networks, which is no predictive
    distribution of the posterior, and as a rule surer. For comparison with their figures; prefer
    `posterior_predictive`. Arguments, returns and errors are as there; the parts of the entropy
    cannot be told apart, mutual_information is 0.

    >>> apply_fn = lambda w, x: jnp.stack([x @ w, -x @ w], axis=-1)
    >>> p = logit_average_predictive(apply_fn, jnp.array([9.0, 0.0]), jax.random.key(0), jnp.eye(2), num_samples=100)
    >>> print(p.probabilities[:, 0])
    [0.88 0.54]
    """
    logits = _mean_over_samples(lambda w: _logits(apply_fn, w, inputs), natural, key, num_samples, chunk_size)
    return _prediction_of_one(logits)


def mode_predictive(apply_fn: ApplyFn, natural: PyTree, inputs: jax.Array) -> Prediction:
    """The class probabilities of the one most probable network, ``w = sign(lambda)``.

    Args:
        apply_fn: ``apply_fn(weights, inputs)`` gives logits [batch, class].
        natural: lambda, any pytree of floating-point arrays.
        inputs: a batch, as apply_fn takes it.

    Returns:
        A `Prediction`; one network has no epistemic part, its mutual_information is 0.

    Raises:
        ValueError: logits that are not [batch, class] with at least two classes.

    >>> apply_fn = lambda w, x: jnp.stack([x @ w, -x @ w], axis=-1)
    >>> print(mode_predictive(apply_fn, jnp.array([9.0, 0.1]), jnp.eye(2)).probabilities[:, 0])
    [0.880797 0.880797]
    """
    return _prediction_of_one(_logits(apply_fn, mode(natural), inputs))


def _mean_over_samples(
    function: Callable[[PyTree], Any], natural: PyTree, key: jax.Array, num_samples: int, chunk_size: int | None
) -> Any:
    """The mean of a function of sampled weights, a pytree of arrays; see `posterior_predictive`."""
    check_count("num_samples", num_samples, 1)
    chunk_size = num_samples if chunk_size is None else chunk_size
    check_count("chunk_size", chunk_size, 1)
    chunk_size = min(chunk_size, num_samples)

    def of_sample(key: jax.Array) -> Any:
        return function(sample(key, natural))

    def add_one(total, value_and_counts):
        value, counts = value_and_counts
        return jax.tree.map(lambda t, x: jnp.where(counts, t + x, t), total, value), None

    def add_chunk(total, keys_and_counts):
        keys, counts = keys_and_counts
        # One after the other, so that the order of summation does not depend on the chunks.
        return jax.lax.scan(add_one, total, (over_leading_axis(of_sample)(keys), counts))

    # The last chunk is filled up with samples that do not count.
    num_chunks = -(-num_samples // chunk_size)
    index = jnp.arange(num_chunks * chunk_size).reshape(num_chunks, chunk_size)
    keys = jax.random.split(key, num_samples)[jnp.minimum(index, num_samples - 1)]

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_sample, key))
    total, _ = jax.lax.scan(add_chunk, zeros, (keys, index < num_samples))
    return jax.tree.map(lambda x: x / num_samples, total)


def _logits(apply_fn: ApplyFn, weights: PyTree, inputs: jax.Array) -> jax.Array:
    """[batch, class] in float32 or wider."""
    logits = apply_fn(weights, inputs)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"apply_fn must return logits [batch, class >= 2], got shape {logits.shape}")
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _prediction_of_one(logits: jax.Array) -> Prediction:
    probabilities = jax.nn.softmax(logits)
    entropy = _entropy(probabilities)
    return Prediction(probabilities, entropy, entropy, jnp.zeros_like(entropy))


def _entropy(p: jax.Array) -> jax.Array:
    """In nats, with 0 log 0 = 0 and so its gradient. Of [batch, class], [batch]."""
    return -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)), axis=-1)
