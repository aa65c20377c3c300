"""One table of optimizers, one battery of contracts that each of them keeps inside optax."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbinn_jax as bb


def tree_prior(learning_rate, params):
    prior = jax.tree.map(lambda x: np.full(x.shape, 0.3, np.float32), params)
    return bb.bayesbinn(learning_rate, 50, prior_natural=prior)


def scheduled(learning_rate, params):
    return bb.bayesbinn(lambda count: learning_rate * 0.9**count, 50)


# name: (learning_rate, params) -> transformation. params are natural parameters or, for ste, latent weights.
OPTIMIZERS = {
    "bayesbinn": lambda learning_rate, params: bb.bayesbinn(learning_rate, 50),
    "bayesbinn, momentum": lambda learning_rate, params: bb.bayesbinn(learning_rate, 50, momentum=0.9, kl_weight=0.5),
    "bayesbinn, schedule": scheduled,
    "bayesbinn, tree prior": tree_prior,
    "ste(sgd)": lambda learning_rate, params: bb.ste(optax.sgd(learning_rate)),
    "ste(adam)": lambda learning_rate, params: bb.ste(optax.adam(learning_rate)),
}
LEARNING_RATE = 0.02
PARAMS = {"a": jnp.array([0.5, -0.2, 0.0]), "b": jnp.array([0.9, -0.99, 0.1])}
GRADS = [
    {"a": jnp.array([0.1, -0.3, 0.2]), "b": jnp.array([-1.0, 0.4, 0.0])},
    {"a": jnp.array([-0.2, 0.1, 0.5]), "b": jnp.array([0.3, 2.0, -0.7])},
    {"a": jnp.array([0.3, 0.3, -0.1]), "b": jnp.array([0.0, -0.6, 0.2])},
]

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
assert_close = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-7)


def step(tx, params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def run(tx, params=PARAMS, grads=GRADS):
    """The parameters after a step for each gradient."""
    state = tx.init(params)
    for g in grads:
        params, state = step(tx, params, state, g)
    return params


def test_the_gradients_move_the_parameters():
    """Or else the contracts below would hold for nothing."""
    for make in OPTIMIZERS.values():
        moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), run(make(LEARNING_RATE, PARAMS)), PARAMS)
        assert min(jax.tree.leaves(moved)) > 1e-3


@every_optimizer
def test_jit_equals_no_jit_and_compiles_once(make):
    tx, traces = make(LEARNING_RATE, PARAMS), []

    @jax.jit
    def jitted(params, state, grads):
        traces.append(None)
        return step(tx, params, state, grads)

    params, state = PARAMS, tx.init(PARAMS)
    for g in GRADS:
        params, state = jitted(params, state, g)
    assert len(traces) == 1
    assert_close(params, run(tx))


@every_optimizer
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtype_is_kept(make, dtype, x64):
    params, grads = jax.tree.map(lambda x: np.asarray(x, jnp.dtype(dtype)), (PARAMS, GRADS[0]))
    tx = make(LEARNING_RATE, params)
    state = jax.eval_shape(tx.init, params)
    updates, new_state = jax.eval_shape(tx.update, grads, state, params)
    chex.assert_trees_all_equal_dtypes(updates, params)
    chex.assert_trees_all_equal_dtypes(new_state, state)


@every_optimizer
def test_state_is_arrays_of_fixed_structure(make):
    tx = make(LEARNING_RATE, PARAMS)
    state = tx.init(PARAMS)
    _, new_state = tx.update(GRADS[0], state, PARAMS)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    chex.assert_trees_all_equal_structs(state, new_state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new_state)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "schedule" not in name])
def test_float_equals_constant_schedule(name):
    make = OPTIMIZERS[name]
    scheduled = make(optax.constant_schedule(LEARNING_RATE), PARAMS)
    assert_close(run(scheduled), run(make(LEARNING_RATE, PARAMS)))


def test_schedule_counts_steps():
    """The step sizes are alpha, 0.9 alpha, 0.81 alpha: alone, with a gradient of 0, they shrink the parameters."""
    zeros = [jax.tree.map(jnp.zeros_like, PARAMS)] * 3
    factor = np.prod(1 - LEARNING_RATE * np.array([1, 0.9, 0.81]))
    assert_close(run(scheduled(LEARNING_RATE, PARAMS), grads=zeros), jax.tree.map(lambda x: factor * x, PARAMS))


@every_optimizer
def test_learning_rate_zero_changes_nothing(make):
    assert_close(run(make(0.0, PARAMS)), PARAMS)


@every_optimizer
def test_works_under_masked(make):
    """The masked part keeps its gradient and the other part is updated as if it were alone."""
    tx = optax.masked(make(LEARNING_RATE, PARAMS), {"a": True, "b": False})
    updates, _ = tx.update(GRADS[0], tx.init(PARAMS), PARAMS)

    params, grads = {"a": PARAMS["a"]}, {"a": GRADS[0]["a"]}
    alone = make(LEARNING_RATE, params)
    expected, _ = alone.update(grads, alone.init(params), params)
    assert_close(updates, {"a": expected["a"], "b": GRADS[0]["b"]})


@every_optimizer
def test_works_under_partition(make):
    pair = (PARAMS, {"bias": PARAMS["a"]})
    grads = [(g, {"bias": g["a"]}) for g in GRADS]
    tx = optax.partition({"binary": make(LEARNING_RATE, pair), "real": optax.sgd(0.5)}, ("binary", "real"))
    binary, real = run(tx, pair, grads)
    assert_close(binary, run(make(LEARNING_RATE, PARAMS)))
    assert_close(real, run(optax.sgd(0.5), pair[1], [g for _, g in grads]))


@every_optimizer
def test_works_under_multi_steps(make):
    """Two micro-steps are one step with the mean gradient."""
    tx = optax.MultiSteps(make(LEARNING_RATE, PARAMS), every_k_schedule=2)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, GRADS[0], GRADS[1])
    assert_close(run(tx, grads=GRADS[:1]), PARAMS)
    assert_close(run(tx, grads=GRADS[:2]), run(make(LEARNING_RATE, PARAMS), grads=[mean]))


@every_optimizer
def test_works_under_inject_hyperparams(make):
    tx = optax.inject_hyperparams(lambda learning_rate: make(learning_rate, PARAMS))(learning_rate=LEARNING_RATE)
    assert_close(run(tx), run(make(LEARNING_RATE, PARAMS)))
    state = tx.init(PARAMS)
    state.hyperparams["learning_rate"] = jnp.zeros_like(state.hyperparams["learning_rate"])
    assert_close(step(tx, PARAMS, state, GRADS[0])[0], PARAMS)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_every_number_of_bayesbinn_can_be_injected(momentum):
    """Under jit too, where the injected numbers have a value at init and none in update."""
    numbers = {"train_set_size": 50, "prior_natural": 0.3, "momentum": momentum, "kl_weight": 0.5, "eps": 1e-10}
    tx = optax.inject_hyperparams(bb.bayesbinn)(learning_rate=LEARNING_RATE, **numbers)
    state = tx.init(PARAMS)
    assert set(state.hyperparams) == {"learning_rate", *numbers}
    params, new_state = jax.jit(partial(step, tx))(PARAMS, state, GRADS[0])
    chex.assert_trees_all_equal_structs(state, new_state)
    params, _ = jax.jit(partial(step, tx))(params, new_state, GRADS[1])
    assert_close(params, run(bb.bayesbinn(LEARNING_RATE, **numbers), grads=GRADS[:2]))


@every_optimizer
def test_works_under_apply_if_finite(make):
    """A NaN gradient leaves the parameters and the state."""
    tx = optax.apply_if_finite(make(LEARNING_RATE, PARAMS), max_consecutive_errors=3)
    bad = jax.tree.map(lambda x: x.at[0].set(jnp.nan), GRADS[0])
    assert_close(run(tx, grads=[bad]), PARAMS)
    assert_close(run(tx, grads=[bad, *GRADS]), run(make(LEARNING_RATE, PARAMS)))


@every_optimizer
def test_works_after_a_chain_link_with_extra_arguments(make):
    tx = optax.chain(optax.clip_by_global_norm(1e9), make(LEARNING_RATE, PARAMS))
    updates, _ = tx.update(GRADS[0], tx.init(PARAMS), PARAMS, value=jnp.array(1.0))  # of no interest to it
    assert_close(optax.apply_updates(PARAMS, updates), run(make(LEARNING_RATE, PARAMS), grads=GRADS[:1]))


@every_optimizer
def test_scan_equals_a_loop(make):
    tx = make(LEARNING_RATE, PARAMS)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *GRADS)

    def body(carry, grads):
        return step(tx, *carry, grads), None

    (params, _), _ = jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), stacked)
    assert_close(params, run(tx))


@every_optimizer
def test_vmap_over_independent_problems_equals_a_loop(make):
    tx = make(LEARNING_RATE, PARAMS)
    other = jax.tree.map(lambda x: -0.5 * x, PARAMS)
    stack = jax.tree.map(lambda x, y: jnp.stack([x, y]), PARAMS, other)
    stacked_grads = [jax.tree.map(lambda x: jnp.stack([x, 2 * x]), g) for g in GRADS]

    params, state = stack, jax.vmap(tx.init)(stack)
    for g in stacked_grads:
        params, state = jax.vmap(partial(step, tx))(params, state, g)

    doubled = [jax.tree.map(lambda x: 2 * x, g) for g in GRADS]
    assert_close(jax.tree.map(lambda x: x[0], params), run(tx))
    assert_close(jax.tree.map(lambda x: x[1], params), run(tx, other, doubled))


@every_optimizer
def test_empty_places_in_the_tree_stay_empty(make):
    def with_empty_places(tree):
        return {"some": tree, "none": None, "dict": {}, "list": [None, ()]}

    params = with_empty_places(PARAMS)
    result = run(make(LEARNING_RATE, params), params, [with_empty_places(g) for g in GRADS])
    assert_close(result, with_empty_places(run(make(LEARNING_RATE, PARAMS))))


@pytest.mark.filterwarnings("error:.*requires ndarray or scalar:DeprecationWarning")
@every_optimizer
def test_empty_tree_is_accepted(make):
    assert run(make(LEARNING_RATE, {}), {}, [{}, {}]) == {}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_solves_a_separable_problem(name, key):
    """A binary perceptron with 6 inputs, started away from the solution: 300 steps find its weights."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6))
    target = np.array([1.0, -1.0, 1.0, -1.0, -1.0, 1.0])
    x = x[np.abs(x @ target) > 0.5]
    y = np.sign(x @ target)

    def loss_fn(weights):
        return jnp.mean(jax.nn.softplus(-y * (x @ jnp.concatenate([weights["a"], weights["b"]]))))

    if name.startswith("bayesbinn"):
        loss = bb.expected_loss(loss_fn, temperature=1.0)
    else:
        loss = lambda latent, key: loss_fn(bb.straight_through(latent))  # noqa: E731
    tx = OPTIMIZERS[name](LEARNING_RATE, PARAMS)

    def body(carry, t):
        params, state = carry
        return step(tx, params, state, jax.grad(loss)(params, jax.random.fold_in(key, t))), None

    start = jax.tree.map(lambda x: -0.1 * jnp.ones_like(x), PARAMS)
    (params, _), _ = jax.lax.scan(body, (start, tx.init(start)), jnp.arange(300))
    mode = bb.mode(params)
    np.testing.assert_array_equal(jnp.concatenate([mode["a"], mode["b"]]), target)
