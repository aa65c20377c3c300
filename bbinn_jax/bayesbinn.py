r"""The Bayesian learning rule for binary weights, as a chain of optax transformations.

    lambda <- lambda - alpha * (N F^-1 dL/dlambda + kl_weight (lambda - lambda0))

minimises ``N E_q[mean loss] + kl_weight KL(q || p)`` by natural-gradient
descent: L is `expected_loss`, F = 1 - tanh(lambda)^2 the Fisher information,
lambda0 the natural parameter of the prior p, alpha the learning rate and N the
number of training examples. Source: arXiv 2002.10778, equations 8, 17 and 21.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bbinn_jax._checks import (
    PyTree,
    check_floating,
    check_key,
    check_non_negative,
    check_number,
    check_update,
    is_masked,
    tree_like,
)
from bbinn_jax._dtypes import EPS, at_least_float32
from bbinn_jax.bernoulli import fisher_information, sample


def precondition_by_fisher(eps: float = EPS) -> optax.GradientTransformation:
    """Divides the gradient by the Fisher information, ``g / (1 - tanh(lambda)^2 + eps)``.

    This turns a gradient with respect to lambda into the natural gradient,
    which is the gradient with respect to mu = tanh(lambda).

    Args:
        eps: added to the Fisher information, equal to that of `relax` (`relax` says why).

    Returns:
        An `optax.GradientTransformation`; ``update`` needs lambda as params.

    Raises:
        ValueError, TypeError: as `bayesbinn`.

    >>> tx = precondition_by_fisher()
    >>> updates, _ = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)), jnp.array([0.0, 1.0]))
    >>> print(updates)
    [1.    2.381]
    """
    eps = check_non_negative("eps", eps)

    def leaf_update(g: jax.Array, x: jax.Array) -> jax.Array:
        wide = at_least_float32(x.dtype)  # in float16 eps would be 0
        return (g.astype(wide) / (fisher_information(x.astype(wide)) + jnp.asarray(eps, wide))).astype(g.dtype)

    def init(natural: PyTree) -> optax.EmptyState:
        check_floating("natural", natural)
        return optax.EmptyState()

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree = None) -> tuple[PyTree, optax.EmptyState]:
        check_update(updates, "natural", params)
        return jax.tree.map(leaf_update, updates, params), state

    return optax.GradientTransformation(init, update)


def add_prior(kl_weight: float = 1.0, prior_natural: PyTree = 0.0) -> optax.GradientTransformationExtraArgs:
    """Adds the natural gradient of the KL term, ``kl_weight (lambda - lambda0)``.

    Args:
        kl_weight: weight of KL(q || p); 1 is Bayes, below 1 a tempered posterior. It multiplies
            the pull to the prior, whatever the prior is: with yesterday's posterior as the prior,
            a kl_weight of 0.003 keeps next to nothing of yesterday's task, and 1 keeps it.
        prior_natural: lambda0, a scalar or a tree. ``update(grads, state,
            natural, prior_natural=tree)`` overrides it, without recompilation.
            Inside `optax.masked` and `optax.partition` it has the whole tree of
            params, of which only the unmasked part is read: for the params
            ``(natural, real)`` it may be ``(yesterdays_natural, None)``. Real parameters have
            no prior, and a second task moves them away from the first: freeze them after the
            first task, or train a network without any.

    Returns:
        An `optax.GradientTransformationExtraArgs`; ``update`` needs lambda as params.

    Raises:
        ValueError, TypeError: as `bayesbinn`.

    >>> tx = add_prior(kl_weight=0.5)
    >>> updates, _ = tx.update(jnp.zeros(2), tx.init(jnp.zeros(2)), jnp.array([1.0, -2.0]))
    >>> print(updates)
    [ 0.5 -1. ]
    """
    kl_weight = check_non_negative("kl_weight", kl_weight)
    default_prior_natural = jax.tree.map(lambda x0: x0, prior_natural)  # a state of NNX changes with its model

    def leaf_update(g: jax.Array, x: jax.Array, x0: jax.typing.ArrayLike) -> jax.Array:
        if is_masked(g):
            return g
        wide = at_least_float32(x.dtype)
        pull = jnp.asarray(kl_weight, wide) * (x.astype(wide) - jnp.asarray(x0, wide))
        return (g.astype(wide) + pull).astype(g.dtype)

    def init(natural: PyTree) -> optax.EmptyState:
        check_floating("natural", natural)
        return optax.EmptyState()

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree = None, *, prior_natural: PyTree = None, **_: Any
    ) -> tuple[PyTree, optax.EmptyState]:
        check_update(updates, "natural", params)
        prior = default_prior_natural if prior_natural is None else prior_natural
        prior = tree_like("prior_natural", prior, "params", params)
        return jax.tree.map(leaf_update, updates, params, prior, is_leaf=is_masked), state

    return optax.GradientTransformationExtraArgs(init, update)


def bayesbinn(
    learning_rate: optax.ScalarOrSchedule,
    train_set_size: float,
    *,
    prior_natural: PyTree = 0.0,
    momentum: float | None = None,
    kl_weight: float = 1.0,
    eps: float = EPS,
) -> optax.GradientTransformationExtraArgs:
    """The Bayesian learning rule (BayesBiNN) over Bernoulli natural parameters.

    ``lambda <- lambda - alpha EMA[N g / (F + eps) + kl_weight (lambda - lambda0)]``

    where g is the gradient of `expected_loss` with respect to lambda.

    Args:
        learning_rate: alpha >= 0, a float or an optax schedule.
        train_set_size: N >= 1, the number of examples that the mean loss stands for.
        prior_natural: lambda0, a scalar or a tree like lambda. 0 is the uniform
            prior. ``update(..., prior_natural=tree)`` overrides it, as in `add_prior`.
        momentum: decay in [0, 1) of the moving average (bias-corrected). With None or a plain 0
            there is no average, and the state keeps no accumulator of the size of lambda.
            A jax.Array, which `optax.inject_hyperparams` makes of a number, keeps one.
        kl_weight: weight of KL(q || p); 1 is Bayes. It multiplies the pull to lambda0 too: a
            sequence of tasks in which yesterday's posterior is the prior needs 1, and
            real parameters, which have no prior, frozen or left out (`add_prior`).
        eps: added to the Fisher information; keep it equal to that of `expected_loss`
            (`relax` says why).

    Returns:
        An `optax.GradientTransformationExtraArgs` whose params are lambda. Keep
        lambda in float32: bfloat16 rounds small steps of a large lambda to nothing.

    Raises:
        ValueError: a number out of its range (the values of a schedule are not checked); in update: params missing,
            or a gradient or lambda0 of another tree.
        TypeError: an argument that is no number; in init: a leaf that is not floating-point.

    Source: arXiv 2002.10778, equations 8 and 17, algorithm of table 1.

    >>> import bbinn_jax as bb
    >>> target = jnp.array([1.0, -1.0, 1.0])
    >>> loss = bb.expected_loss(lambda w: jnp.mean((w - target) ** 2), temperature=1.0)
    >>> tx = bayesbinn(1e-3, train_set_size=1_000)
    >>> natural, state = jnp.zeros(3), tx.init(jnp.zeros(3))
    >>> for t in range(20):
    ...     grads = jax.grad(loss)(natural, jax.random.fold_in(jax.random.key(0), t))
    ...     updates, state = tx.update(grads, state, natural)
    ...     natural = optax.apply_updates(natural, updates)
    >>> print(bb.mode(natural))
    [ 1. -1.  1.]
    """
    if not callable(learning_rate):  # as a schedule it would have a state, which counts steps
        learning_rate = check_non_negative("learning_rate", learning_rate)
    train_set_size = check_number("train_set_size", train_set_size, ">= 1", lambda v: v >= 1)
    # Injected, a momentum is concrete in init and traced in update: the state must not depend on its value.
    keeps_average = isinstance(momentum, jax.Array)
    if momentum is not None:
        momentum = check_number("momentum", momentum, "in [0, 1)", lambda v: 0 <= v < 1)
        keeps_average = keeps_average or momentum != 0
    return optax.chain(
        precondition_by_fisher(eps),
        optax.scale(train_set_size),
        add_prior(kl_weight, prior_natural),
        optax.ema(momentum, debias=True) if keeps_average else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def init_natural(key: jax.Array, params: PyTree = ..., *, scale: float = 10.0) -> PyTree:
    """Starts every weight at ``lambda = +scale`` or ``-scale`` with equal chance.

    Args:
        key: a `jax.random` key; each leaf draws from a key of its own.
        params: a pytree of floating-point arrays; only shapes and dtypes matter.
        scale: abs(lambda) >= 0. At 10 a weight is certain to 2e-9; at 0 it is a fair coin.

    Returns:
        lambda, the tree, shapes and dtypes of params.

    Raises:
        ValueError: scale negative.
        TypeError: key is not a random key; a leaf that is not floating-point.

    >>> print(init_natural(jax.random.key(0), {"w": jnp.zeros(4)}, scale=2.0))
    {'w': Array([ 2., -2., -2., -2.], dtype=float32)}
    """
    check_key(key, "first, before params")
    scale = check_non_negative("scale", scale)
    check_floating("params", params)
    fair_coins = sample(key, jax.tree.map(jnp.zeros_like, params))
    return jax.tree.map(lambda w: (scale * w).astype(w.dtype), fair_coins)
