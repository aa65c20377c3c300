"""Splitting parameter trees of any library into binary and real leaves, and training the two together."""

import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bbinn_jax as bb

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
Y = (X[:, 0] > X[:, 1]).astype(np.int32)


# Networks of three libraries: (params, apply_fn(params, x), rules) ----------------------------------------------------


class LinenNetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = bb.BinaryDense(8, kernel_init=bb.natural_initializer(0.1))(x)
        x = jnp.tanh(x + self.param("shift", zeros, (8,))[None])
        return bb.BinaryDense(2, use_bias=True, kernel_init=bb.natural_initializer(0.1))(x)


def zeros(key, shape):
    return jnp.zeros(shape)


def linen_network():
    network = LinenNetwork()
    params = jax.jit(network.init)(KEY, X)["params"]
    return params, lambda params, x: network.apply({"params": params}, x), None


class NnxNetwork(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.second = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


def nnx_network():
    graph, params = nnx.split(NnxNetwork(nnx.Rngs(0)), nnx.Param)
    return params, lambda params, x: nnx.merge(graph, params)(x), {"kernel": "binary"}


def dict_network():
    w1, w2 = (
        0.1 * jax.random.normal(k, shape) for k, shape in zip(jax.random.split(KEY), [(4, 8), (8, 2)], strict=True)
    )
    params = {"w1": w1, "b1": jnp.zeros(8), "w2": w2, "b2": jnp.zeros(2)}
    return params, lambda p, x: jnp.tanh(x @ p["w1"] + p["b1"][None]) @ p["w2"] + p["b2"][None], {"w": "binary"}


def equinox_network():
    equinox = pytest.importorskip("equinox")
    network = equinox.nn.MLP(4, 2, 8, 1, activation=jnp.tanh, key=KEY)
    params, static = equinox.partition(network, equinox.is_array)
    return params, lambda params, x: jax.vmap(equinox.combine(params, static))(x), {"weight": "binary"}


NETWORKS = [linen_network, nnx_network, dict_network, equinox_network]


@pytest.mark.parametrize("make_network", NETWORKS)
def test_training_binary_and_real_parameters_in_one_pass(make_network, promoting):
    """The pattern of the documentation, for each library: both halves move and the loss falls."""
    params, apply_fn, rules = make_network()
    start = bb.partition(params, rules)

    def loss_fn(weights, real, x, y):
        logits = apply_fn(bb.combine(weights, real), x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    value_and_grad = jax.value_and_grad(bb.expected_loss(loss_fn, temperature=1.0, num_samples=2), argnums=(0, 2))
    tx = optax.partition({"binary": bb.bayesbinn(3e-3, len(X)), "real": optax.adam(1e-2)}, ("binary", "real"))

    @jax.jit
    def train(pair):
        def step(carry, t):
            (natural, real), state = carry
            loss, grads = value_and_grad(natural, jax.random.fold_in(KEY, t), real, X, Y)
            updates, state = tx.update(grads, state, (natural, real))
            return (optax.apply_updates((natural, real), updates), state), loss

        (pair, _), losses = jax.lax.scan(step, (pair, tx.init(pair)), jnp.arange(200))
        return pair, losses

    (natural, real), losses = train(start)
    chex.assert_trees_all_equal_structs((natural, real), start)
    assert jnp.mean(losses[-20:]) < 0.6 * jnp.mean(losses[:20])
    for half, before in zip((natural, real), start, strict=True):
        for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(before), strict=True):
            assert jnp.max(jnp.abs(a - b)) > 1e-3


@pytest.mark.parametrize("make_network", NETWORKS)
def test_combine_inverts_partition(make_network):
    params, _, rules = make_network()
    natural, real = bb.partition(params, rules)
    chex.assert_trees_all_equal(bb.combine(natural, real), params)
    num_leaves = [len(jax.tree.leaves(tree)) for tree in (natural, real, params)]
    assert num_leaves[0] == 2
    assert num_leaves[0] + num_leaves[1] == num_leaves[2]


@pytest.mark.parametrize("make_network", NETWORKS)
def test_all_leaves_may_be_binary(make_network):
    params, _, _ = make_network()
    natural, real = bb.partition(params, {"": "binary"})
    assert jax.tree.leaves(real) == []
    chex.assert_trees_all_equal(natural, params)
    chex.assert_trees_all_equal(bb.combine(natural, real), params)


@pytest.mark.parametrize("make_network", NETWORKS)
def test_table_lists_every_leaf(make_network):
    params, _, rules = make_network()
    lines = bb.partition_table(*bb.partition(params, rules)).splitlines()
    assert len(lines) == 1 + len(jax.tree.leaves(params)) + 2
    assert len({len(line) for line in lines}) == 1  # aligned
    num_binary, num_real = (sum(x.size for x in jax.tree.leaves(half)) for half in bb.partition(params, rules))
    assert lines[-2].split() == [
        "total",
        "binary",
        str(num_binary),
        str(4 * num_binary),
        "B",
        str(-(-num_binary // 8)),
        "B",
    ]
    assert lines[-1].split() == ["real", str(num_real), str(4 * num_real), "B", str(4 * num_real), "B"]


# Rules ---------------------------------------------------------------------------------------------------------------


def leaf_names(params, rules):
    """The names of the binary leaves of a flat dict."""
    natural, real = bb.partition(params, rules)
    assert {k for k, v in natural.items() if v is None} == {k for k, v in real.items() if v is not None}
    return {k for k, v in natural.items() if v is not None}


FLAT = {name: jnp.zeros(1) for name in ("conv/kernel", "dense/kernel", "dense/bias", "binary_kernel")}


def test_default_rule_is_binary_kernel():
    assert leaf_names(FLAT, None) == {"binary_kernel"}
    assert leaf_names(FLAT, {"binary_kernel": "binary"}) == {"binary_kernel"}


def test_first_matching_rule_wins():
    assert leaf_names(FLAT, {"dense": "real", "kernel": "binary"}) == {"conv/kernel", "binary_kernel"}
    assert leaf_names(FLAT, {"kernel": "binary", "dense": "real"}) == {"conv/kernel", "dense/kernel", "binary_kernel"}


def test_leaf_without_a_rule_is_real():
    assert leaf_names(FLAT, {"conv": "binary"}) == {"conv/kernel"}


def test_rules_are_regular_expressions_searched_in_the_path():
    assert leaf_names(FLAT, {"^dense/(kernel|bias)$": "binary"}) == {"dense/kernel", "dense/bias"}
    assert leaf_names(FLAT, {r"^binary_kernel$": "real", "": "binary"}) == set(FLAT) - {"binary_kernel"}


def test_path_joins_the_keys_of_nested_trees():
    params = {"dense": [{"w": jnp.zeros(1)}, {"w": jnp.ones(1)}]}
    natural, _ = bb.partition(params, {"^dense/1/w$": "binary"})
    assert natural == {"dense": [{"w": None}, {"w": jnp.ones(1)}]}


# Other trees ---------------------------------------------------------------------------------------------------------


def test_list_and_bare_array():
    natural, real = bb.partition([jnp.zeros(1), jnp.ones(2)], {"1": "binary"})
    assert natural[0] is None
    assert real[1] is None
    chex.assert_trees_all_equal(bb.combine(natural, real), [jnp.zeros(1), jnp.ones(2)])
    natural, real = bb.partition(jnp.ones(2), {"": "binary"})
    np.testing.assert_array_equal(natural, [1, 1])
    assert real is None
    np.testing.assert_array_equal(bb.combine(natural, real), [1, 1])


def test_empty_places_stay_empty():
    params = {"binary_kernel": jnp.ones(1), "none": None, "dict": {}, "bias": jnp.zeros(1)}
    natural, real = bb.partition(params)
    assert natural["none"] is None
    assert real["dict"] == {}
    chex.assert_trees_all_equal(bb.combine(natural, real), params)


def test_integer_leaf_may_be_real():
    params = {"binary_kernel": jnp.ones(1), "count": jnp.array(3)}
    natural, real = bb.partition(params)
    assert bb.combine(bb.mode(natural), real)["count"] == 3


def test_combine_works_under_jit_grad_and_vmap(key):
    natural, real = bb.partition({"binary_kernel": jnp.array([0.5, -1.0]), "bias": jnp.array(2.0)})

    @jax.jit
    def f(key):
        params = bb.combine(bb.sample(key, natural), real)
        return jnp.sum(params["binary_kernel"]) + params["bias"]

    assert set(np.asarray(jax.vmap(f)(jax.random.split(key, 100)))) <= {0.0, 2.0, 4.0}
    grads = jax.grad(lambda real: jnp.sum(3 * bb.combine(natural, real)["bias"]))(real)
    assert grads == {"binary_kernel": None, "bias": 3}


def test_table_text():
    params = {"dense": {"binary_kernel": jnp.ones((1000, 2)), "bias": jnp.zeros(2)}, "scale": jnp.ones(())}
    assert bb.partition_table(*bb.partition(params)).splitlines() == [
        "leaf                 shape      kind    count  float32  packed",
        "dense/bias           (2,)       real        2      8 B     8 B",
        "dense/binary_kernel  (1000, 2)  binary  2,000  8.00 kB   250 B",
        "scale                ()         real        1      4 B     4 B",
        "total                           binary  2,000  8.00 kB   250 B",
        "                                real        3     12 B    12 B",
    ]


def test_table_of_the_papers_mnist_network():
    widths = (784, 2048, 2048, 2048, 10)
    params = [jnp.ones(shape) for shape in itertools.pairwise(widths)]
    total = bb.partition_table(*bb.partition(params, {"": "binary"})).splitlines()[-2]
    assert total.split() == ["total", "binary", "10,014,720", "40.06", "MB", "1.25", "MB"]


def test_a_leaf_is_packed_in_whole_bytes():
    assert bb.partition_table(*bb.partition({"binary_kernel": jnp.ones(9)})).splitlines()[1].endswith("36 B     2 B")


def test_table_counts_batch_norm_statistics_that_it_is_given():
    natural, real = bb.partition({"binary_kernel": jnp.ones((8, 4)), "scale": jnp.ones(())})
    table = bb.partition_table(natural, real, {"norm": {"mean": jnp.zeros(4), "var": jnp.ones(4)}})
    lines = [line.split() for line in table.splitlines()]
    assert ["norm/mean", "(4,)", "statistics", "4", "16", "B", "16", "B"] in lines
    assert lines[-1] == ["statistics", "8", "32", "B", "32", "B"]
    assert "statistics" not in bb.partition_table(natural, real)


def test_params_without_a_binary_leaf_are_told_of_rules():
    with pytest.raises(ValueError, match=r"become binary by rules, as .*; got leaves \['kernel'\]"):
        bb.partition({"kernel": jnp.ones(2)})
    with pytest.raises(TypeError, match="rules must have regular expressions of type str, got b'kernel'"):
        bb.partition({"kernel": jnp.ones(2)}, {b"kernel": "binary"})


@pytest.mark.parametrize("rules", [b"kernel", "kernel", [("kernel", "binary")], {None: "binary"}])
def test_rules_must_map_expressions(rules):
    with pytest.raises(TypeError, match=r"rules must (map expressions|have regular expressions of type str).*, got "):
        bb.partition({"kernel": jnp.ones(2)}, rules)


@pytest.mark.parametrize("label", [None, b"binary", ["binary"], np.array(["binary", "real"]), "Binary"])
def test_labels_must_be_binary_or_real(label):
    with pytest.raises(ValueError, match=r"rules must map to 'binary' or 'real', got .* for 'kernel'"):
        bb.partition({"kernel": jnp.ones(2)}, {"kernel": label})


def test_shapes_are_split_joined_and_counted_as_arrays_are():
    params = {
        "norm": {"scale": jnp.ones(3, jnp.bfloat16)},
        "dense": {"binary_kernel": jnp.ones((4, 3))},
        "b": jnp.ones(()),
    }
    statistics = {"mean": jnp.zeros(3)}
    shapes = jax.eval_shape(lambda: params)
    natural, real = bb.partition(shapes)
    assert natural["dense"]["binary_kernel"] == jax.ShapeDtypeStruct((4, 3), jnp.float32)
    assert natural["norm"]["scale"] is None
    assert bb.combine(natural, real) == shapes
    table = bb.partition_table(natural, real, jax.eval_shape(lambda: statistics))
    assert table == bb.partition_table(*bb.partition(params), statistics)
    with pytest.raises(TypeError, match="params must have floating-point arrays as leaves, got int32 at 'kernel'"):
        bb.partition({"kernel": jax.ShapeDtypeStruct((2,), jnp.int32)}, {"kernel": "binary"})
