r"""The mean-field Bernoulli distribution on {-1, +1} in its natural parameter.

Every weight w is +1 or -1, independently of the others:

    q(w) = exp(lambda w) / (2 cosh lambda),    P(w = +1) = sigmoid(2 lambda)

with natural parameter lambda (argument ``natural``; its logit is 2 lambda),
expectation parameter mu = E[w] = tanh(lambda), and Fisher information
F = Var[w] = 1 - mu^2. Source: arXiv 2002.10778, section 3 and equations 8-10.

Arguments named ``natural`` are pytrees of floating-point arrays, in which a
``None`` is an empty place. An integer leaf raises ``TypeError``; trees that
must match and do not raise ``ValueError``.
"""

import jax
import jax.numpy as jnp

from bbinn_jax._checks import PyTree, check_floating, check_key, check_same_tree, tree_like
from bbinn_jax._dtypes import at_least_float32, total
from bbinn_jax._threefry import random_bits


def expectation(natural: PyTree) -> PyTree:
    """The mean of every weight, ``mu = tanh(lambda)``.

    Args:
        natural: lambda, any pytree of floating-point arrays.

    Returns:
        mu in [-1, 1], same tree, shapes and dtypes.

    Raises:
        TypeError: a leaf that is not floating-point.

    >>> print(expectation(jnp.array([-20.0, 0.0, 0.5])))
    [-1.     0.     0.462]
    """
    check_floating("natural", natural)
    return jax.tree.map(jnp.tanh, natural)


def natural_from_expectation(mu: PyTree) -> PyTree:
    """The inverse of `expectation`, ``lambda = artanh(mu)``.

    Args:
        mu: expectations in [-1, 1], any pytree. At exactly -1 and +1 lambda is
            infinite, outside of [-1, 1] it is NaN.

    Returns:
        lambda, same tree, shapes and dtypes.

    Raises:
        TypeError: a leaf that is not floating-point.

    >>> print(natural_from_expectation(jnp.array([0.0, 0.4621172])))
    [0.  0.5]
    """
    check_floating("mu", mu)
    return jax.tree.map(jnp.arctanh, mu)


def fisher_information(natural: PyTree) -> PyTree:
    """The Fisher information of lambda and the variance of its weight, ``F = Var[w] = 1 - tanh(lambda)^2``.

    It has two names for its two uses. An optimizer divides by ``fisher_information``, the
    information about a parameter; a loss spreads ``variance``, that of a weight, to the activations.

    Args:
        natural: lambda, any pytree of floating-point arrays.

    Returns:
        F in [0, 1] (to rounding), same tree, shapes and dtypes. Computed as
        ``4 e / (1 + e)^2`` with ``e = exp(-2 abs(lambda))``, which keeps its relative
        precision where ``1 - tanh(lambda)**2`` cancels to zero or below.

    Raises:
        TypeError: a leaf that is not floating-point.

    >>> print(fisher_information(jnp.array([0.0, 0.5])))
    [1.    0.786]
    """

    def leaf_fisher_information(x: jax.Array) -> jax.Array:
        e = jnp.exp(-2 * jnp.abs(x))
        return 4 * e / (1 + e) ** 2

    check_floating("natural", natural)
    return jax.tree.map(leaf_fisher_information, natural)


variance = fisher_information
"""The variance of every weight, ``Var[w] = 1 - mu^2``: `fisher_information` under the name of its other use."""


def log_prob(natural: PyTree, weights: PyTree) -> jax.Array:
    """The log probability of a whole network, ``sum log sigmoid(2 lambda w)``.

    Args:
        natural: lambda, any pytree of floating-point arrays.
        weights: values in {-1, +1}, same tree and shapes as natural. (Other
            values are not checked and give no probability.)

    Returns:
        A scalar in nats, float32 or wider.

    Raises:
        ValueError: trees that differ.
        TypeError: a leaf that is not floating-point.

    >>> log_prob(jnp.zeros(3), jnp.array([1.0, -1.0, 1.0]))  # three fair coins
    Array(-2.0794415, dtype=float32)
    """
    check_floating("natural", natural)
    check_same_tree("weights", weights, "natural", natural)

    def leaf_log_prob(x: jax.Array, w: jax.Array) -> jax.Array:
        wide = at_least_float32(x.dtype)
        return jax.nn.log_sigmoid(2 * x.astype(wide) * w.astype(wide))

    return total(jax.tree.map(leaf_log_prob, natural, weights))


def entropy(natural: PyTree) -> jax.Array:
    """The entropy of the posterior, ``sum log(2 cosh lambda) - lambda tanh(lambda)``.

    Args:
        natural: lambda, any pytree of floating-point arrays.

    Returns:
        A scalar in nats, float32 or wider, at most log(2) per weight.

    Raises:
        TypeError: a leaf that is not floating-point.

    >>> entropy(jnp.zeros(3)) / jnp.log(2)  # three fair coins, in bits
    Array(3., dtype=float32)
    """

    def leaf_entropy(x: jax.Array) -> jax.Array:
        logit = 2 * jnp.abs(_bounded(x))
        return jax.nn.softplus(-logit) + logit * jax.nn.sigmoid(-logit)

    check_floating("natural", natural)
    return total(jax.tree.map(leaf_entropy, natural))


def kl_divergence(natural: PyTree, prior_natural: PyTree) -> jax.Array:
    """The Kullback-Leibler divergence KL(q || p) from a Bernoulli prior p.

    ``KL = sum P(+1) log(P(+1) / P0(+1)) + P(-1) log(P(-1) / P0(-1))``

    Args:
        natural: lambda of q, any pytree of floating-point arrays.
        prior_natural: lambda0 of p, the same tree, or one scalar for all.

    Returns:
        A scalar in nats, float32 or wider; finite wherever lambda0 is.

    Raises:
        ValueError: trees that differ.
        TypeError: a leaf that is not floating-point.

    >>> kl_divergence(jnp.array([0.0, 1e4]), jnp.array([0.0, -1e4]))
    Array(20000., dtype=float32)
    """
    check_floating("natural", natural)
    prior_natural = tree_like("prior_natural", prior_natural, "natural", natural)
    return total(jax.tree.map(lambda x, x0: _kl_divergence(x, jnp.asarray(x0, x.dtype)), natural, prior_natural))


@jax.custom_jvp
def _kl_divergence(x: jax.Array, x0: jax.Array) -> jax.Array:
    x = _bounded(x)
    log_ratio_plus = jax.nn.log_sigmoid(2 * x) - jax.nn.log_sigmoid(2 * x0)
    log_ratio_minus = jax.nn.log_sigmoid(-2 * x) - jax.nn.log_sigmoid(-2 * x0)
    return jax.nn.sigmoid(2 * x) * log_ratio_plus + jax.nn.sigmoid(-2 * x) * log_ratio_minus


@_kl_divergence.defjvp
def _kl_divergence_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # F (lambda - lambda0), which differentiating the logarithms would reach by cancellation.
    (x, x0), (x_dot, x0_dot) = primals, tangents
    derivative = fisher_information(x) * (x - x0) * x_dot + (jnp.tanh(x0) - jnp.tanh(x)) * x0_dot
    return _kl_divergence(x, x0), derivative


# The functions that start with a key have a default behind it, which no tree is: where the key is forgotten the message
# is theirs and not Python's, which misses the last argument instead of the first.
def logistic_noise(key: jax.Array, natural: PyTree = ...) -> PyTree:
    """Noise that turns lambda into a sample: half a logistic variate for each weight.

    ``delta = 1/2 log(u / (1 - u)),  u ~ Uniform(0, 1)``

    lambda + delta is positive with probability sigmoid(2 lambda), so its sign
    is a draw of the weight (`sample`), and a soft sign is a relaxed one
    (`relaxed_sample`): arXiv 2002.10778, equation 10.

    One random bit is the sign and the other 31 (63 for float64) the distance of
    u from its nearer end, so both tails are equal and reach 2^-33: abs(delta) is
    at most 11.44 (22.5 for float64), where a float drawn from [0, 1) stops at 8.

    Args:
        key: a `jax.random` key. Each leaf draws from a key of its own.
        natural: a pytree of floating-point arrays; only shapes and dtypes matter.

    Returns:
        delta, same tree, shapes and dtypes.

    Raises:
        TypeError: key is not a random key; a leaf that is not floating-point.

    >>> print(logistic_noise(jax.random.key(0), {"w": jnp.zeros(3)})["w"].shape)
    (3,)
    """

    def leaf_noise(key: jax.Array, x: jax.Array) -> jax.Array:
        dtype = at_least_float32(x.dtype)
        width = jnp.finfo(dtype).bits
        bits = random_bits(key, x.shape, f"uint{width}")
        tail = ((bits >> 1).astype(dtype) + 0.5) * 2.0 ** (1 - width)  # 2 min(u, 1 - u)
        is_positive = (bits & 1).astype(bool)
        odds = jnp.where(is_positive, 2 - tail, tail) / jnp.where(is_positive, tail, 2 - tail)  # u / (1 - u)
        return (0.5 * jnp.log(odds)).astype(x.dtype)

    check_key(key, "first, before natural")
    check_floating("natural", natural)
    leaves, treedef = jax.tree.flatten(natural)
    keys = jax.random.split(key, len(leaves))
    noise = [leaf_noise(k, x) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, noise)


def sample(key: jax.Array, natural: PyTree = ...) -> PyTree:
    """Draws one network from the posterior, ``w = sign(lambda + delta)``.

    ``jax.vmap(sample, (0, None))(jax.random.split(key, 100), natural)`` draws 100.
    With the same key it is the limit of `relaxed_sample` at temperature 0 (in
    float32 and float64; in bfloat16 lambda + delta is rounded there, and not here).

    Args:
        key: a `jax.random` key.
        natural: lambda, any pytree of floating-point arrays.

    Returns:
        Weights of exactly -1 or +1, same tree, shapes and dtypes.

    Raises:
        TypeError: key is not a random key; a leaf that is not floating-point.

    >>> print(sample(jax.random.key(0), jnp.array([-9.0, 0.0, 9.0])))
    [-1. -1.  1.]
    """
    check_key(key, "first, before natural")
    check_floating("natural", natural)
    # In bfloat16 lambda + delta would often be 0, which is no fair coin.
    wide = jax.tree.map(lambda x: x.astype(at_least_float32(x.dtype)), natural)
    weights = mode(jax.tree.map(jnp.add, wide, logistic_noise(key, wide)))
    return jax.tree.map(lambda w, x: w.astype(x.dtype), weights, natural)


def mode(natural: PyTree) -> PyTree:
    """The most probable network, ``sign(lambda)`` with sign(0) = -1.

    Args:
        natural: lambda, any pytree of floating-point arrays.

    Returns:
        Weights of exactly -1 or +1 (NaN where lambda is), same tree, shapes and dtypes.

    Raises:
        TypeError: a leaf that is not floating-point.

    >>> print(mode(jnp.array([-0.1, 0.0, 3.0])))
    [-1. -1.  1.]
    """
    check_floating("natural", natural)
    return jax.tree.map(lambda x: jnp.where(jnp.isnan(x), x, jnp.where(x > 0, 1, -1).astype(x.dtype)), natural)


def _bounded(x: jax.Array) -> jax.Array:
    """Lambda without infinities; abs(lambda) = 1e4 is as certain as any dtype can say."""
    return jnp.clip(x, -1e4, 1e4)
