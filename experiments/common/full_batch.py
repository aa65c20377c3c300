"""Training on all examples in every step, for problems so small that a run takes seconds.

    posterior    the Bayesian learning rule on natural parameters
    ste          Adam on latent weights, seen through their signs, in the same number of steps

They give three predictors: "ste", the "mode" of the posterior, and the "mean" of networks drawn from it. Every
parameter of the network is binary, biases too. The key of step t is ``fold_in(key, t)``, so a run depends on its
settings, its key and its data alone.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import bbinn_jax as bb
from experiments.common import console, kept, networks, prediction, runs
from experiments.common.config import BELOW_ONE, MOST_SAMPLES, Run, check_ranges, check_widths

PREDICTORS = ("ste", "mode", "mean")


@dataclass(frozen=True)
class Settings(Run):
    """What all experiments with full batches have in common."""

    num_train: int = 200
    """Sets the number of training points that are generated."""
    noise: float = 0.1
    """Sets the standard deviation of the noise that is added to the generated points."""
    hidden: tuple[int, ...] = (64, 64)
    """Sets the width of each hidden layer."""
    bump_width: float = 0.0
    """Gives the network 64 bumps of this width in place of its inputs, and ReLU; 0 is the paper's network, of tanh."""
    output_scale: float = 1.0
    """Multiplies the output of the network of bumps."""
    steps: int = 3000
    """Sets the length of the training and of the learning-rate schedule."""
    learning_rate: float = 1e-3
    """Sets the learning rate of the rule at the start of the schedule."""
    temperature: float = 1.0
    """Sets the temperature of the relaxed samples."""
    num_samples: int = 5
    """Draws so many relaxed samples in a step; 0 trains at the expectation."""
    momentum: float = 0.99
    """Averages the steps of the learning rule with this momentum."""
    kl_weight: float = 1.0
    """Weighs the KL term, and so the prior; 1 is Bayes."""
    init_scale: float = 15.0
    """Sets the size of the natural parameters at the start."""
    ste_learning_rate: float = 1e-2
    """Sets the learning rate of Adam in straight-through training, with the same schedule."""
    eval_samples: int = 10
    """Draws this many networks from the posterior for the mean prediction."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range (the library checks its own arguments)."""
        super().__post_init__()
        check_ranges(
            self,
            (
                ("num_train", 10, 100_000),
                ("steps", 1, 10_000_000),
                ("eval_samples", 2, MOST_SAMPLES),
                ("num_samples", 0, MOST_SAMPLES),
                ("noise", 0, 1e6),
                ("learning_rate", 0, None),
                ("ste_learning_rate", 0, None),
                ("init_scale", 0, None),
                ("momentum", *BELOW_ONE),
                ("output_scale", 0, 1e6, 0),
            ),
        )
        check_widths(self, "hidden")
        if self.bump_width and not 0.01 <= self.bump_width <= 100:  # else all bumps are 0, or all alike
            raise ValueError(f"bump_width must be 0 or from 0.01 to 100, got {self.bump_width!r}")
        if self.output_scale != 1 and not self.bump_width:
            raise ValueError(f"output_scale must be 1 where bump_width is 0, got {self.output_scale!r}")


def model_of(config: Mapping[str, Any]) -> nn.Module:
    """The network of a config, also of one that was kept before there were bumps."""
    hidden, width = tuple(config["hidden"]), config.get("bump_width")
    return networks.BumpMLP(hidden, width, config["output_scale"]) if width else networks.TanhMLP(hidden)


class Fit(NamedTuple):
    """A trained network, or posterior of networks.

    Attributes:
        params: natural parameters of the posterior, or latent weights.
        loss: [step], the loss that was differentiated.
        entropy: [step], in bits per weight; of a posterior only.
        flipped: share of weights whose sign is not the one they started with.
    """

    params: Any
    loss: jax.Array
    entropy: jax.Array
    flipped: jax.Array


FitBoth = Callable[[jax.Array], tuple[Fit, Fit]]


def train(
    loss: Callable[[Any, jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    params: Any,
    key: jax.Array,
    num_steps: int,
) -> Fit:
    """Minimizes ``loss(params, key)``: one loop on the device."""

    def step(carry, t):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(key, t))
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), (value, bb.diagnostics.entropy_bits_per_weight(params))

    start = (params, optimizer.init(params))
    (trained, _), (losses, entropy) = jax.lax.scan(step, start, jnp.arange(num_steps))
    return Fit(trained, losses, entropy, bb.diagnostics.flip_rate(trained, params))


def fit(
    settings: Settings, schedule: Callable[[float], optax.Schedule], loss_fn: Callable[[Any], jax.Array], inputs: Any
) -> FitBoth:
    """Makes the function that trains a posterior and, from another start, a network by straight-through training.

    Args:
        settings: of both.
        schedule: of a learning rate, given its start.
        loss_fn: ``loss_fn(weights)``, a mean over all training examples; the weights are those of
            ``model_of(vars(settings))``.
        inputs: of training, [n, feature].

    Returns:
        ``f(key)``, to be compiled; it returns the `Fit` of the posterior and that of ste.

    Raises:
        ValueError: a setting out of its range.
    """
    params = jax.eval_shape(model_of(vars(settings)).init, jax.random.key(0), inputs)["params"]
    rule = bb.bayesbinn(
        schedule(settings.learning_rate), len(inputs), momentum=settings.momentum, kl_weight=settings.kl_weight
    )
    adam = bb.ste(optax.adam(schedule(settings.ste_learning_rate)))
    expected_loss = bb.expected_loss(loss_fn, temperature=settings.temperature, num_samples=settings.num_samples)

    def loss_of_signs(latent: Any, key: jax.Array) -> jax.Array:
        return loss_fn(bb.straight_through(latent))

    def fit_both(key: jax.Array) -> tuple[Fit, Fit]:
        init_key, latent_key, train_key = jax.random.split(key, 3)
        natural = bb.init_natural(init_key, params, scale=settings.init_scale)
        latent = bb.bernoulli.expectation(bb.logistic_noise(latent_key, natural))  # uniform on (-1, 1)
        posterior = train(expected_loss, rule, natural, train_key, settings.steps)
        ste = train(loss_of_signs, adam, latent, train_key, settings.steps)
        return posterior, ste

    return fit_both


class Trained(NamedTuple):
    """A posterior, a network of ste, the key of the networks that are drawn, and what results.json says of training."""

    posterior: Fit
    ste: Fit
    sample_key: jax.Array
    results: dict[str, Any]


def run(
    settings: Settings, fit: FitBoth, out: Path, experiment: str, statistics: Any = None, scales: Any = None
) -> Trained:
    """Trains, and writes metrics.jsonl, network-SEED.safetensors (the posterior) and network-ste-SEED.safetensors.

    Both have their mode packed beside them, and a posterior that lives a committee.

    Args:
        settings: kept as the files' config.
        fit: what `fit` made.
        out: the run folder.
        experiment: whose networks they are.
        statistics: what a network needs besides its weights.
        scales: a dict, of what was measured, ``input_mean`` and ``input_std`` among them; default: inputs as they are.

    Raises:
        FloatingPointError: a loss or a parameter was not finite, and so what was trained is of no use.
    """
    fit_key, sample_key = jax.random.split(jax.random.key(settings.seed))
    (posterior, ste), seconds = compile_and_run(fit, fit_key)
    write_metrics(out, posterior, ste)
    config = runs.kept_config(settings, settings.seed, 0.0, 1.0)
    config |= {name: np.ravel(value).tolist() for name, value in (scales or {}).items()}
    draw = partial(kept.committee, lambda _: statistics, sample_key, posterior.params)
    for name, trained, drawn in (("", posterior, draw), ("ste-", ste, None)):
        network = bb.Posterior(trained.params, None, statistics, config)
        packed = kept.packed(trained.params, statistics, drawn)
        kept.save(out, f"{name}{settings.seed}", experiment, network, packed)
    results = {
        "method": "bayesbinn",
        "steps": settings.steps,
        **seconds,
        "train_loss": float(posterior.loss[-1]),
        "posterior_entropy_bits_per_weight": float(bb.diagnostics.entropy_bits_per_weight(posterior.params)),
        "saturated_share": float(bb.diagnostics.saturated_share(posterior.params)),
        "flipped_since_start": float(posterior.flipped),
        **kept.counts(posterior.params),
        "eval_samples": settings.eval_samples,
    }
    return Trained(posterior, ste, sample_key, results)


def compile_and_run(fn: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, float]]:
    """The output of a function, compiled first, and how long both took."""
    start = time.perf_counter()
    compiled = jax.jit(fn).lower(*args).compile()
    compile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    output = jax.block_until_ready(compiled(*args))
    return output, {"wall_seconds": time.perf_counter() - start, "compile_seconds": compile_seconds}


def write_metrics(folder: Path, posterior: Fit, ste: Fit, every: int = 100) -> None:
    """Writes a line for every 100th step and the last to metrics.jsonl.

    Raises:
        FloatingPointError: a loss, or a parameter after the last step, is not finite.
    """
    for name, trained in (("bayesbinn", posterior), ("ste", ste)):
        finite = np.isfinite(trained.loss)
        if not finite.all():
            raise FloatingPointError(f"the loss of {name} is not finite in step {1 + int(np.argmin(finite))}")
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.params)):
            raise FloatingPointError(f"a parameter of {name} is not finite after the last step")
    num_steps = len(posterior.loss)
    runs.append_metrics(
        folder,
        [
            {
                "step": step,
                "loss": float(posterior.loss[step - 1]),
                "posterior_entropy_bits_per_weight": float(posterior.entropy[step - 1]),
                "ste_loss": float(ste.loss[step - 1]),
            }
            for step in sorted({*range(every, num_steps + 1, every), num_steps})
        ],
    )


def load_network(
    path: str | Path, experiment: str, make: Callable[[nn.Module, bb.Posterior], bb.ApplyFn]
) -> prediction.Network:
    """A network that `run` has kept; ``make(model, posterior)`` gives its ``apply_fn(weights, inputs)``.

    Raises:
        ValueError, OSError: what `kept.load` refuses.
    """
    posterior = kept.load(path, experiment)
    apply_fn = make(model_of(posterior.config), posterior)
    return prediction.Network(posterior, apply_fn, prediction.preprocessing(posterior.config, np.float64))


def load_packed(
    path: str | Path, experiment: str, make: Callable[[nn.Module, bb.PackedNetwork], bb.ApplyFn]
) -> prediction.Packed:
    """The mode or the committee that `run` has kept; ``make(model, network)`` gives ``apply_fn(weights, inputs)``.

    Raises:
        ValueError, OSError: what `kept.load_packed` refuses.
    """
    packed = kept.load_packed(path, experiment)
    model = model_of(packed.config)

    def apply_fn(weights_and_statistics: Any, inputs: jax.Array) -> jax.Array:
        weights, statistics = weights_and_statistics
        return make(model, packed._replace(batch_stats=statistics))(weights, inputs)

    return prediction.Packed(packed, apply_fn, prediction.preprocessing(packed.config, np.float64))


def predict(trained: Trained, of_mode: Callable[..., Any], of_drawn: Callable[..., Any], inputs: Any) -> dict[str, Any]:
    """What the three predictors say of inputs.

    ``of_mode(natural, inputs)`` is what one network says, ``of_drawn(natural, key, inputs)`` what those drawn say.
    """

    def of_all(natural: Any, latent: Any, inputs: Any) -> tuple[Any, ...]:
        return of_mode(latent, inputs), of_mode(natural, inputs), of_drawn(natural, trained.sample_key, inputs)

    predicted = jax.jit(of_all)(trained.posterior.params, trained.ste.params, inputs)
    return dict(zip(PREDICTORS, predicted, strict=True))


def mean_of(values: Any) -> float | None:
    """The mean; None of nothing, as where points that are spread wide leave no place that is far away."""
    return float(values.mean()) if values.size else None


def show(results: dict[str, Any], examples: str, rows: Iterable[Sequence[str]], note: str) -> None:
    """The closing table: three predictors side by side, of examples that are named, and a note below it."""
    console.write_table(
        f"{examples}, {results['preset']} preset, {results['steps']:,} steps",
        ("", "straight-through", "mode", f"mean of {results['eval_samples']}"),
        rows,
    )
    console.write(note)
    console.write_totals(results)


def panels(figure: Figure, results: dict[str, Any], caption: Callable[[str], str]) -> dict[str, Axes]:
    """Axes for each predictor, side by side, with its title and under it ``caption(name)``."""
    titles = ("Straight-through training", "BayesBiNN, mode", f"BayesBiNN, mean of {results['eval_samples']} networks")
    beside = dict(zip(PREDICTORS, figure.subplots(1, 3, sharex=True, sharey=True), strict=True))
    for (name, axes), title in zip(beside.items(), titles, strict=True):
        axes.set_title(title, fontsize=12, fontweight="bold", pad=20)
        axes.text(0.5, 1.03, caption(name), transform=axes.transAxes, ha="center", fontsize=9)
        axes.tick_params(length=2, labelsize=8)
    return beside
