"""One network in linen, NNX, Equinox and a plain dict: the same weights give the same logits, losses and updates.

Each leaf draws its noise from a key of its own, in the order of the leaves, so the weights have names that
sort alike in all four: the first layer is ``a`` and the second ``b``.
"""

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
X = jnp.asarray(RNG.normal(size=(12, 5)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 3, 12))
NATURAL = [jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((5, 7), (7, 3))]
BIAS = jnp.asarray(RNG.normal(size=3), jnp.float32)


class Linen(nn.Module):
    def setup(self):
        self.a, self.b = bb.BinaryDense(7), bb.BinaryDense(3, use_bias=True)

    def __call__(self, x):
        return self.b(jnp.tanh(self.a(x)))


class Nnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a = bb.nnx.BinaryLinear(5, 7, rngs=rngs)
        self.b = bb.nnx.BinaryLinear(7, 3, use_bias=True, rngs=rngs)

    def __call__(self, x):
        return self.b(jnp.tanh(self.a(x)))


def of_linen():
    params = {"a": {"binary_kernel": NATURAL[0]}, "b": {"binary_kernel": NATURAL[1], "bias": BIAS}}
    return *bb.partition(params), lambda w, real, x: Linen().apply({"params": bb.combine(w, real)}, x)


def of_nnx():
    model = Nnx()
    nnx.update(model, {"a": {"binary_kernel": NATURAL[0]}, "b": {"binary_kernel": NATURAL[1], "bias": BIAS}})
    graphdef, natural, real = nnx.split(model, bb.nnx.BinaryParam, ...)
    return natural, real, lambda w, real, x: nnx.merge(graphdef, w, real, copy=True)(x)


def of_equinox():
    equinox = pytest.importorskip("equinox")
    network = equinox.nn.MLP(5, 3, 7, 1, activation=jnp.tanh, use_bias=False, use_final_bias=True, key=KEY)
    network = equinox.tree_at(
        lambda n: (n.layers[0].weight, n.layers[1].weight, n.layers[1].bias), network, (*(w.T for w in NATURAL), BIAS)
    )
    params, static = equinox.partition(network, equinox.is_inexact_array)
    natural, real = bb.partition(params, {"weight": "binary"})
    return natural, real, lambda w, real, x: jax.vmap(equinox.combine(w, real, static))(x)


def of_dict():
    params = {"a": NATURAL[0], "b": NATURAL[1], "c": BIAS}
    natural, real = bb.partition(params, {"c": "real", "": "binary"})
    return natural, real, lambda w, real, x: jnp.tanh(x @ w["a"]) @ w["b"] + real["c"]


LANGUAGES = {"linen": of_linen, "nnx": of_nnx, "equinox": of_equinox, "dict": of_dict}


def arrays(language, tree):
    """The leaves, of Equinox transposed as those of the others lie."""
    return [leaf.T if language == "equinox" else leaf for leaf in jax.tree.leaves(tree)]


def assert_as_dict(language, actual, expected):
    for a, b in zip(arrays(language, actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()


@pytest.mark.parametrize("language", LANGUAGES)
def test_logits(language):
    natural, real, network = LANGUAGES[language]()
    for weights in (natural, bb.mode(natural), bb.bernoulli.expectation(natural)):
        w0, w1 = arrays(language, weights)
        expected = np.tanh(np.float64(X) @ np.float64(w0)) @ np.float64(w1) + np.float64(BIAS)
        np.testing.assert_allclose(network(weights, real, X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_samples", [0, 1, 3])
@pytest.mark.parametrize("language", ["linen", "nnx", "dict"])
def test_noise_of_weights_and_updates(language, num_samples):
    """Equal for one key. (The transposed weights of Equinox have other noise: below it is given.)"""
    expected, _ = trained(of_dict(), num_samples)
    (natural, real), values = trained(LANGUAGES[language](), num_samples)
    assert_as_dict(language, (natural, real), expected)
    np.testing.assert_allclose(values, trained(of_dict(), num_samples)[1], rtol=2e-5)


def trained(network_of, num_samples):
    """Three steps: the parameters and the losses."""
    natural, real, network = network_of
    loss = bb.expected_loss(
        lambda w, real: cross_entropy(network(w, real, X)), temperature=0.7, num_samples=num_samples
    )
    rule = bb.bayesbinn(1e-2, 12, momentum=0.9, kl_weight=0.3)
    tx = optax.partition({"binary": rule, "real": optax.adam(1e-2)}, ("binary", "real"))
    params, values = (natural, real), []
    state = tx.init(params)

    @jax.jit
    def step(params, state, key):
        value, grads = jax.value_and_grad(loss, argnums=(0, 2))(params[0], key, params[1])
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    for key in jax.random.split(KEY, 3):
        params, state, value = step(params, state, key)
        values.append(value)
    return params, values


@pytest.mark.parametrize("language", LANGUAGES)
def test_given_noise_and_updates(language):
    natural, real, network = LANGUAGES[language]()
    noise = [jnp.asarray(RNG.normal(size=w.shape), jnp.float32) for w in NATURAL]
    expected = update_with(of_dict(), noise)
    noise = [delta.T for delta in noise] if language == "equinox" else noise
    assert_as_dict(language, update_with((natural, real, network), noise), expected)


def update_with(network_of, noise):
    natural, real, network = network_of
    noise = jax.tree.unflatten(jax.tree.structure(natural), noise)

    def loss(natural, real):
        return cross_entropy(network(bb.relax(natural, noise, temperature=0.7), real, X))

    grads = jax.grad(loss, argnums=(0, 1))(natural, real)
    tx = optax.partition({"binary": bb.bayesbinn(1e-2, 12), "real": optax.adam(1e-2)}, ("binary", "real"))
    return tx.update(grads, tx.init((natural, real)), (natural, real))[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_losses_at_the_mean_and_updates(language):
    expected, expected_values = trained(of_dict(), 0)
    params, values = trained(LANGUAGES[language](), 0)
    assert_as_dict(language, params, expected)
    np.testing.assert_allclose(values, expected_values, rtol=2e-5)


def test_noise_of_activations_is_that_of_the_same_keys():
    """Linen and NNX, whose layers know of variances, against the formula: value, and gradients of both halves."""
    variables = {"params": bb.combine(*of_linen()[:2])}
    bound = Linen().bind(variables, rngs={"weight_noise": KEY})
    keys = [layer.make_rng("weight_noise") for layer in (bound.a, bound.b)]
    natural, real, _ = of_linen()

    def linen_loss(mean, variance, key, real):
        variables = {"params": bb.combine(mean, real), "variance": variance}
        return cross_entropy(Linen().apply(variables, X, rngs={"weight_noise": key}))

    graphdef, nnx_natural, nnx_real = nnx.split(Nnx(), bb.nnx.BinaryParam, ...)
    nnx_natural, nnx_real, _ = of_nnx()

    def nnx_loss(mean, variance, key, real):
        leaf_keys = jax.tree.unflatten(jax.tree.structure(mean), keys)
        moments = jax.tree.map(bb.nnx.Moments, mean, variance, leaf_keys)
        return cross_entropy(nnx.merge(graphdef, moments, real, copy=True)(X))

    def formula(mean, variance, key, real):
        x = X
        for name, key in zip("ab", keys, strict=True):
            y = x @ mean[name]
            y = y + jnp.sqrt(x**2 @ variance[name]) * jax.random.normal(key, y.shape)
            # the bias is added before the noise: the same sum in another order
            x = jnp.tanh(y) if name == "a" else y + real["c"]
        return cross_entropy(x)

    dict_natural, dict_real, _ = of_dict()
    expected = value_and_grad_of(formula, dict_natural, dict_real)
    for loss, *halves in ((linen_loss, natural, real), (nnx_loss, nnx_natural, nnx_real)):
        assert_as_dict("", value_and_grad_of(loss, *halves), expected)


def value_and_grad_of(loss, natural, real):
    return jax.value_and_grad(bb.moment_loss(loss), argnums=(0, 2))(natural, KEY, real)
