r"""One number that makes the confidence of a finished network honest.

    p_T(y | x) = p(y | x)^(1/T) / sum_k p(k | x)^(1/T)  =  softmax(logits / T)

T is the output temperature: above 1 it makes answers less sure, below 1 more,
and it changes none of them. (It has nothing to do with the temperature of relaxed
weight samples.) Source: Guo et al., arXiv 1706.04599, section 4.2.
"""

import jax
import jax.numpy as jnp

from bbinn_jax._checks import check_positive
from bbinn_jax._probabilities import check_labels, check_probabilities, in_double, log

_LOWEST, _HIGHEST = 0.01, 100.0


@in_double
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
    output_temperature = check_positive("output_temperature", output_temperature)
    log_p = log(check_probabilities(probabilities))
    below_the_first = log_p - jnp.max(log_p, axis=-1, keepdims=True)  # so that 0 / T stays 0, however small T is
    return jax.nn.softmax(below_the_first / output_temperature, axis=-1)


@in_double
def fit_output_temperature(probabilities: jax.Array, labels: jax.Array, *, prior_std: float = 1.0) -> jax.Array:
    """The most probable output temperature, given labelled examples that the network has not seen.

    ``argmin_T  1/n sum_i -log p_T(y_i) + (log T / s)^2 / 2n``

    Its second term is the prior log T ~ Normal(0, s^2). It hardly matters as soon as a few answers are
    wrong. Where all are right the likelihood alone would choose T = 0 and be surprised by the first
    wrong one. Fit on validation data, apply to others.

    On the examples that it is fitted on, T is never less likely than 1; fitted on few, a hundred say, it can make the
    likelihood of others worse.

    Args:
        probabilities: [n, class], rows sum to 1.
        labels: [n], integers.
        prior_std: s > 0; the larger, the closer to maximum likelihood.

    Returns:
        T, a scalar in [0.01, 100], found by bisection.

    Raises:
        ValueError: prior_std not positive; else as the functions of `metrics`.

    >>> p = jnp.tile(jnp.array([0.9, 0.1]), (300, 1))              # 90 % sure, and right two times of three
    >>> print(fit_output_temperature(p, jnp.arange(300) % 3 // 2))  # T log(2) = log(9), but for the prior
    3.07
    """
    prior_std = check_positive("prior_std", prior_std)
    log_p = log(check_probabilities(probabilities))
    labels = check_labels(log_p, labels)
    log_p_of_label = jnp.take_along_axis(log_p, labels[:, None], axis=-1)

    def slope(log_t: jax.Array) -> jax.Array:
        """The derivative of what is minimized, by log T."""
        surprise = jnp.sum(jax.nn.softmax(log_p * jnp.exp(-log_t), axis=-1) * (log_p - log_p_of_label), axis=-1)
        return -jnp.exp(-log_t) * jnp.mean(surprise) + log_t / (prior_std**2 * labels.size)

    def halve(_: int, interval: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = interval
        middle = (low + high) / 2
        falls = slope(middle) < 0
        return jnp.where(falls, middle, low), jnp.where(falls, high, middle)

    ends = jnp.log(jnp.array([_LOWEST, _HIGHEST], log_p.dtype))
    low, high = jax.lax.fori_loop(0, 40, halve, (ends[0], ends[1]))
    return jnp.clip(jnp.exp((low + high) / 2), _LOWEST, _HIGHEST)
