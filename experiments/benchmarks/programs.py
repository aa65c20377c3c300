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
from experiments.benchmarks.presets import Config
from experiments.common import image_config, methods, networks, presets, timing, training
from experiments.common.data import Split
from experiments.common.timing import Program

TRAIN_SET_SIZE = 54_000  # of MNIST
NUM_CLASSES = 10
_init = jax.jit(training.init, static_argnums=0)


class Case(NamedTuple):
    """A network in training, and random images for it."""

    name: str
    problem: training.Problem
    data: Split
    key: jax.Array

    def by(self, method: training.Method) -> "Case":
        """The same, trained by another method."""
        return self._replace(problem=self.problem._replace(method=method))


def case(config: Config, hidden: tuple[int, ...], num_images: int, num_pixels: int = 784) -> Case:
    """The learning rule and the network of the MNIST preset, without dropout: all noise of a step is the method's."""
    keys = jax.random.split(jax.random.key(config.seed), 3)
    data = Split(
        jax.random.normal(keys[0], (num_images, num_pixels)), jax.random.randint(keys[1], (num_images,), 0, NUM_CLASSES)
    )
    settings = dataclasses.replace(presets.mnist("bayesbinn").network, hidden=hidden, dropout=0.0)
    problem = training.Problem(bayesbinn(), networks.Network(settings, NUM_CLASSES), config.batch_size)
    return Case("-".join(map(str, (num_pixels, *hidden, NUM_CLASSES))), problem, data, keys[2])


def small_and_large(config: Config, num_images: int) -> Iterator[Case]:
    """The network for digits and the one for MNIST."""
    yield case(config, config.small_hidden, num_images, 64)
    yield case(config, config.hidden, num_images)


@functools.cache
def all_methods() -> dict[str, training.Method]:
    """The methods that are compared, in the settings of the MNIST preset."""
    plain, latent = _method(presets.mnist("full_precision")), _method(presets.mnist("ste"))
    noisy = _method(presets.mnist_bayes("bayesbinn"))
    return {
        "sgd": plain._replace(optimizer=optax.sgd(1e-2)),
        "adam": plain._replace(optimizer=optax.adam(1e-3)),
        "ste(adam)": latent._replace(optimizer=bb.ste(optax.adam(1e-2))),
        "bop": _method(presets.mnist("bop")),
        "bayesbinn, 1 sample": bayesbinn(),
        "bayesbinn, 2 samples": bayesbinn(num_samples=2),
        "bayesbinn, 5 samples": bayesbinn(num_samples=5),
        "bayesbinn, expectation": bayesbinn(num_samples=0),
        "bayesbinn, noise of activations": noisy,
        "bayesbinn, noise of activations, shared variance": noisy._replace(noise_of_activations=bb.shared_variance),
        "bayesbinn, 1 sample, no noise drawn": bayesbinn()._replace(expected_loss=_loss_without_noise),
    }


@functools.cache
def bayesbinn(num_samples: int = 1) -> training.Method:
    """The Bayesian learning rule with noise of weights."""
    config = presets.mnist("bayesbinn")
    rule: Any = config.method
    rule = dataclasses.replace(rule, noise=dataclasses.replace(rule.noise, num_samples=num_samples))
    return _method(dataclasses.replace(config, method=rule))


def _method(config: image_config.Config) -> training.Method:
    plan = methods.Plan(TRAIN_SET_SIZE, config.batch_size, config.epochs)
    return methods.make(config.method, config.real_learning_rate, plan)


def _loss_without_noise(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """The loss of one relaxed sample whose noise is 0: what remains of its cost when no random number is drawn."""
    rule: Any = presets.mnist("bayesbinn").method

    def loss(natural: Any, key: jax.Array, *args: Any) -> Any:
        no_noise = jax.tree.map(jnp.zeros_like, natural)
        return loss_fn(bb.relax(natural, no_noise, temperature=rule.noise.temperature), *args)

    return loss


def step(config: Config) -> Iterator[list[Program]]:
    """One training step by each method."""
    yield _steps(case(config, config.hidden, config.batch_size), {}, *all_methods())


def width(config: Config) -> Iterator[list[Program]]:
    """A step of the learning rule beside one of SGD, for networks of several widths."""
    for features in config.widths:
        wide = case(config, (features,) * 3, config.batch_size)
        yield _steps(wide, {"width": features}, "sgd", "bayesbinn, 1 sample")


def batch(config: Config) -> Iterator[list[Program]]:
    """A step of the learning rule beside one of SGD, for batches of several sizes."""
    for size in config.batch_sizes:
        yield _steps(case(config, config.hidden, size), {"batch_size": size}, "sgd", "bayesbinn, 1 sample")


def _steps(of: Case, labels: dict[str, Any], *names: str) -> list[Program]:
    cases = {name: of.by(all_methods()[name]) for name in names}
    return [step_program(name, x, labels, initial(x)) for name, x in cases.items()]


def step_program(name: str, of: Case, labels: dict[str, Any], state: training.State, **options: Any) -> Program:
    """Training on one batch again and again, from a state."""
    function = partial(training.train_step, of.problem)
    return state_program(name, {"network": of.name, **labels}, 1, function, state, of.key, *of.data, **options)


def initial(of: Case) -> training.State:
    """The state of one seed before its first step."""
    return _init(of.problem, of.key, of.data.images)


def state_program(
    name: str, labels: dict[str, Any], units: int, function: Callable[..., Any], state: Any, *args: Any, **options: Any
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
    for of in small_and_large(config, config.batch_size * config.epoch_steps):
        yield [python_loop(of), device_loop("one loop on the device", 1, of)]


def seeds(config: Config) -> Iterator[list[Program]]:
    """An epoch of several networks in one program."""
    for of in small_and_large(config, config.batch_size * config.epoch_steps):
        yield [device_loop(_count(count, "seed"), count, of) for count in config.seed_counts]


def device_loop(name: str, num_seeds: int, of: Case) -> Program:
    """`training.train_epoch` from one state; its loop would end early at a loss that is not finite, which raises."""
    num_images = len(of.data.labels)
    keys = jax.random.split(of.key, num_seeds)
    states = jax.tree.map(lambda x: jnp.stack([x] * num_seeds), initial(of))
    index = jnp.broadcast_to(jnp.arange(num_images), (num_seeds, num_images))
    units = num_seeds * num_images // of.problem.batch_size
    function = partial(training.train_epoch, of.problem)
    program = state_program(name, {"network": of.name}, units, function, states, keys, of.data, index)
    run: Any = program.call
    return program._replace(call=lambda: _checked(*run()))


def python_loop(of: Case) -> Program:
    """The same epoch, step by step; its losses are not looked at on the way, so nothing waits for them."""
    data, state, num_images = of.data, initial(of), len(of.data.labels)
    (key,) = jax.random.split(of.key, 1)
    step_key, order_key = jax.random.split(key)

    def one_step(state: training.State, key: jax.Array, data: Split, index: jax.Array) -> Any:
        return training.train_step(of.problem, state, key, data.images[index], data.labels[index])

    def shuffle(step: jax.Array) -> jax.Array:
        order = jax.random.permutation(jax.random.fold_in(order_key, step), num_images)
        return order.reshape(-1, of.problem.batch_size)

    order = timing.compile(shuffle, state.step)
    batches = order.call(state.step)
    compiled = timing.compile(one_step, state, step_key, data, batches[0], donate=(0,))

    def call() -> Any:
        nonlocal state
        for index in np.asarray(order.call(state.step)):
            state, metrics, finite = compiled.call(state, step_key, data, index)
        return _checked(state, metrics, finite)

    seconds = compiled.seconds + order.seconds
    return Program("Python loop", call, len(batches), seconds, compiled.planned_bytes, {"network": of.name})


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
    yield [_program(name, {"num_weights": n}, n, function, key, natural) for name, function in functions.items()]


def predictive(config: Config) -> Iterator[list[Program]]:
    """The predictive distribution of a batch, from few and many samples, all at once or some at a time."""
    for of in small_and_large(config, config.batch_size):
        pairs = [(n, chunk) for n in config.samples for chunk in config.chunk_sizes if chunk < n]  # more is all at once
        programs = [_prediction(of, num_samples, chunk_size or None) for num_samples, chunk_size in pairs]
        most = config.max_gigabytes * 1e9
        yield [x if (x.planned_bytes or 0) <= most else x._replace(call=None) for x in programs]


def _prediction(of: Case, num_samples: int, chunk_size: int | None) -> Program:
    """The mean of some networks, so many at a time, or all at once."""

    def predict(state: training.State, key: jax.Array, images: jax.Array) -> bb.Prediction:
        def apply_fn(weights: Any, images: jax.Array) -> Any:
            variables = {"params": bb.combine(weights, state.params[1]), "batch_stats": state.batch_stats}
            return of.problem.model.apply(variables, images, train=False)

        sizes = {"num_samples": num_samples, "chunk_size": chunk_size}
        return bb.posterior_predictive(apply_fn, state.params[0], key, images, **sizes)  # type: ignore[arg-type]

    name = f"{_count(num_samples, 'sample')}, {f'{chunk_size} at a time' if chunk_size else 'all at once'}"
    labels = {"network": of.name, "num_samples": num_samples, "chunk_size": chunk_size}
    return _program(name, labels, num_samples, predict, initial(of), of.key, of.data.images)


def _program(name: str, labels: dict[str, Any], units: int, function: Callable[..., Any], *args: Any) -> Program:
    """A program that does the same in every run."""
    compiled = timing.compile(function, *args)
    return Program(name, lambda: compiled.call(*args), units, compiled.seconds, compiled.planned_bytes, labels)


def _checked(state: Any, metrics: training.Metrics, finite: training.Finite) -> Any:
    if not all(np.all(x) for x in jax.tree.leaves(finite)):
        raise FloatingPointError("a loss is not finite: what was timed is not the training it should be")
    return state, metrics


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
