r"""One number that makes the confidence of a finished network honest.

    p_T(y | x) = p(y | x)^(1/T) / sum_k p(k | x)^(1/T)  =  softmax(logits / T)

T is the output temperature: above 1 it makes answers less sure, below 1 more,
and it changes none of them. (It has nothing to do with the temperature of relaxed
weight samples.) Source: Guo et al., arXiv 1706.04599, section 4.2.
"""

import jax
import jax.numpy as jnp

from bbinn_jax._checks import check_number
from bbinn_jax.metrics import check_labels, check_probabilities

LOWEST, HIGHEST = 0.01, 100.0


def apply_output_temperature(probabilities: jax.Array, output_temperature: float | jax.Array) -> jax.Array:
    """The probabilities at another output temperature.

    Args:
        probabilities: [batch, class], rows sum to 1. Those of one network stand for its
            logits; of a mean over networks it is the mean that is rescaled.
        output_temperature: T > 0, may be traced.

    Returns:
        [batch, class], rows sum to 1.

    Raises:
        ValueError: T not positive, or probabilities that are none.

    >>> print(apply_output_temperature(jnp.array([[0.8, 0.2]]), 2.0))
    [[0.6666667 0.3333333]]
    """
    check_number("output_temperature", output_temperature, "> 0", lambda v: v > 0)
    return jax.nn.softmax(_log(check_probabilities(probabilities)) / output_temperature, axis=-1)


def fit_output_temperature(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """The output temperature at which the negative log likelihood is lowest.

    Fit it on validation data, and apply it to others. The likelihood is convex in 1/T;
    where its slope ``E_{p_T}[log p] - log p(label)``, averaged over the batch, changes its sign is
    found by bisection.

    Args:
        probabilities: [batch, class], rows sum to 1.
        labels: [batch], integers.

    Returns:
        T, a scalar in [0.01, 100] (an end of it where the optimum lies outside, as with
        answers that are all right).

    Raises:
        ValueError: as the functions of `metrics`.

    >>> p = jnp.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])        # 90 % sure, and right two times of three
    >>> print(fit_output_temperature(p, jnp.array([0, 0, 1])))      # T log(2) = log(9)
    3.169925
    """
    log_p = _log(check_probabilities(probabilities))
    labels = check_labels(log_p, labels)
    log_p_of_label = jnp.take_along_axis(log_p, labels[:, None], axis=-1)

    def slope(log_t: jax.Array) -> jax.Array:
        p = jax.nn.softmax(log_p * jnp.exp(-log_t), axis=-1)
        return jnp.mean(jnp.sum(p * (log_p - log_p_of_label), axis=-1))

    def halve(_: int, interval: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = interval
        middle = (low + high) / 2
        too_sure = slope(middle) > 0
        return jnp.where(too_sure, middle, low), jnp.where(too_sure, high, middle)

    ends = jnp.log(jnp.array([LOWEST, HIGHEST], log_p.dtype))
    low, high = jax.lax.fori_loop(0, 40, halve, (ends[0], ends[1]))
    return jnp.clip(jnp.exp((low + high) / 2), LOWEST, HIGHEST)


def _log(probabilities: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(probabilities, jnp.finfo(probabilities.dtype).tiny))
