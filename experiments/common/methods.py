"""How binary weights are trained: a record for each method, of its settings, its name and colour, and what it does.

A new method is a dataclass here, and its name in `Settings`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
import tyro

import bbinn_jax as bb
from experiments.common.config import BELOW_ONE, MOST_EVAL_SAMPLES, MOST_SAMPLES, check_ranges
from experiments.common.training import Method

OF_METHOD = tyro.conf.arg(name="method", metavar="NAME", help="Chooses how the weights are trained.")
OF_NOISE = tyro.conf.arg(
    name="noise",
    metavar="NAME",
    help="Chooses what is random in a step: weights (relaxed), or activations of like mean and variance.",
)


class Plan(NamedTuple):
    """What a method has to know of the training it is for."""

    train_set_size: int  # images that an epoch passes over
    batch_size: int
    epochs: int

    @property
    def steps(self) -> int:
        """How many steps there are; an epoch leaves a last incomplete batch out."""
        return self.epochs * (self.train_set_size // self.batch_size)

    def falling(self, rate: float) -> optax.Schedule:
        """From a rate down to 0 in these steps, as a cosine."""
        return optax.cosine_decay_schedule(rate, self.steps)


def make(settings: "Settings", real_learning_rate: float, plan: Plan) -> Method:
    """The method for the pair (binary, real) of parameters; Adam trains the real ones, whose rate falls to 0 as well.

    Raises:
        ValueError: a setting out of its range.
    """
    method = settings.make(plan)
    optimizers = {"binary": method.optimizer, "real": optax.adam(plan.falling(real_learning_rate))}
    return method._replace(optimizer=optax.partition(optimizers, ("binary", "real")))


@dataclass(frozen=True)
class Weights:
    """Noise of the weights: relaxed samples."""

    name: Annotated[str, OF_NOISE] = "weights"
    temperature: float = 1e-10
    """Sets the temperature of the relaxed samples."""
    num_samples: int = 1
    """Draws so many relaxed samples in a step; 0 trains at the expectation."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        check_ranges(self, (("num_samples", 0, MOST_SAMPLES),))


@dataclass(frozen=True)
class Activations:
    """Noise of the activations: they have the mean and variance that random weights would give them."""

    name: Annotated[str, OF_NOISE] = "activations"
    temperature: ClassVar[float] = 1.0
    num_samples: ClassVar[int] = 0  # the loss is taken at the expectation
    shared_variance: bool = False
    """Gives all weights that lead to an activation one variance, without derivative: faster, and an approximation."""

    def variance(self, variance: Any) -> Any:
        """That of the noise, given the variance of the weights."""
        return bb.shared_variance(variance) if self.shared_variance else variance


@dataclass(frozen=True)
class Posterior:
    """What methods that train natural parameters have in common."""

    noise: Weights | Activations = field(default_factory=Weights)
    kl_weight: float = 1.0
    """Weighs the KL term, and so the prior; 1 is Bayes."""
    init_scale: float = 20.0
    """Sets the size of the natural parameters at the start."""
    eval_samples: int = 50
    """Draws this many networks from the posterior for the mean prediction."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        check_ranges(self, (("init_scale", 0, None), ("eval_samples", 1, MOST_EVAL_SAMPLES)))

    def trained_by(self, rule: optax.GradientTransformation) -> Method:
        """Trains natural parameters by a rule."""
        noise: Any = {"temperature": self.noise.temperature, "num_samples": self.noise.num_samples}
        expected_loss: Any = partial(bb.expected_loss, has_aux=True, **noise)
        expected_loss(max)  # raises for what is out of range now, not when it is traced
        return Method(
            init=partial(bb.init_natural, scale=self.init_scale),
            expected_loss=expected_loss,
            optimizer=rule,
            is_posterior=True,
            noise_of_activations=self.noise.variance if isinstance(self.noise, Activations) else None,
        )


@dataclass(frozen=True)
class BayesBiNN(Posterior):
    """The Bayesian learning rule over natural parameters."""

    name: Annotated[str, OF_METHOD] = "bayesbinn"
    label: ClassVar[str] = "BayesBiNN"
    color: ClassVar[str] = "#0072b2"
    learning_rate: float = 1e-4
    """Sets the learning rate of the rule at the start of the schedule."""
    momentum: float = 0.0
    """Averages the steps of the rule with this momentum."""
    train_set_factor: float = 1.0
    """Says how many times its training images the data set counts for: more with random crops."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        check_ranges(self, (("learning_rate", 0, None), ("momentum", *BELOW_ONE), ("train_set_factor", 0, 1e6, 0)))

    def make(self, plan: Plan) -> Method:
        """Trains natural parameters by the rule."""
        size = self.train_set_factor * plan.train_set_size
        rate = plan.falling(self.learning_rate)
        return self.trained_by(bb.bayesbinn(rate, size, momentum=self.momentum, kl_weight=self.kl_weight))


@dataclass(frozen=True)
class STE:
    """Straight-through training: Adam on latent weights, gradients and weights clipped."""

    name: Annotated[str, OF_METHOD] = "ste"
    label: ClassVar[str] = "STE"
    color: ClassVar[str] = "#d55e00"
    learning_rate: float = 1e-2
    """Sets the learning rate of Adam on the latent weights at the start of the schedule."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        check_ranges(self, (("learning_rate", 0, None),))

    def make(self, plan: Plan) -> Method:
        """Trains latent weights, seen through their signs."""
        return Method(_uniform, _loss_of(bb.straight_through), bb.ste(_clipped_adam(plan, self.learning_rate)))


@dataclass(frozen=True)
class Bop:
    """Binary optimizer: no latent weights, it flips where the average gradient asks for it."""

    name: Annotated[str, OF_METHOD] = "bop"
    label: ClassVar[str] = "Bop"
    color: ClassVar[str] = "#009e73"
    gamma: float = 1e-4
    """Sets the weight of a new gradient in the average at the start of the schedule."""
    threshold: float = 1e-8
    """Sets the average gradient above which a weight flips."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        check_ranges(self, (("gamma", 0, 1),))

    def make(self, plan: Plan) -> Method:
        """Trains weights of -1 and +1."""
        return Method(
            init=lambda key, tree: bb.sample(key, jax.tree.map(jnp.zeros_like, tree)),
            expected_loss=_loss_of(lambda weights: weights),
            optimizer=bb.bop(plan.falling(self.gamma), self.threshold),
        )


@dataclass(frozen=True)
class PMF:
    """Proximal mean-field: Adam on latent weights, seen through a tanh that sharpens."""

    name: Annotated[str, OF_METHOD] = "pmf"
    label: ClassVar[str] = "PMF"
    color: ClassVar[str] = "#cc79a7"
    learning_rate: float = 1e-3
    """Sets the learning rate of Adam on the latent weights at the start of the schedule."""
    final_beta: float = 1000.0
    """Sets the sharpness that the tanh, which starts with 1, has at the end of the schedule."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        check_ranges(self, (("learning_rate", 0, None), ("final_beta", 1, None)))

    def make(self, plan: Plan) -> Method:
        """Trains latent weights, seen through a tanh."""
        beta = optax.exponential_decay(1.0, plan.steps, self.final_beta)
        return Method(
            init=lambda key, tree: jax.tree.map(lambda x: 0.1 * x, _uniform(key, tree)),
            expected_loss=_loss_of(lambda weights: weights),
            optimizer=bb.pmf(_clipped_adam(plan, self.learning_rate), beta),
        )


@dataclass(frozen=True)
class BiMU(Posterior):
    """Metaplasticity: steps that depend on the uncertainty, and a memory window. It knows of no tasks and no epochs."""

    name: Annotated[str, OF_METHOD] = "bimu"
    label: ClassVar[str] = "BiMU"
    color: ClassVar[str] = "#e69f00"
    noise: Weights | Activations = field(default_factory=lambda: Weights(temperature=1.0))
    init_scale: float = 1.0
    """Sets the size of the natural parameters at the start."""
    max_step: float = 1.0
    """Sets the largest step, that of a weight that is certain of nothing."""
    memory_window: float = 60_000.0
    """Sets the steps after which an unsure weight has forgotten; the surer it is, the slower it forgets."""
    likelihood_weight: float = 1.0
    """Weighs an image each time it is seen: 1 / epochs counts each image of a task once."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        super().__post_init__()
        check_ranges(self, (("max_step", 0, None), ("memory_window", 0, None), ("likelihood_weight", 0, None)))

    def make(self, plan: Plan) -> Method:
        """Trains natural parameters; the steps do not decay, and the loss is a sum over the batch."""
        weights = {"likelihood_weight": self.likelihood_weight * plan.batch_size, "kl_weight": self.kl_weight}
        return self.trained_by(bb.bimu(self.max_step, self.memory_window, **weights))


@dataclass(frozen=True)
class FullPrecision:
    """Real weights and Adam: what binary weights are compared with."""

    name: Annotated[str, OF_METHOD] = "full_precision"
    label: ClassVar[str] = "full precision"
    color: ClassVar[str] = "#000000"
    learning_rate: float = 1e-3
    """Sets the learning rate of Adam at the start of the schedule."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        check_ranges(self, (("learning_rate", 0, None),))

    def make(self, plan: Plan) -> Method:
        """Trains real weights."""
        adam = _clipped_adam(plan, self.learning_rate)
        return Method(_glorot, _loss_of(lambda weights: weights), adam, is_binary=False)


Settings = BayesBiNN | STE | Bop | PMF | BiMU | FullPrecision
METHODS: dict[str, Any] = {kind.name: kind for kind in get_args(Settings)}


def choose(kinds: dict[str, Any], name: str, **changes: dict[str, Any]) -> Any:
    """The settings of a method: its own defaults, and what is changed of them, as in ``bop={"gamma": 1e-2}``."""
    return kinds[name](**changes.get(name, {}))


def _clipped_adam(plan: Plan, learning_rate: float) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(plan.falling(learning_rate)))


def _loss_of(weights_fn: Callable[[Any], Any]) -> Any:
    """No samples: the loss at ``weights_fn(params)``; the key is not used."""
    return lambda loss_fn: lambda params, key, *args: loss_fn(weights_fn(params), *args)


def _uniform(key: jax.Array, tree: Any) -> Any:
    """Uniform on (-1, 1): the tanh of half a logistic variate."""
    return bb.bernoulli.expectation(bb.logistic_noise(key, tree))


def _glorot(key: jax.Array, tree: Any) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    initializer = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(treedef, [initializer(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)])
