"""C from a function of binary weights, compiled by the compilers that are here and held against JAX and NumPy."""

import ctypes
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx.parser
import onnxruntime
import pytest
from flax import nnx
from jax import lax
from sklearn.datasets import load_digits

import bbinn_jax as bb
from bbinn_jax.export import _c_text, c
from bbinn_jax.export._c_lowering import lower, packed_matrices

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="there is neither gcc nor clang")
CPU = Path("/proc/cpuinfo")
AVX2 = CPU.exists() and " avx2" in CPU.read_text()
FLAGS = [(), ("-mavx2",)] if AVX2 else [()]
WAYS = [pytest.param(compiler, flags, id="".join((compiler, *flags))) for compiler in COMPILERS for flags in FLAGS]
STRICT = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic")
KEY = jax.random.key(0)
IMAGES = (load_digits().images[1437:, :, :, None] / 16).astype(np.float32)  # 360, the last ones


def build(compiler, flags, path, *more):
    """A compiled file as a library."""
    library = path.with_name(f"{path.stem}{compiler}{''.join(flags)}.so")
    command = [compiler, *STRICT, *flags, "-shared", "-fPIC", path, "-o", library, "-lm", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return ctypes.CDLL(library)


def call(function, inputs, *outputs, count=()):
    """Calls a function of C with pointers to arrays."""
    pointers = [x.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for x in (inputs, *outputs)]
    function(*map(ctypes.c_long, count), *pointers)


def run_batch(library, stem, inputs, *outputs):
    """Fills outputs [batch, ...] with what the library says of inputs [batch, ...]."""
    call(getattr(library, f"{stem}_run_batch"), inputs, *outputs, count=(len(inputs),))


def signs(*shape):
    return jnp.sign(jax.random.normal(jax.random.fold_in(KEY, hash(shape) % 1000), shape))


# Networks -------------------------------------------------------------------------------------------------------------


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for width in (64, 44, 10):
            x = nn.Dropout(0.2, deterministic=True)(nn.relu(x))
            x = nn.BatchNorm(use_running_average=True, epsilon=1e-4)(bb.BinaryDense(width)(x))
        return x * self.param("output_scale", nn.initializers.ones, ())


class VGG(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (8, 12):
            x = nn.max_pool(bb.BinaryConv(width, (3, 3), use_bias=True)(x), (2, 2), (2, 2))
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return bb.BinaryDense(10)(x.reshape(x.shape[0], -1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = bb.nnx.BinaryLinear(64, 40, use_bias=True, rngs=rngs)
        self.norm = nnx.LayerNorm(40, rngs=rngs)
        self.second = bb.nnx.BinaryLinear(40, 10, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.gelu(self.norm(self.first(x.reshape(x.shape[0], -1)))))


def of_linen(network):
    """A function and natural parameters, all of them at random."""
    shapes = jax.eval_shape(network.init, KEY, IMAGES[:1])
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.uniform(0.1, 1.1, x.shape).astype(np.float32), shapes)
    natural, real = bb.partition(variables["params"])
    natural = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), natural)
    rest = {"batch_stats": variables["batch_stats"]}
    return lambda weights, x: network.apply({"params": bb.combine(weights, real), **rest}, x), natural


NETWORKS = {
    "mlp": lambda: of_linen(MLP()),
    "vgg": lambda: of_linen(VGG()),
    "nnx": lambda: bb.nnx.as_function(Nnx(nnx.Rngs(0))),
}
# By hand: a bit for each weight, outputs filled up to 8 and inputs to 8, 16 or 32 after every 32.
WEIGHT_BYTES = {
    "mlp": 64 * 64 // 8 + 64 * 48 // 8 + (32 + 16) * 16 // 8,
    "vgg": 16 * 8 // 8 + (32 + 32 + 8) * 16 // 8 + (32 + 16) * 16 // 8,
    "nnx": 64 * 40 // 8 + (32 + 8) * 16 // 8,
}


class Exported(NamedTuple):
    name: str
    path: Path
    footprint: Any
    logits: np.ndarray


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request, tmp_path_factory):
    fn, natural = NETWORKS[request.param]()
    weights = jax.tree.map(lambda x: np.where(np.asarray(x) > 0, 1, -1).astype(np.float32), natural)
    path = tmp_path_factory.mktemp(request.param) / f"{request.param}.c"
    footprint = c(path, fn, weights, IMAGES[:5])
    return Exported(request.param, path, footprint, np.asarray(jax.jit(fn)(weights, IMAGES)))


@needs_compiler
@pytest.mark.parametrize("compiler, flags", WAYS)
def test_it_answers_as_jax_on_all_test_digits(exported, compiler, flags):
    library = build(compiler, flags, exported.path)
    logits = np.empty((360, 10), np.float32)
    run_batch(library, exported.name, IMAGES, logits)
    np.testing.assert_allclose(logits, exported.logits, rtol=1e-4, atol=1e-4 * np.abs(exported.logits).max())
    np.testing.assert_array_equal(logits.argmax(1), exported.logits.argmax(1))
    assert getattr(library, f"{exported.name}_self_test")() == 0
    one = np.empty(10, np.float32)
    call(getattr(library, f"{exported.name}_run"), IMAGES[7], one)
    np.testing.assert_array_equal(one, logits[7])


@needs_compiler
@pytest.mark.parametrize("compiler, flags", WAYS)
def test_it_is_clean_under_sanitizers(exported, compiler, flags, tmp_path):
    """Arrays are exactly as long as the header says, and each image is in memory of its own."""
    name = exported.name
    (tmp_path / "main.c").write_text(
        f"""#include <stdio.h>
#include <stdlib.h>
#include "{name}.h"
int main(void)
{{
    int k;
    for (k = 0; k < 20; ++k) {{
        float *input = malloc(64 * sizeof(float)), *output = malloc(10 * sizeof(float));
        if (fread(input, sizeof(float), 64, stdin) != 64) return 2;
        {name}_run(input, output);
        fwrite(output, sizeof(float), 10, stdout);
        free(input);
        free(output);
    }}
    return {name}_self_test();
}}
"""
    )
    sanitizers = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program, sources = tmp_path / "main", (exported.path, tmp_path / "main.c")
    command = [compiler, *STRICT, *flags, *sanitizers, "-I", exported.path.parent, *sources, "-o", program, "-lm"]
    subprocess.run(command, check=True)
    done = subprocess.run([program], input=IMAGES[:20].tobytes(), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    logits = np.frombuffer(done.stdout, np.float32).reshape(20, 10)
    np.testing.assert_allclose(logits, exported.logits[:20], atol=1e-4 * np.abs(exported.logits).max())


@needs_compiler
@pytest.mark.skipif(not shutil.which("nm"), reason="there is no nm")
def test_flash_and_ram_are_what_the_compiler_lays_out(exported, tmp_path):
    """And there is nothing to be done before it is called: no data that have to be copied to RAM, no library."""
    subprocess.run([COMPILERS[0], *STRICT, "-O0", "-c", exported.path, "-o", tmp_path / "object.o"], check=True)
    lines = subprocess.run(["nm", "-S", tmp_path / "object.o"], capture_output=True, text=True, check=True).stdout
    sizes = dict.fromkeys(("bits", "real", "memory"), 0)
    for line in lines.splitlines():
        *numbers, kind, symbol = line.split()
        assert kind in "TtrbUR", line  # code, constants, zeros
        if kind == "U":
            assert symbol in {
                "expf",
                "erff",
                "tanhf",
                "sqrtf",
                "powf",
                "logf",
                "memset",
                "memcpy",
                "_GLOBAL_OFFSET_TABLE_",
            }
        for part in sizes:
            if re.fullmatch(rf"{exported.name}_{part}\d*", symbol):
                sizes[part] += int(numbers[1], 16)
    assert (*sizes.values(),) == exported.footprint[:3]
    assert exported.footprint.weight_bytes == WEIGHT_BYTES[exported.name]
    stated = re.search(r"Flash: (\d+) .* and (\d+) .* RAM: (\d+)", exported.path.with_suffix(".h").read_text())
    assert tuple(map(int, stated.groups())) == exported.footprint[:3]


def test_no_weight_is_multiplied_and_no_memory_is_asked_for(exported):
    text = exported.path.read_text()
    assert not re.search(r"\b(malloc|calloc|alloca|free)\b|_mul_|fmadd|fmaf", text)
    product = text[text.index(f"static void {exported.name}_product(") : text.index(f"{exported.name}_bits0")]
    assert [line for line in product.splitlines() if " * " in line] == [
        "                filled[k] = k < left ? x[(c + k) * stride] : 0.0f;"
    ]


def test_the_header_tells_how_it_was_proved(exported):
    header = exported.path.with_suffix(".h").read_text()
    assert f"bbinn_jax {bb.__version__}" in header and "input: [8, 8, 1]" in header and "output: [10]" in header
    assert ("Proved: compiled by" in header and "5 inputs" in header) == bool(COMPILERS)
    assert exported.footprint.largest_difference < 1e-5


@needs_compiler
def test_the_self_test_notices_one_wrong_weight(exported, tmp_path):
    text = exported.path.read_text()
    start = text.index("{", text.index(f"{exported.name}_bits0[")) + 2
    byte = re.match(r"\d+", text[start:]).group()
    (tmp_path / exported.path.name).write_text(f"{text[:start]}{int(byte) ^ 255}{text[start + len(byte) :]}")
    shutil.copy(exported.path.with_suffix(".h"), tmp_path)
    assert getattr(build(COMPILERS[0], (), tmp_path / exported.path.name), f"{exported.name}_self_test")() == 1


# The kernel -----------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("compiler, flags", WAYS)
def test_the_product_of_every_size_is_that_of_numpy(compiler, flags, tmp_path):
    kernel = re.split(r"/\* kernel: \w+ \*/\n", _c_text._KERNELS.read_text())[1]
    source = "void product(const float *x, long s, const uint8_t *b, long k, long n, float *y)"
    (tmp_path / "kernel.c").write_text(
        f"#include <stdint.h>\n{kernel}\n{source};\n{source}\n{{\n    bbinn_product(x, s, b, k, n, y);\n}}\n"
    )
    product = build(compiler, flags, tmp_path / "kernel.c").product
    rng = np.random.default_rng(0)
    for inputs, outputs in itertools.product((1, 2, 7, 8, 9, 16, 17, 24, 31, 32, 33, 48, 64, 65), (1, 2, 7, 8, 9, 17)):
        stride = 1 + inputs % 3
        x, w = rng.normal(size=(inputs, stride)).astype(np.float32), rng.choice([-1.0, 1.0], size=(inputs, outputs))
        bits, y = packed_matrices(w[None]), np.full(outputs + 1, np.pi, np.float32)
        floats = ctypes.POINTER(ctypes.c_float)
        pointer = bits.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        product.argtypes = [floats, ctypes.c_long, type(pointer), ctypes.c_long, ctypes.c_long, floats]
        product(x.ctypes.data_as(floats), stride, pointer, inputs, outputs, y.ctypes.data_as(floats))
        np.testing.assert_allclose(y[:-1], x[:, 0].astype(float) @ w, rtol=1e-5, atol=1e-5)
        assert y[-1] == np.float32(np.pi)  # what lies behind the outputs stays


# Operators ------------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(4, 9, 7, 6)).astype(np.float32)


def conv(numbers=("NHWC", "HWIO", "NHWC"), **settings):
    return lambda w, x: lax.conv_general_dilated(x, w, dimension_numbers=numbers, **settings)


PLAIN = conv(window_strides=(1, 1), padding="SAME")


def self_attention(w, x):
    q = x[:, :, 0] @ w
    return jax.nn.softmax(q @ q.swapaxes(-1, -2) / 2) @ q


OPERATORS = {
    "strided": (conv(window_strides=(2, 3), padding=((1, 0), (2, 1))), (3, 2, 6, 5)),
    "dilated": (conv(window_strides=(1, 1), padding="SAME", rhs_dilation=(2, 1)), (3, 3, 6, 10)),
    "grouped": (conv(window_strides=(1, 1), padding="VALID", feature_group_count=3), (2, 2, 2, 9)),
    "channels_first": (conv(("NHWC", "OIHW", "NCHW"), window_strides=(1, 1), padding="SAME"), (4, 6, 3, 3)),
    "pointwise": (conv(window_strides=(1, 1), padding="VALID"), (1, 1, 6, 3)),
    "flat": (lambda w, x: x.reshape(x.shape[0], -1) @ w, (9 * 7 * 6, 11)),
    "on_the_left": (lambda w, x: jnp.einsum("ok,bk->bo", w, x.reshape(x.shape[0], -1)), (5, 9 * 7 * 6)),
    "many_rows": (lambda w, x: x @ w, (6, 17)),
    "other_axis": (lambda w, x: jnp.einsum("bhwc,wo->bhco", x, w), (7, 3)),
    "twice": (lambda w, x: jax.vmap(lambda w: jnp.tanh(x.mean((1, 2)) @ w) @ w.T)(w).sum(0), (3, 6, 4)),
    "convolutions": (
        lambda w, x: jax.vmap(lambda w: conv(window_strides=(1, 1), padding="SAME")(w, x))(w).max(0),
        (2, 3, 3, 6, 4),
    ),
    "bias": (lambda w, x: x[:, 0, 0] * 1.5 + w, (6,)),
    "gain": (lambda w, x: 2 - x[:, 0, 0] * w, (6,)),
    "cut": (lambda w, x: x[:, ::2, 1:-1] @ w, (6, 4)),
    "turned": (lambda w, x: x[:, ::-1].transpose(0, 2, 1, 3).reshape(x.shape[0], -1)[:, :70] @ w, (70, 4)),
    "attention": (self_attention, (6, 8)),
    "max_pool": (lambda w, x: nn.max_pool(x @ w, (3, 2), (2, 1), "SAME"), (6, 4)),
    "avg_pool": (lambda w, x: nn.avg_pool(x @ w, (3, 3), (2, 2), "SAME"), (6, 4)),
    "concatenated": (lambda w, x: jnp.concatenate([jnp.exp(-(x**2)), x @ w, x], -1), (6, 4)),
    "chosen": (lambda w, x: jnp.where(x > 0.3, x, jnp.minimum(x @ w, 2)).std((1, 2)), (6, 6)),
    "log_sum_exp": (lambda w, x: jax.nn.logsumexp(x @ w, -1), (6, 4)),
    "log_softmax": (lambda w, x: jax.nn.log_softmax(x @ w, 1), (6, 4)),
    "activations": (lambda w, x: jax.nn.gelu(x @ w) + jax.nn.silu(x @ w) + jax.nn.softplus(x @ w), (6, 4)),
    "others": (lambda w, x: jax.nn.elu(x @ w) + jnp.abs(x @ w) + jnp.clip(x @ w, -1, 1) + jnp.sign(x @ w), (6, 4)),
    "quotients": (lambda w, x: 1 / jnp.sqrt(1 + (x @ w) ** 2) + lax.rsqrt(2 + (x @ w) ** 2), (6, 4)),
    "real_matrix": (lambda w, x: (x @ np.linspace(-1, 1, 30, dtype=np.float32).reshape(6, 5)) @ w, (5, 4)),
}
Outputs = NamedTuple("Outputs", [(name, Any) for name in OPERATORS])


@needs_compiler
def test_every_operator_computes_what_jax_does(tmp_path):
    """All of them in one file, with an output for each."""
    weights = {name: signs(*shape) for name, (_, shape) in OPERATORS.items()}

    def fn(weights, x):
        with jax.numpy_rank_promotion("allow"):
            return Outputs(*(of(weights[name], x) for name, (of, _) in OPERATORS.items()))

    footprint = c(tmp_path / "all.c", fn, weights, X)
    assert footprint.largest_difference < 1e-6
    library = build(COMPILERS[0], (), tmp_path / "all.c")
    wanted = jax.jit(fn)(weights, X)
    found = [np.empty(output.shape, np.float32) for output in wanted]
    run_batch(library, "all", X, *found)
    for name, a, b in zip(OPERATORS, found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)
    parameters = re.search(r"all_run\((.*?)\)", (tmp_path / "all.h").read_text()).group(1)
    assert parameters.split(", ")[:2] == ["const float *input", "float *output_strided"]


ONNX = """
<ir_version: 8, opset_import: ["": 18]>
words (float[N, 6, 8, 7] inputs) => (float[N, 6, 8, 7] norm, float[N, 6, 8, 7] softmax, float[N, 6, 8, 7] log_softmax,
    float[N, 6, 1, 1] mean, float[N, 5] gemm, float[N, 6, 4, 4] average, float[N, 6, 4, 4] average_with_border,
    float[N, 6, 4, 3] largest, float[N, 4, 4, 3] conv, float[N, 6, 7] norms)
{
    norm = BatchNormalization <epsilon = 0.01> (inputs, gain, shift, shift, gain)
    softmax = Softmax <axis = 1> (inputs)
    log_softmax = LogSoftmax (inputs)
    mean = GlobalAveragePool (inputs)
    flat = Flatten (inputs)
    gemm = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (flat, weights, bias)
    average = AveragePool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 1]> (inputs)
    average_with_border =
        AveragePool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 1], count_include_pad = 1> (inputs)
    largest = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (inputs)
    conv = Conv <group = 2, strides = [2, 2], pads = [1, 0, 0, 0]> (inputs, kernel, gain4)
    squares = ReduceSumSquare <keepdims = 0> (inputs, axes)
    norms = Sqrt (squares)
}
"""


@needs_compiler
def test_words_that_only_other_exporters_use_mean_what_onnxruntime_takes_them_for(tmp_path):
    """Operators that come from no primitive of JAX."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.uniform(0.5, 1.5, 6).astype(np.float32) for name in ("gain", "shift")}
    arrays |= {name: rng.normal(size=n).astype(np.float32) for name, n in (("bias", 5), ("gain4", 4))}
    arrays |= {"weights": np.asarray(signs(5, 336)), "kernel": rng.normal(size=(4, 3, 2, 3)).astype(np.float32)}
    model = onnx.parser.parse_model(ONNX)
    arrays["axes"] = np.array([2])
    model.graph.initializer.extend(onnx.numpy_helper.from_array(x, name) for name, x in arrays.items())
    x = rng.normal(size=(1, 6, 8, 7)).astype(np.float32)
    names = [output.name for output in model.graph.output]
    wanted = dict(
        zip(names, onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"inputs": x}), strict=True)
    )
    program = lower(model, {"weights"}, x)
    recorded = {name: (y[0], 1e-4) for name, y in wanted.items()}
    for ending, text in ((".c", _c_text.source(program, x[0], recorded)), (".h", _c_text.header(program, "", {}))):
        (tmp_path / f"words{ending}").write_text(text.replace("PREFIX", "words"))
    library = build(COMPILERS[0], (), tmp_path / "words.c")
    found = [np.empty(y.shape, np.float32) for y in wanted.values()]
    call(library.words_run, x, *found)
    for name, y in zip(wanted, found, strict=True):
        np.testing.assert_allclose(y, wanted[name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert library.words_self_test() == 0
    assert [title for title, _ in program.bits.values()] == ["weights"]


@needs_compiler
def test_a_packed_committee_answers_with_its_uncertainty(tmp_path):
    fn, natural = NETWORKS["mlp"]()
    committee = bb.sample_packed(KEY, natural, 6)

    def prediction(weights, x):
        with jax.numpy_rank_promotion("allow"):
            p = jax.nn.softmax(jax.vmap(fn, (0, None))(weights, x) / 10)
            mean = p.mean(0)
            total, each = (-jax.scipy.special.xlogy(p, p).sum(-1) for p in (mean, p))
            return bb.Prediction(mean, total, each.mean(0), total - each.mean(0))

    footprint = c(tmp_path / "committee.c", prediction, committee, IMAGES[:3])
    assert footprint.weight_bytes <= 6 * WEIGHT_BYTES["mlp"]
    library = build(COMPILERS[0], (), tmp_path / "committee.c")
    wanted = bb.posterior_predictive(lambda w, x: fn(w, x) / 10, natural, KEY, IMAGES, num_samples=6)
    found = [np.empty(output.shape, np.float32) for output in wanted]
    run_batch(library, "committee", IMAGES, *found)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert "float *output_mutual_information" in (tmp_path / "committee.h").read_text()


# What is refused ------------------------------------------------------------------------------------------------------

W = {"a": signs(6, 4)}
REFUSED = {
    "operator": (lambda w, x: jnp.cumsum(x @ w["a"], -1), W, X, ValueError, "got CumSum"),
    "sorted": (lambda w, x: jnp.sort(x @ w["a"]), W, X, ValueError, "got TopK"),
    "scaled weights": (lambda w, x: x @ (w["a"] * 0.5), W, X, ValueError, "must stay .* got Mul of 'weights/a'"),
    "integers out": (lambda w, x: (x @ w["a"]).argmax(-1), W, X, ValueError, "float32 .*, got int32.* as 'output'"),
    "integers in": (lambda w, x: x @ w["a"], W, np.ones((2, 6), np.int32), ValueError, "inputs must be float32"),
    "no batch": (lambda w, x: (x @ w["a"]).sum(), W, X, ValueError, r"\[batch, ...\] to go into C, got float32\[\]"),
    "of the batch": (
        lambda w, x: x @ w["a"] - x.mean(0, keepdims=True).sum(),
        W,
        X,
        ValueError,
        "answer each input by itself",
    ),
    "not finite": (
        lambda w, x: jnp.log(x @ w["a"]),
        W,
        X,
        ValueError,
        "finite numbers to be compared with, got .*'output'",
    ),
    "not weights alone": (
        lambda w, x: x @ jnp.concatenate([w["a"], np.full((6, 1), 0.5, np.float32)], 1),
        W,
        X,
        ValueError,
        "must stay .* got Concat of 'weights/a'",
    ),
    "real weights": (lambda w, x: x @ w["a"], {"a": jnp.full((6, 4), 0.5)}, X, ValueError, "weights must"),
    "no function": (3, W, X, TypeError, "fn must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_no_file(case, tmp_path):
    fn, weights, inputs, error, message = REFUSED[case]
    with pytest.raises(error, match=message) as caught:
        c(tmp_path / "refused.c", fn, weights, inputs)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, message",
    [
        ("network.txt", r"path must end in .c, got '.*network.txt'"),
        ("network", "path must end in .c"),
        ("2nd.c", "begins with a letter, got '2nd.c'"),
        ("my-network.c", "letters, digits and _"),
        ("größe.c", "letters, digits and _"),
    ],
)
def test_a_path_that_is_no_name_in_c_is_refused(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        c(tmp_path / name, lambda w, x: x @ w["a"], W, X)
    assert not list(tmp_path.iterdir())


def test_words_of_c_can_be_names(tmp_path):
    class Pair(NamedTuple):
        double: Any
        x0: Any

    for name in ("int", "main"):
        c(tmp_path / f"{name}.c", lambda w, x: Pair(x @ w["a"], x), W, X, metadata={"input": "volts */"})
        header = (tmp_path / f"{name}.h").read_text()
        assert f"void {name}_run(const float *input, float *output_double, float *output_x0);" in header
        assert " * input: volts * /\n" in header


def test_a_compiler_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "nowhere-cc -O3")
    with pytest.raises(ValueError, match="CC must name a C compiler, without flags, got 'nowhere-cc -O3'"):
        c(tmp_path / "network.c", lambda w, x: x @ w["a"], W, X)
    assert not list(tmp_path.iterdir())


def test_a_negative_tolerance_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tolerance must be"):
        c(tmp_path / "network.c", lambda w, x: x @ w["a"], W, X, tolerance=-1.0)


def test_without_a_compiler_the_header_says_that_nothing_is_proved(tmp_path, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    footprint = c(tmp_path / "network.c", lambda w, x: x @ w["a"], W, X)
    assert footprint.largest_difference is None
    assert "NOT PROVED: there was no C compiler. Call network_self_test()" in (tmp_path / "network.h").read_text()


@needs_compiler
@pytest.mark.parametrize(
    "old, new, message",
    [
        ("PREFIX_product(x0", "PREFIX_product(1 + x0", "'output' differs by"),
        ("int wrong = 0", "int wrong = 1", "self-test, got 1"),
        ("#include", "#inclood", "compiles, which says"),
    ],
)
def test_c_that_is_wrong_takes_nobodys_place(old, new, message, tmp_path, monkeypatch):
    for name in ("network.c", "network.h"):
        (tmp_path / name).write_text("before")
    right = _c_text.source
    monkeypatch.setattr(_c_text, "source", lambda *arguments: right(*arguments).replace(old, new))
    with pytest.raises(ValueError, match=message):
        c(tmp_path / "network.c", lambda w, x: x @ w["a"], W, X)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "network.c": "before",
        "network.h": "before",
    }


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "network.h").mkdir()
    with pytest.raises(IsADirectoryError, match=r"got the folder .*network.h"):
        c(tmp_path / "network.c", lambda w, x: x @ w["a"], W, X)
    assert [file.name for file in tmp_path.iterdir()] == ["network.h"]
