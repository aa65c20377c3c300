"""Networks in ONNX: bits in the file, the answers of JAX, and a refusal in one line of whatever cannot be."""

import json
import subprocess
import sys
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bbinn_jax as bb
from bbinn_jax.export import _proof
from experiments.common.networks import MLP, VGG, BumpMLP, Network, TanhMLP

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
ort = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("jax2onnx", reason="needs the extra 'export'")
from bbinn_jax import export  # noqa: E402

IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
COLOUR = np.random.default_rng(1).normal(size=(5, 8, 8, 3)).astype(np.float32)
LINEAR = {"w": jnp.asarray(np.random.default_rng(2).choice([-1.0, 1.0], (7, 5)).astype(np.float32))}  # 35 bits


NO_MEMORY = {"batch_norm_decay": 0}  # batch norms have the statistics of the last batch


class Two(NamedTuple):
    logits: jax.Array
    largest: jax.Array


def linear(weights, x):
    return x @ weights["w"]


def of_linen(model, inputs, committee=None, train={"train": False}):  # noqa: B006
    """A function of weights of a linen model that has seen data, and its weights or those of a committee."""
    variables = jax.jit(partial(model.init, **train))(jax.random.key(0), inputs)
    natural, real = bb.partition(variables["params"])
    natural = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), natural)
    real = jax.tree.map(lambda x: x + 0.3, real)

    @jax.jit
    def statistics(weights):
        variables_of = {"params": bb.combine(weights, real), **{k: v for k, v in variables.items() if k != "params"}}
        return model.apply(variables_of, inputs, train=True, mutable=["batch_stats"])[1] if train else {}

    def logits(weights, of_batches, x):
        return model.apply({"params": bb.combine(weights, real), **of_batches}, x, **train)

    if committee is None:
        weights = bb.mode(natural)
        of_batches = statistics(weights)
        return lambda weights, x: logits(weights, of_batches, x), weights
    packed = bb.sample_packed(jax.random.key(1), natural, committee)
    of_each = jax.lax.map(statistics, bb.unpack(packed))

    def prediction(weights, x):
        p = jax.nn.softmax(jax.vmap(logits, (0, 0, None))(weights, of_each, x))
        return bb.mixture_prediction(p.mean(0), -(p * jnp.log(p)).sum(-1).mean(0))

    return prediction, packed


class OfNNX(nnx.Module):
    def __init__(self, rngs):
        self.conv = bb.nnx.BinaryConv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dense = bb.nnx.BinaryLinear(8 * 16, 4, use_bias=True, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(nnx.avg_pool(self.conv(x), (2, 2), strides=(2, 2))))
        return self.dense(x.reshape(x.shape[0], -1))


def of_nnx():
    model = OfNNX(nnx.Rngs(0))
    model(jnp.asarray(COLOUR))  # the batch norm sees data
    model.eval()
    network, natural = bb.nnx.as_function(model)
    return network, bb.mode(natural)


def mlp(*hidden, **settings):
    return Network(MLP(hidden=hidden, **NO_MEMORY, **settings), 10)


def vgg(*channels):
    return Network(VGG(hidden=(16,), channels=channels, **NO_MEMORY), 10)


CASES = {  # of each a function, its weights, and inputs
    "linear": lambda: (linear, LINEAR, IMAGES.reshape(-1, 64)[:, :7]),
    "tanh": lambda: (*of_linen(TanhMLP((8, 8)), IMAGES[:, 0, :1, 0], train={}), IMAGES[:, 0, :1, 0]),
    "bumps": lambda: (*of_linen(BumpMLP((8,), 0.5, 2.0), IMAGES[:, 0, :2, 0], train={}), IMAGES[:, 0, :2, 0]),
    "mlp": lambda: (*of_linen(mlp(33, 32, dropout=0.2, output_scale=True), IMAGES), IMAGES),
    "layer norm": lambda: (*of_linen(mlp(32, norm="layer"), IMAGES), IMAGES),
    "vgg": lambda: (*of_linen(vgg(4, 8), COLOUR), COLOUR),
    "nnx": lambda: (*of_nnx(), COLOUR),
    "committee of mlps": lambda: (*of_linen(mlp(33, output_scale=True), IMAGES, 3), IMAGES),
    "committee of vggs": lambda: (*of_linen(vgg(4, 8), COLOUR, 3), COLOUR),
}


def answers(path, inputs):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([x.name for x in session.get_outputs()], session.run(None, {"inputs": inputs}), strict=True))


@pytest.fixture(scope="module", params=CASES)
def exported(request, tmp_path_factory):
    fn, weights, inputs = CASES[request.param]()
    folder = tmp_path_factory.mktemp("onnx")
    for packed in (True, False):
        export.onnx(folder / f"{packed}.onnx", fn, weights, inputs, packed=packed)
    return fn, weights, inputs, folder / "True.onnx", folder / "False.onnx"


def test_bits_answer_as_floats_to_the_bit_and_as_jax_for_any_number_of_inputs(exported):
    fn, weights, inputs, packed, floats = exported
    for batch in (inputs, inputs[:1], np.concatenate([inputs] * 3)[1:]):
        found, of_floats = answers(packed, batch), answers(floats, batch)
        wanted = jax.jit(fn)(bb.unpack(weights), batch)
        named = wanted._asdict() if hasattr(wanted, "_asdict") else {"output": wanted}
        assert list(found) == list(named)
        for name, output in named.items():
            np.testing.assert_array_equal(found[name], of_floats[name])
            np.testing.assert_allclose(found[name], output, atol=2e-5, rtol=2e-5)


def test_weights_are_bits_in_the_file_and_nothing_else_is(exported):
    """The bytes are those of NumPy, network after network in a committee; the file says which they are."""
    _, weights, _, packed, floats = exported
    model, of_floats = onnx.load(packed), onnx.load(floats)
    onnx.checker.check_model(model, full_check=True)
    assert [x.version for x in model.opset_import if x.domain == ""] == [18]
    text = {x.key: x.value for x in model.metadata_props}
    arrays = {x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer}
    named = json.loads(text["bits"])
    assert json.loads(text["inputs"]) == ["inputs"] and text["format"].startswith("bbinn_jax onnx")
    assert json.loads(text["outputs"]) == [x.name for x in model.graph.output]
    leaves = jax.tree.leaves_with_path(weights, is_leaf=lambda x: isinstance(x, bb.Packed))
    assert len(named) == len(leaves)
    for name, (_, leaf) in zip(named, leaves, strict=True):
        w = np.asarray(jax.tree.leaves(bb.unpack(leaf))[0])
        rows = w.reshape(len(w), -1) if isinstance(leaf, bb.Packed) else w.reshape(-1)
        np.testing.assert_array_equal(arrays[name], np.packbits(rows > 0, axis=-1, bitorder="little"))
    binary = {name.removesuffix("/bits") for name in named}
    kept = {x.name for x in of_floats.graph.initializer} - binary
    assert {name for name in arrays if name.partition("/")[0] not in ("bits", "weights")} == kept
    real = sum(x.nbytes for name, x in arrays.items() if name not in named)
    assert packed.stat().st_size < sum(arrays[name].nbytes for name in named) + real + 16_000  # the graph itself
    assert not any(x.op_type in ("Identity", "Dropout") for x in model.graph.node if x.input[0] not in text["outputs"])


def test_digits_network_takes_58_kilobytes_and_not_1219(tmp_path):
    fn, weights = of_linen(mlp(512, 512, output_scale=True), IMAGES)
    sizes = []
    for packed in (True, False):
        export.onnx(tmp_path / "digits.onnx", fn, weights, IMAGES, packed=packed)
        sizes.append((tmp_path / "digits.onnx").stat().st_size)
    assert sizes[0] < 58_000 and sizes[1] > 1_200_000


def test_graph_of_a_network_is_products_and_what_is_between_them(tmp_path):
    """Batch norms are two nodes, shapes are written down, the softmax of a committee expands nothing."""
    fn, weights = of_linen(Network(MLP(**NO_MEMORY, hidden=(32,), dropout=0.5, output_scale=True), 10), IMAGES, 3)
    export.onnx(tmp_path / "x.onnx", fn, weights, IMAGES, packed=False)
    nodes = [x.op_type for x in onnx.load(tmp_path / "x.onnx").graph.node]
    assert nodes[:9] == ["Reshape", *["MatMul", "Sub", "Mul", "Relu"], *["MatMul", "Sub", "Mul"], "Mul"]
    assert not {"Shape", "Gather", "Expand", "Sqrt", "Einsum", "Identity"} & set(nodes)


def test_runs_where_no_jax_is(tmp_path):
    """A process of onnxruntime and NumPy gives the answers; it never hears of JAX."""
    fn, weights = of_linen(mlp(16, output_scale=True), IMAGES, 3)
    export.onnx(tmp_path / "x.onnx", fn, weights, IMAGES, metadata={"licence": "free"})
    np.save(tmp_path / "images.npy", IMAGES)
    program = """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession("x.onnx")
assert session.get_modelmeta().custom_metadata_map["licence"] == "free"
assert session.get_modelmeta().producer_name == "bbinn_jax"
names = [x.name for x in session.get_outputs()]
np.savez("answers.npz", **dict(zip(names, session.run(None, {"inputs": np.load("images.npy")}))))
assert not {"jax", "flax", "bbinn_jax", "jax2onnx"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    found, wanted = np.load(tmp_path / "answers.npz"), jax.jit(fn)(bb.unpack(weights), IMAGES)
    for name, output in wanted._asdict().items():
        np.testing.assert_allclose(found[name], output, atol=1e-5)


def test_outputs_are_those_of_a_named_tuple_even_where_they_are_one(tmp_path):
    def fn(weights, x):
        logits = linear(weights, x)
        return Two(logits, logits)

    x = IMAGES.reshape(-1, 64)[:, :7]
    assert export.onnx(tmp_path / "x.onnx", fn, LINEAR, x) < 1e-6
    found = answers(tmp_path / "x.onnx", x)
    np.testing.assert_array_equal(found["logits"], found["largest"])


def test_prediction_of_the_mode_has_no_table_of_ones(tmp_path):
    """`mode_predictive` asks each weight for its sign again, which needs no array of its shape."""
    fn, weights = of_linen(mlp(512), IMAGES)
    export.onnx(tmp_path / "x.onnx", lambda w, x: bb.mode_predictive(fn, w, x), weights, IMAGES)
    assert (tmp_path / "x.onnx").stat().st_size < 30_000
    assert set(answers(tmp_path / "x.onnx", IMAGES)) == set(bb.Prediction._fields)


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_committee_predictive_is_a_loop_over_networks(tmp_path, caplog, chunk_size):
    """The library's own function of a packed committee; its graph has a loop, whose body unpacks nothing."""
    fn, weights = of_linen(mlp(16, output_scale=True), IMAGES)
    committee = bb.sample_packed(jax.random.key(0), jax.tree.map(lambda w: 0.3 * w, weights), 3)

    def predict(weights, x):
        return bb.committee_predictive(fn, weights, x, chunk_size=chunk_size)

    export.onnx(tmp_path / "x.onnx", predict, committee, IMAGES)
    assert not caplog.records and "Loop" in {x.op_type for x in onnx.load(tmp_path / "x.onnx").graph.node}
    wanted = bb.committee_predictive(fn, committee, IMAGES[:2])
    for name, found in answers(tmp_path / "x.onnx", IMAGES[:2]).items():
        np.testing.assert_allclose(found, getattr(wanted, name), atol=1e-5)


def test_inputs_may_be_integers_and_weights_of_another_dtype(tmp_path):
    """As a table that is looked up, in float16; the file has the weights as bits and the answer in float16."""
    weights = {"w": LINEAR["w"].astype(jnp.float16)}
    export.onnx(tmp_path / "x.onnx", lambda w, x: w["w"][x], weights, jnp.array([0, 3, 6]))
    found = answers(tmp_path / "x.onnx", np.array([5, 1], np.int32))["output"]
    np.testing.assert_array_equal(found, weights["w"][np.array([5, 1])])
    assert found.dtype == np.float16


X = jnp.asarray(IMAGES.reshape(-1, 64)[:, :7])
REFUSED = {
    "not binary": (linear, {"w": LINEAR["w"].at[2, 3].set(0.5)}, X, ValueError, r"\+1 or -1, got 0.5 at 'w'"),
    "nan": (linear, {"w": LINEAR["w"].at[2, 3].set(jnp.nan)}, X, ValueError, "got nan at 'w'"),
    "integers": (linear, {"w": LINEAR["w"].astype(int)}, X, TypeError, "weights must have floating-point arrays"),
    "no weights": (linear, {}, X, ValueError, "weights must have at least one leaf, got {}"),
    "unused": (linear, {**LINEAR, "v": jnp.ones(3)}, X, ValueError, "got one that does not use 'weights/v'"),
    "no inputs": (lambda w, x: w["w"], LINEAR, X, ValueError, "got one that does not use 'inputs'"),
    "no function": ("linear", LINEAR, X, TypeError, "fn must be a function of weights and inputs, got str"),
    "a model": (nn.Dense(3), LINEAR, X, TypeError, "fn must be a function of weights, got Dense"),
    "a dict": (lambda w, x: {"y": linear(w, x)}, LINEAR, X, TypeError, "a NamedTuple of arrays, got dict"),
    "a text": (lambda w, x: Two(linear(w, x), "y"), LINEAR, X, TypeError, "got str as 'largest'"),
    "of the batch": (
        lambda w, x: linear(w, x - x.mean(0)),
        LINEAR,
        X,
        ValueError,
        "answer each input by itself, got 'output'",
    ),
    "one size": (lambda w, x: linear(w, x.reshape(6, 7)), LINEAR, X, ValueError, "any number of inputs, not 6 alone"),
    "64 bits": (linear, {"w": np.ones((7, 5))}, X, ValueError, "weights/w must have 32 bits .*, got float64"),
    "no batch": (linear, LINEAR, X[:0], ValueError, r"inputs must be a batch \[batch >= 1, ...\], got shape \(0, 7\)"),
    "unknown": (
        lambda w, x: jax.random.gamma(jax.random.key(0), jnp.abs(linear(w, x)[:, 0])),
        LINEAR,
        X,
        ValueError,
        "in ONNX, got the primitive 'random_seed'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_line_and_leave_nothing(tmp_path, case):
    fn, weights, inputs, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message) as error:
        export.onnx(tmp_path / "x.onnx", fn, weights, inputs)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_other_answers_than_those_of_jax_are_refused_and_an_older_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    export.onnx(path, linear, LINEAR, X)
    before = path.read_bytes()
    real = _proof.expected
    monkeypatch.setitem(
        export.onnx.__globals__, "expected", lambda *a: [{"output": x["output"] + 0.01} for x in real(*a)]
    )
    with pytest.raises(ValueError, match=r"'output' differs by 0\.00\d+, tolerance is 0\.0001") as error:
        export.onnx(path, linear, LINEAR, X)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before and [x.name for x in tmp_path.iterdir()] == ["x.onnx"]
    assert 0 < export.onnx(path, linear, LINEAR, X, tolerance=0.1) < 0.1


@pytest.mark.parametrize(
    ("wanted", "found", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.25),  # in units of the largest number
        ([0.1, 0.2], [0.1, 0.3], 0.1),  # but of 1 at least
        ([np.nan, np.inf, -np.inf], [np.nan, np.inf, -np.inf], 0),
        ([np.nan, 1], [0.0, 1], np.inf),
        ([np.inf, 1], [-np.inf, 1], np.inf),
        ([1], [np.nan], np.inf),
        ([True, False], [True, True], 1),
    ],
)
def test_differences_are_told_in_the_size_of_the_output(wanted, found, difference):
    wanted, found = {"y": np.array(wanted)}, {"y": np.array(found)}
    if difference < 1:
        np.testing.assert_allclose(_proof.largest_difference(wanted, found, 0.3), difference)
    else:
        with pytest.raises(ValueError, match=f"'y' differs by {difference}"):
            _proof.largest_difference(wanted, found, 0.3)


def test_outputs_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="'y' is not there"):
        _proof.largest_difference({"y": np.ones(2)}, {}, 1.0)
    with pytest.raises(ValueError, match=r"'y' is of shape \(3,\), and in JAX \(2,\)"):
        _proof.largest_difference({"y": np.ones(2)}, {"y": np.ones(3)}, 1.0)


@pytest.mark.parametrize("missing", ["onnx", "jax2onnx", "onnxruntime"])
def test_without_the_packages_one_line_says_what_to_install(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"needs {missing}: pip install '\.\[export\]' in the clone") as error:
        export.onnx(tmp_path / "x.onnx", linear, LINEAR, X)
    assert "\n" not in str(error.value)


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(IsADirectoryError, match="path must name a file, got the folder"):
        export.onnx(tmp_path, linear, LINEAR, X)
    with pytest.raises(ValueError, match="tolerance must be >= 0, got -1"):
        export.onnx(tmp_path / "x.onnx", linear, LINEAR, X, tolerance=-1)
    with pytest.raises(TypeError, match=r"metadata must be text by name, got {'seed': 1}"):
        export.onnx(tmp_path / "x.onnx", linear, LINEAR, X, metadata={"seed": 1})
    with pytest.raises(FileNotFoundError):
        export.onnx(tmp_path / "no" / "x.onnx", linear, LINEAR, X)
    assert not list(tmp_path.iterdir())


def test_an_export_says_nothing_and_leaves_flax_as_it_was(tmp_path):
    """jax2onnx would replace functions of Flax while it traces, and print tracebacks of packages that are not there."""
    program = f"""
import flax.linen as nn, jax.numpy as jnp
from bbinn_jax import export
def fn(w, x):
    assert nn.max_pool is kept
    return nn.max_pool((x @ w)[:, None, :, None], (1, 2), (1, 2))[:, 0, :, 0]
kept = nn.max_pool
export.onnx({str(tmp_path / "x.onnx")!r}, fn, jnp.ones((3, 4)), jnp.ones((2, 3)))
"""
    done = subprocess.run([sys.executable, "-W", "default", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path must be in a folder that is there, got .*no/x\.onnx$"):
        export.onnx(tmp_path / "no" / "x.onnx", linear, LINEAR, X)
