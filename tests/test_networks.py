"""The networks of the experiments: sizes, and VGG against the same network put together by hand."""

import itertools
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb
from experiments.common.networks import CNN, MLP, VGG, BumpMLP, Network

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8, 8, 3)), jnp.float32)


def variables_of(model, images=IMAGES):
    """Weights of +-1, and running statistics that are neither 0 nor 1."""
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)
    binary, real = bb.partition(variables["params"])
    rng = np.random.default_rng(1)
    return {
        "params": bb.combine(bb.mode(binary), jax.tree.map(lambda x: x + rng.uniform(0.5, 1, x.shape), real)),
        "batch_stats": jax.tree.map(lambda x: x + rng.uniform(0.1, 2, x.shape), variables["batch_stats"]),
    }


def count(model, shape):
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.ones(shape))
    natural, real = bb.partition(variables["params"])
    return tuple(sum(x.size for x in jax.tree.leaves(tree)) for tree in (natural, real))


def test_sizes_of_the_papers_networks():
    mlp = Network(MLP(hidden=(2048, 2048, 2048)), 10)
    assert count(mlp, (1, 28, 28, 1)) == (784 * 2048 + 2 * 2048**2 + 2048 * 10, 0) == (10_014_720, 0)
    vgg = Network(VGG(channels=(128, 256, 512), hidden=(1024, 1024)), 10)
    widths = [3, 128, 128, 256, 256, 512, 512]
    convolutions = sum(9 * a * b for a, b in itertools.pairwise(widths))
    assert count(vgg, (1, 32, 32, 3)) == (convolutions + 512 * 16 * 1024 + 1024**2 + 1024 * 10, 0)


@pytest.mark.parametrize("gain", [False, True])
def test_vgg_equals_convolution_pool_norm_relu_by_hand(gain):
    model = Network(VGG(channels=(4, 5), hidden=(7,), batch_norm_eps=1e-5, batch_norm_gain=gain, output_scale=True), 3)
    variables = variables_of(model)
    params, stats = variables["params"], variables["batch_stats"]

    def norm(x, place, name):
        mean, var = place(stats)[name]["mean"], place(stats)[name]["var"]
        y = (x - mean) / np.sqrt(var + 1e-5)
        return y * place(params)[name]["scale"] + place(params)[name]["bias"] if gain else y

    def convolve(x, kernel):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.einsum("nhwcij,ijco->nhwo", windows, kernel)

    x = np.asarray(IMAGES, np.float64)
    for i in range(4):
        x = convolve(x, np.asarray(params[f"BinaryConv_{i}"]["binary_kernel"], np.float64))
        if i % 2:
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
        x = np.maximum(norm(x, lambda tree: tree, f"BatchNorm_{i}"), 0)
    x = x.reshape(len(x), -1)
    mlp = lambda tree: tree["MLP_0"]  # noqa: E731
    x = np.maximum(norm(x @ np.asarray(mlp(params)["BinaryDense_0"]["binary_kernel"]), mlp, "BatchNorm_0"), 0)
    x = norm(x @ np.asarray(mlp(params)["BinaryDense_1"]["binary_kernel"]), mlp, "BatchNorm_1")
    expected = x * mlp(params)["output_scale"]
    # Logits are differences of sums as large as the largest of them, and rounded as such: processors differ in it.
    atol = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(model.apply(variables, IMAGES, train=False), expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("gain, parameters", [(False, 0), (True, 2 * (16 + 10))])
def test_batch_norm_gain_is_a_choice(gain, parameters):
    model = Network(MLP(hidden=(16,), batch_norm_gain=gain), 10)
    assert count(model, (1, 8, 8, 1)) == (64 * 16 + 160, parameters)


def test_running_statistics_decay_as_told():
    model = Network(MLP(hidden=(4,), batch_norm_decay=0.7), 3)
    variables = model.init(jax.random.key(0), IMAGES, train=False)
    _, updated = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    logits = np.asarray(IMAGES.reshape(6, -1) @ variables["params"]["BinaryDense_0"]["binary_kernel"])
    statistics = updated["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.3 * logits.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(statistics["var"], 0.7 + 0.3 * logits.var(axis=0), rtol=1e-4)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_networks_without_batch_norm_have_no_statistics_and_judge_each_image_by_itself(norm, key):
    model = Network(MLP(hidden=(16, 16), norm=norm), 4)
    x = jax.random.normal(key, (8, 30))
    variables = model.init(key, x, train=False)
    assert "batch_stats" not in variables
    weights = {"params": bb.mode(variables["params"])}
    together = model.apply(weights, x, train=True)
    alone = jnp.concatenate([model.apply(weights, x[i : i + 1], train=False) for i in range(8)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert 0.2 < np.std(together) < 5  # the size of the activations is kept


@pytest.mark.parametrize("settings", [MLP(hidden=(4,)), VGG(channels=(2,), hidden=(4,))], ids=["mlp", "vgg"])
def test_one_program_serves_every_batch_size(settings, key):
    """Exported with a batch size that is a symbol: logits, and the mean of networks drawn from the posterior."""
    model = Network(settings, 3)
    variables = jax.jit(partial(model.init, train=False))(key, IMAGES)
    natural, real = bb.partition(variables["params"])

    def network(weights, x):
        return model.apply(variables | {"params": bb.combine(weights, real)}, x, train=False)

    def logits_and_prediction(natural, x):
        prediction = bb.posterior_predictive(network, natural, key, x, num_samples=3, chunk_size=2)
        return network(bb.mode(natural), x), prediction

    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *IMAGES.shape[1:]), IMAGES.dtype)
    program = jax.export.export(jax.jit(logits_and_prediction))(natural, images)
    assert [str(shape.shape) for shape in program.out_avals[:2]] == ["(b, 3)", "(b, 3)"]
    assert jax.eval_shape(program.call, natural, IMAGES[:1])[0].shape == (1, 3)
    actual, expected = program.call(natural, IMAGES), jax.jit(logits_and_prediction)(natural, IMAGES)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_cnn_equals_convolution_relu_pool_by_hand():
    """Without norms each layer is divided by the root of half of its inputs."""
    model = Network(CNN(channels=(4, 5), hidden=(7,), norm="none"), 3)
    params = bb.mode(model.init(jax.random.key(0), IMAGES, train=False)["params"])
    x = np.asarray(IMAGES, np.float64)
    for i in range(2):
        kernel = np.asarray(params[f"BinaryConv_{i}"]["binary_kernel"], np.float64)
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        x = np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, kernel) / (9 * kernel.shape[2] / 2) ** 0.5, 0)
        n, height, width, channels = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
    x = x.reshape(len(x), -1)
    dense = [np.asarray(params["MLP_0"][f"BinaryDense_{i}"]["binary_kernel"]) for i in range(2)]
    x = np.maximum(x @ dense[0] / (len(dense[0]) / 2) ** 0.5, 0)
    x = x @ dense[1] / (len(dense[1]) / 2) ** 0.5
    found = model.apply({"params": params}, IMAGES, train=False)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-6 * np.abs(x).max())
    assert count(Network(CNN(), 10), (1, 28, 28, 1)) == (9 * 16 + 9 * 16 * 32 + 7 * 7 * 32 * 128 + 1280, 0)


@pytest.mark.parametrize(("num_inputs", "centres"), [(1, 64), (2, 8)])
def test_network_of_bumps_by_hand(num_inputs, centres):
    """Loops in NumPy: each bump by itself, its height such that the mean square over the grid is 1."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (5, num_inputs))
    axis, width = np.linspace(-4, 4, centres), 0.7
    height = np.sqrt((axis[1] - axis[0]) * centres / (np.sqrt(np.pi) * width)) ** num_inputs
    bumps = [
        [height * np.exp(-np.sum((point - np.array(centre)) ** 2) / (2 * width**2)) for point in x]
        for centre in itertools.product(axis, repeat=num_inputs)
    ]
    h = np.array(bumps).T
    assert h.shape == (5, 64)
    np.testing.assert_allclose(np.mean(h**2, axis=1), 1, rtol=0.15)  # in two dimensions they hardly overlap
    kernels, biases = [rng.choice([-1, 1], shape) for shape in ((64, 7), (7, 1))], [rng.choice([-1, 1], 7), [1]]
    layers = zip(("BinaryDense_0", "BinaryDense_1"), kernels, biases, strict=True)
    params = {name: {"binary_kernel": jnp.asarray(w, float), "bias": jnp.asarray(b, float)} for name, w, b in layers}
    hidden = np.sqrt(2) * np.maximum((h @ kernels[0] + biases[0]) / 8, 0)
    expected = 3 * (hidden @ kernels[1] + biases[1])[:, 0] / np.sqrt(7)
    found = jax.jit(BumpMLP((7,), width, 3.0).apply)({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_network_of_bumps_is_as_large_as_its_output_scale_before_it_is_trained(key):
    x = jax.random.uniform(key, (10, 2), minval=-3, maxval=3)
    model = BumpMLP((64, 64), 0.7, 2.0)
    params = jax.eval_shape(model.init, key, x)["params"]
    fair = jax.tree.map(lambda p: jnp.zeros(p.shape), params)
    outputs = [model.apply({"params": bb.sample(k, fair)}, x) for k in jax.random.split(key, 200)]
    assert np.std(outputs) == pytest.approx(2, rel=0.1)
