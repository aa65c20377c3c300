"""One bit a weight: the bits are those of NumPy, the networks those that are drawn, and nothing else is packed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bbinn_jax as bb
from tests.trees import assert_equal_to_the_bit

SHAPES = [(), (1,), (7,), (8,), (9,), (3, 5), (2, 3, 4, 5), (0,), (4, 0, 2), (64, 33)]


def signs(shape, dtype="float32", seed=0):
    return jnp.asarray(np.random.default_rng(seed).choice([-1.0, 1.0], shape), dtype)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_are_those_of_numpy_and_come_back(shape, compiled):
    pack, unpack = (jax.jit(f) if compiled else f for f in (bb.pack, bb.unpack))
    weights = signs(shape)
    packed = pack(weights)
    assert (packed.shape, packed.dtype, packed.bits.dtype) == (shape, jnp.float32, jnp.uint8)
    np.testing.assert_array_equal(packed.bits, np.packbits(np.asarray(weights).ravel() > 0, bitorder="little"))
    assert_equal_to_the_bit(unpack(packed), weights)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_come_back(dtype, x64):
    assert_equal_to_the_bit(bb.unpack(bb.pack(signs((5, 3), dtype))), signs((5, 3), dtype))


def test_arrays_of_any_memory_order_are_packed_by_rows():
    weights = np.asarray(signs((4, 6))).T
    np.testing.assert_array_equal(bb.pack(weights).bits, np.packbits(weights.ravel() > 0, bitorder="little"))


def test_trees_keep_their_structure_and_real_leaves_stay():
    params = {"a": {"binary_kernel": signs((3, 4)), "bias": jnp.arange(4.0)}, "b": [{"binary_kernel": signs(9)}, None]}
    weights, real = bb.partition(params)
    packed = bb.combine(bb.pack(weights), real)
    assert packed["a"]["bias"] is params["a"]["bias"]
    assert isinstance(packed["b"][0]["binary_kernel"], bb.Packed)
    assert_equal_to_the_bit(bb.unpack(packed), params)
    assert_equal_to_the_bit(jax.jit(lambda p, real: bb.unpack(bb.combine(p, real)))(bb.pack(weights), real), params)
    with pytest.raises(ValueError, match="must not share a leaf, got both at 'a/binary_kernel'"):
        bb.combine(bb.pack(weights), params)


def test_states_of_nnx_are_packed():
    model = bb.nnx.BinaryLinear(3, 5, rngs=nnx.Rngs(0))
    network, natural = bb.nnx.as_function(model)
    weights = bb.mode(natural)
    again = bb.unpack(bb.pack(weights))
    assert_equal_to_the_bit(again, weights)
    np.testing.assert_array_equal(network(again, jnp.ones((2, 3))), network(weights, jnp.ones((2, 3))))


@pytest.mark.parametrize(
    "leaf, error, message",
    [
        (jnp.array([1.0, -1.0, 0.5]), ValueError, "weights must be -1 or [+]1, got 0.5 at 'layer/w'"),
        (jnp.array([1.0, 0.0]), ValueError, "got 0.0 at 'layer/w'"),
        (jnp.array([jnp.nan, 1.0]), ValueError, "got nan at 'layer/w'"),
        (jnp.array([1.0, 1 + 2**-7], jnp.bfloat16), ValueError, "got 1.0078125 at 'layer/w'"),
        (jnp.array([1, -1]), TypeError, "weights must have floating-point arrays as leaves, got int32 at 'layer/w'"),
        (jnp.array([True]), TypeError, "got bool at 'layer/w'"),
        (1.0, TypeError, "got float at 'layer/w'"),
        (bb.Packed(jnp.zeros(1, jnp.uint8), (8,), jnp.dtype("float32")), TypeError, "got uint8 at 'layer/w/bits'"),
    ],
)
def test_what_is_no_weight_is_refused_by_its_name(leaf, error, message):
    with pytest.raises(error, match=message) as caught:
        bb.pack({"layer": {"w": leaf}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bits", [jnp.zeros(2, jnp.uint8), jnp.zeros(1, jnp.int8), jnp.zeros((), jnp.uint8)])
def test_bits_that_are_not_those_of_the_shape_are_refused(bits):
    with pytest.raises(ValueError, match=r"packed must have 1 bytes of uint8 for the shape \(8,\), got .* at 'w'"):
        bb.unpack({"w": bb.Packed(bits, (8,), jnp.dtype("float32"))})


# Under the transformations of JAX -------------------------------------------------------------------------------------


def test_under_vmap_map_scan_and_donation():
    networks = {"w": signs((6, 5, 3)), "b": signs((6, 9), seed=1)}
    committee = jax.vmap(bb.pack)(networks)
    assert (committee["w"].bits.shape, committee["w"].shape) == ((6, 2), (5, 3))
    mapped = jax.lax.map(bb.pack, networks)
    _, scanned = jax.lax.scan(lambda carry, w: (carry, bb.pack(w)), None, networks)
    for other in (mapped, scanned):
        assert_equal_to_the_bit(other, committee)
    for again in (bb.unpack(committee), jax.vmap(bb.unpack)(committee), jax.lax.map(bb.unpack, committee)):
        assert_equal_to_the_bit(again, networks)
    third = jax.tree.map(lambda x: x[2], committee)
    assert_equal_to_the_bit(bb.unpack(third), jax.tree.map(lambda x: x[2], networks))
    flip = jax.jit(lambda p: jax.tree.map(jnp.invert, p), donate_argnums=0)
    weights = bb.unpack(flip(third))
    assert_equal_to_the_bit(weights, jax.tree.map(lambda x: -x[2], networks))


def check_sharded():
    """Bits over four devices, and weights that are packed where they lie."""
    mesh = jax.make_mesh((4,), ("x",), (jax.sharding.AxisType.Auto,))
    over_devices = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    weights = signs((8, 40))
    packed = jax.jit(bb.pack)(jax.device_put(weights, over_devices))
    np.testing.assert_array_equal(packed.bits, bb.pack(weights).bits)
    committee = jax.device_put(jax.vmap(bb.pack)(weights), over_devices)
    again = jax.jit(bb.unpack)(committee)
    assert len(again.sharding.device_set) == 4
    np.testing.assert_array_equal(again, weights)


# Committees -----------------------------------------------------------------------------------------------------------

NATURAL = {"a": jnp.linspace(-2, 2, 40).reshape(8, 5), "b": [None, jnp.zeros(11)]}


@pytest.mark.parametrize("num_samples", [1, 5])
def test_networks_are_those_of_the_keys(key, num_samples):
    committee = bb.sample_packed(key, NATURAL, num_samples)
    assert committee["a"].bits.shape == (num_samples, 5)
    weights = bb.unpack(committee)
    for s, of_network in enumerate(jax.random.split(key, num_samples)):
        assert_equal_to_the_bit(jax.tree.map(lambda w, s=s: w[s], weights), bb.sample(of_network, NATURAL))


@pytest.mark.parametrize("chunk_size", [1, 2, None])
def test_networks_are_those_that_are_averaged(key, chunk_size):
    """A function that tells all weights apart: each network's own, in its place."""
    num_samples = 5
    committee = bb.unpack(bb.sample_packed(key, NATURAL, num_samples))
    for s in range(num_samples):
        weights = jax.tree.map(lambda w, s=s: w[s], committee)

        def hits(drawn, weights=weights):
            pairs = zip(jax.tree.leaves(drawn), jax.tree.leaves(weights), strict=True)
            return jnp.all(jnp.stack([jnp.all(a == b) for a, b in pairs])).astype(float)

        mean = bb.posterior_expectation(hits, NATURAL, key, num_samples=num_samples, chunk_size=chunk_size)
        assert mean == pytest.approx(1 / num_samples)


def test_32_networks_take_the_bytes_of_one_of_floats(key):
    natural = {"w": jnp.zeros((64, 100)), "v": jnp.zeros(3200)}
    committee = bb.sample_packed(key, natural, 32)
    assert sum(x.nbytes for x in jax.tree.leaves(committee)) == sum(x.nbytes for x in jax.tree.leaves(natural))


def test_peak_memory_does_not_grow_with_the_networks_but_for_the_bits(key):
    """Each network more is one of bits, an eighth of a byte a weight, and its key."""
    natural = {"w": jnp.zeros((400, 400)), "v": jnp.zeros(1000)}
    draw = jax.jit(bb.sample_packed, static_argnums=2)

    def memory(num_samples):
        analysis = draw.lower(key, natural, num_samples).compile().memory_analysis()
        return analysis.temp_size_in_bytes, analysis.output_size_in_bytes

    (few, few_bits), (many, many_bits) = memory(2), memory(66)
    bits_of_one = 160_000 // 8 + 125
    assert many_bits - few_bits == 64 * bits_of_one
    assert many - few <= 64 * (bits_of_one + 64)
    assert few < 2.5 * 4 * 161_000  # one network of floats and its noise


@pytest.mark.parametrize(
    "args, error, message",
    [
        ((NATURAL, NATURAL, 2), TypeError, "key must be a jax.random key and comes first, before natural"),
        ((jax.random.key(0), NATURAL, 0), ValueError, "num_samples must be an integer >= 1, got 0"),
        ((jax.random.key(0), NATURAL, 2.0), TypeError, "num_samples must be an integer, got 2.0"),
        ((jax.random.key(0), [jnp.arange(3)], 2), TypeError, "natural must have floating-point arrays"),
    ],
)
def test_no_committee_of_what_is_no_posterior(args, error, message):
    with pytest.raises(error, match=message):
        bb.sample_packed(*args)
