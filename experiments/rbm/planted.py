"""Planted machines: a machine of random weights makes examples, and others have to find its weights from them.

All seeds of a point (method, hidden units, examples for each visible unit) are one program.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import bbinn_jax as bb
from experiments.rbm import gibbs, learners, machine, scores
from experiments.rbm.presets import Config

Row = dict[str, Any]
BAYES = "bayes"


class Problem(NamedTuple):
    """A planted machine, its examples to learn from, others to test on, and a key for the learning."""

    weights: jax.Array
    train: Any
    test: jax.Array
    key: jax.Array


def work(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """The pieces of a run, by name: every method, and exact Bayes, at every point."""
    methods = (*config.methods, *([BAYES] if config.oracle else []))
    return {
        f"{method}, P={hidden_units}, alpha={alpha:g}": partial(point, config, method, hidden_units, alpha)
        for hidden_units in config.hidden_units
        for alpha in config.alphas
        for method in methods
    }


@partial(jax.jit, static_argnums=(0, 1, 2))
@partial(jax.vmap, in_axes=(None, None, None, 0))
def plant(config: Config, hidden_units: int, num_examples: int, seed: jax.Array) -> Problem:
    """The problem of each seed: the same machine for every number of examples."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), hidden_units), 4)
    weights = bb.sample(keys[0], jnp.zeros((config.visible_units, hidden_units)))
    train, test = (
        machine.draw(key, weights, n) for key, n in ((keys[1], num_examples), (keys[2], config.test_examples))
    )
    return Problem(weights, train, test, keys[3])


def point(config: Config, method: str, hidden_units: int, alpha: float) -> list[Row]:
    """The row of a method at a point: means over the seeds, their sample deviations, and the machine of each seed."""
    seeds = jnp.arange(config.seeds, dtype=jnp.uint32) + jnp.uint32(config.seed)
    problems = plant(config, hidden_units, round(alpha * config.visible_units), seeds)
    means, drawn = jax.jit(jax.vmap(partial(learn, config, method)))(problems)
    likelihoods = jax.device_get(log_likelihoods(means, drawn, problems._replace(train=None)))
    means, weights = jax.device_get((means, problems.weights))
    matched = [scores.match(mean, true) for mean, true in zip(means, weights, strict=True)]
    machines = [scores.of_machine(x) for x in matched]
    for i, line in enumerate(machines):
        line |= {name: float(values[i]) for name, values in likelihoods.items()}
    pooled = scores.calibration(matched)
    return [
        {"method": method, "hidden_units": hidden_units, "alpha": alpha}
        | {name: statistics.fmean(line[name] for line in machines) for name in machines[0]}
        | {f"{name}_std": deviation([line[name] for line in machines]) for name in machines[0]}
        | {f"{name}_pooled" if name == "weight_ece" else name: value for name, value in pooled.items()}
        | {"machines": [{name: round(value, 5) for name, value in line.items()} for line in machines]}
    ]


def learn(config: Config, method: str, problem: Problem) -> tuple[jax.Array, jax.Array]:
    """The means of the weights as a method has learned them, and machines of its posterior, [sample, N, P].

    Exact Bayes is a chain that starts at the planted machine. Other posteriors take weights to be independent.
    """
    learn_key, sample_key = jax.random.split(problem.key)
    if method == BAYES:
        return gibbs.sample(learn_key, problem.weights, problem.train)
    learner = learners.make(config, method, len(problem.train))
    mean = learner.mean(learners.train(learner, learn_key, problem.weights, problem.train, config.steps))
    return mean, draw(sample_key, mean, config.eval_samples)


def draw(key: jax.Array, mean: jax.Array, num_samples: int) -> jax.Array:
    """Machines whose weights are independent and have these means, [sample, N, P]."""
    uniform = jax.random.uniform(key, (num_samples, *mean.shape))
    return jnp.where(2 * uniform - 1 < mean, 1.0, -1.0)


@jax.jit
@jax.vmap
def log_likelihoods(mean: jax.Array, drawn: jax.Array, problem: Problem) -> dict[str, jax.Array]:
    """The mean of ln p over the test examples of each seed: of the mixture, of the mode and of the planted machine."""
    return {
        "test_log_likelihood": mixture_log_likelihood(drawn, problem.test),
        "test_log_likelihood_mode": machine.log_likelihood(bb.mode(mean), problem.test).mean(),
        "test_log_likelihood_planted": machine.log_likelihood(problem.weights, problem.test).mean(),
    }


def mixture_log_likelihood(machines: jax.Array, visible: jax.Array, real: machine.Real = machine.NONE) -> jax.Array:
    """The mean of ln p(s), p the average likelihood of some machines: exact, since each Z is."""
    each = jax.lax.map(lambda weights: machine.log_likelihood(weights, visible, real), machines)
    return jnp.mean(jax.nn.logsumexp(each, axis=0) - jnp.log(len(machines)))


def deviation(values: list[float]) -> float:
    """The sample deviation; 0 of one seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
