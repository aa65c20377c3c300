r"""Proximal mean-field (PMF): mean weights that harden as beta rises.

    w = tanh(beta u)    latent u, beta rising with the steps

The loss sees the mean w of a factorized distribution over {-1, +1}; gradient
descent on u goes through the tanh, which is the softmax projection of the two
labels. Source: Ajanthan et al., Proximal Mean-field for Neural Network
Quantization, arXiv 1812.04353, algorithm 1. (Without the derivative of the tanh
the step is that of mirror descent, arXiv 1910.08237.)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bbinn_jax._checks import PyTree, as_schedule, check_floating, check_optimizer, check_update, check_values
from bbinn_jax._dtypes import at_least_float32
from bbinn_jax._exported import exported
from bbinn_jax.bernoulli import fisher_information


@exported
class PmfState(NamedTuple):
    """State of `pmf`.

    Attributes:
        count: the number of steps taken.
        latent: u, a tree like the weights, in float32 or wider.
        inner_state: that of the optimizer of u.
    """

    count: jax.Array  # type: ignore[assignment]  # the name in optax; tuples have a method of that name
    latent: PyTree
    inner_state: optax.OptState


def pmf(optimizer: optax.GradientTransformation, beta: optax.ScalarOrSchedule) -> optax.GradientTransformationExtraArgs:
    """Any optimizer on latent u, whose projection ``w = tanh(beta u)`` the loss sees.

    ``u <- u + update of beta_k (1 - w^2) g,  w <- tanh(beta_{k+1} u)``

    where g is the gradient of the loss with respect to w, and beta_k that of step k.

    Args:
        optimizer: an optax transformation with its learning rate, as
            ``optax.adam(1e-3)``. It sees u as params.
        beta: a number > 0 or an optax schedule of such. Let it rise, to a bound
            (the authors' is 1e4): ``optax.exponential_decay(1.0,
            transition_steps=100, decay_rate=1.05, staircase=True, end_value=1e4)``.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose params are the mean
        weights w, in (-1, 1) at the start: u = artanh(w) / beta_0 (and 0 where init
        gets a `jax.ShapeDtypeStruct`). The state holds u, and w is computed from it alone. The network to ship is
        ``mode(w)``. Deep in saturation (beta abs(u) > 50 in float32) the gradient
        of u is 0.

    Raises:
        ValueError, TypeError: as `bayesbinn`; ValueError in init: a weight outside of (-1, 1), unless it is traced
            or a shape; TypeError: optimizer is not an optax transformation.

    Source: arXiv 1812.04353, algorithm 1, for the labels {-1, +1}: with
    u = (u_plus - u_minus) / 2 the softmax of beta (u_minus, u_plus) has mean
    tanh(beta u). Plain gradient descent with learning rate alpha on both is that
    on u with alpha / 2. (The authors' program has another factor than 1 - w^2,
    one that does not vanish; this is the algorithm as published.)

    >>> tx = pmf(optax.sgd(1.0), beta=2.0)
    >>> weights = jnp.array([0.0, 0.5])
    >>> updates, _ = tx.update(jnp.array([-0.25, 0.0]), tx.init(weights), weights)
    >>> print(optax.apply_updates(weights, updates))  # tanh(2 (0 + 0.5)), 0.5
    [0.762 0.5  ]
    """
    inner = check_optimizer(optimizer)
    beta_at = as_schedule("beta", beta, "> 0", lambda v: v > 0)

    def init(weights: PyTree) -> PmfState:
        check_floating("weights", weights)
        check_values("weights", weights, "in (-1, 1)", lambda w: np.abs(w) < 1)

        def leaf_latent(w: jax.Array) -> jax.Array:
            wide = at_least_float32(w.dtype)
            if isinstance(w, jax.ShapeDtypeStruct):  # a state to load into: there are no values to start from
                return jnp.zeros(w.shape, wide)
            return jnp.arctanh(w.astype(wide)) / jnp.asarray(beta_at(count), wide)

        count = jnp.zeros((), jnp.int32)
        latent = jax.tree.map(leaf_latent, weights)
        return PmfState(count, latent, inner.init(latent))

    def update(updates: PyTree, state: PmfState, params: PyTree = None, **extra_args: Any) -> tuple[PyTree, PmfState]:
        check_update(updates, "weights", params)
        count = optax.safe_increment(state.count)
        beta_now, beta_next = beta_at(state.count), beta_at(count)

        def leaf_grad(g: jax.Array, u: jax.Array) -> jax.Array:
            # 1 - tanh(x)^2 is the Fisher information at x, computed there without cancellation.
            beta = jnp.asarray(beta_now, u.dtype)
            return beta * fisher_information(beta * u) * g.astype(u.dtype)

        def leaf_update(w: jax.Array, u: jax.Array) -> jax.Array:
            return jnp.tanh(jnp.asarray(beta_next, u.dtype) * u).astype(w.dtype) - w

        grads = jax.tree.map(leaf_grad, updates, state.latent)
        latent_updates, inner_state = inner.update(grads, state.inner_state, state.latent, **extra_args)
        latent = optax.apply_updates(state.latent, latent_updates)
        return jax.tree.map(leaf_update, params, latent), PmfState(count, latent, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
