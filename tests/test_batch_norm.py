"""Batch-norm statistics measured anew are those of the network on all the data."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


STATS = {"BatchNorm_0": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}


@pytest.mark.parametrize(
    "update, batch_stats, batches, message",
    [
        (lambda s, b: s, STATS, BATCHES[:0], r"batches must be arrays .*, got leading axes \[\(0,\)\]"),
        (lambda s, b: s, STATS, [BATCHES, BATCHES[:2]], r"batches must be arrays .* \[\(2,\), \(7,\)\]"),
        (lambda s, b: s, {"mean": jnp.zeros(3)}, BATCHES, "batch_stats must be nested dicts with mean and var, got "),
        (lambda s, b: {"batch_stats": s}, STATS, BATCHES, "what update_fn returns must have the tree of batch_stats"),
    ],
)
def test_bad_arguments_are_named(update, batch_stats, batches, message):
    with pytest.raises(ValueError, match=message):
        bb.recalibrate_batch_norm(update, batch_stats, batches)
