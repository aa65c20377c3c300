"""Whatever container Flax or its user keeps parameters in, the library does to it what it does to a dict."""

from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bbinn_jax as bb

KEY = jax.random.key(0)
KERNEL = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)), jnp.float32)
BIAS = jnp.arange(2, dtype=jnp.float32)
X = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32)


@flax.struct.dataclass
class Struct:
    binary_kernel: Any
    bias: Any
    name: str = flax.struct.field(pytree_node=False, default="not an array")


class Named(NamedTuple):
    binary_kernel: Any
    bias: Any


def of_flax(wrap=lambda f: f):
    """The parameters as a layer of linen makes them."""
    layer = bb.BinaryDense(2, use_bias=True, kernel_init=wrap(lambda *_: KERNEL))
    return layer.init(KEY, X)["params"] | {"bias": BIAS}


def with_names(box):
    return lambda init: box(init, (None, "model"))


def of_nnx():
    layer = bb.nnx.BinaryLinear(4, 2, use_bias=True, rngs=nnx.Rngs(0))
    layer.binary_kernel[...], layer.bias[...] = KERNEL, BIAS
    return nnx.state(layer)


DICT = {"binary_kernel": KERNEL, "bias": BIAS}
CONTAINERS = {  # the parameters, and the rules that find the weight
    "linen": (of_flax(), None),
    "linen, partitioned": (of_flax(with_names(nn.with_partitioning)), None),
    "linen, logically partitioned": (of_flax(with_names(nn.with_logical_partitioning)), None),
    "nnx": (of_nnx(), None),
    "frozen": (flax.core.freeze(DICT), None),
    "struct": (Struct(KERNEL, BIAS), None),
    "named tuple": (Named(KERNEL, BIAS), None),
    "tuple": ((KERNEL, BIAS), {"^0$": "binary"}),
    "list in a dict": ({"layers": [KERNEL, {"bias": BIAS}]}, {"layers/0": "binary"}),
}


def leaves_by_size(tree):
    """[bias, kernel]"""
    return sorted(jax.tree.leaves(tree), key=jnp.size)


def assert_equal(actual, expected):
    for a, b in zip(leaves_by_size(actual), leaves_by_size(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def step(natural, real):
    """One step of both halves, with a prior in the update."""
    rule = bb.bayesbinn(1e-2, 16, kl_weight=0.1)
    tx = optax.partition({"binary": rule, "real": optax.sgd(1e-2)}, ("binary", "real"))

    def loss_fn(weights, real):
        bias, kernel = leaves_by_size(bb.combine(weights, real))
        return jnp.mean((X @ kernel + bias[None]) ** 2)

    loss = bb.expected_loss(loss_fn, temperature=0.5)
    grads = jax.grad(loss, argnums=(0, 2))(natural, KEY, real)
    prior = jax.tree.map(jnp.ones_like, natural)
    updates, _ = tx.update(grads, tx.init((natural, real)), (natural, real), prior_natural=(prior, None))
    return optax.apply_updates((natural, real), updates)


@pytest.fixture(scope="module")
def of_dict():
    natural, real = bb.partition(DICT)
    return {"step": bb.combine(*step(natural, real)), "sample": bb.sample(KEY, natural)["binary_kernel"]}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_split_trained_sampled_shown_and_kept(name, of_dict, tmp_path):
    params, rules = CONTAINERS[name]
    structure = jax.tree.structure(params)
    natural, real = bb.partition(params, rules)
    assert jax.tree.structure(bb.combine(natural, real)) == structure
    assert_equal(bb.combine(natural, real), DICT)

    trained = bb.combine(*step(natural, real))
    assert jax.tree.structure(trained) == structure
    assert_equal(trained, of_dict["step"])
    np.testing.assert_array_equal(*jax.tree.leaves(bb.sample(KEY, natural)), of_dict["sample"])

    rows = sorted(line.split()[-7:] for line in bb.partition_table(natural, real).splitlines()[1:3])
    assert rows == [["(2,)", "real", "2", "8", "B", "8", "B"], ["2)", "binary", "8", "32", "B", "1", "B"]]

    posterior = bb.Posterior(natural, real)
    bb.save_posterior(tmp_path / "p", posterior)
    again = bb.load_posterior(tmp_path / "p", like=jax.eval_shape(lambda: posterior))
    assert jax.tree.structure(bb.combine(again.natural, again.real)) == structure
    assert_equal(bb.combine(again.natural, again.real), DICT)
    if name != "linen":  # what dicts cannot tell is said in one line
        with pytest.raises(ValueError, match=r"^.* holds trees that are no nested dicts: give like to load it$"):
            bb.load_posterior(tmp_path / "p")
