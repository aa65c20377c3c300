"""The random bits are those of jax.random, and threefry is the one that was published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbinn_jax._threefry import random_bits, threefry

SHAPES = [(), (1,), (7,), (0,), (4, 0), (3, 5), (2, 3, 4), (300, 500)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_bits_are_those_of_jax(shape, dtype, impl, x64):
    key = jax.random.key(3, impl=impl)
    bits = random_bits(key, shape, dtype)
    assert bits.dtype == dtype
    np.testing.assert_array_equal(bits, jax.random.bits(key, shape, dtype))


def test_bits_of_a_key_that_is_an_array_are_those_of_jax():
    key = jax.random.PRNGKey(5)
    np.testing.assert_array_equal(random_bits(key, (3, 5), "uint32"), jax.random.bits(key, (3, 5)))


def test_bits_are_those_of_jax_whatever_layout_it_is_set_to():
    with jax.threefry_partitionable(False):
        key = jax.random.key(0)
        np.testing.assert_array_equal(random_bits(key, (101,), "uint32"), jax.random.bits(key, (101,)))


def test_bits_are_the_same_under_jit_vmap_and_scan():
    keys = jax.random.split(jax.random.key(0), 3)
    alone = [jax.random.bits(key, (4, 5)) for key in keys]
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda k: random_bits(k, (4, 5), "uint32")))(keys), alone)
    np.testing.assert_array_equal(jax.lax.map(lambda k: random_bits(k, (4, 5), "uint32"), keys), alone)


@pytest.mark.parametrize(
    ("key", "count", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_has_the_published_values(key, count, expected):
    """The known answers of Random123, the program of the authors of threefry."""
    words = threefry(*map(jnp.uint32, (*key, *count)))
    assert tuple(map(int, words)) == expected
