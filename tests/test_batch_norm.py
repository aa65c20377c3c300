"""Batch-norm statistics measured anew are those of the network on all the data."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bbinn_jax as bb

RNG = np.random.default_rng(0)
BATCHES = RNG.normal(1.0, 3.0, size=(7, 11, 5)).astype(np.float32)


class Network(nn.Module):
    """Two batch norms, the second under a module of its own."""

    momentum: float

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False, momentum=self.momentum)(bb.BinaryDense(6)(x))
        return nn.Sequential([bb.BinaryDense(4), nn.BatchNorm(use_running_average=False, momentum=self.momentum)])(x)


def updating(momentum):
    """An update function of weights, and variables."""
    network = Network(momentum)
    variables = network.init(jax.random.key(0), BATCHES[0])

    def update(params, batch_stats, batch):
        variables = {"params": params, "batch_stats": batch_stats}
        return network.apply(variables, batch, mutable=["batch_stats"])[1]["batch_stats"]

    return update, variables


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_statistics_of_the_first_batch_norm_are_those_of_all_data(momentum):
    """And not the mean over batches of their variances. Whatever the statistics were before."""
    update, variables = updating(momentum)
    params = bb.mode(variables["params"])
    stale = jax.tree.map(lambda x: x + 5.0, variables["batch_stats"])
    measured = bb.recalibrate_batch_norm(lambda s, b: update(params, s, b), stale, BATCHES)
    activations = BATCHES.reshape(-1, 5).astype(np.float64) @ np.asarray(params["BinaryDense_0"]["binary_kernel"])
    np.testing.assert_allclose(measured["BatchNorm_0"]["mean"], activations.mean(axis=0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(measured["BatchNorm_0"]["var"], activations.var(axis=0), rtol=1e-3)
    assert jax.tree.structure(measured) == jax.tree.structure(stale)


def test_each_sampled_network_can_have_its_own():
    update, variables = updating(0.9)
    natural = jax.tree.map(jnp.zeros_like, variables["params"])
    keys = jax.random.split(jax.random.key(1), 3)

    def statistics(key):
        weights = bb.sample(key, natural)
        return bb.recalibrate_batch_norm(lambda s, b: update(weights, s, b), variables["batch_stats"], BATCHES)

    together = jax.jit(jax.vmap(statistics))(keys)
    for i, key in enumerate(keys):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(statistics(key)), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-4)
    means = together["BatchNorm_0"]["mean"]
    assert np.abs(means[0] - means[1]).max() > 0.1


NETWORK_STATS, PARAMS = (updating(0.5)[1][name] for name in ("batch_stats", "params"))
STATS = {"BatchNorm_0": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}


@pytest.mark.parametrize(
    "update, batch_stats, batches, message",
    [
        (lambda s, b: s, STATS, BATCHES[:0], r"batches must be .*, got arrays of leading axes \[\[\(0,\)\]\]"),
        (lambda s, b: s, STATS, [], r"batches must be .*, got arrays of leading axes \[\]"),
        (lambda s, b: s, STATS, (BATCHES, BATCHES[:2]), r"batches must be .* \[\[\(2,\), \(7,\)\]\]"),
        (lambda s, b: s, STATS, [(BATCHES, BATCHES[:2])], r"batches must be .* \[\[\(2,\), \(7,\)\]\]"),
        (lambda s, b: s, {"mean": jnp.zeros(3)}, BATCHES, r"batch_stats must have a mean and a var .* \['mean'\]"),
        (lambda s, b: s, {}, BATCHES, r"batch_stats must have a mean and a var .* \[\]"),
        (lambda s, b: s, STATS, BATCHES, "update_fn must use its batch"),
        (lambda s, b: updating(0.5)[0](PARAMS, s, BATCHES[0]), NETWORK_STATS, BATCHES, "update_fn must use its batch"),
        (lambda s, b: updating(1.0)[0](PARAMS, s, b), NETWORK_STATS, BATCHES, "below 1 .* 'BatchNorm_0/mean'"),
        (lambda s, b: {"batch_stats": s}, STATS, BATCHES, "what update_fn returns must have the leaves of batch_stats"),
    ],
)
def test_bad_arguments_are_named(update, batch_stats, batches, message):
    with pytest.raises(ValueError, match=message):
        bb.recalibrate_batch_norm(update, batch_stats, batches)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99, 0.9999])
def test_statistics_kept_in_half_precision_are_right_to_its_rounding(dtype, momentum, promoting):
    layer = nn.BatchNorm(use_running_average=False, momentum=momentum, use_bias=False, use_scale=False)
    batches = 3 + 2 * RNG.normal(size=(10, 100, 1)).astype(dtype)
    stats = jax.tree.map(lambda x: x.astype(dtype), layer.init(jax.random.key(0), batches[0])["batch_stats"])

    def update(batch_stats, batch):
        return layer.apply({"batch_stats": batch_stats}, batch, mutable=["batch_stats"])[1]["batch_stats"]

    measured = bb.recalibrate_batch_norm(update, stats, batches)
    assert {x.dtype for x in jax.tree.leaves(measured)} == {jnp.dtype(dtype)}
    expected = batches.astype(np.float64)
    tolerance = 2 * float(jnp.finfo(dtype).eps) + 1e-7 / (1 - momentum)  # the momentum is known to 1e-7
    np.testing.assert_allclose(np.float64(measured["mean"]), expected.mean(), rtol=tolerance)
    np.testing.assert_allclose(np.float64(measured["var"]), expected.var(), rtol=tolerance)


def test_batches_of_different_sizes_count_by_their_examples():
    """Of the first batch norm; a last batch of one example, whose variance is 0, too. Far from 0 nothing cancels."""
    update, variables = updating(0.9)
    params = bb.mode(variables["params"])
    examples = 1e3 + RNG.normal(size=(29, 5)).astype(np.float32)
    batches = np.split(examples, [14, 28])
    measured = bb.recalibrate_batch_norm(lambda s, b: update(params, s, b), variables["batch_stats"], batches)
    activations = examples.astype(np.float64) @ np.asarray(params["BinaryDense_0"]["binary_kernel"])
    np.testing.assert_allclose(measured["BatchNorm_0"]["mean"], activations.mean(axis=0), rtol=1e-5, atol=1e-2)
    for n, x in enumerate(batches):  # var_b of each batch as Flax has it, in float32: it cancels by itself
        of_one = bb.recalibrate_batch_norm(lambda s, b: update(params, s, b), variables["batch_stats"], [x])
        batches[n] = of_one["BatchNorm_0"]["mean"], of_one["BatchNorm_0"]["var"]
    sizes, mean = np.array([14, 14, 1])[:, None] / 29, np.array(measured["BatchNorm_0"]["mean"], np.float64)
    means, variances = (np.array(x, np.float64) for x in zip(*batches, strict=True))
    expected = np.sum(sizes * (variances + (means - mean) ** 2), axis=0)
    np.testing.assert_allclose(measured["BatchNorm_0"]["var"], expected, rtol=1e-4)


def test_a_list_of_equal_batches_is_an_array_of_them():
    update, variables = updating(0.9)
    of_array, of_list = (
        bb.recalibrate_batch_norm(lambda s, b: update(PARAMS, s, b), variables["batch_stats"], batches)
        for batches in (BATCHES, list(BATCHES))
    )
    for a, b in zip(jax.tree.leaves(of_array), jax.tree.leaves(of_list), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_momentum_of_one_in_a_traced_network_gives_nan():
    update, variables = updating(1.0)

    @jax.jit
    def measure(params):
        return bb.recalibrate_batch_norm(lambda s, b: update(params, s, b), variables["batch_stats"], BATCHES)

    assert all(np.isnan(x).all() for x in jax.tree.leaves(measure(variables["params"])))


def test_frozen_dicts_come_back_as_such():
    layer = nn.BatchNorm(use_running_average=False)
    variables = flax.core.freeze(layer.init(jax.random.key(0), BATCHES[0]))

    def update(batch_stats, batch):
        return layer.apply(variables.copy({"batch_stats": batch_stats}), batch, mutable=["batch_stats"])[1][
            "batch_stats"
        ]

    measured = bb.recalibrate_batch_norm(update, variables["batch_stats"], BATCHES)
    assert isinstance(measured, flax.core.FrozenDict)
    np.testing.assert_allclose(measured["mean"], BATCHES.mean(axis=(0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(measured["var"], BATCHES.var(axis=(0, 1)), rtol=1e-4)


def test_states_of_nnx_come_back_as_such():
    """And go into the module again: it then predicts with the statistics of the data."""

    class Module(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.norm(x)

    graph, stats, rest = nnx.split(Module(), nnx.BatchStat, ...)

    def update(batch_stats, batch):
        module = nnx.merge(graph, batch_stats, rest, copy=True)
        module.train()
        module(batch)
        return nnx.state(module, nnx.BatchStat)

    measured = bb.recalibrate_batch_norm(update, stats, BATCHES)
    assert jax.tree.structure(measured) == jax.tree.structure(stats)
    module = nnx.merge(graph, measured, rest)
    module.eval()
    mean, std = BATCHES.mean(axis=(0, 1)), BATCHES.std(axis=(0, 1))
    np.testing.assert_allclose(module(BATCHES[0]), (BATCHES[0] - mean) / std, rtol=1e-3, atol=1e-3)
