"""Programs that `jax.export` writes: every type of result comes back, and bits stay bits in the file."""

import inspect
from functools import partial

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb

pytest.importorskip("flatbuffers", reason="jax.export needs it to write a program")

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
NUM_NETWORKS = 16


def named_tuples():
    for module in (bb, bb.metrics, bb.diagnostics, bb.calibration, bb.bernoulli, bb.nnx):
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if hasattr(kind, "_fields"):
                yield pytest.param(kind, id=name)


@pytest.mark.parametrize("kind", named_tuples())
def test_every_result_comes_back_as_what_it_was(kind):
    result = kind(*(jnp.full(2, i) for i in range(len(kind._fields))))
    program = jax.export.export(jax.jit(lambda x: x))(result).serialize()
    read = jax.export.deserialize(program).call(result)
    assert type(read) is kind
    np.testing.assert_array_equal(np.stack(read), np.stack(result))


@pytest.fixture(scope="module")
def network():
    """A network of 37,888 weights: natural parameters, the rest of it, a function of weights, images."""

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return bb.BinaryDense(10)(nn.relu(nn.LayerNorm()(bb.BinaryDense(512)(x)))) / 16

    images = jnp.asarray(np.random.default_rng(0).normal(size=(5, 64)), jnp.float32)
    natural, real = bb.partition(Network().init(jax.random.key(0), images)["params"])
    natural = jax.tree.map(lambda x: x / 20, natural)

    def apply_fn(weights, x):
        return Network().apply({"params": bb.combine(weights, real)}, x)

    return natural, apply_fn, images


def mode_of(network, packed, x):
    return bb.mode_predictive(network, bb.unpack(packed), x)


def packed_and_predictor(name, natural, apply_fn):
    if name == "mode":
        return bb.pack(bb.mode(natural)), partial(mode_of, apply_fn)
    return bb.sample_packed(jax.random.key(1), natural, NUM_NETWORKS), partial(bb.committee_predictive, apply_fn)


def written(path, function, *arguments):
    """The program, written for all platforms and read again, and how many bytes its file has."""
    path.write_bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).serialize())
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    assert program.platforms == PLATFORMS
    return program, path.stat().st_size


@pytest.mark.parametrize("name", ["mode", "committee"])
def test_packed_networks_as_arguments_and_as_constants_of_one_program_for_all_platforms(tmp_path, network, name):
    natural, apply_fn, images = network
    packed, predict = packed_and_predictor(name, natural, apply_fn)
    expected = jax.jit(predict)(packed, images)
    if name == "committee":
        posterior = bb.posterior_predictive(
            apply_fn, natural, jax.random.key(1), images, num_samples=NUM_NETWORKS, chunk_size=1
        )
        np.testing.assert_allclose(expected.probabilities, posterior.probabilities, rtol=1e-5)
        assert expected.mutual_information.min() > 0.01
    (batch,) = jax.export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, 64), jnp.float32)

    with_arguments, size = written(tmp_path / "arguments", predict, packed, x)
    with_constants, size_with_constants = written(tmp_path / "constants", lambda x: predict(packed, x), x)
    for num_images in (5, 1, 3):
        for of in (with_arguments.call(packed, images[:num_images]), with_constants.call(images[:num_images])):
            assert type(of) is bb.Prediction
            for a, b in zip(of, expected, strict=True):
                np.testing.assert_allclose(a, b[:num_images], rtol=1e-5, atol=1e-6)

    num_bytes = sum(x.nbytes for x in jax.tree.leaves(packed))
    assert num_bytes == (NUM_NETWORKS if name == "committee" else 1) * 37_888 // 8
    # The bits and a program of about 11 kB, which has 4 kB of real parameters; floats would take 32 times the bits.
    assert size < 15_000 and num_bytes < size_with_constants < num_bytes + 15_000
    other = jax.tree.map(jnp.invert, packed)  # as arguments they may be those of another network
    for a, b in zip(with_arguments.call(other, images), jax.jit(predict)(other, images), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
