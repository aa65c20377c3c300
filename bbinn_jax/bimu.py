r"""BiMU, binary metaplasticity from uncertainty: the surer a weight is, the more it takes to move it.

    step    = 1 / (k F + 2 g tanh(lambda) + 2 abs(g) + 1 / max_step),    F = 1 - tanh(lambda)^2
    lambda <- lambda - step (learning_rate g + (lambda - lambda0) k F / memory_window)

A rule for streams without borders between tasks: what a weight knows decays towards the
uniform prior (lambda0 = 0), the slower the surer it is, and nobody needs to say that a task is over.
Where somebody does, lambda0 may be what was known before the task, and is kept.
Source: Cottart et al., Active Continual Learning with Metaplastic Binary Bayesian
Neural Networks, arXiv 2605.30198.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bbinn_jax._checks import (
    PyTree,
    as_schedule,
    check_floating,
    check_non_negative,
    check_number,
    check_update,
    is_masked,
    tree_like,
)
from bbinn_jax._dtypes import at_least_float32
from bbinn_jax._exported import exported
from bbinn_jax.bernoulli import fisher_information


@exported
class BimuState(NamedTuple):
    """State of `bimu`.

    Attributes:
        count: the number of steps taken.
    """

    count: jax.Array  # type: ignore[assignment]  # the name in optax; tuples have a method of that name


def bimu(
    max_step: optax.ScalarOrSchedule,
    memory_window: float,
    *,
    learning_rate: float = 1.0,
    likelihood_weight: float = 1.0,
    kl_weight: float = 1.0,
    prior_natural: PyTree = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Steps that depend on how sure a weight is, and forgetting within a window of memory.

    ``step = 1 / (k F + 2 g tanh(lambda) + 2 abs(g) + 1 / max_step)``
    ``lambda <- lambda - step (learning_rate g + (lambda - lambda0) k F / memory_window)``

    where F = 1 - tanh(lambda)^2, g = likelihood_weight times the gradient of
    `expected_loss` with respect to lambda, and k = kl_weight. The gradient is not
    divided by F: it vanishes with the uncertainty of its weight. The gradient moves a weight
    against the sign of lambda by 1 / 2 of learning_rate at most, and with it by
    max_step times the gradient at most.

    Args:
        max_step: the largest step, what the gradient is multiplied by, >= 0, a float or an
            optax schedule. At 0 nothing moves: it takes the place of a learning rate.
        memory_window: >= 1. Without a gradient lambda nears lambda0 by a share of step k F / memory_window
            in each update: an unsure weight forgets within that many steps, a sure one
            (F near 0) hardly ever. The authors take a step for each example.
        learning_rate: factor >= 0 of the gradient, but not in the step.
        likelihood_weight: what the gradient is multiplied by, >= 0. The authors' loss is a
            sum over the batch: for a loss that is a mean it is the batch size.
        kl_weight: k >= 0, weight of the prior.
        prior_natural: lambda0, a scalar or a tree like lambda. 0 is the uniform prior, which the
            authors have. ``update(..., prior_natural=tree)`` overrides it, as in `add_prior`.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose params are lambda. A gradient of 0 still
        forgets (the authors' program skips steps in which all gradients are 0).

    Raises:
        ValueError, TypeError: as `bayesbinn`.

    Source: arXiv 2605.30198, and the optimizer of its authors' program, which the formula follows.

    >>> tx = bimu(max_step=1.0, memory_window=100)
    >>> natural = jnp.array([0.0, 2.0, 2.0])
    >>> updates, _ = tx.update(jnp.array([0.5, 0.5, -0.5]), tx.init(natural), natural)
    >>> print(updates)  # of two sure weights the one that is confirmed moves more
    [-0.167 -0.165 0.451]
    """
    max_step_at = as_schedule("max_step", max_step)
    memory_window = check_number("memory_window", memory_window, ">= 1", lambda v: v >= 1)
    learning_rate = check_non_negative("learning_rate", learning_rate)
    likelihood_weight = check_non_negative("likelihood_weight", likelihood_weight)
    kl_weight = check_non_negative("kl_weight", kl_weight)
    default_prior_natural = jax.tree.map(lambda x0: x0, prior_natural)  # a state of NNX changes with its model

    def init(natural: PyTree) -> BimuState:
        check_floating("natural", natural)
        return BimuState(jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: BimuState, params: PyTree = None, *, prior_natural: PyTree = None, **_: Any
    ) -> tuple[PyTree, BimuState]:
        check_update(updates, "natural", params)
        prior = default_prior_natural if prior_natural is None else prior_natural
        prior = tree_like("prior_natural", prior, "params", params)
        largest = max_step_at(state.count)

        def leaf_update(g: jax.Array, x: jax.Array, x0: jax.typing.ArrayLike) -> jax.Array:
            if is_masked(g):
                return g
            wide = at_least_float32(x.dtype)
            factors = (largest, memory_window, learning_rate, likelihood_weight, kl_weight)
            limit, window, rate, likelihood, k = (jnp.asarray(v, wide) for v in factors)
            gradient, natural = likelihood * g.astype(wide), x.astype(wide)
            pull = k * fisher_information(natural)
            # 1 + tanh of the same sign as the gradient, without cancellation
            stiffness = pull + 4 * jnp.abs(gradient) * jax.nn.sigmoid(2 * jnp.sign(gradient) * natural)
            step = limit / (1 + limit * stiffness)
            return (-step * (rate * gradient + (natural - jnp.asarray(x0, wide)) * pull / window)).astype(x.dtype)

        updates = jax.tree.map(leaf_update, updates, params, prior, is_leaf=is_masked)
        return updates, BimuState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)
