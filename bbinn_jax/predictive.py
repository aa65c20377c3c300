r"""What the posterior predicts, and how it knows that it does not know.

    p(y | x) = E_q[softmax(f(x, w))]  ~  1/S sum_s softmax(f(x, w_s)),   w_s ~ q

The uncertainty of the prediction, in nats, has two parts:

    entropy              H[E_q p(y | x, w)]     total
    expected_entropy     E_q H[p(y | x, w)]     aleatoric: noise that more data does not remove
    mutual_information   their difference       epistemic: what the weights do not know

Probabilities are averaged, not logits: arXiv 2002.10778, section 3.4, step 2.

    classes that exclude each other    `posterior_predictive`     logits [batch, class]
    yes or no, or several labels       `bernoulli_predictive`     one logit for each label
    numbers                            `gaussian_predictive`      a mean and a standard deviation of the noise
    anything else                      `posterior_expectation`    E_q of any function of the weights
    networks that are drawn already    `committee_predictive`     at one bit a weight
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbinn_jax._checks import PyTree, check_count, check_function, check_key, in_one_line, path_name
from bbinn_jax._dtypes import at_least_float32
from bbinn_jax._exported import exported
from bbinn_jax._mapping import over_leading_axis
from bbinn_jax.bernoulli import mode, sample
from bbinn_jax.packing import Packed, sample_packed, unpack  # noqa: F401 (the second of the examples)

ApplyFn = Callable[[PyTree, jax.Array], jax.Array]


@exported
class Prediction(NamedTuple):
    """A predictive distribution and its uncertainty.

    Attributes:
        probabilities: [batch, class], rows sum to 1.
        entropy: [batch], total uncertainty in nats, at most log(class).
        expected_entropy: [batch], aleatoric part.
        mutual_information: [batch], epistemic part, entropy - expected_entropy >= 0.

    That of `bernoulli_predictive` has the probability of each label, and the three parts for each label.
    """

    probabilities: jax.Array
    entropy: jax.Array
    expected_entropy: jax.Array
    mutual_information: jax.Array


@exported
class GaussianPrediction(NamedTuple):
    """The mean and the standard deviations of a predictive distribution of numbers, in units of these.

    Attributes:
        mean: [batch, ...].
        aleatoric_std: of the noise that the networks expect, the root of its mean variance.
        epistemic_std: of the means of the networks, what the weights do not know.
        std: of both together, the root of the sum of their squares.
    """

    mean: jax.Array
    aleatoric_std: jax.Array
    epistemic_std: jax.Array
    std: jax.Array


def posterior_expectation(
    function: Callable[[PyTree], Any],
    natural: PyTree,
    key: jax.Array,
    *,
    num_samples: int,
    chunk_size: int | None = None,
) -> Any:
    """The mean of any function of the weights over networks drawn from the posterior.

    ``E_q[f(w)]  ~  1/S sum_s f(w_s),   w_s ~ q``

    Args:
        function: ``function(weights)`` gives any pytree of arrays.
        natural: lambda, any pytree of floating-point arrays.
        key: a `jax.random` key; sample s uses the s-th of ``split(key, num_samples)``.
        num_samples: S >= 1, how many networks are drawn.
        chunk_size: how many are evaluated at a time. Memory grows with it and
            not with num_samples; the numbers do not depend on it (but for the
            rounding of function, and for keys of another kind than threefry: "rbg"
            draws other numbers for several networks at a time). Default: all at once.

    Returns:
        The tree that function gives, its numbers in float32 or wider.

    Raises:
        ValueError: num_samples or chunk_size below 1.
        TypeError: num_samples or chunk_size is no integer, key is not a random key, a leaf is not floating-point.

    >>> natural = jnp.array([0.5, -2.0])
    >>> mean = posterior_expectation(lambda w: w, natural, jax.random.key(0), num_samples=10_000)
    >>> print(mean[0], jnp.tanh(natural)[0])
    0.46 0.462
    """
    num_samples = check_count("num_samples", num_samples, 1)
    check_key(key, "third")
    check_function("function", function)
    chunk_size = num_samples if chunk_size is None else check_count("chunk_size", chunk_size, 1)
    keys = jax.random.split(key, num_samples)
    return _mean(lambda key: function(sample(key, natural)), keys, num_samples, chunk_size)


def _mean(function: Callable[[Any], Any], networks: PyTree, num_networks: int, chunk_size: int) -> Any:
    """The mean of ``function(network)`` over the leading axis of networks, which are keys or weights."""
    chunk_size = min(chunk_size, num_networks)

    def of_network(network: PyTree) -> Any:
        return jax.tree.map(_wide, function(network))

    def add_one(total: PyTree, value_and_counts: tuple[PyTree, jax.Array]) -> tuple[PyTree, None]:
        value, counts = value_and_counts
        return jax.tree.map(lambda t, x: jnp.where(counts, t + x, t), total, value), None

    def add_chunk(total: PyTree, index: jax.Array) -> tuple[PyTree, Any]:
        chunk = jax.tree.map(lambda x: x[jnp.minimum(index, num_networks - 1)], networks)
        # One after the other, so that the order of summation does not depend on the chunks.
        return jax.lax.scan(add_one, total, (over_leading_axis(of_network)(chunk), index < num_networks))

    # The last chunk is filled up with networks that do not count.
    num_chunks = -(-num_networks // chunk_size)
    index = jnp.arange(num_chunks * chunk_size).reshape(num_chunks, chunk_size)

    # zeros_like: they are divided over devices as the values are
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(of_network, jax.tree.map(lambda x: x[0], networks)))
    total, _ = jax.lax.scan(add_chunk, zeros, index)
    return jax.tree.map(lambda x: x / num_networks, total)


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
        apply_fn: ``apply_fn(weights, inputs)`` gives logits [batch, class] of classes that exclude each
            other: they go through a softmax. For labels that do not, take `bernoulli_predictive`.
        natural: lambda, any pytree of floating-point arrays.
        key, num_samples, chunk_size: as in `posterior_expectation`.
        inputs: a batch, as apply_fn takes it.

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
    predict = partial(_probabilities_and_entropy, apply_fn, inputs)
    expectation = posterior_expectation(predict, natural, key, num_samples=num_samples, chunk_size=chunk_size)
    return mixture_prediction(*expectation)


def committee_predictive(apply_fn: ApplyFn, committee: PyTree, inputs: jax.Array, *, chunk_size: int = 1) -> Prediction:
    """Averages the class probabilities of the networks of a committee.

    ``p(y | x) = 1/S sum_s softmax(f(x, w_s))``

    Args:
        apply_fn: ``apply_fn(weights, inputs)`` gives logits [batch, class] of one network, whose packed leaves
            are unpacked.
        committee: any pytree of arrays with a leading axis of S networks, as `sample_packed` and `load_packed` give
            it. What else is each network's own may be beside it: apply_fn gets ``(weights, batch_stats)`` of
            each network from a committee ``(weights, batch_stats)``.
        inputs: a batch, as apply_fn takes it.
        chunk_size: how many networks are unpacked and evaluated at a time. Memory grows with it, the numbers
            do not depend on it (but for the rounding of apply_fn).

    Returns:
        A `Prediction`, that of `posterior_predictive` with the key which the committee was drawn with.

    Raises:
        ValueError: chunk_size below 1, leaves that are not those of one number of networks, or logits that are not
            [batch, class] with at least two classes.
        TypeError: chunk_size is no integer.

    >>> apply_fn = lambda w, x: jnp.stack([x @ w, -x @ w], axis=-1)
    >>> committee = sample_packed(jax.random.key(0), jnp.array([9.0, 0.0]), 100)
    >>> p = committee_predictive(apply_fn, committee, jnp.eye(2))
    >>> print(p.probabilities[:, 0], p.mutual_information)
    [0.88 0.54] [0.00 0.32]
    """
    num_networks, chunk_size = _num_networks(committee), check_count("chunk_size", chunk_size, 1)
    predict = partial(_probabilities_and_entropy, apply_fn, inputs)
    return mixture_prediction(*_mean(lambda packed: predict(unpack(packed)), committee, num_networks, chunk_size))


def _num_networks(committee: PyTree) -> int:
    """The length of the leading axis that all leaves of a committee have."""
    found = None
    for path, leaf in jax.tree_util.tree_leaves_with_path(committee, is_leaf=lambda x: isinstance(x, Packed)):
        shape = jnp.shape(leaf.bits if isinstance(leaf, Packed) else leaf)
        found = found or shape[:1]
        if not found or shape[:1] != found or found == (0,) or (isinstance(leaf, Packed) and len(shape) != 2):
            raise ValueError(
                "committee must have leaves with a leading axis of networks, the same of all and packed ones uint8 "
                f"[networks, bytes], got shape {shape} at {path_name(path)!r} after {found}"
            )
    if found is None:
        raise ValueError(f"committee must have at least one leaf, got {in_one_line(committee)}")
    return found[0]


def mixture_prediction(probabilities: jax.Array, expected_entropy: jax.Array) -> Prediction:
    """The prediction of several networks, whatever they are drawn or trained by.

    Args:
        probabilities: [batch, class], their mean.
        expected_entropy: [batch], the mean of their entropies in nats.

    Returns:
        A `Prediction`.

    >>> p = mixture_prediction(jnp.array([[0.5, 0.5]]), jnp.zeros(1))  # each is sure, of something else
    >>> print(p.mutual_information)
    [0.6931472]
    """
    return _prediction(probabilities, _entropy(probabilities), expected_entropy)


def bernoulli_predictive(
    apply_fn: ApplyFn,
    natural: PyTree,
    key: jax.Array,
    inputs: jax.Array,
    *,
    num_samples: int,
    chunk_size: int | None = None,
) -> Prediction:
    """Averages the probabilities of labels that are on or off, each by itself.

    ``p(y = 1 | x) = E_q[sigmoid(f(x, w))]``

    Args:
        apply_fn: ``apply_fn(weights, inputs)`` gives logits: one for each example, [batch] or [batch, 1], or
            one for each of several labels that do not exclude each other, [batch, label].
        natural: lambda, any pytree of floating-point arrays.
        key, num_samples, chunk_size: as in `posterior_expectation`.
        inputs: a batch, as apply_fn takes it.

    Returns:
        A `Prediction` whose four arrays have the shape of the logits: the probability that each label is on,
        and the parts of the entropy of each label in nats, at most log(2).

    Raises:
        ValueError: num_samples or chunk_size below 1, or logits that are neither [batch] nor [batch, label].

    >>> apply_fn = lambda w, x: x @ w
    >>> x = 4 * jnp.eye(2)                    # the first weight is certain, the second is not
    >>> p = bernoulli_predictive(apply_fn, jnp.array([9.0, 0.0]), jax.random.key(0), x, num_samples=1000)
    >>> print(p.probabilities, p.mutual_information)
    [0.98 0.5] [0. 0.6]
    """

    def predict(weights: PyTree) -> tuple[jax.Array, jax.Array]:
        logits = _wide(_output(apply_fn, weights, inputs))
        if logits.ndim not in (1, 2):
            raise ValueError(f"apply_fn must return logits [batch] or [batch, label], got shape {logits.shape}")
        p = jax.nn.sigmoid(logits)
        return p, p * jax.nn.softplus(-logits) + jax.nn.sigmoid(-logits) * jax.nn.softplus(logits)

    probabilities, expected_entropy = posterior_expectation(
        predict, natural, key, num_samples=num_samples, chunk_size=chunk_size
    )
    entropy = _entropy(jnp.stack([probabilities, 1 - probabilities], axis=-1))
    return _prediction(probabilities, entropy, expected_entropy)


def gaussian_predictive(
    apply_fn: Callable[[PyTree, jax.Array], tuple[jax.Array, jax.Array]],
    natural: PyTree,
    key: jax.Array,
    inputs: jax.Array,
    *,
    num_samples: int,
    chunk_size: int | None = None,
) -> GaussianPrediction:
    """The mean and the standard deviation of a number, of networks drawn from the posterior.

    ``Var[y] = E_q[std(x, w)^2] + Var_q[mean(x, w)]``, the law of total variance

    Args:
        apply_fn: ``apply_fn(weights, inputs)`` gives a pair: the mean, [batch] or [batch, output], and the
            standard deviation of the noise, an array that broadcasts to it, or a number.
        natural: lambda, any pytree of floating-point arrays.
        key, num_samples, chunk_size: as in `posterior_expectation`.
        inputs: a batch, as apply_fn takes it.

    Returns:
        A `GaussianPrediction`: the moments of the mixture of the S networks (its variance is a sum over S,
        so one network has no epistemic part).

    Raises:
        ValueError: num_samples or chunk_size below 1.
        TypeError: apply_fn does not give a pair.

    >>> apply_fn = lambda w, x: (x @ w, 0.5)
    >>> x = jnp.eye(2)                        # the first weight is certain, the second is not
    >>> p = gaussian_predictive(apply_fn, jnp.array([9.0, 0.0]), jax.random.key(0), x, num_samples=1000)
    >>> print(p.mean, p.aleatoric_std, p.epistemic_std, p.std)
    [1. 0.] [0.5 0.5] [0. 1.] [0.5 1.1]
    """

    def moments(weights: PyTree) -> tuple[jax.Array, jax.Array]:
        output = _output(apply_fn, weights, inputs)
        if not (isinstance(output, tuple | list) and len(output) == 2):
            raise TypeError(f"apply_fn must return a pair (mean, std), got {type(output).__name__}")
        mean, std = map(_wide, output)
        return mean, std

    # Around the mean of one network: far from 0 the squares of the means themselves would cancel.
    center, _ = moments(mode(natural))

    def central_moments(weights: PyTree) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean, std = moments(weights)
        return mean - center, (mean - center) ** 2, jnp.broadcast_to(std**2, mean.shape)

    shift, square, noise = posterior_expectation(
        central_moments, natural, key, num_samples=num_samples, chunk_size=chunk_size
    )
    spread = jnp.maximum(square - shift**2, 0)
    return GaussianPrediction(center + shift, jnp.sqrt(noise), jnp.sqrt(spread), jnp.sqrt(noise + spread))


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
    `posterior_predictive`.

    Args:
        apply_fn, natural, key, inputs, num_samples, chunk_size: as in `posterior_predictive`.

    Returns:
        A `Prediction`. The parts of the entropy cannot be told apart: its mutual_information is 0.

    Raises:
        ValueError, TypeError: as `posterior_predictive`.

    >>> apply_fn = lambda w, x: jnp.stack([x @ w, -x @ w], axis=-1)
    >>> p = logit_average_predictive(apply_fn, jnp.array([9.0, 0.0]), jax.random.key(0), jnp.eye(2), num_samples=100)
    >>> print(p.probabilities[:, 0])
    [0.88 0.54]
    """
    logits = posterior_expectation(
        lambda w: _logits(apply_fn, w, inputs), natural, key, num_samples=num_samples, chunk_size=chunk_size
    )
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


def _probabilities_and_entropy(apply_fn: ApplyFn, inputs: jax.Array, weights: PyTree) -> tuple[jax.Array, jax.Array]:
    p = jax.nn.softmax(_logits(apply_fn, weights, inputs))
    return p, _entropy(p)


def _logits(apply_fn: ApplyFn, weights: PyTree, inputs: jax.Array) -> jax.Array:
    """[batch, class] in float32 or wider."""
    logits = _wide(_output(apply_fn, weights, inputs))
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"apply_fn must return logits [batch, class >= 2], got shape {logits.shape}: "
            "bernoulli_predictive takes one logit, or one for each label, and gaussian_predictive takes numbers"
        )
    return logits


def _output(apply_fn: Callable[..., Any], weights: PyTree, inputs: jax.Array) -> Any:
    check_function("apply_fn", apply_fn)
    return apply_fn(weights, inputs)


def _wide(x: Any) -> jax.Array:
    """In float32 or wider."""
    x = jnp.asarray(x)
    return x.astype(at_least_float32(x.dtype))


def _prediction(probabilities: jax.Array, entropy: jax.Array, expected_entropy: jax.Array) -> Prediction:
    """With what the networks disagree on; rounding must not make it negative."""
    return Prediction(probabilities, entropy, expected_entropy, jnp.maximum(entropy - expected_entropy, 0))


def _prediction_of_one(logits: jax.Array) -> Prediction:
    probabilities = jax.nn.softmax(logits)
    entropy = _entropy(probabilities)
    return Prediction(probabilities, entropy, entropy, jnp.zeros_like(entropy))


def _entropy(p: jax.Array) -> jax.Array:
    """In nats, with 0 log 0 = 0 and so its gradient. Of [batch, class], [batch]."""
    return -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)), axis=-1)
