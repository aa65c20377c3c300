"""Programs for processors that are not here: what JAX hands to their compilers."""

import math
import re

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbinn_jax as bb
from bbinn_jax import metrics

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
NUM_KEYS = 5  # the most that are made at a time


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(bb.BinaryDense(32, use_bias=True)(x.reshape(len(x), -1)))
        return bb.BinaryDense(10)(x)


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(bb.BinaryConv(8, (3, 3))(x))
        x = nn.relu(bb.BinaryConv(8, (3, 3), strides=(2, 2), use_bias=True)(x))
        return bb.BinaryDense(10)(x.reshape(len(x), -1))


IMAGES, LABELS = jax.ShapeDtypeStruct((16, 16, 16, 3), "float32"), jax.ShapeDtypeStruct((16,), "int32")
KEY = jax.eval_shape(jax.random.key, 0)


def variables_of(network):
    """Shapes of its natural and of its real parameters."""
    return bb.partition(jax.eval_shape(network.init, KEY, IMAGES)["params"])


def forward(network):
    return lambda weights, real, x: network.apply({"params": bb.combine(weights, real)}, x), (
        *variables_of(network),
        IMAGES,
    )


def predictive(network):
    def predict(natural, real, key, x):
        return bb.posterior_predictive(
            lambda weights, x: forward(network)[0](weights, real, x),
            natural,
            key,
            x,
            num_samples=NUM_KEYS,
            chunk_size=2,
        )

    return predict, (*variables_of(network), KEY, IMAGES)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def step_by_weights(network, num_samples):
    def loss_fn(weights, real, x, labels):
        return cross_entropy(forward(network)[0](weights, real, x), labels)

    return step(network, bb.expected_loss(loss_fn, temperature=0.5, num_samples=num_samples))


def step_by_moments(network):
    def loss_fn(mean, variance, key, real, x, labels):
        variables = {"params": bb.combine(mean, real), "variance": variance}
        return cross_entropy(network.apply(variables, x, rngs={"weight_noise": key}), labels)

    return step(network, bb.moment_loss(loss_fn))


def step(network, loss):
    """One of training both kinds of parameters."""
    binary = bb.bayesbinn(1e-3, train_set_size=1000, momentum=0.9)
    optimizer = optax.partition({"binary": binary, "real": optax.adam(1e-3)}, ("binary", "real"))

    def train(params, state, key, x, labels):
        natural, real = params
        value, grads = jax.value_and_grad(loss, argnums=(0, 2))(natural, key, real, x, labels)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    params = variables_of(network)
    return train, (params, jax.eval_shape(optimizer.init, params), KEY, IMAGES, LABELS)


MATRICES = {"a": jax.ShapeDtypeStruct((300, 200), "float32"), "b": jax.ShapeDtypeStruct((7,), "float32")}
SCORES = jax.ShapeDtypeStruct((500,), "float32")
PROGRAMS = {
    "sample": (bb.sample, (KEY, MATRICES)),
    "relaxed sample": (lambda key, natural: bb.relaxed_sample(key, natural, temperature=0.5), (KEY, MATRICES)),
    "calibration error": (metrics.expected_calibration_error, (jax.ShapeDtypeStruct((16, 10), "float32"), LABELS)),
    "area under curve": (metrics.auroc, (SCORES, SCORES)),
}
for network in (Dense(), Convolutional()):
    name = type(network).__name__
    PROGRAMS |= {
        f"{name}, layers": forward(network),
        f"{name}, predictive": predictive(network),
        f"{name}, step": step_by_weights(network, 1),
        f"{name}, step of samples": step_by_weights(network, NUM_KEYS),
        f"{name}, step of moments": step_by_moments(network),
    }


def lowered(name):
    function, arguments = PROGRAMS[name]
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_for_every_platform(name):
    """No words that some have not or are slow with, no way back to Python, and no arrays written out."""
    program = lowered(name)
    assert program.platforms == PLATFORMS
    text = program.mlir_module()
    values = re.sub(r"\w+ = dense<[^>]*> : tensor<[^>]*>", "", text)  # without what only describes an operation
    assert not re.findall(r"tensor<(?:[0-9]+x)*(?:f64|i64|complex)", values)
    assert "custom_call" not in text
    assert max(map(len, re.findall(r"dense<([^>]*)>", text)), default=0) < 10_000
    # JAX counts random numbers in 64 bits. Those of weights are counted here, in 32: what JAX counts are the keys.
    counted = {math.prod(map(int, re.findall("[0-9]+", shape))) for shape in re.findall(r"tensor<([0-9x]*)ui64>", text)}
    assert max(counted, default=0) <= NUM_KEYS or "moments" in name


@pytest.mark.parametrize("name", ["sample", "relaxed sample"])
def test_random_numbers_of_a_program_for_every_platform_are_the_same(name, key):
    function, (_, shapes) = PROGRAMS[name]
    natural = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    for a, b in zip(
        jax.tree.leaves(lowered(name).call(key, natural)), jax.tree.leaves(jax.jit(function)(key, natural)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
