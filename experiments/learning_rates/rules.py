"""What a rate and a momentum mean for each method: an optimizer of the two, which may be traced arrays.

    sgd                    v <- momentum v + g,                      theta <- theta - rate v
    ste                    the same on latent weights, which are kept in [-1, 1] and seen through their signs
    pmf                    the same on latent weights, seen through a tanh that sharpens
    bayesbinn              m <- momentum m + (1 - momentum) n,       lambda <- lambda - rate m / (1 - momentum^t)
    bayesbinn_heavy_ball   bayesbinn at rate / (1 - momentum)

where n = N g / F + kl_weight lambda is the natural gradient for N training images. SGD sums its past gradients, so
in the long run a gradient moves a weight by rate / (1 - momentum); the rule averages them, and moves by the rate
alone. The last line gives the rule what the momentum gives to SGD.

Every parameter is trained at the same rate, and no rate falls: a cell of the grid is its two numbers.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import optax

import bbinn_jax as bb
from experiments.common import methods, training

Name = Literal["sgd", "ste", "bayesbinn", "bayesbinn_heavy_ball", "pmf"]
NAMES: tuple[Name, ...] = get_args(Name)
Number = Any  # a float, or an array that may be traced


class Setting(NamedTuple):
    """What a method has to know besides rate and momentum.

    Attributes:
        train_set_size: images that are trained on.
        steps: of the training.
        kl_weight, init_scale: of the learning rule.
        has_norm: whether norms follow the layers of the network; else each layer is multiplied by sqrt(2 / inputs).
    """

    train_set_size: int
    steps: int
    kl_weight: float
    init_scale: float
    has_norm: bool


class Rule(NamedTuple):
    """How a method is shown, and made."""

    label: str
    make: Callable[[Setting, Number, Number], training.Method]


def make(name: Name, setting: Setting, rate: Number, momentum: Number) -> training.Method:
    """A method at one cell of the grid; real parameters, where a network has any, are trained by SGD."""
    method = RULES[name].make(setting, rate, momentum)
    optimizers = {"binary": method.optimizer, "real": optax.sgd(rate, momentum)}
    return method._replace(optimizer=optax.partition(optimizers, ("binary", "real")))


def _sgd(setting: Setting, rate: Number, momentum: Number) -> training.Method:
    """Real weights that start as Kaiming has them, uniform with variance 2 / inputs.

    A network without norms multiplies its weights w by c = sqrt(2 / inputs). What SGD trains is theta = c w, as
    everywhere: a step of theta is one of w with the gradient divided by c^2.
    """

    def scaled(x: jax.Array) -> float:
        inputs = x.size // x.shape[-1]
        return 1.0 if setting.has_norm else inputs / 2

    def init(key: jax.Array, tree: Any) -> Any:
        leaves, treedef = jax.tree.flatten(tree)
        kaiming = jax.nn.initializers.he_uniform()
        keys = jax.random.split(key, len(leaves))
        theta = [kaiming(k, x.shape) * scaled(x) ** 0.5 for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(treedef, theta)

    to_theta = optax.stateless(lambda grads, _: jax.tree.map(lambda g: g * scaled(g), grads))
    return training.Method(init, _as_they_are, optax.chain(to_theta, optax.sgd(rate, momentum)), is_binary=False)


def _ste(setting: Setting, rate: Number, momentum: Number) -> training.Method:
    method = methods.STE().make(_plan(setting))
    return method._replace(optimizer=bb.ste(optax.sgd(rate, momentum)))


def _pmf(setting: Setting, rate: Number, momentum: Number) -> training.Method:
    settings = methods.PMF()
    beta = optax.exponential_decay(1.0, setting.steps, settings.final_beta)
    return settings.make(_plan(setting))._replace(optimizer=bb.pmf(optax.sgd(rate, momentum), beta))


def _rule(setting: Setting, rate: Number, momentum: Number) -> training.Method:
    rule = bb.bayesbinn(rate, setting.train_set_size, momentum=momentum, kl_weight=setting.kl_weight)
    return methods.Posterior(noise=methods.Activations(), init_scale=setting.init_scale).trained_by(rule)


def _heavy_ball(setting: Setting, rate: Number, momentum: Number) -> training.Method:
    return _rule(setting, rate / (1 - momentum), momentum)


def _plan(setting: Setting) -> methods.Plan:
    return methods.Plan(setting.steps, 1, 1)


def _as_they_are(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda weights, key, *args: loss_fn(weights, *args)


RULES: dict[Name, Rule] = {
    "sgd": Rule("SGD, full precision", _sgd),
    "ste": Rule("STE, SGD on latent weights", _ste),
    "bayesbinn": Rule("learning rule", _rule),
    "bayesbinn_heavy_ball": Rule("learning rule at rate / (1 - momentum)", _heavy_ball),
    "pmf": Rule("PMF, SGD on latent weights", _pmf),
}
