r"""How good predicted probabilities are.

Every function takes ``probabilities`` [batch, class] whose rows sum to 1 and
integer ``labels`` [batch], and returns one float32 scalar, a mean over the batch.
Shapes that do not fit, an empty batch, labels out of range and rows that do not sum
to 1 (logits, say) raise ``ValueError``.
"""

import jax
import jax.numpy as jnp

from bbinn_jax._checks import check_count, check_number


def accuracy(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of examples whose most probable class is the label, in [0, 1].

    >>> print(accuracy(jnp.array([[0.9, 0.1], [0.6, 0.4]]), jnp.array([0, 1])))
    0.5
    """
    probabilities, labels = _checked(probabilities, labels)
    return jnp.mean(jnp.argmax(probabilities, axis=-1) == labels)


def negative_log_likelihood(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """Minus the mean log probability of the label, ``-1/n sum log p[y]``, in nats.

    A probability of 0 counts as the smallest normal float (about 87 nats in float32).

    >>> print(negative_log_likelihood(jnp.array([[0.5, 0.5]]), jnp.array([0])))
    0.6931472
    """
    probabilities, labels = _checked(probabilities, labels)
    p = _of_label(probabilities, labels)
    return -jnp.mean(jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny)))


def brier_score(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """The squared error of the probabilities, ``1/n sum_i sum_k (p_ik - [y_i = k])^2``, in [0, 2].

    >>> print(brier_score(jnp.array([[0.5, 0.5]]), jnp.array([0])))
    0.5
    """
    probabilities, labels = _checked(probabilities, labels)
    one_hot = jax.nn.one_hot(labels, probabilities.shape[1], dtype=probabilities.dtype)
    return jnp.mean(jnp.sum((probabilities - one_hot) ** 2, axis=-1))


def expected_calibration_error(probabilities: jax.Array, labels: jax.Array, *, num_bins: int = 15) -> jax.Array:
    """How far confidence and accuracy are apart, ``sum_b n_b/n abs(acc_b - conf_b)``, in [0, 1].

    Examples fall into num_bins bins of equal width by their confidence, the
    largest probability; bin b is (b/num_bins, (b+1)/num_bins].
    Source: Guo et al., arXiv 1706.04599, equation 3.

    >>> print(expected_calibration_error(jnp.array([[0.75, 0.25], [0.75, 0.25]]), jnp.array([0, 1])))
    0.25
    """
    probabilities, labels = _checked(probabilities, labels)
    check_count("num_bins", num_bins, 1)
    confidence = jnp.max(probabilities, axis=-1)
    correct = (jnp.argmax(probabilities, axis=-1) == labels).astype(confidence.dtype)
    bins = jnp.clip(jnp.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gap = jax.ops.segment_sum(correct - confidence, bins, num_segments=num_bins)
    return jnp.sum(jnp.abs(gap)) / labels.size


def _of_label(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]


def _checked(probabilities: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as arrays that fit each other, probabilities in float32 or wider."""
    probabilities, labels = jnp.asarray(probabilities), jnp.asarray(labels)
    if probabilities.ndim != 2 or probabilities.size == 0:
        raise ValueError(f"probabilities must be [batch, class] and not empty, got shape {probabilities.shape}")
    if labels.shape != probabilities.shape[:1]:
        raise ValueError(f"labels must be [batch={len(probabilities)}], got shape {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    probabilities = probabilities.astype(jnp.promote_types(probabilities.dtype, jnp.float32))
    error = jnp.max(jnp.abs(jnp.sum(probabilities, axis=1) - 1))
    if not isinstance(error, jax.core.Tracer) and not error < 0.05:  # bfloat16 is off by 0.02
        raise ValueError(f"probabilities must have rows that sum to 1, got one that is off by {float(error):.3g}")
    num_classes = probabilities.shape[1]
    check_number("labels", jnp.max(labels), f"< {num_classes}, the number of classes", lambda v: v < num_classes)
    check_number("labels", jnp.min(labels), ">= 0", lambda v: v >= 0)
    return probabilities, labels
