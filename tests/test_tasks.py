"""Tasks in sequence, piece by piece, against loops written by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbinn_jax as bb
from experiments.common import methods, prediction, training
from experiments.common.data import Split
from experiments.common.networks import MLP, Network
from experiments.continual_learning import tasks

KEY = jax.random.key(0)
NUM_IMAGES, NUM_PIXELS = 60, 12
IMAGES = jax.random.normal(jax.random.fold_in(KEY, 1), (NUM_IMAGES, NUM_PIXELS))
DATA = Split(IMAGES, jnp.argmax(IMAGES[:, :3], axis=1))
MODEL = Network(MLP(hidden=(8,)), 3)
ORDERS = tasks.permutations(0, 3, NUM_PIXELS)


def method_of(rule=None, **settings):
    rule = rule or bb.bayesbinn(optax.cosine_decay_schedule(1e-2, 12), NUM_IMAGES, **settings)
    return training.Method(
        init=partial(bb.init_natural, scale=1.0),
        expected_loss=partial(bb.expected_loss, temperature=0.5, has_aux=True),
        optimizer=optax.partition({"binary": rule, "real": optax.adam(1e-2)}, ("binary", "real")),
        is_posterior=True,
    )


METHOD = method_of()
PROBLEM = training.Problem(METHOD, MODEL, batch_size=15)
STATE = jax.jit(partial(training.init, PROBLEM))(KEY, IMAGES)
PRIOR = jax.tree.map(lambda x: 0.3 * x, STATE.params[0])


# Permutations ---------------------------------------------------------------------------------------------------------


def test_permutations_are_permutations_and_differ():
    assert all(sorted(order.tolist()) == list(range(NUM_PIXELS)) for order in ORDERS)
    assert len({tuple(order.tolist()) for order in ORDERS}) == 3
    assert not np.array_equal(ORDERS[0], np.arange(NUM_PIXELS))  # the first task is permuted, too


def test_the_permutation_of_a_task_does_not_depend_on_how_many_follow():
    np.testing.assert_array_equal(tasks.permutations(0, 7, NUM_PIXELS)[:3], ORDERS)
    other = tasks.permutations(1, 3, NUM_PIXELS)
    assert not np.array_equal(other, ORDERS)


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [partial(bb.bayesbinn, 1e-2, NUM_IMAGES), partial(bb.bimu, 1.0, 5.0)])
def test_prior_of_an_update(make):
    grads = jax.tree.map(jnp.ones_like, STATE.params)
    optimizer = method_of(make()).optimizer
    updates, _ = tasks.with_prior(METHOD._replace(optimizer=optimizer), PRIOR).optimizer.update(
        grads, optimizer.init(STATE.params), STATE.params
    )
    rule = make(prior_natural=PRIOR)
    expected, _ = rule.update(grads[0], rule.init(STATE.params[0]), STATE.params[0])
    for actual, whole in zip(jax.tree.leaves(updates[0]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(actual, whole)


def test_an_image_of_bimu_counts_as_its_likelihood_weight_says():
    """The formula in NumPy, of a batch of 15 that counts half; max_step and memory_window are 1 and 60,000."""
    rule = methods.BiMU(likelihood_weight=0.5).make(methods.Plan(NUM_IMAGES, 15, 1)).optimizer
    natural, grads = np.array([0.0, 0.7, -2.0]), np.array([0.3, -0.2, 0.05])
    g, mu = 7.5 * grads, np.tanh(natural)
    step = 1 / (1 - mu**2 + 2 * g * mu + 2 * abs(g) + 1)
    expected = -step * (g + natural * (1 - mu**2) / 60_000)
    updates, _ = rule.update(jnp.array(grads), rule.init(jnp.array(natural)), jnp.array(natural))
    np.testing.assert_allclose(updates, expected, rtol=1e-5)


def train(state, order, prior, count=3):
    program = jax.jit(partial(tasks.train, PROBLEM, DATA))
    return program(jnp.int32(count), state, KEY, tasks.Task(order, prior))


def test_epochs_of_a_task_equal_a_loop_over_permuted_images():
    """Whose optimizer has the prior built in."""
    problem = PROBLEM._replace(method=method_of(prior_natural=(PRIOR, None)))
    state, index = jax.tree.map(lambda x: x[None], STATE), jnp.arange(NUM_IMAGES)[None]
    shuffled = Split(IMAGES[:, ORDERS[1]], DATA.labels)
    for _ in range(3):
        state, metrics, _ = training.train_epoch(problem, state, KEY[None], shuffled, index)
    actual, actual_metrics, finite = train(STATE, ORDERS[1], PRIOR)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(actual_metrics.loss, metrics.loss[0], rtol=1e-5)
    assert all(map(bool, jax.tree.leaves(finite)))


def test_a_task_in_parts_is_the_task():
    whole, *_ = train(STATE, ORDERS[0], PRIOR)
    state, *_ = train(STATE, ORDERS[0], PRIOR, count=1)
    state, *_ = train(state, ORDERS[0], PRIOR, count=2)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_stops_at_what_is_not_finite():
    broken = STATE._replace(params=jax.tree.map(lambda x: x * jnp.nan, STATE.params))
    state, _, finite = train(broken, ORDERS[0], PRIOR)
    assert not all(map(bool, jax.tree.leaves(finite)))
    assert state.step == 1


def test_a_task_starts_with_the_parameters_and_a_new_optimizer():
    after, *_ = train(STATE, ORDERS[0], PRIOR)
    again = tasks.start(METHOD, after)
    assert again.params is after.params and again.batch_stats is after.batch_stats
    assert again.step == after.step  # so that no key is used twice
    for a, b in zip(jax.tree.leaves(again.optimizer), jax.tree.leaves(STATE.optimizer), strict=True):
        np.testing.assert_array_equal(a, b)


# Testing --------------------------------------------------------------------------------------------------------------


def test_scores_on_each_task_so_far():
    statistics = jax.tree.map(lambda x: jnp.stack([x, x + 1, x + 2]), STATE.batch_stats)

    def network_of(learned, task):
        of_task = prediction.part(learned.statistics, task)
        return prediction.network(MODEL, learned.state._replace(batch_stats=of_task), IMAGES[:0])

    predictors = {"mode": lambda apply_fn, state, key, images: bb.mode_predictive(apply_fn, state.params[0], images)}
    program = jax.jit(partial(tasks.evaluate, predictors, network_of, DATA))
    scores = program(jnp.int32(2), tasks.Learned(STATE, statistics, ORDERS), KEY)
    for task in range(2):
        variables = {
            "params": bb.mode(STATE.params[0]),
            "batch_stats": jax.tree.map(lambda x, task=task: x + task, STATE.batch_stats),
        }
        logits = MODEL.apply(variables, IMAGES[:, ORDERS[task]], train=False)
        expected = np.mean(np.argmax(logits, axis=1) == DATA.labels)
        assert scores["accuracy_mode"][task] == pytest.approx(expected)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, DATA.labels).mean()
        assert scores["nll_mode"][task] == pytest.approx(float(nll), rel=1e-5)
    assert scores["accuracy_mode"][2] == scores["nll_mode"][2] == 0


def test_statistics_are_kept_for_the_task():
    kept = tasks.keep({"mean": jnp.zeros((2, 3))}, jnp.int32(1), {"mean": jnp.array([4.0, 5.0])})
    np.testing.assert_array_equal(kept["mean"], [[0, 4, 0], [0, 5, 0]])  # [seed, task]


# What was forgotten ---------------------------------------------------------------------------------------------------


def test_what_was_forgotten_by_hand():
    matrix = [[0.9], [0.7, 0.8], [0.75, 0.5, 0.95]]
    assert tasks.average_accuracy(matrix) == pytest.approx((0.75 + 0.5 + 0.95) / 3)
    assert tasks.backward_transfer(matrix) == pytest.approx(((0.75 - 0.9) + (0.5 - 0.8)) / 2)
    assert tasks.forgetting(matrix) == pytest.approx(((0.9 - 0.75) + (0.8 - 0.5)) / 2)


def test_forgetting_is_from_the_best_and_transfer_from_the_own_task():
    matrix = [[0.5], [0.9, 0.8], [0.6, 0.8, 0.7]]  # task 1 was best after task 2
    assert tasks.forgetting(matrix) == pytest.approx((0.9 - 0.6) / 2)
    assert tasks.backward_transfer(matrix) == pytest.approx((0.6 - 0.5) / 2)


def test_one_task_has_nothing_to_forget():
    assert tasks.forgetting([[0.9]]) is tasks.backward_transfer([[0.9]]) is None
    assert tasks.average_accuracy([[0.9]]) == 0.9


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_what_was_forgotten_equals_a_loop_over_all_entries(num_tasks):
    rng = np.random.default_rng(num_tasks)
    full = rng.uniform(size=(num_tasks, num_tasks))
    falls, changes = 0.0, 0.0
    for task in range(num_tasks - 1):
        best = -1.0
        for after in range(task, num_tasks - 1):
            best = max(best, full[after, task])
        falls += best - full[-1, task]
        changes += full[-1, task] - full[task, task]
    matrix = [full[t, : t + 1].tolist() for t in range(num_tasks)]
    assert tasks.forgetting(matrix) == pytest.approx(falls / (num_tasks - 1))
    assert tasks.backward_transfer(matrix) == pytest.approx(changes / (num_tasks - 1))
