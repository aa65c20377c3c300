"""Training on all examples in every step, for problems so small that a run takes seconds.

    posterior    the Bayesian learning rule on natural parameters
    ste          Adam on latent weights, seen through their signs, in the same number of steps

Every parameter of the network is binary, biases too. The key of step t is
``fold_in(key, t)``, so a run depends on its settings, its key and its data alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bbinn_jax as bb
from experiments.common import runs
from experiments.common.ranges import BELOW_ONE, MOST_SAMPLES, check_ranges, check_widths


@dataclass(frozen=True)
class Settings:
    """What all experiments with full batches have in common."""

    preset: str = "paper"
    """Chooses where the other fields start from: paper, or tuned."""
    seed: int = 0
    """Seeds everything random: data, initialization, samples."""
    out: Path | None = None
    """Names the run folder. Default: runs/EXPERIMENT-PRESET-SEED."""
    overwrite: bool = False
    """Replaces a run that is already in that folder."""

    num_train: int = 200
    """Sets the number of training points that are generated."""
    noise: float = 0.1
    """Sets the standard deviation of the noise that is added to the generated points."""
    hidden: tuple[int, ...] = (64, 64)
    """Sets the width of each hidden layer."""
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
        check_ranges(
            self,
            (
                ("seed", 0, 2**32 - 1),
                ("num_train", 10, 100_000),
                ("steps", 1, 10_000_000),
                ("eval_samples", 2, MOST_SAMPLES),
                ("num_samples", 0, MOST_SAMPLES),
                ("noise", 0, 1e6),
                ("learning_rate", 0, None),
                ("ste_learning_rate", 0, None),
                ("init_scale", 0, None),
                ("momentum", *BELOW_ONE),
            ),
        )
        check_widths(self, "hidden")


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
    settings: Settings,
    schedule: Callable[[float], optax.Schedule],
    loss_fn: Callable[[Any], jax.Array],
    params: Any,
    train_set_size: int,
) -> Callable[[jax.Array], tuple[Fit, Fit]]:
    """Makes the function that trains a posterior and, from another start, a network by straight-through training.

    Args:
        settings: of both.
        schedule: of a learning rate, given its start.
        loss_fn: ``loss_fn(weights)``, a mean over all training examples.
        params: of the network, or their `jax.ShapeDtypeStruct`.
        train_set_size: number of examples.

    Returns:
        ``f(key)``, to be compiled; it returns the `Fit` of the posterior and that of ste.

    Raises:
        ValueError: a setting out of its range.
    """
    rule = bb.bayesbinn(
        schedule(settings.learning_rate), train_set_size, momentum=settings.momentum, kl_weight=settings.kl_weight
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
        FloatingPointError: a loss was not finite, and so what it left behind is of no use.
    """
    for name, losses in (("bayesbinn", posterior.loss), ("ste", ste.loss)):
        if not np.all(np.isfinite(losses)):
            step = 1 + int(np.argmin(np.isfinite(losses)))
            raise FloatingPointError(f"the loss of {name} is not finite in step {step}")
    for name, trained in (("bayesbinn", posterior), ("ste", ste)):
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(trained.params)):
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


def keep_networks(
    folder: Path, settings: Settings, posterior: Fit, ste: Fit, statistics: Any = None, **scales: np.ndarray | float
) -> None:
    """Writes network-SEED.safetensors, the posterior, and network-ste-SEED.safetensors, the latent weights of ste.

    Args:
        folder: of the run.
        settings: kept as the files' config.
        posterior, ste: what was trained.
        statistics: what a network needs besides its weights.
        scales: ``input_mean`` and ``input_std``; where they are not given, inputs are used as they are.
    """
    config = runs.kept_config(settings, settings.seed, scales.pop("input_mean", 0.0), scales.pop("input_std", 1.0))
    config |= {name: np.ravel(value).tolist() for name, value in scales.items()}
    for name, trained in (("", posterior), ("ste-", ste)):
        kept = bb.Posterior(trained.params, None, statistics, config)
        bb.save_posterior(folder / f"network-{name}{settings.seed}.safetensors", kept)


def common_results(experiment: str, settings: Settings, posterior: Fit, seconds: dict[str, float]) -> dict[str, Any]:
    """What results.json of every experiment with full batches holds."""
    return {
        "experiment": experiment,
        "preset": settings.preset,
        "dataset": experiment,
        "method": "bayesbinn",
        "seed": settings.seed,
        "steps": settings.steps,
        "device": jax.devices()[0].device_kind,
        "jax_version": jax.__version__,
        **seconds,
        "train_loss": float(posterior.loss[-1]),
        "posterior_entropy_bits_per_weight": float(bb.diagnostics.entropy_bits_per_weight(posterior.params)),
        "saturated_share": float(bb.diagnostics.saturated_share(posterior.params)),
        "flipped_since_start": float(posterior.flipped),
        "num_binary_weights": sum(x.size for x in jax.tree.leaves(posterior.params)),
        "num_real_parameters": 0,
        "num_train": settings.num_train,
        "eval_samples": settings.eval_samples,
        "command": runs.command(),
        "commit": runs.commit(),
    }
