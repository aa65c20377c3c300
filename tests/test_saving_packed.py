"""Packed networks in a file: read by NumPy alone, of the size of their bits, the same to the bit, or refused."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy

import bbinn_jax as bb
from bbinn_jax import _file, saving
from tests.trees import assert_equal_to_the_bit

NATURAL = {"a": {"binary_kernel": jnp.linspace(-1, 1, 33).reshape(3, 11), "bias": None}, "b": jnp.zeros((5, 2))}
REAL = {"a": {"binary_kernel": None, "bias": jnp.arange(3.0)}, "b": None}
STATISTICS = {"norm": {"mean": jnp.ones(4), "var": jnp.full(4, 2.0)}}


def network(num_networks=None):
    """The mode, or a committee each of whose networks has its own statistics."""
    if num_networks is None:
        return bb.PackedNetwork(bb.pack(bb.mode(NATURAL)), REAL, STATISTICS, {"hidden": [8]})
    weights = bb.sample_packed(jax.random.key(0), NATURAL, num_networks)
    statistics = jax.tree.map(lambda x: jnp.tile(x, (num_networks, 1)), STATISTICS)
    return bb.PackedNetwork(weights, REAL, statistics, {"hidden": [8]})


def kept(tmp_path, network, like=None):
    bb.save_packed(tmp_path / "kept", network)
    return bb.load_packed(tmp_path / "kept", like)


@pytest.mark.parametrize("num_networks", [None, 1, 16])
def test_loaded_is_what_was_saved(tmp_path, num_networks):
    saved = network(num_networks)
    loaded = kept(tmp_path, saved)
    assert_equal_to_the_bit(loaded._replace(config=None), saved._replace(config=None))
    assert loaded.config == saved.config
    again = bb.load_packed(tmp_path / "kept", like=jax.eval_shape(lambda: saved._replace(config=None)))
    assert_equal_to_the_bit(again[:3], saved[:3])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shape", [(), (8,), (0, 3), (2, 3, 4)])
def test_shapes_and_dtypes_come_back(tmp_path, dtype, shape):
    weights = bb.pack({"w": -jnp.ones(shape, dtype)})
    assert_equal_to_the_bit(kept(tmp_path, bb.PackedNetwork(weights)).weights, weights)


@pytest.mark.parametrize("num_networks", [None, 16])
def test_numpy_reads_the_weights(tmp_path, num_networks):
    """And the text says what is read: the order of the bits, shapes and dtypes, how many networks."""
    saved = network(num_networks)
    bb.save_packed(tmp_path / "p", saved)
    with safetensors.safe_open(tmp_path / "p", "numpy") as file:
        text = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    assert text["format"] == "bbinn_jax packed 1" and text["bit_order"] == "little"
    assert text["num_networks"] == str(num_networks or 1)
    assert json.loads(text["config"]) == saved.config
    assert json.loads(text["weights"]) == {
        "weights/a/binary_kernel": {"shape": [3, 11], "dtype": "float32"},
        "weights/b": {"shape": [5, 2], "dtype": "float32"},
    }
    weights = bb.unpack(saved.weights)
    for name, expected in {"weights/a/binary_kernel": weights["a"]["binary_kernel"], "weights/b": weights["b"]}.items():
        bits, shape = arrays[name], json.loads(text["weights"])[name]["shape"]
        assert bits.dtype == np.uint8
        signs = 2.0 * np.unpackbits(bits, axis=-1, count=math.prod(shape), bitorder=text["bit_order"]) - 1
        np.testing.assert_array_equal(signs.reshape(*bits.shape[:-1], *shape), expected)
    np.testing.assert_array_equal(arrays["real/a/bias"], REAL["a"]["bias"])


@pytest.mark.parametrize("num_networks", [None, 16])
def test_the_lines_of_the_guide_read_a_file_where_there_is_no_jax(tmp_path, num_networks):
    guide = (Path(__file__).parents[1] / "docs/guides/bits.md").read_text()
    lines = re.search(r">>> import json, math, numpy, safetensors\n((>>>|\.\.\.).*\n)+?(?=>>> arrays\[)", guide)[0]
    lines = [line[4:] for line in lines.splitlines()]
    assert len(lines) == 6
    saved = network(num_networks)
    bb.save_packed(tmp_path / "p", saved)
    code = ["import sys", "sys.modules['jax'] = None", "path = 'p'", *lines, "numpy.savez('read.npz', **arrays)"]
    code += ["assert not {'jax', 'jaxlib', 'flax', 'torch', 'ml_dtypes'} & {x for x, y in sys.modules.items() if y}"]
    subprocess.run([sys.executable, "-c", "\n".join(code)], cwd=tmp_path, check=True)
    read, weights = np.load(tmp_path / "read.npz"), bb.unpack(saved.weights)
    np.testing.assert_array_equal(read["weights/a/binary_kernel"], weights["a"]["binary_kernel"])
    np.testing.assert_array_equal(read["weights/b"], weights["b"])
    np.testing.assert_array_equal(read["real/a/bias"], REAL["a"]["bias"])
    np.testing.assert_array_equal(read["batch_stats/norm/var"], saved.batch_stats["norm"]["var"])


def test_the_packed_column_of_the_table_is_the_file_but_for_its_header(tmp_path):
    saved = network()
    bb.save_packed(tmp_path / "p", saved)
    content = (tmp_path / "p").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    table = bb.partition_table(NATURAL, REAL, STATISTICS).splitlines()
    leaves = [line for line in table[1:] if not re.match(r"total|\s", line)]
    totals = table[1 + len(leaves) :]
    assert (len(leaves), len(totals)) == (5, 3)
    for lines in (leaves, totals):  # 33 and 10 weights take 5 and 2 bytes
        assert len(content) - header == sum(int(re.search(r"(\d+) B$", line)[1]) for line in lines)
    assert header - len(json.dumps(saved.config)) < 300 + 150 * len(leaves)  # as docs/guides/binary_or_real.md says


def test_other_trees_come_back_like_one_of_their_kind(tmp_path):
    saved = bb.PackedNetwork([bb.pack(jnp.ones(9)), None], [None, (jnp.ones(2),)])
    with pytest.raises(ValueError, match="no nested dicts: give like"):
        kept(tmp_path, saved)
    assert_equal_to_the_bit(kept(tmp_path, saved, like=saved), saved)
    bare = bb.PackedNetwork(bb.pack(jnp.ones(9)))
    assert_equal_to_the_bit(kept(tmp_path, bare), bare)


@pytest.mark.parametrize(
    "like, error, message",
    [
        (bb.PackedNetwork({"w": bb.pack(jnp.ones((5, 3)))}), ValueError, r"it has float32\(5, 3\) at 'weights/w', the"),
        (bb.PackedNetwork({"w": bb.pack(jnp.ones((3, 5), jnp.bfloat16))}), ValueError, r"it has bfloat16\(3, 5\) at"),
        (bb.PackedNetwork({"w": bb.pack(jnp.ones(33))}), ValueError, r"has uint8\(5,\) at 'weights/w', the file uint8"),
        (bb.PackedNetwork({"v": bb.pack(jnp.ones((3, 5)))}), ValueError, "it has .* at 'weights/v', the file no leaf"),
        (bb.PackedNetwork({"w": jnp.ones((3, 5))}), TypeError, "weights must be packed, as pack does it, got "),
        (bb.Posterior({"w": jnp.ones((3, 5))}), TypeError, r"like must be a PackedNetwork, as PackedNetwork\(weights,"),
    ],
)
def test_like_must_have_the_leaves(tmp_path, like, error, message):
    with pytest.raises(error, match=message) as caught:
        kept(tmp_path, bb.PackedNetwork({"w": bb.pack(jnp.ones((3, 5)))}), like)
    assert "\n" not in str(caught.value)


def test_64_bits_are_read_with_64_bits_or_not_at_all(tmp_path):
    with jax.enable_x64(True):
        saved = bb.PackedNetwork(bb.pack({"w": jnp.ones(3, jnp.float64)}))
        assert_equal_to_the_bit(kept(tmp_path, saved).weights, saved.weights)
    with pytest.raises(ValueError, match="has 64 bits in 'weights/w': set jax_enable_x64"):
        bb.load_packed(tmp_path / "kept")


PACKED = bb.Packed(jnp.zeros(1, jnp.uint8), (8,), jnp.dtype("float32"))


@pytest.mark.parametrize(
    "saved, error, message",
    [
        ({"w": PACKED}, TypeError, r"network must be a PackedNetwork, as PackedNetwork\(weights, real\), got dict"),
        (bb.PackedNetwork({}), ValueError, "weights must have at least one packed leaf"),
        (bb.PackedNetwork({"w": jnp.ones(3)}), TypeError, "weights must be packed, .* at 'weights/w'"),
        (bb.PackedNetwork({"w": PACKED, "v": bb.sample_packed(jax.random.key(0), jnp.ones(3), 2)}), ValueError,
         r"weights must have one number of networks in all leaves, got \[\(\), \(2,\)\]"),
        (bb.PackedNetwork({"w": bb.Packed(jnp.zeros(2, jnp.uint8), (8,), PACKED.dtype)}), ValueError,
         r"must have uint8 \[1\] or \[networks, 1\] for the shape \(8,\), got uint8\(2,\) at 'weights/w'"),
        (bb.PackedNetwork({"w": bb.Packed(jnp.zeros((0, 1), jnp.uint8), (8,), PACKED.dtype)}), ValueError, r"\(0, 1\)"),
        (bb.PackedNetwork({"w": bb.Packed(jnp.zeros(1, jnp.int8), (8,), PACKED.dtype)}), ValueError, r"got int8\(1,\)"),
        (bb.PackedNetwork({"w": bb.Packed(jnp.zeros((2, 3, 1), jnp.uint8), (8,), PACKED.dtype)}), ValueError, "2, 3"),
        (bb.PackedNetwork({"w": PACKED}, {"b": jnp.array([jnp.nan])}), ValueError, "network must have leaves without"),
        (bb.PackedNetwork({"w": PACKED}, config={1}), TypeError, "config must be what JSON can say"),
        (bb.PackedNetwork({"a/b": PACKED, "a": {"b": PACKED}}), ValueError, "different names, got 'weights/a/b' twice"),
        (bb.PackedNetwork({"w": jax.eval_shape(lambda: PACKED)}), TypeError, "leaves with values, got Shape"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_refused(tmp_path, saved, error, message):
    with pytest.raises(error, match=message) as caught:
        bb.save_packed(tmp_path / "p", saved)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# Damage ---------------------------------------------------------------------------------------------------------------


def test_every_byte_counts(tmp_path):
    """Each byte of a small file changed, and the file cut at each place: refused in a line that names it."""
    path = tmp_path / "whole"
    bb.save_packed(path, bb.PackedNetwork({"w": PACKED}, {"b": jnp.ones(1)}, config={"a": 1}))
    whole = path.read_bytes()
    for i in range(len(whole)):
        for damaged in (whole[:i] + bytes([whole[i] ^ (1 << (i % 8))]) + whole[i + 1 :], whole[:i]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=str(path)) as caught:
                bb.load_packed(path)
            assert "\n" not in str(caught.value)


def test_one_kind_of_file_is_not_taken_for_the_other(tmp_path):
    bb.save_posterior(tmp_path / "posterior", bb.Posterior({"w": jnp.ones(3)}))
    bb.save_packed(tmp_path / "packed", bb.PackedNetwork({"w": PACKED}))
    with pytest.raises(ValueError, match="must be a packed network in the format 'bbinn_jax packed 1', got 'bbinn_"):
        bb.load_packed(tmp_path / "posterior")
    with pytest.raises(ValueError, match="must be a posterior in the format 'bbinn_jax posterior 1', got 'bbinn_"):
        bb.load_posterior(tmp_path / "packed")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bb.load_packed(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError, match="path must name a file, got the folder"):
        bb.save_packed(tmp_path, bb.PackedNetwork({"w": PACKED}))


def test_failed_write_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "p"
    bb.save_packed(path, network())
    before = path.read_bytes()

    def full_disk(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(type(path), "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        bb.save_packed(path, network(16))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


W = {"shape": [8], "dtype": "float32"}


@pytest.mark.parametrize(
    "changed",
    [
        {"bit_order": "big"},
        {"bit_order": None},
        {"num_networks": "2"},
        {"num_networks": None},
        {"config": "{"},
        {"weights": None},
        {"weights": "[1]"},
        {"weights": "{"},
        {"weights": "[" * 100_000},
        {"weights": json.dumps({})},
        {"weights": json.dumps({"weights/w": W, "weights/v": W})},
        {"weights": json.dumps({"weights/w": {"shape": [8]}})},
        {"weights": json.dumps({"weights/w": W | {"more": 1}})},
        {"weights": json.dumps({"weights/w": W | {"shape": [9]}})},
        {"weights": json.dumps({"weights/w": W | {"shape": [-2, -4]}})},
        {"weights": json.dumps({"weights/w": W | {"shape": [8.0]}})},
        {"weights": json.dumps({"weights/w": W | {"shape": [True, 8]}})},
        {"weights": json.dumps({"weights/w": W | {"shape": 8}})},
        {"weights": json.dumps({"weights/w": W | {"dtype": "int32"}})},
        {"weights": json.dumps({"weights/w": W | {"dtype": "float99"}})},
        {"weights": json.dumps({"weights/w": W | {"dtype": None}})},
        {"leaves": {"weights/w": jnp.zeros(2, jnp.uint8)}},
        {"leaves": {"weights/w": jnp.zeros(1, jnp.float32)}},
        {"leaves": {"weights/w": jnp.zeros((1, 1, 1), jnp.uint8)}},
        {"leaves": {"real/w": jnp.zeros(1, jnp.uint8)}},
        {"leaves": {"weights/w": jnp.zeros(1, jnp.uint8), "natural/w": jnp.zeros(1)}},
        {"leaves": {"weights/w": jnp.zeros(1, jnp.uint8), "real/w/x": jnp.zeros(1)}},
    ],
)
def test_crafted_files_are_refused_in_one_line(tmp_path, changed):
    """Files whose SHA-256 is right, and whose text or bytes are not."""
    text = {"format": saving._PACKED, "config": "null", "bit_order": "little", "num_networks": "1"}
    text |= {"weights": json.dumps({"weights/w": W})}
    leaves = {"weights/w": jnp.zeros(1, jnp.uint8)}

    def write(leaves, text):
        text["sha256"] = _file._digest(safetensors.flax.save(leaves, text))
        (tmp_path / "p").write_bytes(safetensors.flax.save(leaves, text))

    write(leaves, dict(text))
    assert bb.load_packed(tmp_path / "p").weights["w"].shape == (8,)
    changed = dict(changed)
    leaves = changed.pop("leaves", leaves)
    write(leaves, {name: value for name, value in (text | changed).items() if value is not None})
    with pytest.raises(ValueError, match=str(tmp_path / "p")) as caught:
        bb.load_packed(tmp_path / "p")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_same_network_gives_the_same_bytes(tmp_path):
    for name in "ab":
        bb.save_packed(tmp_path / name, network(4))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
