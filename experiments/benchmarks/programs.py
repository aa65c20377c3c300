"""What the benchmarks time. Each part is a function from a config to groups of programs.

The programs of a group are compared with its first one. Training steps are those of
`training.train_step` and of `training.train_epoch`, on random images.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bbinn_jax as bb
from experiments.benchmarks import timing
from experiments.benchmarks.presets import Config
from experiments.benchmarks.timing import Program
from experiments.common import methods, presets, training
from experiments.common.data import Split
from experiments.common.networks import MLP

TRAIN_SET_SIZE = 54_000  # of MNIST
NUM_CLASSES = 10
_init = jax.jit(training.init, static_argnums=(0, 1))


class Problem(NamedTuple):
    """A network and random images for it."""

    name: str
    model: MLP
    data: Split
    key: jax.Array


def problem(config: Config, hidden: tuple[int, ...], num_images: int, num_pixels: int = 784) -> Problem:
    """A network without dropout, so that all random numbers of a step are those of its method."""
    keys = jax.random.split(jax.random.key(config.seed), 3)
    images = jax.random.normal(keys[0], (num_images, num_pixels))
    labels = jax.random.randint(keys[1], (num_images,), 0, NUM_CLASSES)
    name = "-".join(map(str, (num_pixels, *hidden, NUM_CLASSES)))
    return Problem(name, MLP(hidden, NUM_CLASSES), Split(images, labels), keys[2])


def small_and_large(config: Config, num_images: int) -> Iterator[Problem]:
    """The network for digits and the one for MNIST."""
    yield problem(config, config.small_hidden, num_images, 64)
    yield problem(config, config.hidden, num_images)


@functools.cache
def all_methods() -> dict[str, training.Method]:
    """The methods that are compared, in the settings of the MNIST preset."""
    plain = methods.make(presets.mnist("full_precision"), TRAIN_SET_SIZE)
    latent = methods.make(presets.mnist("ste"), TRAIN_SET_SIZE)
    return {
        "sgd": plain._replace(optimizer=optax.sgd(1e-2)),
        "adam": plain._replace(optimizer=optax.adam(1e-3)),
        "ste(adam)": latent._replace(optimizer=bb.ste(optax.adam(1e-2))),
        "bop": methods.make(presets.mnist("bop"), TRAIN_SET_SIZE),
        "bayesbinn, 1 sample": bayesbinn(),
        "bayesbinn, 2 samples": bayesbinn(num_samples=2),
        "bayesbinn, 5 samples": bayesbinn(num_samples=5),
        "bayesbinn, expectation": bayesbinn(num_samples=0),
        "bayesbinn, noise of activations": methods.make(presets.mnist_bayes("bayesbinn"), TRAIN_SET_SIZE),
        "bayesbinn, 1 sample, no noise drawn": bayesbinn()._replace(expected_loss=_loss_without_noise),
    }


@functools.cache
def bayesbinn(num_samples: int = 1) -> training.Method:
    """The Bayesian learning rule with noise of weights."""
    config = dataclasses.replace(presets.mnist("bayesbinn"), num_samples=num_samples)
    return methods.make(config, TRAIN_SET_SIZE)


def _loss_without_noise(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """The loss of one relaxed sample whose noise is 0: what remains of its cost when no random number is drawn."""

    def loss(natural: Any, key: jax.Array, *args: Any) -> Any:
        no_noise = jax.tree.map(jnp.zeros_like, natural)
        return loss_fn(bb.relax(natural, no_noise, temperature=presets.mnist("bayesbinn").temperature), *args)

    return loss


def step(config: Config) -> Iterator[list[Program]]:
    """One training step by each method."""
    large = problem(config, config.hidden, config.batch_size)
    yield [step_program(name, method, large, {"network": large.name}) for name, method in all_methods().items()]


def width(config: Config) -> Iterator[list[Program]]:
    """A step of the learning rule beside one of SGD, for networks of several widths."""
    for features in config.widths:
        yield _beside_sgd(problem(config, (features,) * 3, config.batch_size), {"width": features})


def batch(config: Config) -> Iterator[list[Program]]:
    """A step of the learning rule beside one of SGD, for batches of several sizes."""
    for size in config.batch_sizes:
        yield _beside_sgd(problem(config, config.hidden, size), {"batch_size": size})


def _beside_sgd(of_problem: Problem, labels: dict[str, Any]) -> list[Program]:
    labels = {**labels, "network": of_problem.name}
    two = ("sgd", "bayesbinn, 1 sample")
    return [step_program(name, all_methods()[name], of_problem, labels) for name in two]


def step_program(
    name: str,
    method: training.Method,
    of_problem: Problem,
    labels: dict[str, Any],
    state: training.State | None = None,
    **options: Any,
) -> Program:
    """Training on one batch again and again, from a state or a fresh one."""
    function = partial(training.train_step, method, of_problem.model, _unchanged)
    state = state or initial(method, of_problem)
    return state_program(name, 1, labels, function, state, of_problem.key, *of_problem.data, **options)


def initial(method: training.Method, of_problem: Problem) -> training.State:
    """The state of one seed before its first step."""
    return _init(method, of_problem.model, of_problem.key, of_problem.data.images)


def state_program(
    name: str, units: int, labels: dict[str, Any], function: Callable[..., Any], state: Any, *args: Any, **options: Any
) -> Program:
    """A program whose first argument and first output is a state, which is donated: every run goes on from the last."""
    compiled = timing.compile(function, state, *args, donate=(0,), **options)

    def call() -> Any:
        nonlocal state
        outputs = compiled.call(state, *args)
        state = outputs[0]
        return outputs

    return Program(name, call, units, compiled.seconds, compiled.planned_bytes, labels)


def epoch(config: Config) -> Iterator[list[Program]]:
    """An epoch as one loop on the device, beside a Python loop over compiled steps."""
    for of_problem in small_and_large(config, config.batch_size * config.epoch_steps):
        yield [
            python_loop(config, bayesbinn(), of_problem),
            device_loop("one loop on the device", 1, config, bayesbinn(), of_problem),
        ]


def seeds(config: Config) -> Iterator[list[Program]]:
    """An epoch of several networks in one program."""
    for of_problem in small_and_large(config, config.batch_size * config.epoch_steps):
        yield [
            device_loop(_count(count, "seed"), count, config, bayesbinn(), of_problem) for count in config.seed_counts
        ]


def device_loop(name: str, num_seeds: int, config: Config, method: training.Method, of_problem: Problem) -> Program:
    """`training.train_epoch` from one state; its loop would end early at a loss that is not finite, which raises."""
    keys = jax.random.split(of_problem.key, num_seeds)
    states = jax.tree.map(lambda x: jnp.stack([x] * num_seeds), initial(method, of_problem))
    index = jnp.broadcast_to(jnp.arange(len(of_problem.data.labels)), (num_seeds, len(of_problem.data.labels)))
    function = partial(training.train_epoch, method, of_problem.model, _unchanged, config.batch_size)
    units, labels = num_seeds * config.epoch_steps, {"network": of_problem.name}
    program = state_program(name, units, labels, function, states, keys, of_problem.data, index)
    run: Any = program.call
    return program._replace(call=lambda: _checked(*run()))


def python_loop(config: Config, method: training.Method, of_problem: Problem) -> Program:
    """The same epoch, step by step; its losses are not looked at on the way, so nothing waits for them."""
    data, steps, state = of_problem.data, config.epoch_steps, initial(method, of_problem)
    (key,) = jax.random.split(of_problem.key, 1)
    step_key, order_key = jax.random.split(key)

    def one_step(state: training.State, key: jax.Array, data: Split, index: jax.Array) -> Any:
        images, labels = data.images[index], data.labels[index]
        return training.train_step(method, of_problem.model, _unchanged, state, key, images, labels)

    def shuffle(step: jax.Array) -> jax.Array:
        order = jax.random.permutation(jax.random.fold_in(order_key, step), len(data.labels))
        return order.reshape(steps, config.batch_size)

    order = timing.compile(shuffle, state.step)
    compiled = timing.compile(one_step, state, step_key, data, order.call(state.step)[0], donate=(0,))

    def call() -> Any:
        nonlocal state
        for index in np.asarray(order.call(state.step)):
            state, metrics, finite = compiled.call(state, step_key, data, index)
        return _checked(state, metrics, finite)

    seconds = compiled.seconds + order.seconds
    return Program("Python loop", call, steps, seconds, compiled.planned_bytes, {"network": of_problem.name})


def sampling(config: Config) -> Iterator[list[Program]]:
    """Random numbers for weights, beside those of JAX."""
    n, key = config.num_weights, jax.random.key(config.seed)
    natural = bb.init_natural(key, jnp.zeros(n), scale=3.0)
    functions: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
        "jax.random.bits": lambda key, natural: jax.random.bits(key, natural.shape),
        "jax.random.uniform": lambda key, natural: jax.random.uniform(key, natural.shape),
        "jax.random.normal": lambda key, natural: jax.random.normal(key, natural.shape),
        "bb.logistic_noise": bb.logistic_noise,
        "bb.sample": bb.sample,
        "bb.relaxed_sample": partial(bb.relaxed_sample, temperature=1.0),
    }
    yield [_program(name, n, {"num_weights": n}, function, key, natural) for name, function in functions.items()]


def predictive(config: Config) -> Iterator[list[Program]]:
    """The predictive distribution of a batch, from few and many samples, all at once or some at a time."""
    for of_problem in small_and_large(config, config.batch_size):
        state = initial(bayesbinn(), of_problem)
        programs = []
        for num_samples in config.samples:
            for chunk_size in config.chunk_sizes:
                if chunk_size >= num_samples:
                    continue  # all at once
                labels = {"network": of_problem.name, "num_samples": num_samples, "chunk_size": chunk_size or None}
                at_a_time = f"{chunk_size} at a time" if chunk_size else "all at once"
                function = partial(_predict, of_problem.model, num_samples, chunk_size or None)
                arguments = (state, of_problem.key, of_problem.data.images)
                name = f"{_count(num_samples, 'sample')}, {at_a_time}"
                program = _program(name, num_samples, labels, function, *arguments)
                if (program.planned_bytes or 0) > config.max_gigabytes * 1e9:
                    program = program._replace(call=None)
                programs.append(program)
        yield programs


def _predict(
    model: MLP, num_samples: int, chunk_size: int | None, state: training.State, key: jax.Array, images: jax.Array
) -> bb.Prediction:
    def apply_fn(weights: Any, images: jax.Array) -> Any:
        variables = {"params": bb.combine(weights, state.params[1]), "batch_stats": state.batch_stats}
        return model.apply(variables, images, train=False)

    return bb.posterior_predictive(
        apply_fn, state.params[0], key, images, num_samples=num_samples, chunk_size=chunk_size
    )


def _program(name: str, units: int, labels: dict[str, Any], function: Callable[..., Any], *args: Any) -> Program:
    """A program that does the same in every run."""
    compiled = timing.compile(function, *args)
    return Program(name, lambda: compiled.call(*args), units, compiled.seconds, compiled.planned_bytes, labels)


def _unchanged(key: jax.Array, images: jax.Array) -> jax.Array:
    return images


def _checked(state: Any, metrics: training.Metrics, finite: training.Finite) -> Any:
    if not all(np.all(x) for x in jax.tree.leaves(finite)):
        raise FloatingPointError("a loss is not finite: what was timed is not the training it should be")
    return state, metrics


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
