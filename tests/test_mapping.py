"""Mapping over samples and seeds is jax.vmap, whatever the number of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb


def normal_and_norms(key, tree):
    return jax.random.normal(key, (2,)), jax.tree.map(jnp.linalg.norm, tree), {"constant": 1}


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["as it is", "jit"])
def test_it_is_vmap(length, transform, key):
    x = np.random.default_rng(0).normal(size=(length, 4)).astype(np.float32)
    arguments = jax.random.split(key, length), {"a": jnp.asarray(x), "b": [x[:, 0], None]}
    actual = transform(bb.over_leading_axis(normal_and_norms))(*arguments)
    expected = jax.vmap(normal_and_norms)(*arguments)
    assert jax.tree.map(jnp.shape, actual) == jax.tree.map(jnp.shape, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected)


@pytest.mark.parametrize("lengths", [(1, 2), (2, 1), (3, 2)])
def test_different_lengths_are_refused_as_by_vmap(lengths):
    with pytest.raises(ValueError, match="inconsistent sizes"):
        bb.over_leading_axis(jnp.add)(*(jnp.ones((n, 2)) for n in lengths))


def test_what_has_no_axis_is_refused_as_by_vmap():
    for arguments in ((), (None,), (jnp.ones(()),)):
        with pytest.raises(ValueError, match="vmap"):
            bb.over_leading_axis(lambda *x: x)(*arguments)
