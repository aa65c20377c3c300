r"""The relaxed sample (binary concrete) and its derivative.

    w = tanh((lambda + delta) / tau),    dw/dlambda = (1 - w^2 + eps) / tau

with logistic noise delta and temperature tau. For tau -> 0 it is an exact draw
of +-1; for tau > 0 it can be differentiated. Source: arXiv 2002.10778,
equations 10, 13 and 17 (the eps is that of the authors' optimizer).
"""

import jax
import jax.numpy as jnp

from bbinn_jax._checks import PyTree, check_floating, check_non_negative, check_positive, check_same_tree
from bbinn_jax._dtypes import EPS, at_least_float32
from bbinn_jax.bernoulli import fisher_information, logistic_noise


@jax.custom_jvp
def _tanh(x: jax.Array, eps: float) -> jax.Array:
    return jnp.tanh(x)


@_tanh.defjvp
def _tanh_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # 1 - tanh(x)^2 is the Fisher information at x, computed there without cancellation.
    (x, eps), (x_dot, _) = primals, tangents
    return jnp.tanh(x), (fisher_information(x) + eps) * x_dot


def relax(natural: PyTree, noise: PyTree, *, temperature: float | jax.Array, eps: float = EPS) -> PyTree:
    """Relaxed weights for given noise, ``w = tanh((lambda + delta) / tau)``.

    The derivative with respect to lambda (and delta) is
    ``(1 - w^2 + eps) / tau``. At small temperatures nearly all weights
    are saturated and eps alone carries the gradient: at tau = eps = 1e-10 the
    derivative is 1, which is straight-through training.

    Args:
        natural: lambda, any pytree of floating-point arrays.
        noise: delta, same tree and shapes; from `logistic_noise`, or zeros.
        temperature: tau > 0; may be a traced scalar.
        eps: added to 1 - w^2 in the derivative; at small temperatures its ratio to that of `bayesbinn`
            is the scale of a step, so the two are equal.

    Returns:
        w in [-1, 1], same tree, shapes and dtypes as natural.

    Raises:
        ValueError: temperature not positive, eps negative, trees that differ.
        TypeError: a leaf that is not floating-point.

    >>> w = relax(jnp.array([0.5, -1.0]), jnp.array([0.25, 0.25]), temperature=0.5)
    >>> print(w)
    [ 0.905 -0.905]
    """

    def leaf_relax(x: jax.Array, delta: jax.Array) -> jax.Array:
        wide = at_least_float32(x.dtype)
        z = (x.astype(wide) + delta.astype(wide)) / jnp.asarray(temperature, wide)
        return _tanh(z, jnp.asarray(eps, wide)).astype(x.dtype)

    temperature = check_positive("temperature", temperature)
    eps = check_non_negative("eps", eps)
    check_floating("natural", natural)
    check_same_tree("noise", noise, "natural", natural)
    return jax.tree.map(leaf_relax, natural, noise)


def relaxed_sample(
    key: jax.Array, natural: PyTree = ..., *, temperature: float | jax.Array, eps: float = EPS
) -> PyTree:
    """Relaxed weights with fresh noise: `relax` of `logistic_noise`.

    Args:
        key: a `jax.random` key; each leaf draws from a key of its own.
        natural: lambda, any pytree of floating-point arrays.
        temperature: tau > 0; may be a traced scalar.
        eps: as in `relax`.

    Returns:
        w in [-1, 1], same tree, shapes and dtypes as natural.

    Raises:
        ValueError, TypeError: as `relax`; TypeError: key is not a random key.

    >>> natural = jnp.array([-9.0, 0.0, 9.0])
    >>> print(relaxed_sample(jax.random.key(0), natural, temperature=1e-3))
    [-1. -1.  1.]
    """
    return relax(natural, logistic_noise(key, natural), temperature=temperature, eps=eps)
