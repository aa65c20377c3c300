"""The learning rule and its parts. That the whole is the rule is shown in test_trajectories."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbinn_jax as bb
from bbinn_jax import bernoulli
from tests import reference

NATURAL = {"a": jnp.array([-2.0, 0.1, 3.0]), "b": [jnp.array([0.5, 0.0, -0.4]), None]}
GRADS = {"a": jnp.array([0.3, -0.1, 0.2]), "b": [jnp.array([-1.0, 0.4, 2.0]), None]}
PRIOR = {"a": jnp.array([1.0, -1.0, 0.5]), "b": [jnp.array([0.2, 7.0, 0.0]), None]}


def update(tx, grads=GRADS, natural=NATURAL, **extra_args):
    updates, _ = tx.update(grads, tx.init(natural), natural, **extra_args)
    return updates


def assert_close(a, b, rtol=1e-5, atol=1e-7):
    chex.assert_trees_all_close(a, b, rtol=rtol, atol=atol)


# The parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.0, 1e-10, 0.5])
def test_precondition_divides_by_the_fisher_information(eps):
    expected = jax.tree.map(lambda g, x: g / (1 - np.tanh(x) ** 2 + eps), GRADS, NATURAL)
    assert_close(update(bb.precondition_by_fisher(eps)), expected)


@pytest.mark.parametrize("x", [-1e4, -50.0, 50.0, 1e4])
def test_eps_is_the_fisher_information_of_a_saturated_weight(x):
    assert_close(update(bb.precondition_by_fisher(), jnp.array(3e-10), jnp.array(x)), jnp.array(3.0))


def test_saturated_weight_has_the_scale_of_straight_through_training():
    """eps / temperature of relax over eps of the Fisher information: the scale is 1 / temperature."""
    loss = bb.expected_loss(lambda w: 3 * w, temperature=1e-2)
    natural = jnp.array(50.0)
    grad = jax.grad(loss)(natural, jax.random.key(0))
    assert_close(update(bb.precondition_by_fisher(), grad, natural), jnp.array(3 / 1e-2))


def test_add_prior_adds_the_natural_gradient_of_the_kl_term():
    scalar = jax.tree.map(lambda g, x: g + 0.5 * (x - 0.3), GRADS, NATURAL)
    assert_close(update(bb.add_prior(0.5, 0.3)), scalar)
    tree = jax.tree.map(lambda g, x, x0: g + 0.5 * (x - x0), GRADS, NATURAL, PRIOR)
    assert_close(update(bb.add_prior(0.5, PRIOR)), tree)
    assert_close(update(bb.add_prior()), jax.tree.map(jnp.add, GRADS, NATURAL))


def test_add_prior_is_the_preconditioned_gradient_of_kl_divergence(x64):
    natural, prior = (jax.tree.map(lambda x: x.astype(float), tree) for tree in (NATURAL, PRIOR))
    kl_grads = jax.grad(bernoulli.kl_divergence)(natural, prior)
    natural_gradient = update(bb.precondition_by_fisher(0.0), kl_grads, natural)
    zeros = jax.tree.map(jnp.zeros_like, natural)
    assert_close(natural_gradient, update(bb.add_prior(1.0, prior), zeros, natural), rtol=1e-10)


def test_natural_gradient_is_the_gradient_wrt_the_expectation(x64):
    """F^-1 dL/dlambda = dL/dmu, for a non-linear loss evaluated at the expectation."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 6))
    natural = {"a": jnp.asarray(rng.normal(size=3)), "b": jnp.asarray(3 * rng.normal(size=3))}

    def loss_fn(w):
        return jnp.sum(jax.nn.softplus(matrix @ jnp.concatenate([w["a"], w["b"]])))

    grads = jax.grad(bb.expected_loss(loss_fn, temperature=1.0, num_samples=0, eps=0.0))(natural, jax.random.key(0))
    wrt_expectation = jax.grad(loss_fn)(bernoulli.expectation(natural))
    assert_close(update(bb.precondition_by_fisher(0.0), grads, natural), wrt_expectation, rtol=1e-10)


# The whole -----------------------------------------------------------------------------------------------------------


def test_one_step_equals_the_formula():
    tx = bb.bayesbinn(0.1, 20, prior_natural=PRIOR, momentum=0.9, kl_weight=0.5, eps=0.01)
    expected = jax.tree.map(
        lambda g, x, x0: -0.1 * (20 * g / (1 - np.tanh(x) ** 2 + 0.01) + 0.5 * (x - x0)), GRADS, NATURAL, PRIOR
    )
    assert_close(update(tx), expected)  # the first moving average is the gradient itself, whatever the momentum


def test_a_step_of_learning_rate_one_solves_a_linear_loss():
    """It is conjugate: with mean loss -c w / N the posterior is lambda0 + c, from wherever it starts."""
    c, train_set_size = np.array([0.5, -1.0, 0.1], np.float32), 10
    loss = bb.expected_loss(lambda w: -jnp.sum(c * w) / train_set_size, temperature=1.0, num_samples=0)
    natural, prior = NATURAL["a"], PRIOR["a"]
    grads = jax.grad(loss)(natural, jax.random.key(0))
    updates = update(bb.bayesbinn(1.0, train_set_size, prior_natural=prior), grads, natural)
    assert_close(optax.apply_updates(natural, updates), prior + c, rtol=1e-4)


def test_momentum_zero_keeps_no_average():
    assert jax.tree.leaves(bb.bayesbinn(0.1, 10).init(NATURAL)) == []
    assert jax.tree.leaves(bb.bayesbinn(0.1, 10, momentum=0).init(NATURAL)) == []
    assert len(jax.tree.leaves(bb.bayesbinn(0.1, 10, momentum=0.5).init(NATURAL))) == 3  # two averages, one count


@pytest.mark.parametrize("x", [-1e4, 20.0, 1e4])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_update_of_a_saturated_weight_is_finite(x, dtype):
    """A gradient of 0 leaves the pull of the prior, also in float16, where 1e-10 is not a number of its own."""
    natural = jnp.array(x, dtype)
    updates = update(bb.bayesbinn(0.5, 10), jnp.zeros_like(natural), natural)
    np.testing.assert_allclose(updates, -0.5 * natural, rtol=1e-2)


def test_training_at_temperature_1e_10_in_float32_is_finite(key):
    """The preset of the paper: lambda = +-10 at the start, saturated after one step."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 20)).astype(np.float32)
    y = np.sign(x[:, 0]).astype(np.float32)
    loss = bb.expected_loss(
        lambda w: jnp.mean(jax.nn.softplus(-y * jnp.sum(jnp.tanh(x @ w), axis=1))), temperature=1e-10
    )
    tx = bb.bayesbinn(1e-4, 32)
    start = bb.init_natural(key, jnp.zeros((20, 5)))

    def body(carry, t):
        natural, state = carry
        grads = jax.grad(loss)(natural, jax.random.fold_in(key, t))
        updates, state = tx.update(grads, state, natural)
        natural = optax.apply_updates(natural, updates)
        return (natural, state), jnp.all(jnp.isfinite(natural))

    (natural, _), finite = jax.lax.scan(body, (start, tx.init(start)), jnp.arange(300))
    assert jnp.all(finite)
    assert jnp.max(jnp.abs(natural - start)) > 1


# A prior given to update ---------------------------------------------------------------------------------------------


def bayesbinn(prior_natural=0.0):
    return bb.bayesbinn(0.1, 10, prior_natural=prior_natural, momentum=0.9)


@pytest.mark.parametrize("prior", [0.3, PRIOR], ids=["scalar", "tree"])
def test_prior_given_to_update_equals_prior_given_to_the_constructor(prior):
    expected = update(bayesbinn(prior))
    assert_close(update(bayesbinn(), prior_natural=prior), expected)
    assert_close(update(bayesbinn(prior_natural=5.0), prior_natural=prior), expected)
    assert_close(update(bayesbinn(prior_natural=PRIOR), prior_natural=prior), expected)


def test_prior_given_to_update_does_not_recompile_when_it_changes():
    tx, traces = bayesbinn(), []

    @jax.jit
    def jitted(prior):
        traces.append(None)
        return update(tx, prior_natural=prior)

    for factor in (1.0, -2.0, 0.5):
        prior = jax.tree.map(lambda x, factor=factor: factor * x, PRIOR)
        assert_close(jitted(prior), update(bayesbinn(prior)))
    assert len(traces) == 1


def test_prior_given_to_update_passes_through_chain():
    def chain(tx):
        return optax.chain(optax.clip_by_global_norm(0.5), tx, optax.scale(0.5))

    assert_close(update(chain(bayesbinn()), prior_natural=PRIOR), update(chain(bayesbinn(PRIOR))))


@pytest.mark.parametrize("rest", [None, {"bias": None}, {"bias": jnp.ones(3)}, "anything"])
def test_prior_given_to_update_passes_through_partition(rest):
    """It is the whole pair, of which the real half is not read."""
    pair, grads = (NATURAL, {"bias": jnp.zeros(3)}), (GRADS, {"bias": jnp.ones(3)})
    tx = optax.partition({"binary": bayesbinn(), "real": optax.sgd(0.5)}, ("binary", "real"))
    binary, real = update(tx, grads, pair, prior_natural=(PRIOR, rest))
    assert_close(binary, update(bayesbinn(PRIOR)))
    assert_close(real, {"bias": jnp.full(3, -0.5)})


def test_scalar_prior_given_to_update_passes_through_partition():
    pair, grads = (NATURAL, {"bias": jnp.zeros(3)}), (GRADS, {"bias": jnp.ones(3)})
    tx = optax.partition({"binary": bayesbinn(), "real": optax.sgd(0.5)}, ("binary", "real"))
    binary, _ = update(tx, grads, pair, prior_natural=0.3)
    assert_close(binary, update(bayesbinn(0.3)))


def test_prior_given_to_update_passes_through_partition_by_leaf():
    """Labels of single leaves instead of halves."""
    params, grads = {"w": NATURAL["a"], "bias": jnp.zeros(3)}, {"w": GRADS["a"], "bias": jnp.ones(3)}
    tx = optax.partition({"binary": bayesbinn(), "real": optax.sgd(0.5)}, {"w": "binary", "bias": "real"})
    updates = update(tx, grads, params, prior_natural={"w": PRIOR["a"], "bias": None})
    assert_close(updates["w"], update(bayesbinn(PRIOR["a"]), GRADS["a"], NATURAL["a"]))


def test_prior_given_to_update_passes_through_masked():
    params, grads = {"w": NATURAL["a"], "bias": jnp.zeros(3)}, {"w": GRADS["a"], "bias": jnp.ones(3)}
    tx = optax.masked(bayesbinn(), {"w": True, "bias": False})
    updates = update(tx, grads, params, prior_natural={"w": PRIOR["a"], "bias": jnp.ones(7)})
    assert_close(updates["w"], update(bayesbinn(PRIOR["a"]), GRADS["a"], NATURAL["a"]))
    assert_close(updates["bias"], grads["bias"])


def test_prior_given_to_update_passes_through_multi_steps():
    tx = optax.MultiSteps(bayesbinn(), every_k_schedule=2)
    state = tx.init(NATURAL)
    for _ in range(2):
        updates, state = tx.update(GRADS, state, NATURAL, prior_natural=PRIOR)
    assert_close(updates, update(bayesbinn(PRIOR)))


# The start -----------------------------------------------------------------------------------------------------------


def test_init_natural_is_plus_or_minus_scale(natural, key):
    start = bb.init_natural(key, natural, scale=3.5)
    chex.assert_trees_all_equal_shapes_and_dtypes(start, natural)
    for leaf in jax.tree.leaves(start):
        np.testing.assert_array_equal(np.abs(leaf), 3.5)


def test_init_natural_is_ten_by_default_and_may_be_zero(key):
    np.testing.assert_array_equal(np.abs(bb.init_natural(key, jnp.zeros(5))), 10)
    np.testing.assert_array_equal(np.abs(bb.init_natural(key, jnp.zeros(5), scale=0.0)), 0)


def test_init_natural_draws_either_sign_equally_often(key):
    """Within 5 standard errors, 5 / (2 sqrt(n)), whatever the values of params are."""
    n = 100_000
    start = bb.init_natural(key, {"a": jnp.full(n, 5.0), "b": jnp.full(n, -5.0)})
    for leaf in start.values():
        assert abs(jnp.mean(leaf > 0) - 0.5) < 5 / (2 * np.sqrt(n))
    assert abs(jnp.mean((start["a"] > 0) == (start["b"] > 0)) - 0.5) < 5 / (2 * np.sqrt(n))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("scale", [10, 10.0, np.float64(10)], ids=["int", "float", "numpy"])
def test_init_natural_keeps_the_dtype(dtype, scale, key, x64):
    start = jax.eval_shape(lambda key: bb.init_natural(key, np.zeros(3, jnp.dtype(dtype)), scale=scale), key)
    assert start.dtype == dtype


def test_init_natural_takes_shapes_without_values(key):
    """A model of which only the shapes were evaluated can be started."""
    shapes = jax.eval_shape(lambda: {"w": jnp.zeros((2, 3))})
    assert bb.init_natural(key, shapes)["w"].shape == (2, 3)


def test_init_natural_is_certain_to_2e_9():
    np.testing.assert_allclose(reference.probability_of_plus(-10.0), 2e-9, rtol=0.05)
