r"""Straight-through training (STE), the method that the learning rule explains.

    w = sign(latent),    dw/dlatent := 1,    latent clipped to [-1, 1]

Real-valued latent weights are trained by any optimizer, as if binarizing them
had derivative 1. It is the limit of the learning rule at temperature 0 without
noise: arXiv 2002.10778, section 3.3. Source: Courbariaux et al., BinaryConnect,
arXiv 1511.00363, algorithm 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bbinn_jax._checks import PyTree, check_floating, check_optimizer, check_update
from bbinn_jax.bernoulli import mode


@jax.custom_jvp
def straight_through(latent: PyTree) -> PyTree:
    """Binary weights of latent ones, ``sign(latent)``, with derivative 1.

    Args:
        latent: any pytree of floating-point arrays.

    Returns:
        Weights of exactly -1 or +1 (-1 for latent 0), same tree, shapes and dtypes.

    Raises:
        TypeError: a leaf that is not floating-point.

    >>> jax.value_and_grad(lambda x: 3 * straight_through(x))(0.2)
    (Array(3., dtype=float32), Array(3., dtype=float32))
    """
    check_floating("latent", latent)
    return mode(latent)


@straight_through.defjvp
def _straight_through_jvp(primals: tuple[PyTree], tangents: tuple[PyTree]) -> tuple[PyTree, PyTree]:
    return straight_through(*primals), tangents[0]


def ste(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Any optimizer on latent weights, which stay in [-1, 1].

    ``latent <- clip(latent + update, -1, 1)``

    Args:
        optimizer: an optax transformation with its learning rate, as ``optax.adam(1e-2)``.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose params are the latent
        weights; the loss is a function of ``straight_through(latent)``.

    Raises:
        ValueError, TypeError: as `bayesbinn`; TypeError: optimizer is not an optax transformation.

    >>> tx = ste(optax.sgd(1.0))
    >>> latent = jnp.array([0.5, -0.9])
    >>> updates, _ = tx.update(jnp.array([0.25, 3.0]), tx.init(latent), latent)
    >>> print(optax.apply_updates(latent, updates))
    [ 0.25 -1.  ]
    """
    inner = check_optimizer(optimizer)

    def init(latent: PyTree) -> optax.OptState:
        check_floating("latent", latent)
        return inner.init(latent)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, optax.OptState]:
        check_update(updates, "latent", params)
        updates, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(lambda u, x: jnp.clip(x + u, -1, 1).astype(u.dtype) - x, updates, params), state

    return optax.GradientTransformationExtraArgs(init, update)
