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


# name: (learning_rate, params) -> transformation. params are natural parameters; for ste latent weights, for pmf mean
# weights, for bop binary weights. The learning rate of bop is gamma, that of bimu its max_step.
OPTIMIZERS = {
    "bayesbinn": lambda learning_rate, params: bb.bayesbinn(learning_rate, 50),
    "bayesbinn, momentum": lambda learning_rate, params: bb.bayesbinn(learning_rate, 50, momentum=0.9, kl_weight=0.5),
    "bayesbinn, schedule": scheduled,
    "bayesbinn, tree prior": tree_prior,
    "bimu": lambda learning_rate, params: bb.bimu(learning_rate, 100, likelihood_weight=50.0),
    "bop": lambda learning_rate, params: bb.bop(learning_rate, threshold=1e-3),
    "pmf(sgd)": lambda learning_rate, params: bb.pmf(optax.sgd(learning_rate), beta=2.0),
    "pmf(adam)": lambda learning_rate, params: bb.pmf(optax.adam(learning_rate), beta=2.0),
    "ste(sgd)": lambda learning_rate, params: bb.ste(optax.sgd(learning_rate)),
    "ste(adam)": lambda learning_rate, params: bb.ste(optax.adam(learning_rate)),
}
LEARNING_RATE = 0.02
PARAMS = {"a": jnp.array([0.5, -0.2, 0.0]), "b": jnp.array([0.9, -0.99, 0.1])}
SIGNS = {"a": jnp.array([-1.0, 1.0, 1.0]), "b": jnp.array([-1.0, 1.0, -1.0])}  # some flip at every step
GRADS = [
    {"a": jnp.array([0.1, -0.3, 0.2]), "b": jnp.array([-1.0, 0.4, 0.0])},
    {"a": jnp.array([-0.2, 0.1, 0.5]), "b": jnp.array([0.3, 2.0, -0.7])},
    {"a": jnp.array([0.3, 0.3, -0.1]), "b": jnp.array([0.0, -0.6, 0.2])},
]


def params_of(name):
    """The start of an optimizer: bop has weights of +-1 and no others."""
    return SIGNS if name == "bop" else PARAMS


every_optimizer = pytest.mark.parametrize(
    ("make", "params"), [(OPTIMIZERS[name], params_of(name)) for name in OPTIMIZERS], ids=OPTIMIZERS.keys()
)
assert_close = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-7)


def step(tx, params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def run(tx, params, grads=GRADS):
    """The parameters after a step for each gradient."""
    state = tx.init(params)
    for g in grads:
        params, state = step(tx, params, state, g)
    return params


def test_the_gradients_move_the_parameters():
    """Or else the contracts below would hold for nothing."""
    for name, make in OPTIMIZERS.items():
        params = params_of(name)
        moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), run(make(LEARNING_RATE, params), params), params)
        assert min(jax.tree.leaves(moved)) > 1e-3


@every_optimizer
def test_jit_equals_no_jit_and_compiles_once(make, params):
    tx, traces = make(LEARNING_RATE, params), []

    @jax.jit
    def jitted(params, state, grads):
        traces.append(None)
        return step(tx, params, state, grads)

    new_params, state = params, tx.init(params)
    for g in GRADS:
        new_params, state = jitted(new_params, state, g)
    assert len(traces) == 1
    assert_close(new_params, run(tx, params))


@every_optimizer
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtype_is_kept(make, params, dtype, x64):
    params, grads = jax.tree.map(lambda x: np.asarray(x, jnp.dtype(dtype)), (params, GRADS[0]))
    tx = make(LEARNING_RATE, params)
    state = jax.eval_shape(tx.init, params)
    updates, new_state = jax.eval_shape(tx.update, grads, state, params)
    chex.assert_trees_all_equal_dtypes(updates, params)
    chex.assert_trees_all_equal_dtypes(new_state, state)


@every_optimizer
def test_state_is_arrays_of_fixed_structure(make, params):
    tx = make(LEARNING_RATE, params)
    state = tx.init(params)
    _, new_state = tx.update(GRADS[0], state, params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    chex.assert_trees_all_equal_structs(state, new_state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new_state)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "schedule" not in name])
def test_float_equals_constant_schedule(name):
    make, params = OPTIMIZERS[name], params_of(name)
    scheduled = make(optax.constant_schedule(LEARNING_RATE), params)
    assert_close(run(scheduled, params), run(make(LEARNING_RATE, params), params))


def test_schedule_counts_steps():
    """The step sizes are alpha, 0.9 alpha, 0.81 alpha: alone, with a gradient of 0, they shrink the parameters."""
    zeros = [jax.tree.map(jnp.zeros_like, PARAMS)] * 3
    factor = np.prod(1 - LEARNING_RATE * np.array([1, 0.9, 0.81]))
    assert_close(run(scheduled(LEARNING_RATE, PARAMS), PARAMS, zeros), jax.tree.map(lambda x: factor * x, PARAMS))


@every_optimizer
def test_learning_rate_zero_changes_nothing(make, params):
    assert_close(run(make(0.0, params), params), params)


@every_optimizer
def test_works_under_masked(make, params):
    """The masked part keeps its gradient and the other part is updated as if it were alone."""
    tx = optax.masked(make(LEARNING_RATE, params), {"a": True, "b": False})
    updates, _ = tx.update(GRADS[0], tx.init(params), params)

    part, grads = {"a": params["a"]}, {"a": GRADS[0]["a"]}
    alone = make(LEARNING_RATE, part)
    expected, _ = alone.update(grads, alone.init(part), part)
    assert_close(updates, {"a": expected["a"], "b": GRADS[0]["b"]})


@every_optimizer
def test_works_under_partition(make, params):
    pair = (params, {"bias": params["a"]})
    grads = [(g, {"bias": g["a"]}) for g in GRADS]
    tx = optax.partition({"binary": make(LEARNING_RATE, pair), "real": optax.sgd(0.5)}, ("binary", "real"))
    binary, real = run(tx, pair, grads)
    assert_close(binary, run(make(LEARNING_RATE, params), params))
    assert_close(real, run(optax.sgd(0.5), pair[1], [g for _, g in grads]))


@every_optimizer
def test_works_under_multi_steps(make, params):
    """Two micro-steps are one step with the mean gradient."""
    tx = optax.MultiSteps(make(LEARNING_RATE, params), every_k_schedule=2)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, GRADS[0], GRADS[1])
    assert_close(run(tx, params, GRADS[:1]), params)
    assert_close(run(tx, params, GRADS[:2]), run(make(LEARNING_RATE, params), params, [mean]))


@every_optimizer
def test_works_under_inject_hyperparams(make, params):
    tx = optax.inject_hyperparams(lambda learning_rate: make(learning_rate, params))(learning_rate=LEARNING_RATE)
    assert_close(run(tx, params), run(make(LEARNING_RATE, params), params))
    state = tx.init(params)
    state.hyperparams["learning_rate"] = jnp.zeros_like(state.hyperparams["learning_rate"])
    assert_close(step(tx, params, state, GRADS[0])[0], params)


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
    assert_close(params, run(bb.bayesbinn(LEARNING_RATE, **numbers), PARAMS, GRADS[:2]))


@pytest.mark.parametrize("zero", [None, 0, 0.0, np.float64(0), np.float32(0), np.int64(0)])
def test_no_momentum_keeps_no_average(zero):
    """Left out under `optax.inject_hyperparams` too, which turns a number into an array that may change."""
    arrays = jax.tree.leaves(bb.bayesbinn(LEARNING_RATE, 50, momentum=zero).init(PARAMS))
    assert arrays == []
    left_out = optax.inject_hyperparams(bb.bayesbinn)(learning_rate=LEARNING_RATE, train_set_size=50)
    assert all(leaf.ndim == 0 for leaf in jax.tree.leaves(left_out.init(PARAMS)))
    array = bb.bayesbinn(LEARNING_RATE, 50, momentum=jnp.zeros(())).init(PARAMS)
    assert sum(leaf.size for leaf in jax.tree.leaves(array)) == 6 + 1  # an average of each weight, and a count


# Every number of every rule; whole ones, which all types can hold, but for a momentum.
NUMBERS = {
    "bayesbinn": (
        bb.bayesbinn,
        {"learning_rate": 1, "train_set_size": 50, "prior_natural": 1, "kl_weight": 2, "eps": 1, "momentum": 0},
    ),
    "bayesbinn, momentum": (bb.bayesbinn, {"learning_rate": 1, "train_set_size": 50, "momentum": 0.5}),
    "add_prior": (bb.add_prior, {"kl_weight": 2, "prior_natural": 1}),
    "precondition_by_fisher": (bb.precondition_by_fisher, {"eps": 1}),
    "bop": (bb.bop, {"gamma": 1, "threshold": 0}),
    "pmf": (partial(bb.pmf, optax.sgd(0.1)), {"beta": 2}),
    "bimu": (
        bb.bimu,
        {
            "max_step": 1,
            "memory_window": 9,
            "learning_rate": 2,
            "likelihood_weight": 3,
            "kl_weight": 2,
            "prior_natural": 1,
        },
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("scalar", [np.float64, np.float32, np.int64, np.uint8])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_numpy_numbers_are_as_good_as_python_ones(name, scalar, dtype, x64):
    """They change no dtype of an update or a state, which a scan would refuse."""
    make, numbers = NUMBERS[name]
    as_numpy = {key: scalar(value) if scalar(value) == value else np.float64(value) for key, value in numbers.items()}
    start, grads = jax.tree.map(lambda x: x.astype(dtype), (params_of(name), GRADS[0]))

    def run_scan(tx):
        body = lambda carry, _: (step(tx, *carry, grads), None)  # noqa: E731
        return jax.lax.scan(body, (start, tx.init(start)), length=3)[0]

    result = run_scan(make(**as_numpy))
    chex.assert_trees_all_equal_shapes_and_dtypes(result[0], start)
    chex.assert_trees_all_equal(result, run_scan(make(**numbers)))


@every_optimizer
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_nothing_is_promoted_in_silence(make, params, dtype, request):
    if any(word in request.node.callspec.id for word in ("momentum", "adam")):
        pytest.skip("the bias correction of optax promotes a count")
    params, grads = jax.tree.map(lambda x: x.astype(dtype), (params, GRADS[0]))
    with jax.numpy_dtype_promotion("standard"):
        expected = run(make(LEARNING_RATE, params), params, [grads] * 2)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        strict = run(make(LEARNING_RATE, params), params, [grads] * 2)
    chex.assert_trees_all_equal(strict, expected)


@every_optimizer
def test_shapes_alone_give_a_state_to_load_into(make, params):
    """With arrays in it, as optax has it, of the shapes and dtypes of a real one."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    state = make(LEARNING_RATE, params).init(shapes)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, make(LEARNING_RATE, params).init(params))


@every_optimizer
def test_works_under_apply_if_finite(make, params):
    """A NaN gradient leaves the parameters and the state."""
    tx = optax.apply_if_finite(make(LEARNING_RATE, params), max_consecutive_errors=3)
    bad = jax.tree.map(lambda x: x.at[0].set(jnp.nan), GRADS[0])
    assert_close(run(tx, params, [bad]), params)
    assert_close(run(tx, params, [bad, *GRADS]), run(make(LEARNING_RATE, params), params))


@every_optimizer
def test_works_after_a_chain_link_with_extra_arguments(make, params):
    tx = optax.chain(optax.clip_by_global_norm(1e9), make(LEARNING_RATE, params))
    updates, _ = tx.update(GRADS[0], tx.init(params), params, value=jnp.array(1.0))  # of no interest to it
    assert_close(optax.apply_updates(params, updates), run(make(LEARNING_RATE, params), params, GRADS[:1]))


@every_optimizer
def test_scan_equals_a_loop(make, params):
    tx = make(LEARNING_RATE, params)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *GRADS)

    def body(carry, grads):
        return step(tx, *carry, grads), None

    (new_params, _), _ = jax.lax.scan(body, (params, tx.init(params)), stacked)
    assert_close(new_params, run(tx, params))


@every_optimizer
def test_both_branches_of_a_cond_have_one_state(make, params):
    """A step that may be left out: nothing but values differs between before and after."""
    tx = make(LEARNING_RATE, params)

    @jax.jit
    def step_if(is_wanted, params, state, grads):
        return jax.lax.cond(is_wanted, lambda: step(tx, params, state, grads), lambda: (params, state))

    start = params, tx.init(params)
    chex.assert_trees_all_equal(step_if(False, *start, GRADS[0]), start)
    assert_close(step_if(True, *start, GRADS[0])[0], run(tx, params, GRADS[:1]))


@every_optimizer
def test_what_is_like_the_params_is_found_in_the_state(make, params):
    """As it must be to lay a state over devices as the parameters are. It is all that is no scalar."""
    tx = make(LEARNING_RATE, params)
    state = tx.init(params)
    names = {"a": "of a", "b": "of b"}
    found = optax.tree.map_params(tx, lambda leaf, name: name, state, names, transform_non_params=lambda leaf: "")
    shapes = {"of a": (3,), "of b": (3,), "": ()}
    assert jax.tree.map(lambda name: shapes[name], found) == jax.tree.map(jnp.shape, state)
    assert jax.tree.leaves(found).count("of a") == jax.tree.leaves(found).count("of b")


@every_optimizer
def test_vmap_over_independent_problems_equals_a_loop(make, params):
    tx = make(LEARNING_RATE, params)
    other = {"a": -params["b"], "b": -params["a"]}
    stack = jax.tree.map(lambda x, y: jnp.stack([x, y]), params, other)
    stacked_grads = [jax.tree.map(lambda x: jnp.stack([x, 2 * x]), g) for g in GRADS]

    new_params, state = stack, jax.vmap(tx.init)(stack)
    for g in stacked_grads:
        new_params, state = jax.vmap(partial(step, tx))(new_params, state, g)

    doubled = [jax.tree.map(lambda x: 2 * x, g) for g in GRADS]
    assert_close(jax.tree.map(lambda x: x[0], new_params), run(tx, params))
    assert_close(jax.tree.map(lambda x: x[1], new_params), run(tx, other, doubled))


@every_optimizer
def test_empty_places_in_the_tree_stay_empty(make, params):
    def with_empty_places(tree):
        return {"some": tree, "none": None, "dict": {}, "list": [None, ()]}

    sparse = with_empty_places(params)
    result = run(make(LEARNING_RATE, sparse), sparse, [with_empty_places(g) for g in GRADS])
    assert_close(result, with_empty_places(run(make(LEARNING_RATE, params), params)))


@every_optimizer
def test_empty_tree_is_accepted(make, params):
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

    if name.startswith(("bayesbinn", "bimu")):
        loss = bb.expected_loss(loss_fn, temperature=1.0)
    elif name.startswith("ste"):
        loss = lambda latent, key: loss_fn(bb.straight_through(latent))  # noqa: E731
    else:
        loss = lambda weights, key: loss_fn(weights)  # noqa: E731
    tx = OPTIMIZERS[name](LEARNING_RATE, PARAMS)

    def body(carry, t):
        params, state = carry
        return step(tx, params, state, jax.grad(loss)(params, jax.random.fold_in(key, t))), None

    start = jax.tree.map(lambda x: -jnp.ones_like(x) if name == "bop" else -0.1 * jnp.ones_like(x), PARAMS)
    (params, _), _ = jax.lax.scan(body, (start, tx.init(start)), jnp.arange(300))
    mode = bb.mode(params)
    np.testing.assert_array_equal(jnp.concatenate([mode["a"], mode["b"]]), target)
