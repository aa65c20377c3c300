"""A posterior in a file: the same in another process, to the bit, or refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import flax
import flax.linen as nn
import jax
import jax.experimental.layout
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
from flax import nnx

import bbinn_jax as bb
from bbinn_jax import _file, saving
from tests.trees import assert_equal_to_the_bit

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


def test_loaded_is_what_was_saved(path, posterior):
    loaded = bb.load_posterior(path)
    assert_equal_to_the_bit(loaded._replace(config=None), posterior._replace(config=None))
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
    assert_equal_to_the_bit(bb.load_posterior(tmp_path / "p").natural, natural)


def test_other_trees_come_back_like_one_of_their_kind(tmp_path):
    posterior = bb.Posterior([jnp.arange(3.0), (jnp.ones(2), None)], real=[None, (None, jnp.zeros(()))])
    bb.save_posterior(tmp_path / "p", posterior)
    assert_equal_to_the_bit(bb.load_posterior(tmp_path / "p", like=jax.tree.map(jnp.zeros_like, posterior)), posterior)
    with pytest.raises(
        ValueError, match=r"like must have the leaves of .*: it has no leaf at .natural/0., the file float32\(3,\)"
    ):
        bb.load_posterior(tmp_path / "p", like=posterior._replace(natural=[None, posterior.natural[1], jnp.ones(3)]))


def test_bare_array(tmp_path):
    bb.save_posterior(tmp_path / "p", bb.Posterior(jnp.arange(3.0)))
    loaded = bb.load_posterior(tmp_path / "p")
    assert_equal_to_the_bit(loaded.natural, jnp.arange(3.0))
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
    assert_equal_to_the_bit(bb.load_posterior(tmp_path / "p", like=posterior), posterior)


def test_64_bits_are_read_with_64_bits_or_not_at_all(tmp_path):
    with jax.enable_x64(True):
        posterior = bb.Posterior({"a": jnp.array([1 + 1e-12])})
        bb.save_posterior(tmp_path / "p", posterior)
        assert_equal_to_the_bit(bb.load_posterior(tmp_path / "p").natural, posterior.natural)
    with pytest.raises(ValueError, match="has 64 bits in 'natural/a': set jax_enable_x64"):
        bb.load_posterior(tmp_path / "p")


def loop():
    around = []
    around.append(around)
    return around


def nested(depth):
    inside = []
    for _ in range(depth):
        inside = [inside]
    return inside


@pytest.mark.parametrize(
    "posterior, error, message",
    [
        (bb.Posterior({"a": INPUTS.astype(float)}), TypeError, "can keep, got float64 at 'natural/a'"),
        (bb.Posterior({"a": INPUTS}, np.array([2**40])), TypeError, "can keep, got int64 at 'real'"),
        (bb.Posterior({"a": jnp.ones(2, jnp.float8_e4m3fn)}), TypeError, "got float8_e4m3fn at 'natural/a'"),
        (bb.Posterior({}), ValueError, "natural must have at least one weight"),
        (bb.Posterior({"a": np.arange(3)}), TypeError, "natural must have floating-point arrays as leaves, got int64"),
        (bb.Posterior({"a": INPUTS}, config={1, 2}), TypeError, r"config must be what JSON can say, got \{1, 2\}"),
        (bb.Posterior({"a": INPUTS}, config=loop()), TypeError, "config must be .*, got list: Circular reference"),
        (bb.Posterior({"a": INPUTS}, config=nested(100_000)), TypeError, "config must be .*, got list: .*recursion"),
        (bb.Posterior({"a": INPUTS}, config={"n": 10**5000}), TypeError, "config must be .*, got dict: .*4300 digits"),
        (
            bb.Posterior({"a": INPUTS}, config=np.zeros((9, 9))),
            TypeError,
            "config must be what JSON can say, got array",
        ),
        (bb.Posterior({"a": INPUTS}, {"b": "text"}), TypeError, "can keep, got <U4 at 'real/b'"),
        (bb.Posterior({"a": INPUTS}, {"b": jax.random.key(0)}), TypeError, "can keep, got key<fry> at 'real/b'"),
        (bb.Posterior({"a": INPUTS.astype(">f4")}), TypeError, "can keep, got >f4 at 'natural/a'"),
        (
            bb.Posterior({"a": jax.ShapeDtypeStruct((2,), jnp.float32)}),
            TypeError,
            "leaves with values, got ShapeDtypeStruct at 'natural/a'",
        ),
        (bb.Posterior({"a/b": INPUTS, "a": {"b": INPUTS}}), ValueError, "different names, got 'natural/a/b' twice"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, posterior, error, message):
    with pytest.raises(error, match=message) as caught:
        bb.save_posterior(tmp_path / "p", posterior)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# Every tree, layout and number comes back, or is refused --------------------------------------------------------------


def kept(tmp_path, posterior, like=None):
    path = tmp_path / "kept.safetensors"
    bb.save_posterior(path, posterior)
    return bb.load_posterior(path, like)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_arrays_come_back_whatever_order_their_memory_has(tmp_path, dtype):
    """One that PyTorch would share transposed, a NumPy array that is a view, one of no axes, one of no elements."""
    buffer = np.zeros(192, np.uint8)
    start = -buffer.ctypes.data % 64  # aligned, so that JAX copies nothing
    weight = buffer[start : start + 24].view(np.float32).reshape(3, 2)
    weight[:] = np.arange(6).reshape(3, 2)
    shared = jnp.from_dlpack(weight.T)
    layout = jax.experimental.layout.Layout(major_to_minor=(1, 0))
    format = jax.experimental.layout.Format(layout, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    turned = jax.device_put(jnp.arange(6, dtype=dtype).reshape(3, 2), format)
    trees = {
        "shared": shared,
        "turned": turned,
        "view": np.arange(24, dtype=dtype).reshape(2, 3, 4)[:, ::-1, ::2].T,
        "scalar": jnp.ones((), dtype),
        "empty": jnp.zeros((0, 3), dtype),
    }
    loaded = kept(tmp_path, bb.Posterior(trees)).natural
    for name, leaf in trees.items():
        assert loaded[name].dtype == leaf.dtype
        np.testing.assert_array_equal(np.asarray(loaded[name]), np.asarray(leaf))


def test_the_same_posterior_gives_the_same_bytes(tmp_path):
    """In other processes too, where dicts and hashes have another order."""
    code = (
        "import sys, jax.numpy as jnp, bbinn_jax as bb;"
        "natural = {name: jnp.arange(3.0) for name in 'abcdefgh'};"
        "bb.save_posterior(sys.argv[1], bb.Posterior(natural, config={'x': 1, 'y': [2]}))"
    )
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for i, path in enumerate(paths):
        environment = os.environ | {"PYTHONHASHSEED": str(i), "PYTHONPATH": str(Path(bb.__file__).parents[1])}
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=environment)
    assert len({path.read_bytes() for path in paths}) == 1


class Pair(NamedTuple):
    a: jax.Array
    b: jax.Array


W = np.arange(4, dtype=np.float32)
TREES = {
    "list": [W, W + 1],
    "tuple": ((W,), W + 1),
    "named tuple": Pair(W, W + 1),
    "integer keys": {2: W, 10: W + 1},
    "slash": {"mlp/~/linear_0": {"w": W}},
    "flat": {"Dense_0/kernel": W},
    "frozen": flax.core.freeze({"a": {"b": W}}),
    "boxed": {"a": nn.Partitioned(W, names=("in",))},
    "array": W,
}


@pytest.mark.parametrize("name", TREES)
def test_trees_that_are_no_nested_dicts_need_like(tmp_path, name):
    posterior = bb.Posterior(jax.tree.map(jnp.asarray, TREES[name]))
    again = kept(tmp_path, posterior, like=posterior)
    assert jax.tree.structure(again) == jax.tree.structure(posterior)
    jax.tree.map(np.testing.assert_array_equal, again, posterior)
    if name == "array":  # its name is that of the tree
        np.testing.assert_array_equal(kept(tmp_path, posterior).natural, W)
        return
    with pytest.raises(ValueError, match="no nested dicts: give like"):
        kept(tmp_path, posterior)


@pytest.mark.parametrize("where", ["natural", "real", "batch_stats"])
def test_nan_is_refused_by_its_name(tmp_path, where):
    posterior = bb.Posterior({"w": jnp.ones(2)}, {"w": None}, {"mean": jnp.ones(2)})
    posterior = posterior._replace(**{where: {"lost": jnp.array([1.0, jnp.nan])}})
    with pytest.raises(ValueError, match=f"without NaN, got one at '{where}/lost'"):
        bb.save_posterior(tmp_path / "lost", posterior)
    assert not list(tmp_path.iterdir())


def test_infinite_natural_parameters_are_certain_weights(tmp_path):
    np.testing.assert_array_equal(kept(tmp_path, bb.Posterior({"w": jnp.array([jnp.inf])})).natural["w"], [np.inf])


def test_a_bare_tree_is_no_posterior(tmp_path):
    with pytest.raises(TypeError, match=r"posterior must be a Posterior, as Posterior\(natural, real\), got dict"):
        bb.save_posterior(tmp_path / "p", {"w": jnp.ones(2)})


def crafted(path, metadata, names=("natural/w",)):
    """A file whose digest is right, with other text or names in it."""
    leaves = {name: jnp.ones(2) for name in names}
    text = {"format": saving._POSTERIOR, "config": "null"} | metadata
    text = {name: value for name, value in text.items() if value is not None}
    text["sha256"] = _file._digest(safetensors.flax.save(leaves, text))
    path.write_bytes(safetensors.flax.save(leaves, text))
    return path


@pytest.mark.parametrize(
    "metadata, names",
    [
        ({"config": None}, ("natural/w",)),
        ({"config": "[" * 100_000}, ("natural/w",)),
        ({"config": "[" * 100_000 + "]" * 100_000}, ("natural/w",)),
        ({"config": "1" + "0" * 5000}, ("natural/w",)),
        ({"config": "{"}, ("natural/w",)),
        ({"format": "another"}, ("natural/w",)),
        ({}, ("unnatural/w",)),
        ({}, ("real/w",)),
        ({}, ("natural/w", "natural/w/x")),
        ({"nested_dicts": "maybe"}, ("natural/w",)),
        ({}, ("natural/w", "config")),
        ({}, ("natural/w", "config/w")),
        ({}, ("natural/w", "another/w")),
        ({"format": "x" * 100_000}, ("natural/w",)),
        ({}, ("real/" + "x" * 10_000,)),
    ],
)
def test_crafted_files_are_refused_in_one_line(tmp_path, metadata, names):
    path = crafted(tmp_path / "crafted", metadata, names)
    with pytest.raises(ValueError, match=str(path)) as caught:
        bb.load_posterior(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("twice", ["config", "natural/w"])
def test_a_name_that_stands_twice_in_the_header_is_refused(tmp_path, twice):
    """Parsers differ in which of the two they take, so that the digest may be of another file than the one read."""
    path = crafted(tmp_path / "crafted", {})
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].rstrip()
    start = header.index(f'"{twice}":'.encode())
    end = header.index(b"}", start) + 1 if twice == "natural/w" else header.index(b'"null"', start) + 6
    header = header[:end] + b"," + header[start:]
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    with pytest.raises(ValueError, match=f"{path} is damaged or no safetensors file: "):
        bb.load_posterior(path)


def test_files_without_word_of_their_trees_load(tmp_path):
    """A file as it was written before files said whether their trees are nested dicts."""
    header = (
        b'{"__metadata__":{"sha256":"c85adbe6a21847394ffbc921d5378691327ce9349f58d70c90d9448c18e9c1c2",'
        b'"format":"bbinn_jax posterior 1","config":"{\\"n\\": 1}"},'
        b'"batch_stats/m":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"natural/w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},'
        b'"real/b":{"dtype":"BF16","shape":[],"data_offsets":[12,14]}}'
    )
    values = b"\x00\x00\x00\x00\x00\x00\x00?\x00\x00\x80\xbe\x80?"
    (tmp_path / "old").write_bytes(len(header).to_bytes(8, "little") + header + values)
    natural, real = {"w": jnp.array([0.5, -0.25]), "b": None}, {"w": None, "b": jnp.ones((), jnp.bfloat16)}
    loaded = bb.load_posterior(tmp_path / "old")
    assert_equal_to_the_bit(loaded._replace(config=None), bb.Posterior(natural, real, {"m": jnp.zeros(1)}))
    assert loaded.config == {"n": 1}


def test_states_and_modules_need_like(tmp_path):
    graph, state = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    posterior = bb.Posterior(*bb.partition(state, {"kernel": "binary"}))
    with pytest.raises(ValueError, match="no nested dicts: give like"):
        kept(tmp_path, posterior)
    again = kept(tmp_path, posterior, like=posterior)
    assert_equal_to_the_bit(again, posterior)
    model = nnx.merge(graph, bb.combine(again.natural, again.real))
    np.testing.assert_array_equal(model(jnp.ones((1, 3))), nnx.merge(graph, state)(jnp.ones((1, 3))))

    equinox = pytest.importorskip("equinox")
    module = equinox.filter(equinox.nn.Linear(3, 2, key=jax.random.key(0)), equinox.is_inexact_array)
    posterior = bb.Posterior(*bb.partition(module, {"weight": "binary"}))
    with pytest.raises(ValueError, match="no nested dicts: give like"):
        kept(tmp_path, posterior)
    assert_equal_to_the_bit(kept(tmp_path, posterior, like=posterior), posterior)


def test_haiku_and_boxed_networks_predict_after_loading_with_like(tmp_path):
    """A layer whose parameters are boxed gives the same outputs; a module's name with "/" stays one key."""
    layer = bb.BinaryDense(2, kernel_init=nn.with_partitioning(bb.natural_initializer(1.0), ("in", "out")))
    natural, real = bb.partition(layer.init(jax.random.key(0), INPUTS)["params"])
    again = kept(tmp_path, bb.Posterior(natural, real), like=bb.Posterior(natural, real))
    outputs = [layer.apply({"params": bb.combine(bb.mode(n), r)}, INPUTS) for n, r in [(natural, real), again[:2]]]
    np.testing.assert_array_equal(*outputs)
    params = {"mlp/~/linear_0": {"w": jnp.ones((2, 2)), "b": jnp.zeros(2)}}
    posterior = bb.Posterior(*bb.partition(params, {"/w$": "binary"}))
    assert_equal_to_the_bit(kept(tmp_path, posterior, like=posterior), posterior)
    with pytest.raises(ValueError, match="no nested dicts: give like"):
        kept(tmp_path, posterior)


def test_like_may_be_of_shapes(tmp_path):
    posterior = bb.Posterior([jnp.arange(3.0), None], [None, jnp.ones((2, 2), jnp.bfloat16)])
    assert_equal_to_the_bit(kept(tmp_path, posterior, like=jax.eval_shape(lambda: posterior)), posterior)
    other = bb.Posterior([jax.ShapeDtypeStruct((4,), jnp.float32), None], posterior.real)
    with pytest.raises(ValueError, match=r"it has float32\(4,\) at 'natural/0', the file float32\(3,\)"):
        kept(tmp_path, posterior, like=other)


def test_like_must_be_a_posterior_with_a_name_for_each_leaf(tmp_path):
    posterior = bb.Posterior({"a": {"b": jnp.ones(2)}})
    with pytest.raises(TypeError, match=r"like must be a Posterior, as Posterior\(natural, real\), got dict"):
        kept(tmp_path, posterior, like=posterior.natural)
    with pytest.raises(ValueError, match="like must have leaves of different names"):
        kept(tmp_path, posterior, like=bb.Posterior({"a": {"b": jnp.ones(2)}, "a/b": jnp.ones(2)}))


def test_sharded_arrays_come_back_whole(tmp_path):
    """Over 4 devices, along each axis."""
    code = (
        "import sys, jax, jax.numpy as jnp, numpy as np, bbinn_jax as bb\n"
        "mesh = jax.make_mesh((2, 2), ('x', 'y'))\n"
        "w = np.arange(32, dtype=np.float32).reshape(4, 8)\n"
        "for spec in [('x', 'y'), ('y', 'x'), (None, 'x'), (('x', 'y'), None)]:\n"
        "    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))\n"
        "    bb.save_posterior(sys.argv[1], bb.Posterior({'w': jax.device_put(w, sharding)}))\n"
        "    np.testing.assert_array_equal(bb.load_posterior(sys.argv[1]).natural['w'], w)\n"
    )
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(bb.__file__).parents[1]),
    }
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "p")], check=True, env=environment)


def test_every_byte_counts(tmp_path):
    """Each byte of a small file changed, and the file cut at each place: refused in a line that names it."""
    path = tmp_path / "whole"
    bb.save_posterior(path, bb.Posterior({"w": jnp.arange(3.0)}, config={"a": 1}))
    whole = path.read_bytes()
    for i in range(len(whole)):
        for damaged in (whole[:i] + bytes([whole[i] ^ (1 << (i % 8))]) + whole[i + 1 :], whole[:i]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=str(path)):
                bb.load_posterior(path)
