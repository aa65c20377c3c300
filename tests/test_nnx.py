"""NNX: the layers are those of Flax with a weight of another type, and the losses those of functions of states."""

import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bbinn_jax as bb

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6)).astype(np.float32)
Y = (X[:, 0] > X[:, 1]).astype(np.int32)
START = bb.natural_initializer(0.5)


class Network(nnx.Module):
    def __init__(self, rngs=None):
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.hidden = bb.nnx.BinaryLinear(6, 8, kernel_init=START, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.logits = bb.nnx.BinaryLinear(8, 2, use_bias=True, kernel_init=START, rngs=rngs)

    def __call__(self, x):
        return self.logits(jnp.tanh(self.norm(self.hidden(x))))


def loss_fn(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


LOSSES = {
    "weights": bb.nnx.expected_loss(loss_fn, temperature=0.5, num_samples=3),
    "mean": bb.nnx.expected_loss(loss_fn, temperature=0.5, num_samples=0),
    "activations": bb.nnx.moment_loss(loss_fn),
}


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# Layers ---------------------------------------------------------------------------------------------------------------

CONVS = {
    "2-D": ((2, 8, 6, 3), 4, (3, 2), {}),
    "strides, valid": ((2, 8, 6, 3), 4, (3, 2), {"strides": (1, 2), "padding": "VALID"}),
    "pairs": ((2, 8, 6, 3), 4, (3, 2), {"padding": ((1, 0), (2, 1))}),
    "a number": ((2, 8, 6, 3), 4, (3, 3), {"padding": 1, "strides": 2}),
    "circular": ((2, 8, 6, 3), 4, (3, 2), {"padding": "CIRCULAR"}),
    "reflect": ((2, 8, 6, 3), 4, (3, 3), {"padding": "REFLECT"}),
    "dilated": ((2, 8, 8, 3), 4, (3, 3), {"kernel_dilation": 2, "padding": "VALID"}),
    "transposed": ((2, 8, 8, 3), 4, (3, 3), {"input_dilation": (2, 1), "padding": ((1, 1), (2, 0))}),
    "groups": ((2, 8, 6, 4), 6, (3, 3), {"feature_group_count": 2}),
    "mask": ((2, 8, 6, 3), 4, (3, 2), {"mask": RNG.integers(0, 2, (3, 2, 3, 4)).astype(np.float32)}),
    "1-D": ((2, 9, 3), 4, 3, {"padding": "CAUSAL"}),
    "3-D": ((2, 5, 4, 3, 2), 4, (2, 2, 2), {"strides": None}),
    "one example": ((8, 6, 3), 4, (3, 2), {}),
    "two batch axes": ((2, 3, 8, 6, 3), 4, (3, 2), {}),
    "precision": ((2, 8, 6, 3), 4, (3, 2), {"precision": "highest"}),
}


@pytest.mark.parametrize("case, use_bias", [(case, i % 2 == 0) for i, case in enumerate(CONVS)])
def test_conv_equals_that_of_flax_and_its_noise_has_the_convolved_variance(case, use_bias):
    shape, features, kernel_size, options = CONVS[case]
    x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    arguments = (shape[-1], features, kernel_size)
    ours = bb.nnx.BinaryConv(*arguments, use_bias=use_bias, **options, rngs=nnx.Rngs(0))
    flax = nnx.Conv(*arguments, use_bias=use_bias, **options, rngs=nnx.Rngs(0))
    assert ours.binary_kernel.shape == flax.kernel.shape
    mean = jnp.asarray(RNG.uniform(-1, 1, size=flax.kernel.shape), jnp.float32)
    flax.kernel[...] = ours.binary_kernel[...] = mean
    if use_bias:
        flax.bias[...] = ours.bias[...] = jnp.arange(features, dtype=jnp.float32)
    expected = flax(x)
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=1e-5)

    bb.nnx.add_noise(KEY, ours, {"binary_kernel": 1 - mean**2})
    flax.kernel[...], flax.mask = 1 - mean**2, options.get("mask")  # the mask is of zeros and ones
    if use_bias:
        flax.bias[...] = jnp.zeros(features)
    std = jnp.sqrt(flax(x**2))
    noise = jax.random.normal(jax.random.split(KEY, 1)[0], expected.shape)
    np.testing.assert_allclose(ours(x), expected + std * noise, rtol=1e-4, atol=1e-4)


def test_linear_equals_a_product_of_matrices():
    layer = bb.nnx.BinaryLinear(6, 4, use_bias=True, rngs=nnx.Rngs(0))
    kernel, bias = bb.mode(layer.binary_kernel[...]), np.arange(4, dtype=np.float32)
    layer.binary_kernel[...], layer.bias[...] = kernel, jnp.asarray(bias)
    np.testing.assert_allclose(layer(X), X @ np.asarray(kernel) + bias, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer(X.reshape(2, 8, 6)), layer(X).reshape(2, 8, 4), rtol=1e-6)


def linen_pair(name):
    """A layer of each language, and inputs."""
    options = {"use_bias": True, "kernel_init": START}
    if name == "linear":
        return bb.BinaryDense(4, **options), bb.nnx.BinaryLinear(6, 4, **options, rngs=nnx.Rngs(0)), X
    images = jnp.asarray(RNG.normal(size=(2, 8, 6, 3)), jnp.float32)
    return bb.BinaryConv(4, (3, 3), **options), bb.nnx.BinaryConv(3, 4, (3, 3), **options, rngs=nnx.Rngs(0)), images


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["linear", "conv"])
def test_layers_are_those_of_linen_to_the_bit(name, dtype):
    linen, layer, x = linen_pair(name)
    linen, layer.dtype = linen.clone(dtype=dtype), dtype
    params = {"binary_kernel": layer.binary_kernel[...], "bias": layer.bias[...] + 0.3}
    layer.bias[...] = params["bias"]
    np.testing.assert_array_equal(layer(x), linen.apply({"params": params}, x))
    variance = bb.bernoulli.variance(params)
    noisy = {"params": params, "variance": variance}
    key = linen.bind(noisy, rngs={"weight_noise": KEY}).make_rng("weight_noise")
    for param, with_key in ((layer.binary_kernel, key), (layer.bias, None)):
        name = "bias" if with_key is None else "binary_kernel"
        moments = bb.nnx.Moments(params[name], variance[name], with_key)
        param.copy_from(jax.tree.map(lambda _, m=moments: m, param))
    np.testing.assert_array_equal(layer(x), linen.apply(noisy, x, rngs={"weight_noise": KEY}))


def test_parameters_are_natural_ones_of_ten_and_of_their_dtype():
    layer = bb.nnx.BinaryLinear(6, 4, use_bias=True, dtype="float32", param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(np.abs(layer.binary_kernel[...].astype(np.float32)), 10)
    assert layer.binary_kernel.dtype == layer.bias.dtype == jnp.bfloat16
    assert layer(X).dtype == jnp.float32
    conv = bb.nnx.BinaryConv(3, 4, 3, kernel_metadata={"note": "kept"}, kernel_init=START, rngs=nnx.Rngs(0))
    assert conv.binary_kernel.get_metadata()["note"] == "kept"
    assert conv.kernel_size == (3,)
    np.testing.assert_array_equal(np.abs(conv.binary_kernel[...]), 0.5)


# The split ------------------------------------------------------------------------------------------------------------


def names(state):
    return ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]


def test_filters_split_a_model_and_partition_gives_the_same_halves():
    model = Network()
    graphdef, natural, rest = nnx.split(model, bb.nnx.BinaryParam, ...)
    assert names(natural) == ["hidden/binary_kernel", "logits/binary_kernel"]
    assert names(rest) == ["logits/bias", "norm/bias", "norm/scale"]
    only_real = nnx.state(model, nnx.All(nnx.Param, nnx.Not(bb.nnx.BinaryParam)))
    chex.assert_trees_all_equal(only_real, rest)
    halves = bb.partition(nnx.state(model))
    for half, expected in zip(halves, (natural, rest), strict=True):
        chex.assert_trees_all_equal(jax.tree.leaves(half), jax.tree.leaves(expected))
    np.testing.assert_array_equal(nnx.merge(graphdef, natural, rest)(X), nnx.merge(graphdef, bb.combine(*halves))(X))
    table = bb.partition_table(*halves).splitlines()
    assert [line.split()[0] for line in table[1:6]] == sorted(names(natural) + names(rest))


def test_partition_knows_the_type_whatever_the_name():
    layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    layer.kernel = bb.nnx.BinaryParam(layer.kernel[...])
    natural, _ = bb.partition(nnx.state(layer))
    assert [x.shape for x in jax.tree.leaves(natural)] == [(3, 2)]
    natural, _ = bb.partition(nnx.state(layer), {"bias$": "binary"})  # rules alone decide
    assert [x.shape for x in jax.tree.leaves(natural)] == [(2,)]
    with pytest.raises(ValueError, match=r"params must have a binary leaf.*'bias', 'kernel'"):
        bb.partition(nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0))))


def test_rules_do_not_see_boxes():
    """The path of a parameter is that of a plain dict, in a state and among the boxed parameters of linen."""
    rules = {"^kernel$": "binary"}
    state = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    layer = nn.Dense(2, kernel_init=nn.with_partitioning(nn.initializers.ones, (None, "model")))
    boxed = layer.init(KEY, jnp.ones((1, 3)))["params"]
    assert isinstance(boxed["kernel"], nn.Partitioned)
    for params in (state, boxed):
        natural, real = bb.partition(params, rules)
        assert [x.shape for x in jax.tree.leaves(natural)] == [(3, 2)]
        assert [x.shape for x in jax.tree.leaves(real)] == [(2,)]
        chex.assert_trees_all_equal(bb.combine(natural, real), params)
    natural, _ = bb.partition(
        {"value": jnp.ones(1), "other": jnp.ones(2)}, {"^value$": "binary"}
    )  # a name as any other
    assert [x.shape for x in jax.tree.leaves(natural)] == [(1,)]


def test_diff_state_differentiates_the_binary_parameters_alone():
    of_binary = nnx.grad(LOSSES["activations"], argnums=nnx.DiffState(0, bb.nnx.BinaryParam))
    grads = nnx.jit(of_binary)(Network(), KEY, X, Y)
    everything = nnx.jit(nnx.grad(LOSSES["activations"]))(Network(), KEY, X, Y)
    assert names(grads) == ["hidden/binary_kernel", "logits/binary_kernel"]
    assert_close(grads, nnx.split_state(everything, bb.nnx.BinaryParam, ...)[0])


# Losses of models -----------------------------------------------------------------------------------------------------


def functional(noise, natural, real, key):
    """The same losses written with split and merge alone."""
    graphdef, _, _ = nnx.split(Network(), bb.nnx.BinaryParam, ...)
    if noise != "activations":
        samples = {"weights": 3, "mean": 0}[noise]
        loss = bb.expected_loss(
            lambda w, real: loss_fn(nnx.merge(graphdef, w, real, copy=True), X, Y), temperature=0.5, num_samples=samples
        )
        return loss(natural, key, real)

    def of_moments(mean, variance, key, real):
        model = nnx.merge(graphdef, mean, real, copy=True)
        bb.nnx.add_noise(key, model, variance)
        return loss_fn(model, X, Y)

    return bb.moment_loss(of_moments)(natural, key, real)


@pytest.mark.parametrize("noise", LOSSES)
def test_losses_of_models_are_those_of_states(noise):
    model = Network()
    value, grads = nnx.jit(nnx.value_and_grad(LOSSES[noise]))(model, KEY, X, Y)
    _, natural, real = nnx.split(Network(), bb.nnx.BinaryParam, ...)
    expected, halves = jax.jit(jax.value_and_grad(functional, argnums=(1, 2)), static_argnums=0)(
        noise, natural, real, KEY
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert_close(nnx.split_state(nnx.state(grads), bb.nnx.BinaryParam, ...), halves)
    chex.assert_trees_all_equal(nnx.state(model), nnx.state(Network()))  # nothing is changed


@pytest.mark.parametrize("noise", LOSSES)
def test_a_second_step_compiles_nothing(noise):
    traced = []

    def counted(model, x, y):
        traced.append(1)
        return loss_fn(model, x, y)

    loss = {
        "weights": bb.nnx.expected_loss(counted, temperature=0.5, num_samples=2),
        "mean": bb.nnx.expected_loss(counted, temperature=0.5, num_samples=0),
        "activations": bb.nnx.moment_loss(counted),
    }[noise]
    step, model = nnx.jit(nnx.value_and_grad(loss)), Network()
    first, _ = step(model, KEY, X, Y)
    before = len(traced)
    second, _ = step(model, jax.random.key(1), X, Y)
    assert len(traced) == before
    assert (first != second) == (noise != "mean")


class Stateful(nnx.Module):
    """With all that a layer may change: statistics, a count of random numbers, what it sows."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.hidden = bb.nnx.BinaryLinear(6, 8, kernel_init=START, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.logits = bb.nnx.BinaryLinear(8, 2, kernel_init=START, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.hidden(x))
        self.sow(nnx.Intermediate, "seen", x)
        return self.logits(self.dropout(jnp.tanh(x)))


@pytest.mark.parametrize("noise", LOSSES)
def test_what_a_loss_changes_in_its_model_is_changed(noise):
    def with_aux(model, x, y):
        return loss_fn(model, x, y), {"mean": model.norm.mean[...]}

    loss = {
        "weights": bb.nnx.expected_loss(with_aux, temperature=0.5, num_samples=3, has_aux=True),
        "mean": bb.nnx.expected_loss(with_aux, temperature=0.5, num_samples=0, has_aux=True),
        "activations": bb.nnx.moment_loss(with_aux, has_aux=True),
    }[noise]
    model = Stateful()
    step = nnx.jit(nnx.value_and_grad(loss, has_aux=True))
    (first, aux), _ = step(model, KEY, X, Y)
    np.testing.assert_allclose(model.norm.mean[...], aux["mean"], rtol=1e-6)
    assert np.abs(model.norm.mean[...]).max() > 1e-3
    assert model.dropout.rngs.count[...] == 1
    assert model.dropout.rngs.count.dtype == jnp.uint32
    (second, _), _ = step(model, KEY, X, Y)
    assert model.dropout.rngs.count[...] == 2
    assert first != second  # dropout draws other numbers


def test_statistics_are_the_mean_over_samples():
    model = Stateful()
    graphdef, natural, rest = nnx.split(model, bb.nnx.BinaryParam, ...)
    measured = []
    for key in jax.random.split(KEY, 3):
        weights = bb.relaxed_sample(key, natural, temperature=0.5)
        one = nnx.merge(graphdef, weights, rest, copy=True)
        loss_fn(one, X, Y)
        measured.append(one.norm.var[...])
    LOSSES["weights"](model, KEY, X, Y)
    np.testing.assert_allclose(model.norm.var[...], np.mean(measured, axis=0), rtol=1e-5)


def test_noise_of_activations_has_the_moments_of_sampled_weights():
    layer = bb.nnx.BinaryLinear(6, 4, kernel_init=START, rngs=nnx.Rngs(0))
    natural = nnx.state(layer)
    draws = jax.vmap(bb.sample, (0, None))(jax.random.split(KEY, 20_000), natural)
    y = jnp.einsum("ni,sio->sno", X, draws["binary_kernel"][...])

    def noisy(key):
        model = nnx.clone(layer)
        nnx.update(model, bb.bernoulli.expectation(natural))
        bb.nnx.add_noise(key, model, bb.bernoulli.variance(natural))
        return model(X)

    z = jax.vmap(noisy)(jax.random.split(KEY, 20_000))
    np.testing.assert_allclose(z.mean(axis=0), y.mean(axis=0), atol=0.08)
    np.testing.assert_allclose(z.std(axis=0), y.std(axis=0), rtol=0.05)


def test_a_shared_variance_is_taken_by_layers_and_by_stacks_of_them():
    variance = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 6, 6)), jnp.float32)
    stack = nnx.vmap(lambda rngs: bb.nnx.BinaryLinear(6, 6, kernel_init=START, rngs=rngs))(nnx.Rngs(0).split(3))
    shared = bb.shared_variance({"binary_kernel": variance})
    assert shared["binary_kernel"].shape == (3, 1, 6)

    def noisy(variance):
        model = nnx.clone(stack)
        bb.nnx.add_noise(KEY, model, variance)
        return nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(X[:, :6], model)

    spread = {"binary_kernel": jnp.broadcast_to(variance.mean(1, keepdims=True), variance.shape)}
    np.testing.assert_allclose(noisy(shared), noisy(spread), rtol=1e-4)
    with pytest.raises(ValueError, match=r"variance of binary_kernel must have its shape \(3, 6, 6\), got \(1, 1, 6\)"):
        noisy({"binary_kernel": shared["binary_kernel"][:1]})


def test_a_binary_bias_has_noise_too():
    layer = bb.nnx.BinaryLinear(6, 4, use_bias=True, kernel_init=START, rngs=nnx.Rngs(0))
    variance = {"binary_kernel": jnp.full((6, 4), 0.5), "bias": jnp.full(4, 2.0)}
    expected, noise = layer(X), jax.random.normal(jax.random.split(KEY, 1)[0], (16, 4))
    bb.nnx.add_noise(KEY, layer, variance)
    std = np.sqrt(0.5 * (X**2).sum(axis=1, keepdims=True) + 2)
    np.testing.assert_allclose(layer(X), expected + std * noise, rtol=1e-5, atol=1e-5)


class Shared(nnx.Module):
    """One layer at two places, and one weight in two layers."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a = self.b = bb.nnx.BinaryLinear(6, 6, kernel_init=START, rngs=rngs)
        self.c = bb.nnx.BinaryLinear(6, 6, kernel_init=START, rngs=rngs)
        self.d = bb.nnx.BinaryLinear(6, 6, kernel_init=START, rngs=rngs)
        self.d.binary_kernel = self.c.binary_kernel

    def __call__(self, x):
        return self.a(x), self.b(x), self.c(x), self.d(x)


def test_shared_weights_have_the_same_noise():
    model = Shared()
    _, natural, _ = nnx.split(model, bb.nnx.BinaryParam, ...)
    assert len(jax.tree.leaves(natural)) == 2
    bb.nnx.add_noise(KEY, model, bb.bernoulli.variance(natural))
    a, b, c, d = model(X)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(c, d)
    assert np.abs(a - c).max() > 0.1


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="temperature must be > 0, got -1"):
        bb.nnx.expected_loss(loss_fn, temperature=-1)
    with pytest.raises(ValueError, match="eps must be >= 0, got -1"):
        bb.nnx.moment_loss(loss_fn, eps=-1)
    plain = nnx.Linear(6, 2, rngs=nnx.Rngs(0))
    for of_model in (*(lambda m, f=f: f(m, KEY, X, Y) for f in LOSSES.values()), bb.nnx.as_function, bb.nnx.mode):
        with pytest.raises(ValueError, match="model must have a BinaryParam, got none in Linear"):
            of_model(plain)
    for loss in (bb.nnx.expected_loss(lambda m: m(X), temperature=1), bb.nnx.moment_loss(lambda m: m(X))):
        with pytest.raises(ValueError, match=r"loss_fn must return a scalar, got shape \(16, 2\)"):
            loss(Network(), KEY)
    for loss in (
        bb.nnx.expected_loss(loss_fn, temperature=1, has_aux=True),
        bb.nnx.moment_loss(loss_fn, has_aux=True),
    ):
        with pytest.raises(TypeError, match="loss_fn must return a pair"):
            loss(Network(), KEY, X, Y)
    with pytest.raises(ValueError, match="variance must be given of hidden/binary_kernel, got that of"):
        bb.nnx.add_noise(KEY, Network(), {"logits": {"binary_kernel": jnp.ones((8, 2))}})
    with pytest.raises(ValueError, match=r"variance of binary_kernel must have its shape \(6, 2\), got \(2, 6\)"):
        bb.nnx.add_noise(KEY, bb.nnx.BinaryLinear(6, 2, rngs=nnx.Rngs(0)), {"binary_kernel": jnp.ones((2, 6))})


MISTAKEN = {
    "no key": lambda loss, model: loss(model, X, Y),
    "key at the end": lambda loss, model: loss(model, X, Y, KEY),
    "rngs": lambda loss, model: loss(model, nnx.Rngs(0), X, Y),
    "a number": lambda loss, model: loss(model, 0, X, Y),
    "compiled": lambda loss, model: nnx.jit(nnx.grad(loss))(model, X, Y),
}


@pytest.mark.parametrize("noise", LOSSES)
@pytest.mark.parametrize("mistake", MISTAKEN)
def test_a_key_that_is_forgotten_or_misplaced_is_told_in_one_line(mistake, noise):
    with pytest.raises(TypeError, match=r"^key must be a jax\.random key and comes second, got .*"):
        MISTAKEN[mistake](LOSSES[noise], Network())


def test_predictive_distributions_tell_a_model_from_a_function_and_a_state():
    model = Network()
    network, natural = bb.nnx.as_function(model)
    no_function, no_state = "apply_fn must be a function of weights, got ", "weights must be a state, .*got Network"
    of_linen = nn.Dense(2)
    for predict in (bb.posterior_predictive, bb.bernoulli_predictive, bb.logit_average_predictive):
        with pytest.raises(TypeError, match=no_function + r"Network: network, natural = bb\.nnx\.as_function\(model\)"):
            predict(model, natural, KEY, X, num_samples=2)
        with pytest.raises(TypeError, match=no_function + "Dense: lambda weights, x: model.apply"):
            predict(of_linen, natural, KEY, X, num_samples=2)
        with pytest.raises(TypeError, match=no_state):
            predict(network, model, KEY, X, num_samples=2)
        for arguments in ((KEY, natural), (natural, 0), (natural, nnx.Rngs(0))):
            with pytest.raises(TypeError, match=r"^key must be a jax\.random key and comes third, got "):
                predict(network, *arguments, X, num_samples=2)
    with pytest.raises(TypeError, match=no_function):
        bb.mode_predictive(model, natural, X)
    with pytest.raises(TypeError, match=no_state):
        bb.mode_predictive(network, model, X)
    with pytest.raises(TypeError, match="function must be a function of weights, got Network"):
        bb.posterior_expectation(model, natural, KEY, num_samples=2)
    with pytest.raises(TypeError, match=r"key must be a jax\.random key and comes first, before model, got 0"):
        bb.nnx.add_noise(0, model, natural)


class Stack(nnx.Module):
    """Two layers of Flax, one after the other in a loop or side by side."""

    def __init__(self, how):
        create = nnx.split_rngs(splits=2)(nnx.vmap(lambda rngs: nnx.Linear(6, 6, rngs=rngs)))
        self.linear, self.how = create(nnx.Rngs(0)), how

    def __call__(self, x):
        if self.how == "vmap":
            return nnx.vmap(lambda linear, x: linear(x), in_axes=(0, None))(self.linear, x).sum(axis=0)
        scan = nnx.scan(lambda x, linear: linear(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return scan(x, self.linear)


RNGS = nnx.Rngs(0)
OF_FLAX = {  # a layer, the path of the weight that is made binary, the shape of an input
    "Linear": (nnx.Linear(6, 2, rngs=RNGS), "kernel", (16, 6)),
    "LinearGeneral": (nnx.LinearGeneral((2, 3), 2, axis=(-2, -1), rngs=RNGS), "kernel", (16, 2, 3)),
    "Einsum": (nnx.Einsum("ni,io->no", (6, 2), rngs=RNGS), "kernel", (16, 6)),
    "Conv": (nnx.Conv(3, 2, (3, 3), rngs=RNGS), "kernel", (2, 4, 4, 3)),
    "ConvTranspose": (nnx.ConvTranspose(3, 2, (3, 3), rngs=RNGS), "kernel", (2, 4, 4, 3)),
    "MultiHeadAttention": (nnx.MultiHeadAttention(2, 6, decode=False, rngs=RNGS), "query/kernel", (2, 3, 6)),
    "scan": (Stack("scan"), "linear/kernel", (16, 6)),
    "vmap": (Stack("vmap"), "linear/kernel", (16, 6)),
}


@pytest.mark.parametrize("name", OF_FLAX)
def test_layers_of_flax_refuse_noise_of_activations(name):
    """Rather than train their weights without any; in one line, which says what to do."""
    layer, path, shape = OF_FLAX[name]
    layer = nnx.clone(layer)
    *owner, weight = path.split("/")
    of_weight = getattr(layer, *owner) if owner else layer
    setattr(of_weight, weight, bb.nnx.BinaryParam(getattr(of_weight, weight)[...]))
    words = f"got none used of '{path}': .* other layers are for expected_loss"
    with pytest.raises(ValueError, match=words) as refused:
        bb.nnx.moment_loss(lambda layer: jnp.mean(layer(jnp.ones(shape)) ** 2))(layer, KEY)
    assert "\n" not in str(refused.value)


def test_layers_of_flax_refuse_moments():
    plain = nnx.Linear(6, 2, rngs=nnx.Rngs(0))
    plain.kernel = bb.nnx.BinaryParam(plain.kernel[...])
    moments = bb.nnx.Moments(plain.kernel[...], jnp.ones((6, 2)), KEY)
    plain.kernel.copy_from(jax.tree.map(lambda _: moments, plain.kernel))
    with pytest.raises((TypeError, ValueError), match=r"moments of weights are for BinaryLinear|dtype"):  # flax 0.12.0
        plain(X)
    assert np.isfinite(LOSSES["weights"](bb.nnx.mode(Network()), KEY, X, Y))


# Transformations ------------------------------------------------------------------------------------------------------


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = bb.nnx.BinaryLinear(6, 6, use_bias=True, kernel_init=START, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.linear(x))


class Deep(nnx.Module):
    def __init__(self, how):
        create = nnx.split_rngs(splits=3)(nnx.vmap(Block, in_axes=0, out_axes=0))
        self.blocks, self.how = create(nnx.Rngs(0)), how

    def __call__(self, x):
        if self.how == "loop":
            graphdef, state = nnx.split(self.blocks)
            for i in range(3):
                x = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state), copy=True)(x)
            return x
        axes = nnx.StateAxes({nnx.Param: 0, ...: None}) if self.how == "axes" else 0
        call = nnx.remat(lambda block, x: block(x)) if self.how == "remat" else lambda block, x: block(x)
        if self.how == "vmap":
            return nnx.vmap(call, in_axes=(axes, None))(self.blocks, x).sum(axis=0)
        return nnx.scan(lambda x, block: call(block, x), in_axes=(nnx.Carry, axes), out_axes=nnx.Carry)(x, self.blocks)


@cache
def deep_gradient(how, noise):
    return nnx.jit(nnx.value_and_grad(LOSSES[noise]))(Deep(how), KEY, X, Y)


@pytest.mark.parametrize("noise", LOSSES)
@pytest.mark.parametrize("how", ["scan", "axes", "remat"])
def test_layers_in_a_loop_on_the_device_equal_those_one_by_one(how, noise):
    """Nobody has to say that there is a variance, nor to split random numbers: each layer has noise of its own."""
    (value, grads), (expected, expected_grads) = (deep_gradient(how, noise) for how in (how, "loop"))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_close(nnx.state(grads), nnx.state(expected_grads), rtol=1e-4, atol=1e-5)


def test_layers_side_by_side_have_noise_of_their_own():
    model = Deep("vmap")
    _, natural, _ = nnx.split(model, bb.nnx.BinaryParam, ...)
    expected = model(X)
    bb.nnx.add_noise(KEY, model, bb.bernoulli.variance(natural))
    keys = jax.random.split(jax.random.split(KEY, 1)[0], 3)
    (moments,) = jax.tree.leaves(model.blocks.linear.binary_kernel, is_leaf=lambda x: isinstance(x, bb.nnx.Moments))
    assert (jax.random.key_data(moments.key) == jax.random.key_data(keys)).all()
    assert np.abs(model(X) - expected).max() > 0.1


# Optimizers -----------------------------------------------------------------------------------------------------------

RULES = {
    "bayesbinn": lambda: bb.bayesbinn(1e-2, 16, momentum=0.5, kl_weight=0.1),
    "bayesbinn with schedule": lambda: bb.bayesbinn(optax.cosine_decay_schedule(1e-2, 10), 16),
    "bimu": lambda: bb.bimu(0.1, 100),
    "ste": lambda: bb.ste(optax.adam(1e-2)),
    "bop": lambda: bb.bop(0.1, 1e-4),
    "pmf": lambda: bb.pmf(optax.sgd(1e-2), 1.0),
}


grad_of = nnx.jit(nnx.grad(LOSSES["mean"]))


def every(tx, num_steps):
    return optax.MultiSteps(tx, num_steps).gradient_transformation() if num_steps > 1 else tx


@pytest.mark.parametrize("rule, num_steps", [*((rule, 1) for rule in RULES), ("bayesbinn", 2), ("pmf", 2)])
def test_optimizer_of_nnx_does_what_optax_does_with_a_dict(rule, num_steps):
    model = Network()
    if rule == "bop":
        nnx.update(model, bb.mode(nnx.state(model, bb.nnx.BinaryParam)))
    tx = every(optax.partition({"binary": RULES[rule](), "real": optax.adam(1e-2)}, bb.nnx.labels(model)), num_steps)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    kinds = jax.tree_util.tree_map_with_path(lambda p, _: "binary" if "binary" in str(p[-1]) else "real", params)
    plain = every(optax.partition({"binary": RULES[rule](), "real": optax.adam(1e-2)}, kinds), num_steps)
    state = plain.init(params)

    @nnx.jit
    def step(model, optimizer, grads):
        optimizer.update(model, grads)

    update = jax.jit(plain.update)
    for t in range(4):
        grads = grad_of(model, jax.random.key(t), X, Y)
        pure = nnx.to_pure_dict(nnx.state(grads))
        updates, state = update(pure, state, params)
        params = optax.apply_updates(params, updates)
        step(model, optimizer, grads)
        assert_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), params)
    assert np.abs(model.norm.scale[...] - 1).max() > 1e-3


@pytest.mark.parametrize("given, num_steps", [("whole state", 2), ("binary state", 1), ("pair of filters", 1)])
def test_prior_is_a_state_at_construction_or_in_update(given, num_steps):
    """lambda <- lambda - alpha (lambda - lambda0) where there is no gradient."""
    old = nnx.state(Network(nnx.Rngs(1)), bb.nnx.BinaryParam if given == "binary state" else nnx.Param)
    after = []
    for at_construction in (True, False):
        model = Network()
        before = nnx.to_pure_dict(nnx.state(model, bb.nnx.BinaryParam))
        rule = bb.bayesbinn(0.25, 16, **({"prior_natural": old} if at_construction else {}))
        if given == "pair of filters":
            tx, wrt = rule, bb.nnx.BinaryParam
        else:
            tx, wrt = optax.partition({"binary": rule, "real": optax.sgd(0.1)}, bb.nnx.labels(model)), nnx.Param
        optimizer = nnx.Optimizer(model, every(tx, num_steps), wrt=wrt)
        for _ in range(num_steps):
            zeros = jax.tree.map(jnp.zeros_like, nnx.state(model, wrt))
            nnx.jit(lambda m, o, g, kw: o.update(m, g, **kw))(
                model, optimizer, zeros, {} if at_construction else {"prior_natural": old}
            )
        after.append(nnx.to_pure_dict(nnx.state(model, bb.nnx.BinaryParam)))
    prior = nnx.to_pure_dict(nnx.split_state(old, bb.nnx.BinaryParam, ...)[0])
    expected = jax.tree.map(lambda x, x0: 0.75 * x + 0.25 * x0, before, prior)
    for tree in after:
        assert_close(tree, expected)


def test_what_is_taken_from_a_model_does_not_change_with_it():
    """Though a state shares its variables."""
    model = Network()
    network, natural = bb.nnx.as_function(model)
    shipped, logits = bb.nnx.mode(model), network(natural, X)
    rule = bb.bayesbinn(1.0, 16, prior_natural=nnx.state(model, bb.nnx.BinaryParam))
    before = nnx.to_pure_dict(nnx.state(nnx.clone(model), bb.nnx.BinaryParam))
    optimizer = nnx.Optimizer(model, rule, wrt=bb.nnx.BinaryParam)
    nnx.update(model, jax.tree.map(lambda x: x + 1, nnx.state(model)))
    np.testing.assert_array_equal(network(natural, X), logits)
    np.testing.assert_array_equal(network(bb.mode(natural), X), shipped(X))
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, bb.nnx.BinaryParam)))
    assert_close(nnx.to_pure_dict(nnx.state(model, bb.nnx.BinaryParam)), before)


def test_prior_of_another_model_is_refused():
    model = Network()
    other = nnx.state(bb.nnx.BinaryLinear(6, 8, rngs=nnx.Rngs(0)))
    tx = optax.partition({"binary": bb.bayesbinn(0.1, 16), "real": optax.sgd(0.1)}, bb.nnx.labels(model))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    with pytest.raises(ValueError, match="prior_natural must have the tree of params"):
        optimizer.update(model, nnx.state(model, nnx.Param), prior_natural=other)


def test_functional_rule_takes_states_as_prior():
    """Where params are a state of variables and not of arrays."""
    natural, old = (nnx.state(Network(nnx.Rngs(seed)), bb.nnx.BinaryParam) for seed in (0, 1))
    for prior in (old, nnx.state(Network(nnx.Rngs(1)), nnx.Param)):
        tx = bb.bayesbinn(1.0, 16)
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, natural), tx.init(natural), natural, prior_natural=prior)
        assert_close(optax.apply_updates(natural, updates), old)
    assert bb.bernoulli.kl_divergence(natural, natural) == 0


# Prediction, files, devices -------------------------------------------------------------------------------------------


def test_predictive_distributions_take_a_model_as_a_function():
    model = Stateful()
    model.eval()
    network, natural = bb.nnx.as_function(model)
    prediction = bb.posterior_predictive(network, natural, KEY, X, num_samples=5)
    graphdef, _, rest = nnx.split(model, bb.nnx.BinaryParam, ...)
    sampled = [nnx.merge(graphdef, bb.sample(key, natural), rest)(X) for key in jax.random.split(KEY, 5)]
    np.testing.assert_allclose(prediction.probabilities, np.mean(jax.nn.softmax(np.array(sampled)), axis=0), rtol=1e-5)
    shipped = bb.nnx.mode(model)
    assert {float(w) for w in np.unique(shipped.hidden.binary_kernel[...])} == {-1.0, 1.0}
    np.testing.assert_allclose(
        bb.mode_predictive(network, natural, X).probabilities, jax.nn.softmax(shipped(X)), rtol=1e-5
    )
    assert np.abs(model.hidden.binary_kernel[...]).max() == 0.5  # the model itself is not changed
    shipped.norm.mean[...] = jnp.ones(8)
    assert np.abs(model.norm.mean[...]).max() == 0


def test_batch_norms_are_recalibrated_for_the_network_that_predicts():
    model, batches = Stateful(), jnp.asarray(RNG.normal(size=(4, 32, 6)), jnp.float32)
    shipped = bb.nnx.mode(model)
    shipped.train()
    shipped.dropout.deterministic = True
    graphdef, stats, rest = nnx.split(shipped, nnx.BatchStat, ...)

    def update_fn(stats, x):
        network = nnx.merge(graphdef, stats, rest, copy=True)
        network(x)
        return nnx.state(network, nnx.BatchStat)

    measured = bb.recalibrate_batch_norm(update_fn, stats, batches)
    hidden = batches.reshape(-1, 6) @ shipped.hidden.binary_kernel[...]
    np.testing.assert_allclose(measured["norm"]["mean"][...], hidden.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(measured["norm"]["var"][...], hidden.var(axis=0), rtol=1e-4)
    nnx.update(shipped, measured)
    shipped.eval()
    np.testing.assert_allclose(shipped.norm(hidden).std(axis=0), 1, rtol=1e-3)


def test_a_posterior_comes_back_into_a_model(tmp_path):
    model = Network()
    posterior = bb.Posterior(*bb.partition(nnx.state(model, nnx.Param)), config={"hidden": 8})
    bb.save_posterior(tmp_path / "p", posterior)
    other = Network(nnx.Rngs(1))
    loaded = bb.load_posterior(tmp_path / "p", like=bb.Posterior(*bb.partition(nnx.state(other, nnx.Param))))
    assert loaded.config == {"hidden": 8}
    nnx.update(other, bb.combine(loaded.natural, loaded.real))
    chex.assert_trees_all_equal(nnx.state(other), nnx.state(model))


@pytest.mark.long
def test_a_checkpoint_of_orbax_restores_model_and_optimizer(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    model = Network()

    def optimizer_of(model):
        rule = bb.bayesbinn(1e-2, 16, momentum=0.5)
        tx = optax.partition({"binary": rule, "real": optax.adam(1e-2)}, bb.nnx.labels(model))
        return nnx.Optimizer(model, tx, wrt=nnx.Param)

    def step(model, optimizer):
        optimizer.update(model, nnx.grad(LOSSES["activations"])(model, KEY, X, Y))

    optimizer = optimizer_of(model)
    step(model, optimizer)
    state = nnx.state((model, optimizer))
    with checkpoint.StandardCheckpointer() as writer:
        writer.save(tmp_path / "c", state)
    abstract = nnx.eval_shape(lambda: (lambda m: (m, optimizer_of(m)))(Network(nnx.Rngs(1))))
    graphdef, shapes = nnx.split(abstract)
    with checkpoint.StandardCheckpointer() as reader:
        restored = reader.restore(tmp_path / "c", shapes)
    again, its_optimizer = nnx.merge(graphdef, restored)
    step(model, optimizer)
    step(again, its_optimizer)
    chex.assert_trees_all_equal(nnx.state(again), nnx.state(model))


@pytest.mark.long
def test_training_on_a_mesh_of_four_devices_equals_that_on_one():
    process = subprocess.run(
        [sys.executable, "-c", "from tests import test_nnx as t; t.check_mesh()"],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


def check_mesh():
    """Weights divided by their columns, examples over the other axis of the mesh."""

    class Divided(nnx.Module):
        def __init__(self, init):
            rngs = nnx.Rngs(0)
            self.hidden = bb.nnx.BinaryLinear(6, 8, kernel_init=init, rngs=rngs)
            self.logits = bb.nnx.BinaryLinear(8, 2, use_bias=True, kernel_init=init, rngs=rngs)

        def __call__(self, x):
            return self.logits(jnp.tanh(self.hidden(x)))

    def trained(noise, init, x):
        model = Divided(init)
        tx = optax.partition({"binary": bb.bayesbinn(1e-2, 16), "real": optax.adam(1e-2)}, bb.nnx.labels(model))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, key):
            value, grads = nnx.value_and_grad(LOSSES[noise])(model, key, x, Y)
            optimizer.update(model, grads)
            return value

        losses = [step(model, optimizer, key) for key in jax.random.split(KEY, 3)]
        network, natural = bb.nnx.as_function(model)
        prediction = bb.posterior_predictive(network, natural, KEY, x, num_samples=4)
        return model, losses, prediction

    assert jax.device_count() == 4
    mesh = jax.make_mesh((2, 2), ("data", "model"), (jax.sharding.AxisType.Auto,) * 2)
    for noise in LOSSES:
        expected, *numbers = trained(noise, START, jnp.asarray(X))
        with jax.set_mesh(mesh):
            x = jax.device_put(X, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
            actual, *divided = trained(noise, nnx.with_partitioning(START, (None, "model")), x)
        assert actual.hidden.binary_kernel[...].sharding.spec == jax.sharding.PartitionSpec(None, "model")
        assert math.prod(actual.hidden.binary_kernel[...].sharding.shard_shape((6, 8))) == 24
        assert_close(
            [nnx.to_pure_dict(nnx.state(actual)), divided], [nnx.to_pure_dict(nnx.state(expected)), numbers], 1e-4, 1e-4
        )


# Bridges --------------------------------------------------------------------------------------------------------------


def test_layers_of_linen_in_nnx_are_binary_by_their_name():
    model = nnx.bridge.ToNNX(bb.BinaryDense(2, kernel_init=START), rngs=nnx.Rngs(0)).lazy_init(X)
    assert type(model.binary_kernel) is nnx.Param
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    natural, real = bb.partition(params)
    loss = bb.expected_loss(
        lambda w, real: loss_fn(nnx.merge(graphdef, bb.combine(w, real), rest, copy=True), X, Y), temperature=0.5
    )
    grads = jax.grad(loss)(natural, KEY, real)
    expected = jax.grad(
        bb.expected_loss(
            lambda w: optax.softmax_cross_entropy_with_integer_labels(X @ w, Y).mean(),
            temperature=0.5,
        )
    )(natural["binary_kernel"][...], KEY)
    np.testing.assert_allclose(grads["binary_kernel"][...], expected, rtol=1e-5, atol=1e-7)


def test_layers_of_nnx_in_linen_have_a_collection_of_their_own():
    model = nnx.bridge.to_linen(bb.nnx.BinaryLinear, 6, 2, use_bias=True, kernel_init=START)
    variables = model.init(KEY, X)
    assert {name: list(tree) for name, tree in variables.items()} == {
        "params": ["bias"],
        "binary_params": ["binary_kernel"],
    }
    natural, real = variables["binary_params"], variables["params"]

    def of_weights(weights, real):
        logits = model.apply({"binary_params": weights, "params": real}, X)
        return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()

    grads = jax.grad(bb.expected_loss(of_weights, temperature=0.5), argnums=(0, 2))(natural, KEY, real)
    layer = bb.nnx.BinaryLinear(6, 2, use_bias=True, rngs=nnx.Rngs(0))
    nnx.update(layer, {**natural, **real})
    expected = nnx.grad(bb.nnx.expected_loss(loss_fn, temperature=0.5))(layer, KEY, X, Y)
    np.testing.assert_allclose(grads[0]["binary_kernel"], expected["binary_kernel"][...], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(grads[1]["bias"], expected["bias"][...], rtol=1e-5, atol=1e-7)


# Ordinary layers ------------------------------------------------------------------------------------------------------


def ordinary(name):
    """(params, network(params, x)) of layers that know nothing of binary weights."""
    if name == "nn.Dense":
        model = nn.Dense(2)
        return model.init(KEY, X)["params"], lambda params, x: model.apply({"params": params}, x)
    if name == "nn.MultiHeadDotProductAttention":
        model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8, out_features=2)
        return model.init(KEY, X)["params"], lambda params, x: model.apply({"params": params}, x)
    if name == "nn.Conv":
        model, images = nn.Conv(2, (6,), padding="VALID"), X[:, :, None]
        params = model.init(KEY, images)["params"]
        return params, lambda params, x: model.apply({"params": params}, x[:, :, None])[:, 0]
    if name == "nnx.Conv":
        graphdef, params = nnx.split(nnx.Conv(1, 2, (6,), padding="VALID", rngs=nnx.Rngs(0)), nnx.Param)
        return params, lambda params, x: nnx.merge(graphdef, params)(x[:, :, None])[:, 0]
    if name == "nnx.Linear":
        model = nnx.Linear(6, 2, rngs=nnx.Rngs(0))
    elif name == "nnx.MultiHeadAttention":
        model = nnx.MultiHeadAttention(2, 6, 8, 2, decode=False, rngs=nnx.Rngs(0))
    else:
        equinox = pytest.importorskip("equinox")
        params, static = equinox.partition(equinox.nn.Linear(6, 2, key=KEY), equinox.is_inexact_array)
        return params, lambda params, x: jax.vmap(equinox.combine(params, static))(x)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return params, lambda params, x: nnx.merge(graphdef, params, rest, copy=True)(x)


ORDINARY = """
    nn.Dense nn.Conv nn.MultiHeadDotProductAttention nnx.Linear nnx.Conv nnx.MultiHeadAttention eqx.nn.Linear
""".split()


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_layers_train_by_noise_of_weights_under_a_rule(name):
    params, network = ordinary(name)
    rules = {"weight" if "eqx" in name else "kernel": "binary"}
    natural, real = bb.partition(params, rules)
    natural = bb.init_natural(KEY, natural, scale=0.5)
    assert len(jax.tree.leaves(natural)) == len(jax.tree.leaves(real)) == (4 if "Attention" in name else 1)

    def loss(weights, real):
        logits = network(bb.combine(weights, real), X) / math.sqrt(8)  # weights of +-1: sqrt(inputs) times too large
        return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()

    value_and_grad = jax.value_and_grad(bb.expected_loss(loss, temperature=0.5, num_samples=2), argnums=(0, 2))
    rule = bb.bayesbinn(3e-2, 16, kl_weight=0.01)
    tx = optax.partition({"binary": rule, "real": optax.adam(1e-2)}, ("binary", "real"))

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            value, grads = value_and_grad(params[0], key, params[1])
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(KEY, 200))[1]

    losses = train((natural, real))
    assert losses[-20:].mean() < 0.8 * losses[:20].mean()


@pytest.mark.parametrize("num_inputs", [16, 256])
def test_outputs_of_binary_weights_are_too_large_by_the_root_of_the_inputs(num_inputs):
    x = jax.random.normal(KEY, (200, num_inputs))
    plain = nnx.Linear(num_inputs, 64, use_bias=False, rngs=nnx.Rngs(0))
    binary = bb.nnx.mode(bb.nnx.BinaryLinear(num_inputs, 64, rngs=nnx.Rngs(0)))
    ratio = jnp.std(binary(x)) / jnp.std(plain(x))
    np.testing.assert_allclose(ratio, math.sqrt(num_inputs), rtol=0.1)
