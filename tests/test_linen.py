"""The layers are those of Flax with a weight of another name."""

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bbinn_jax as bb
from bbinn_jax._affine import NO_VARIANCE

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 5)).astype(np.float32)
IMAGES = RNG.normal(size=(2, 8, 6, 3)).astype(np.float32)
BIAS = np.array([0.5, -1.0, 0.0, 2.0], np.float32)


def signs(*shape):
    return np.where(RNG.normal(size=shape) > 0, 1, -1).astype(np.float32)


def test_dense_equals_a_matrix_product():
    kernel = signs(5, 4)
    y = bb.BinaryDense(4).apply({"params": {"binary_kernel": kernel}}, X)
    np.testing.assert_allclose(y, X @ kernel, rtol=1e-5, atol=1e-6)
    y = bb.BinaryDense(4, use_bias=True).apply({"params": {"binary_kernel": kernel, "bias": BIAS}}, X)
    np.testing.assert_allclose(y, X @ kernel + BIAS, rtol=1e-5, atol=1e-6)


def test_dense_applies_to_the_last_axis():
    kernel = signs(3, 4)
    y = bb.BinaryDense(4).apply({"params": {"binary_kernel": kernel}}, IMAGES)
    np.testing.assert_allclose(y, IMAGES @ kernel, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(
    "strides, padding", [((1, 1), "SAME"), ((2, 2), "SAME"), ((1, 2), "VALID"), ((1, 1), ((1, 0), (2, 1)))]
)
def test_conv_equals_that_of_flax(strides, padding, use_bias):
    kernel = signs(3, 2, 3, 4)
    bias = {"bias": BIAS} if use_bias else {}
    options = {"strides": strides, "padding": padding, "use_bias": use_bias}
    ours = bb.BinaryConv(4, (3, 2), **options).apply({"params": {"binary_kernel": kernel, **bias}}, IMAGES)
    flax = nn.Conv(4, (3, 2), **options).apply({"params": {"kernel": kernel, **bias}}, IMAGES)
    np.testing.assert_allclose(ours, flax, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_gradients_of_conv_are_those_of_jax(data):
    """Of every stride, padding (negative ones, too) and size with which a window fits."""
    pairs = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
    size, kernel_size, strides = data.draw(pairs(1, 7)), data.draw(pairs(1, 4)), data.draw(pairs(1, 3))
    padding = data.draw(st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(pairs(-1, 3), pairs(-1, 3))))
    pads = ((0, 0), (0, 0)) if isinstance(padding, str) else padding
    assume(padding == "SAME" or all(n + sum(p) >= k for n, p, k in zip(size, pads, kernel_size, strict=True)))
    x, kernel = RNG.normal(size=(2, *size, 3)), RNG.normal(size=(*kernel_size, 3, 4))
    as_lists = padding if isinstance(padding, str) else [list(pair) for pair in padding]
    layer = bb.BinaryConv(4, kernel_size, strides=strides, padding=as_lists)

    def ours(x, kernel):
        return layer.apply({"params": {"binary_kernel": kernel}}, x)

    def jaxs(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    @jax.jit
    def of_both(x, kernel):
        results = []
        for function in (ours, jaxs):
            y, pullback = jax.vjp(function, x, kernel)
            results.append((y, *pullback(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))))
        return results

    with jax.enable_x64(True):
        for a, b in zip(*of_both(x, kernel), strict=True):
            assert a.dtype == b.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def of_jax(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.fixture(params=["on a CPU", "elsewhere"])
def conv(request, monkeypatch):
    """The layer with the derivatives that either kind of device is given."""
    if request.param == "elsewhere":
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    layer = bb.BinaryConv(4, (3, 2), strides=(2, 1))
    return lambda x, kernel: layer.apply({"params": {"binary_kernel": kernel}}, x)


def doubles(*shapes):
    return [jnp.asarray(RNG.normal(size=shape)) for shape in shapes]


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_forward_mode_of_conv_is_the_transpose_of_reverse_mode(wrap, conv, x64):
    """``<u, J v> = <J^T u, v>``: of images and kernel, one of them, and mapped over kernels in a loop."""
    x, x_dot, kernel, kernel_dot = doubles(*[(2, 5, 4, 3)] * 2, *[(3, 2, 3, 4)] * 2)
    kernels, kernels_dot = doubles(*[(2, 3, 2, 3, 4)] * 2)

    def in_a_loop(x, kernels):
        return jax.lax.scan(lambda x, _: (x, jax.vmap(conv, (None, 0))(x, kernels)), x, length=2)[1]

    for function, primals, tangents in [
        (conv, (x, kernel), (x_dot, kernel_dot)),
        (lambda x: conv(x, kernel), (x,), (x_dot,)),
        (lambda kernel: conv(x, kernel), (kernel,), (kernel_dot,)),
        (in_a_loop, (x, kernels), (x_dot, kernels_dot)),
    ]:
        y, forward = wrap(lambda a, b, f=function: jax.jvp(f, a, b))(primals, tangents)
        u = jnp.asarray(RNG.normal(size=y.shape))
        backward = wrap(lambda a, u, f=function: jax.vjp(f, *a)[1](u))(primals, u)
        expected = sum(jnp.vdot(a, b) for a, b in zip(backward, tangents, strict=True))
        np.testing.assert_allclose(jnp.vdot(u, forward), expected, rtol=1e-11)


def test_forward_mode_of_conv_equals_finite_differences(conv, x64):
    """Of second degree in images and kernel together, it has central differences that only rounding is in."""
    x, x_dot, kernel, kernel_dot = doubles(*[(2, 5, 4, 3)] * 2, *[(3, 2, 3, 4)] * 2)
    step = 1e-2
    above, below = (conv(x + s * x_dot, kernel + s * kernel_dot) for s in (step, -step))
    _, forward = jax.jvp(conv, (x, kernel), (x_dot, kernel_dot))
    np.testing.assert_allclose(forward, (above - below) / (2 * step), rtol=1e-10, atol=1e-10)
    _, linear = jax.linearize(conv, x, kernel)
    np.testing.assert_allclose(linear(x_dot, kernel_dot), forward, rtol=1e-12, atol=1e-12)


def test_derivatives_of_conv_in_every_mode_are_those_of_jax(conv, x64):
    """First ones in either mode, and Hessians in all four orders of modes."""
    x, kernel = doubles((2, 3, 3, 2), (3, 2, 2, 4))

    def derivatives(conv):
        loss = lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel)))  # noqa: E731
        modes = jax.jacfwd, jax.jacrev
        hessians = [outer(inner(loss, (0, 1)), (0, 1)) for outer in modes for inner in modes]
        return [jax.jit(f)(x, kernel) for f in (*[mode(conv, (0, 1)) for mode in modes], *hessians)]

    forward, reverse, *_ = ours = derivatives(conv)
    for actual, expected in ((forward, reverse), (ours, derivatives(of_jax))):
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_programs_for_every_platform_have_both_modes_of_conv(conv):
    def both_modes(x, kernel):
        loss = lambda x, kernel: jnp.sum(conv(x, kernel) ** 2)  # noqa: E731
        return jax.jvp(loss, (x, kernel), (x, kernel)), jax.grad(loss, (0, 1))(x, kernel)

    arguments = jnp.asarray(IMAGES), jnp.asarray(signs(3, 2, 3, 4))
    program = jax.export.export(jax.jit(both_modes), platforms=("cpu", "cuda", "tpu"))(*arguments)
    for a, b in zip(jax.tree.leaves(program.call(*arguments)), jax.tree.leaves(both_modes(*arguments)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_gradient_of_conv_maps_over_samples():
    kernels, x = jnp.asarray(signs(3, 3, 2, 3, 4)), jnp.asarray(IMAGES)

    def loss(kernel, x):
        return jnp.sum(jnp.sin(bb.BinaryConv(4, (3, 2)).apply({"params": {"binary_kernel": kernel}}, x)))

    mapped = jax.vmap(jax.grad(loss, argnums=(0, 1)), (0, None))(kernels, x)
    for i, kernel in enumerate(kernels):
        for a, b in zip(mapped, jax.grad(loss, argnums=(0, 1))(kernel, x), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layer, x", [(bb.BinaryDense(4), X), (bb.BinaryConv(4, (3, 3)), IMAGES)], ids=["dense", "conv"]
)
def test_init_gives_natural_parameters_of_ten(layer, x, key):
    params = jax.jit(layer.init)(key, x)["params"]
    assert list(params) == ["binary_kernel"]
    np.testing.assert_array_equal(np.abs(params["binary_kernel"]), 10)
    assert 0 < np.mean(params["binary_kernel"] > 0) < 1


def test_bias_starts_at_zero_and_is_real(key):
    params = jax.jit(bb.BinaryDense(4, use_bias=True).init)(key, X)["params"]
    natural, real = bb.partition(params)
    assert natural["bias"] is None
    np.testing.assert_array_equal(real["bias"], np.zeros(4))


def test_kernel_init_is_used(key):
    for layer, x in [
        (bb.BinaryDense(4, kernel_init=bb.natural_initializer(0.5)), X),
        (bb.BinaryConv(4, (3, 3), kernel_init=bb.natural_initializer(0.5)), IMAGES),
    ]:
        np.testing.assert_array_equal(np.abs(jax.jit(layer.init)(key, x)["params"]["binary_kernel"]), 0.5)


def test_natural_initializer_has_the_dtype_asked_for(key):
    init = bb.natural_initializer()
    assert jax.eval_shape(lambda key: init(key, (2,)), key).dtype == jnp.float32
    assert jax.eval_shape(lambda key: init(key, (2,), jnp.bfloat16), key).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_dtype_is_that_of_the_computation(dtype, key):
    """The parameters stay float32."""
    for layer, x in [
        (bb.BinaryDense(4, use_bias=True, dtype=dtype), X),
        (bb.BinaryConv(4, (3, 3), use_bias=True, dtype=dtype), IMAGES),
    ]:
        y, variables = jax.eval_shape(layer.init_with_output, key, x)
        assert y.dtype == dtype
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_dtype_is_by_default_that_of_inputs_and_weights(promoting):
    params = {"binary_kernel": jnp.asarray(signs(5, 4), jnp.bfloat16)}
    assert bb.BinaryDense(4).apply({"params": params}, X).dtype == jnp.float32
    assert bb.BinaryDense(4).apply({"params": params}, jnp.asarray(X, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "options, words",
    [
        ({"strides": 2}, "strides must be a pair of integers >= 1, got 2"),
        ({"strides": (0, 1)}, r"strides must be a pair of integers >= 1, got \(0, 1\)"),
        ({"kernel_size": 3}, "kernel_size must be a pair of integers >= 1, got 3"),
        ({"padding": 1}, r"padding must be \"SAME\", .* got 1"),
        ({"padding": (1, 1)}, r"padding must be \"SAME\", .* got \(1, 1\)"),
    ],
)
def test_conv_refuses_what_is_no_pair(key, options, words):
    with pytest.raises(ValueError, match=words):
        bb.BinaryConv(4, **{"kernel_size": (3, 3)} | options).init(key, IMAGES)


def test_conv_refuses_images_without_a_batch(key):
    with pytest.raises(ValueError, match=r"x must be .* got shape \(8, 6, 3\)"):
        bb.BinaryConv(4, (3, 3)).init(key, IMAGES[0])


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = bb.BinaryDense(4)(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)


def test_batch_norm_statistics_are_auxiliary_output_of_the_expected_loss(key):
    """Averaged over the weight samples, they are the statistics of the separate networks on average."""
    network = Network()
    variables = network.init(key, X, train=True)
    natural, real = bb.partition(variables["params"])

    def loss_fn(weights, real, statistics, x):
        variables = {"params": bb.combine(weights, real), "batch_stats": statistics}
        y, updated = network.apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.mean(y**2), updated["batch_stats"]

    loss = bb.expected_loss(loss_fn, temperature=0.5, num_samples=3, has_aux=True)
    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 2), has_aux=True))
    (_, statistics), (natural_grads, real_grads) = value_and_grad(natural, key, real, variables["batch_stats"], X)

    kernels = [
        bb.relaxed_sample(k, natural, temperature=0.5)["BinaryDense_0"]["binary_kernel"]
        for k in jax.random.split(key, 3)
    ]
    means = [0.5 * np.mean(X @ kernel, axis=0) for kernel in kernels]
    np.testing.assert_allclose(statistics["BatchNorm_0"]["mean"], np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(natural_grads) == jax.tree.structure(natural)
    assert jax.tree.structure(real_grads) == jax.tree.structure(real)


def dense_with_binary_bias(weights, x, **options):
    return bb.BinaryDense(4, use_bias=True).apply(weights, x, **options)


def padded_conv(weights, x, **options):
    return bb.BinaryConv(4, (3, 2), strides=(2, 1)).apply(weights, x, **options)


NOISY = {
    "dense, binary bias": (dense_with_binary_bias, {"binary_kernel": (5, 4), "bias": (4,)}, X),
    "conv": (padded_conv, {"binary_kernel": (3, 2, 3, 4)}, IMAGES),
}


@pytest.mark.parametrize("name", NOISY)
def test_noise_of_activations_has_the_moments_that_sampled_weights_give(name):
    """Mean and variance over 20,000 draws of either kind agree to 6 standard errors, in each activation."""
    apply, shapes, x = NOISY[name]
    rng = np.random.default_rng(0)
    natural = {key: jnp.asarray(rng.normal(size=shape), jnp.float32) for key, shape in shapes.items()}
    mean = bb.bernoulli.expectation(natural)
    variables = {"params": mean, "variance": jax.tree.map(lambda m: 1 - m**2, mean)}
    keys = jax.random.split(jax.random.key(0), 20_000)
    of_weights = np.asarray(jax.vmap(lambda k: apply({"params": bb.sample(k, natural)}, x))(keys), np.float64)
    of_noise = np.asarray(jax.vmap(lambda k: apply(variables, x, rngs={"weight_noise": k}))(keys), np.float64)
    variance = of_weights.var(axis=0)
    assert np.abs(of_noise.mean(axis=0) - of_weights.mean(axis=0)).max() < 6 * np.sqrt(2 * variance.max() / len(keys))
    np.testing.assert_allclose(of_noise.var(axis=0), variance, rtol=6 * np.sqrt(2 * 2 / len(keys)))
    # each activation of each example has noise of its own
    correlation = np.corrcoef(of_noise.reshape(len(keys), -1), rowvar=False)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 6 / np.sqrt(len(keys))


def test_gradient_under_noise_of_activations_is_that_of_all_binary_networks():
    """For a quadratic loss, against the sum over all 2^5 weights; 6 standard errors of 20,000 draws."""
    rng = np.random.default_rng(0)
    natural, x, target = rng.normal(size=5), rng.normal(size=(7, 5)), rng.normal(size=7)
    weights = np.array(np.meshgrid(*[[-1.0, 1.0]] * 5)).reshape(5, -1).T
    losses = ((weights @ x.T - target) ** 2).mean(axis=1)
    probability = np.prod(1 / (1 + np.exp(-2 * weights * natural)), axis=1)
    expected = (probability * losses) @ (weights - np.tanh(natural))  # d log q / d lambda = w - mu

    def loss_fn(mean, variance, key):
        variables = {"params": {"binary_kernel": mean}, "variance": {"binary_kernel": variance}}
        y = bb.BinaryDense(1).apply(variables, jnp.asarray(x), rngs={"weight_noise": key})[:, 0]
        return jnp.mean((y - target) ** 2)

    loss = bb.moment_loss(loss_fn)
    with jax.enable_x64(True):
        column = jnp.asarray(natural)[:, None]
        keys = jax.random.split(jax.random.key(0), 20_000)
        grads = np.asarray(jax.vmap(lambda k: jax.grad(loss)(column, k))(keys))[..., 0]
    standard_error = np.std(grads, axis=0) / np.sqrt(len(keys))
    assert np.all(np.abs(np.mean(grads, axis=0) - expected) < 6 * standard_error)
    assert np.all(6 * standard_error < 0.1 * np.abs(expected).max())  # else it would say nothing


@pytest.mark.parametrize("name", NOISY)
def test_noise_of_a_shared_variance_is_that_of_weights_that_have_the_mean_variance(name):
    apply, shapes, x = NOISY[name]
    rng = np.random.default_rng(0)
    mean = {key: np.float32(np.tanh(rng.normal(size=shape))) for key, shape in shapes.items()}
    variance = {key: 1 - m**2 for key, m in mean.items()}
    spread = {k: np.broadcast_to(f.mean(-2, keepdims=True) if f.ndim > 1 else f, f.shape) for k, f in variance.items()}

    def noisy(variance):
        return apply({"params": mean, "variance": variance}, x, rngs={"weight_noise": jax.random.key(0)})

    np.testing.assert_allclose(noisy(bb.shared_variance(variance)), noisy(spread), rtol=1e-4, atol=1e-4)
    assert np.abs(noisy(spread) - noisy(variance)).max() > 0.1  # it is another variance


def test_a_shared_variance_has_no_derivative():
    """The gradient is that of the mean under noise that is given: x^T times the gradient of the activations."""
    natural = {"binary_kernel": jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)}

    def loss_fn(mean, variance, key):
        variables = {"params": mean, "variance": bb.shared_variance(variance)}
        return jnp.sum(jnp.sin(bb.BinaryDense(4).apply(variables, X, rngs={"weight_noise": key})))

    grad = jax.grad(bb.moment_loss(loss_fn))(natural, jax.random.key(0))["binary_kernel"]
    mean = np.tanh(natural["binary_kernel"])
    variance = {"binary_kernel": 1 - mean**2}
    variables = {"params": {"binary_kernel": mean}, "variance": bb.shared_variance(variance)}
    y = bb.BinaryDense(4).apply(variables, X, rngs={"weight_noise": jax.random.key(0)})
    np.testing.assert_allclose(grad, (X.T @ np.cos(y)) * (1 - mean**2), rtol=1e-4, atol=1e-5)


def test_a_shared_variance_is_of_matrices():
    with pytest.raises(ValueError, match=r"variance of a/binary_kernel must be \[..., in, out\], got shape \(4,\)"):
        bb.shared_variance({"a": {"binary_kernel": np.ones(4, np.float32)}})


def test_a_shared_variance_of_no_weights_is_none():
    shared = bb.shared_variance({"binary_kernel": np.ones((0, 3), np.float32)})
    np.testing.assert_array_equal(shared["binary_kernel"], np.zeros((1, 3), np.float32))


def test_certain_weights_and_black_images_make_no_noise():
    def activations(kernel):
        variables = {"params": {"binary_kernel": kernel}, "variance": {"binary_kernel": 1 - kernel**2}}
        return bb.BinaryDense(4).apply(variables, X, rngs={"weight_noise": jax.random.key(0)})

    kernel = jnp.asarray(signs(5, 4))
    np.testing.assert_allclose(activations(kernel), X @ kernel, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda kernel: activations(kernel).sum())(kernel)).all()
    half = {"binary_kernel": jnp.zeros((5, 4))}
    variables = {"params": half, "variance": {"binary_kernel": jnp.ones((5, 4))}}
    black = bb.BinaryDense(4).apply(variables, jnp.zeros((3, 5)), rngs={"weight_noise": jax.random.key(0)})
    assert not np.any(black)


@pytest.mark.parametrize("variance", [6e-8, 1e-9])
def test_unit_of_certain_weights_is_moved_by_the_loss_alone(variance):
    """Its noise is next to nothing, but the derivative of its standard deviation is the larger the smaller that is."""

    def output(mean):
        variables = {"params": {"binary_kernel": mean}, "variance": {"binary_kernel": (1 - mean**2) + variance}}
        return bb.BinaryDense(1).apply(variables, jnp.ones((1, 10)), rngs={"weight_noise": jax.random.key(0)})[0, 0]

    np.testing.assert_array_equal(jax.grad(output)(jnp.ones((10, 1))), np.ones((10, 1)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_noise_begins_above_the_least_variance(dtype, x64):
    """And has the root of the variance as its size and half of its inverse as derivative there; both are 0 below."""

    def activation(variance):
        variables = {"params": {"binary_kernel": jnp.zeros((1, 1), dtype)}, "variance": {"binary_kernel": variance}}
        rngs = {"weight_noise": jax.random.key(0)}
        return bb.BinaryDense(1).apply(variables, jnp.ones((1, 1), dtype), rngs=rngs)[0, 0].astype(float)

    one = activation(jnp.ones((1, 1), dtype))  # the noise itself
    assert NO_VARIANCE == 1e-6
    for share in (0.0, 0.5, 0.98, 1.02, 4.0):
        variance = jnp.full((1, 1), share * 1e-6, dtype)
        value, derivative = jax.value_and_grad(activation)(variance)
        std = np.sqrt(float(variance[0, 0])) if share > 1 else 0
        np.testing.assert_allclose(value, one * std, rtol=0.01)
        np.testing.assert_allclose(derivative[0, 0].astype(float), one / (2 * std) if std else 0, rtol=0.01)


@pytest.mark.parametrize(
    "collections, rngs, message",
    [
        (
            {"variance": {"binary_kernel": np.ones((2, 4), np.float32)}},
            True,
            r"variance of binary_kernel must have its shape \(5, 4\), got \(2, 4\)",
        ),
        ({"variance": {"kernel": np.ones((5, 4))}}, True, r"variance must be given of binary_kernel in .*\['kernel'\]"),
        ({"variances": {"binary_kernel": np.ones((5, 4))}}, True, r"variance must be given of binary_kernel in .*\[\]"),
        ({"variance": {"binary_kernel": None}}, True, r"variance must be given of binary_kernel in BinaryDense"),
        ({"variance": {"binary_kernel": np.ones((5, 4))}}, False, 'rngs must have a key "weight_noise"'),
    ],
)
def test_variances_that_do_not_fit_are_refused(collections, rngs, message):
    variables = {"params": {"binary_kernel": signs(5, 4)}} | collections
    with pytest.raises(ValueError, match=message):
        bb.BinaryDense(4).apply(variables, X, rngs={"weight_noise": jax.random.key(0)} if rngs else {})


def test_noise_in_float16_is_finite():
    variables = {"params": {"binary_kernel": jnp.zeros((5, 4))}, "variance": {"binary_kernel": jnp.ones((5, 4))}}
    layer = bb.BinaryDense(4, dtype=jnp.float16)
    y = layer.apply(variables, jnp.full((3, 5), 300.0), rngs={"weight_noise": jax.random.key(0)})
    assert y.dtype == jnp.float16
    assert np.all(np.isfinite(y))


# Noise that would be left out -----------------------------------------------------------------------------------------


class Block(nn.Module):
    layer: type[nn.Module] = bb.BinaryDense

    @nn.compact
    def __call__(self, x, _=None):
        return x + self.layer(5)(x), None


class Scanned(nn.Module):
    transformation: dict

    @nn.compact
    def __call__(self, x):
        return nn.scan(Block, length=3, **self.transformation)()(x, None)[0]


class Mapped(nn.Module):
    transformation: dict

    @nn.compact
    def __call__(self, x):
        return nn.vmap(bb.BinaryDense, in_axes=None, axis_size=2, **self.transformation)(5)(x)


class Wrapped(nn.Module):
    wrap: str

    @nn.compact
    def __call__(self, x):
        return getattr(nn, self.wrap)(Block)()(x)[0]


class Stack(nn.Module):
    """Ordinary layers in a lifted transformation that is told of variances, as ours are."""

    how: str

    @nn.compact
    def __call__(self, x):
        if self.how == "scan":
            body = nn.scan(lambda layer, x, _: (layer(x), None), length=2, **WITH_NOISE)
            return body(nn.Dense(5), x, None)[0]
        return nn.vmap(nn.Dense, in_axes=None, axis_size=2, **WITH_NOISE)(5)(x)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(num_heads=1)(x[None], x[None])[0]


AS_DOCUMENTED = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
WITH_NOISE = {"variable_axes": {"params": 0, "variance": 0}, "split_rngs": {"params": True, "weight_noise": True}}
BY_NAME = {"kernel": "binary"}


def moment_loss_of(model, rules=None):
    """The gradient of the natural parameters of fair coins, and the loss for each of several keys."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)["params"]
    natural, real = bb.partition(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), rules)

    def loss_fn(mean, variance, key):
        variables = {"params": bb.combine(mean, real), "variance": variance}
        return jnp.mean(model.apply(variables, X, rngs={"weight_noise": key}) ** 2)

    return bb.moment_loss(loss_fn), natural


@pytest.mark.parametrize(
    "model, rules, leaf",
    [
        (nn.Dense(5), BY_NAME, "'kernel'"),
        (nn.Conv(5, (3,)), BY_NAME, "'kernel'"),
        (Attention(), {"query/kernel": "binary"}, "'MultiHeadDotProductAttention_0/query/kernel'"),
        (nn.Sequential([bb.BinaryDense(5), nn.LayerNorm()]), {"": "binary"}, "'layers_1/bias'"),
        (nn.Sequential([bb.BinaryDense(5), nn.Dense(5)]), {"kernel": "binary"}, "'layers_1/kernel'"),
        (Scanned(AS_DOCUMENTED), None, "'ScanBlock_0/BinaryDense_0/binary_kernel'"),
        (Mapped(AS_DOCUMENTED), None, "'VmapBinaryDense_0/binary_kernel'"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.grad])
def test_a_variance_that_no_layer_uses_is_refused(model, rules, leaf, wrap):
    loss, natural = moment_loss_of(model, rules)
    with pytest.raises(ValueError, match=f"loss_fn must use the variance of .*, got none used of {leaf}"):
        wrap(loss)(natural, jax.random.key(1))


@pytest.mark.parametrize(
    "model, leaf",
    [
        (nn.DenseGeneral((5, 2)), "kernel"),
        (nn.Einsum((5, 4), "ni,io->no"), "kernel"),
        (Stack("scan"), "Dense_0/kernel"),
        (Stack("vmap"), "VmapDense_0/kernel"),
    ],
)
def test_layers_of_flax_refuse_noise_of_activations_in_one_line_that_says_what_to_do(model, leaf):
    loss, natural = moment_loss_of(model, BY_NAME)
    with pytest.raises(ValueError, match=f"got none used of '{leaf}': .* are for expected_loss") as refused:
        loss(natural, jax.random.key(1))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "model",
    [bb.BinaryDense(5), Scanned(WITH_NOISE), Mapped(WITH_NOISE), Wrapped("remat"), Wrapped("jit")],
    ids=["plain", "scan", "vmap", "remat", "jit"],
)
def test_a_variance_that_is_passed_on_makes_noise(model):
    """Fair coins have mean 0: without noise every key would give the same loss."""
    loss, natural = moment_loss_of(model)
    values = jax.vmap(lambda key: loss(natural, key))(jax.random.split(jax.random.key(1), 20))
    assert np.std(values) > 0.1


def test_a_weight_that_is_not_used_needs_no_noise(key):
    loss = bb.moment_loss(lambda mean, variance, key: mean["used"] * variance["used"])
    natural = {"used": jnp.ones(()), "not": jnp.ones(3)}
    assert np.isfinite(jax.jit(loss)(natural, key))


def test_boxed_parameters_have_the_noise_of_plain_ones(key):
    plain = bb.BinaryDense(4, kernel_init=bb.natural_initializer(1.0), use_bias=True)
    boxed = plain.clone(kernel_init=nn.with_partitioning(bb.natural_initializer(1.0), (None, "model")))

    def output(layer):
        natural = layer.init(key, X)["params"]
        variables = {"params": bb.bernoulli.expectation(natural), "variance": bb.bernoulli.fisher_information(natural)}
        return layer.apply(variables, X, rngs={"weight_noise": key})

    np.testing.assert_array_equal(output(boxed), output(plain))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_leave_nothing_to_promotion(dtype, key):
    """Which is an error here (see the fixture strict)."""
    for layer, x in [
        (bb.BinaryDense(4, use_bias=True, dtype=dtype), jnp.asarray(X)),
        (bb.BinaryConv(4, (3, 3), use_bias=True, dtype=dtype), jnp.asarray(IMAGES)),
    ]:
        params = layer.init(key, x)["params"]
        variance = jax.tree.map(jnp.ones_like, params)
        y = layer.apply({"params": params, "variance": variance}, x, rngs={"weight_noise": key})
        assert y.dtype == dtype


@pytest.mark.parametrize("varying", ["images", "kernel", "both"])
def test_derivatives_of_conv_inside_shard_map_are_those_outside(varying, key):
    """A kernel that all devices share has the sum of their gradients. (One device: what is checked is the types.)"""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    layer = bb.BinaryConv(4, (3, 2))
    spec, everywhere = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    specs = {"images": (everywhere, spec), "kernel": (spec, everywhere), "both": (spec, spec)}[varying]

    def grads(kernel, x):
        def loss(kernel, x):
            y = layer.apply({"params": {"binary_kernel": kernel}}, x)
            return jax.lax.pmean(jnp.mean(jnp.sin(y)), "data")

        return jax.grad(loss, argnums=(0, 1))(kernel, x)

    def tangent(kernel, x):
        return jax.jvp(lambda *a: layer.apply({"params": {"binary_kernel": a[0]}}, a[1]), (kernel, x), (kernel, x))[1]

    kernel, x = jnp.asarray(signs(3, 2, 3, 4)), jnp.asarray(IMAGES)
    inside = jax.jit(jax.shard_map(grads, mesh=mesh, in_specs=specs, out_specs=specs))(kernel, x)
    forward = jax.jit(jax.shard_map(tangent, mesh=mesh, in_specs=specs, out_specs=spec))(kernel, x)
    np.testing.assert_allclose(forward, tangent(kernel, x), rtol=1e-4, atol=1e-6)

    def outside(kernel, x):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.mean(jnp.sin(y))

    for a, b in zip(inside, jax.grad(outside, argnums=(0, 1))(kernel, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
