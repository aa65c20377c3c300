"""A posterior in a file: the same in another process, to the bit, or refused."""

import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax

import bbinn_jax as bb

INPUTS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = bb.BinaryDense(8, use_bias=True)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, use_scale=False)(x))
        return bb.BinaryDense(3)(x)


@pytest.fixture
def posterior(key):
    variables = Network().init(key, INPUTS)
    natural, real = bb.partition(variables["params"])
    natural = jax.tree.map(lambda x: jax.random.normal(key, x.shape), natural)
    real = jax.tree.map(lambda x: x + 0.3, real)
    statistics = jax.tree.map(lambda x: x + 0.1, variables["batch_stats"])
    return bb.Posterior(natural, real, statistics, {"network": "small", "hidden": [8], "rate": 0.1})


@pytest.fixture
def path(tmp_path, posterior):
    bb.save_posterior(tmp_path / "posterior.safetensors", posterior)
    return tmp_path / "posterior.safetensors"


def predict(posterior):
    def apply_fn(weights, x):
        params = bb.combine(weights, posterior.real)
        return Network().apply({"params": params, "batch_stats": posterior.batch_stats}, x)

    return bb.posterior_predictive(apply_fn, posterior.natural, jax.random.key(1), INPUTS, num_samples=20)


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def test_loaded_is_what_was_saved(path, posterior):
    loaded = bb.load_posterior(path)
    assert_equal(loaded._replace(config=None), posterior._replace(config=None))
    assert loaded.config == posterior.config


def test_fresh_process_predicts_the_same_to_the_bit(path, posterior):
    code = (
        "import bbinn_jax as bb, tests.test_saving as t\n"
        f"p = t.predict(bb.load_posterior({str(path)!r}))\n"
        "print(b''.join(t.np.asarray(x).tobytes() for x in p).hex())\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == b"".join(np.asarray(x).tobytes() for x in predict(posterior)).hex()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtypes_and_special_numbers_are_kept(tmp_path, dtype):
    natural = {"a": jnp.array([-0.0, jnp.inf, 1e-7, 3.14159], dtype), "b": jnp.zeros((0, 3), dtype)}
    bb.save_posterior(tmp_path / "p", bb.Posterior(natural, real={"a": None, "b": None}))
    assert_equal(bb.load_posterior(tmp_path / "p").natural, natural)


def test_other_trees_come_back_like_one_of_their_kind(tmp_path):
    posterior = bb.Posterior([jnp.arange(3.0), (jnp.ones(2), None)], real=[None, (None, jnp.zeros(()))])
    bb.save_posterior(tmp_path / "p", posterior)
    assert_equal(bb.load_posterior(tmp_path / "p", like=jax.tree.map(jnp.zeros_like, posterior)), posterior)
    with pytest.raises(
        ValueError, match=r"like must have the leaves of .*: it has no leaf at .natural/0., the file float32\(3,\)"
    ):
        bb.load_posterior(tmp_path / "p", like=posterior._replace(natural=[None, posterior.natural[1], jnp.ones(3)]))


def test_bare_array(tmp_path):
    bb.save_posterior(tmp_path / "p", bb.Posterior(jnp.arange(3.0)))
    loaded = bb.load_posterior(tmp_path / "p")
    assert_equal(loaded.natural, jnp.arange(3.0))
    assert loaded[1:] == (None, None, None)


def test_other_programs_read_the_file(path, posterior):
    """It is a plain safetensors file."""
    tensors = safetensors.flax.load_file(path)
    np.testing.assert_array_equal(
        tensors["natural/BinaryDense_0/binary_kernel"], posterior.natural["BinaryDense_0"]["binary_kernel"]
    )
    with safetensors.safe_open(path, framework="numpy") as file:
        assert json.loads(file.metadata()["config"]) == posterior.config


# Damage ---------------------------------------------------------------------------------------------------------------


def test_every_changed_byte_is_found(tmp_path):
    path = tmp_path / "p"
    bb.save_posterior(path, bb.Posterior({"a": jnp.arange(3.0)}, config={"n": 1}))
    content = path.read_bytes()
    for i in range(len(content)):
        damaged = bytearray(content)
        damaged[i] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged|must be a posterior in the format"):
            bb.load_posterior(path)


def test_every_truncated_file_is_refused(tmp_path):
    path = tmp_path / "p"
    bb.save_posterior(path, bb.Posterior({"a": jnp.arange(3.0)}))
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i])
        with pytest.raises(ValueError, match=r"p is damaged or no safetensors file: ") as error:
            bb.load_posterior(path)
        assert "\n" not in str(error.value)


def test_file_of_another_program_is_refused(tmp_path):
    safetensors.flax.save_file({"w": jnp.ones(3)}, tmp_path / "p", {"format": "pt"})
    with pytest.raises(ValueError, match=r"must be a posterior in the format 'bbinn_jax posterior 1', got 'pt'"):
        bb.load_posterior(tmp_path / "p")
    safetensors.flax.save_file({"w": jnp.ones(3)}, tmp_path / "p")
    with pytest.raises(ValueError, match="must be a posterior in the format 'bbinn_jax posterior 1', got None"):
        bb.load_posterior(tmp_path / "p")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bb.load_posterior(tmp_path / "nowhere")


def test_failed_write_leaves_the_file_before(path, posterior, monkeypatch):
    before = path.read_bytes()

    def full_disk(self, content):
        with open(self, "wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(type(path), "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        bb.save_posterior(path, posterior._replace(config=None))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("leaf", [jnp.ones(7), jnp.ones(3, jnp.bfloat16)])
def test_like_must_have_the_shapes_and_dtypes(tmp_path, leaf):
    bb.save_posterior(tmp_path / "p", bb.Posterior({"a": jnp.arange(3.0)}))
    with pytest.raises(ValueError, match=r"like must have the leaves of .*p: it has .* at 'natural/a', the file"):
        bb.load_posterior(tmp_path / "p", like=bb.Posterior({"a": leaf}))


@pytest.mark.parametrize(
    "trees",
    [({"a": jnp.ones(1), "a/b": jnp.ones(2)},), (jnp.ones(1), {"b": jnp.ones(1)}), ({"b": jnp.ones(1)}, jnp.ones(1))],
)
def test_trees_that_dicts_cannot_tell_need_like(tmp_path, trees):
    posterior = bb.Posterior(*trees)
    bb.save_posterior(tmp_path / "p", posterior)
    with pytest.raises(ValueError, match="no nested dicts: give like"):
        bb.load_posterior(tmp_path / "p")
    assert_equal(bb.load_posterior(tmp_path / "p", like=posterior), posterior)


def test_64_bits_are_read_with_64_bits_or_not_at_all(tmp_path):
    with jax.enable_x64(True):
        posterior = bb.Posterior({"a": jnp.array([1 + 1e-12])})
        bb.save_posterior(tmp_path / "p", posterior)
        assert_equal(bb.load_posterior(tmp_path / "p").natural, posterior.natural)
    with pytest.raises(ValueError, match="has 64 bits in 'natural/a': set jax_enable_x64"):
        bb.load_posterior(tmp_path / "p")


@pytest.mark.parametrize(
    "posterior, error, message",
    [
        (bb.Posterior({"a": INPUTS.astype(float)}), TypeError, "can keep, got float64 at 'natural/a'"),
        (bb.Posterior({"a": INPUTS}, np.array([2**40])), TypeError, "can keep, got int64 at 'real'"),
        (bb.Posterior({"a": jnp.ones(2, jnp.float8_e4m3fn)}), TypeError, "got float8_e4m3fn at 'natural/a'"),
        (bb.Posterior({}), ValueError, "natural must have at least one weight"),
        (bb.Posterior({"a": np.arange(3)}), TypeError, "natural must have floating-point arrays as leaves, got int64"),
        (bb.Posterior({"a": INPUTS}, config={1, 2}), TypeError, r"config must be what JSON can say, got \{1, 2\}"),
        (bb.Posterior({"a/b": INPUTS, "a": {"b": INPUTS}}), ValueError, "different names, got 'natural/a/b' twice"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, posterior, error, message):
    with pytest.raises(error, match=message):
        bb.save_posterior(tmp_path / "p", posterior)
    assert not list(tmp_path.iterdir())
