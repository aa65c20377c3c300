r"""The expected loss under the posterior, by Monte Carlo over weight samples.

    E_q[loss(w)]  ~  1/S sum_s loss(tanh((lambda + delta_s) / tau))

Its gradient with respect to lambda is the gradient part of the Bayesian
learning rule: arXiv 2002.10778, equations 13 and 17. The KL term of the
objective has a closed form and is added by `bayesbinn`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bbinn_jax._checks import PyTree, check_count, check_number
from bbinn_jax._mapping import over_leading_axis
from bbinn_jax.relaxation import relax, relaxed_sample


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _copies(x: jax.Array, num_copies: int) -> jax.Array:
    return jnp.broadcast_to(x, (num_copies, *jnp.shape(x)))


@_copies.defjvp
def _copies_jvp(num_copies, primals, tangents):
    # The gradient is a sum over the copies. On a CPU XLA takes longer for such a reduction of ten million weights
    # than for all the rest of the samples; a sum of terms, to which a stack is transposed, it makes in passing.
    (x,), (x_dot,) = primals, tangents
    tangent = jax.lax.platform_dependent(
        x_dot, cpu=lambda t: jnp.stack([t] * num_copies), default=lambda t: _copies(t, num_copies)
    )
    return _copies(x, num_copies), tangent


def expected_loss(
    loss_fn: Callable[..., Any],
    *,
    temperature: float | jax.Array,
    num_samples: int = 1,
    has_aux: bool = False,
    eps: float = 1e-10,
) -> Callable[..., Any]:
    """Turns a loss of weights into a loss of natural parameters.

    Args:
        loss_fn: ``loss_fn(weights, *args)`` gives a scalar, the mean over the
            batch; with has_aux a pair ``(scalar, pytree)``. It sees one
            sample at a time and needs no batch axis for them.
        temperature: tau > 0 of the relaxed samples; may be a traced scalar. Not
            used when num_samples is 0.
        num_samples: S, the number of samples, mapped by `jax.vmap`. With 0 the
            loss is evaluated at the expectation w = mu = tanh(lambda) instead.
        has_aux: whether loss_fn returns auxiliary output as well: arrays, of
            which the mean over samples is taken (integers become floats).
        eps: added to 1 - w^2 in the derivative, as in `relax`.

    Returns:
        ``f(natural, key, *args)``: the loss averaged over samples, with
        has_aux also the auxiliary pytree averaged over samples. It works under
        `jax.grad`, `jax.jit`, `jax.vmap` and `jax.lax.scan`. (A loss_fn with an NNX
        module that changes its state merges it with ``nnx.merge(..., copy=True)``.)

    Raises:
        ValueError: temperature not positive, num_samples negative, or (when
            f is traced) a loss that is not a scalar.
        TypeError: when f is traced: has_aux and what loss_fn returns do not fit.

    >>> loss = expected_loss(lambda w: jnp.sum(w**2), temperature=1.0, num_samples=0)
    >>> value, grad = jax.value_and_grad(loss)(jnp.array([0.5, -0.5]), jax.random.key(0))
    >>> print(value, grad)
    0.427 [ 0.727 -0.727]
    """
    check_number("temperature", temperature, "> 0", lambda v: v > 0)
    check_number("eps", eps, ">= 0", lambda v: v >= 0)
    check_count("num_samples", num_samples, 0)

    def checked_loss(weights: PyTree, *args: Any) -> Any:
        output = loss_fn(weights, *args)
        if has_aux and not (isinstance(output, tuple) and len(output) == 2):
            raise TypeError(f"loss_fn must return a pair (loss, aux) with has_aux=True, got {type(output).__name__}")
        loss = output[0] if has_aux else output
        if not jax.tree_util.all_leaves([loss]):
            raise TypeError(f"loss_fn must return a scalar, and a pair with has_aux=True, got {type(loss).__name__}")
        if jnp.shape(loss) != ():
            raise ValueError(f"loss_fn must return a scalar, got shape {jnp.shape(loss)}")
        return output

    def loss_at_expectation(natural: PyTree, key: jax.Array, *args: Any) -> Any:
        no_noise = jax.tree.map(jnp.zeros_like, natural)
        return checked_loss(relax(natural, no_noise, temperature=1.0, eps=eps), *args)

    def loss_over_samples(natural: PyTree, key: jax.Array, *args: Any) -> Any:
        def loss_of_sample(key: jax.Array, natural: PyTree) -> Any:
            return checked_loss(relaxed_sample(key, natural, temperature=temperature, eps=eps), *args)

        copies = jax.tree.map(lambda x: _copies(x, num_samples), natural)
        outputs = over_leading_axis(loss_of_sample)(jax.random.split(key, num_samples), copies)
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), outputs)

    return loss_over_samples if num_samples else loss_at_expectation
