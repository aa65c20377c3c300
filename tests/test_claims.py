"""What the paper says about two other methods (arXiv 2002.10778, section 3.3), on a network and real images.

Everywhere: two layers of binary weights (64-32-10, 2368 weights) without real parameters, the images of
scikit-learn's digits with pixels in [-1, 1], mean cross-entropy, no noise (delta = 0), N = 1797, and eps of the
relaxation equal to eps of the Fisher information. Each method computes its own gradients at its own weights, so a
single weight that differs once makes all that follows differ.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import bbinn_jax as bb
from bbinn_jax import bernoulli

MODEL = nn.Sequential(
    [bb.BinaryDense(32), nn.LayerNorm(use_bias=False, use_scale=False), nn.relu, bb.BinaryDense(10), lambda x: x / 8]
)
PIXELS, LABELS = load_digits(return_X_y=True)
IMAGES = PIXELS / 8 - 1
N = len(IMAGES)
TEMPERATURE = EPS = 1e-10
SCALE = N / TEMPERATURE
STEPS, BATCH_SIZE = 300, 100
BATCHES = np.random.default_rng(0).integers(N, size=(STEPS, BATCH_SIZE))
# 1 - tanh(40)^2 is 7e-35, lost in eps even in float64
SATURATED = 40


def loss(weights, batch):
    logits = MODEL.apply({"params": weights}, jnp.asarray(IMAGES)[batch])
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(LABELS)[batch]).mean()


def relaxed(natural, temperature=TEMPERATURE, eps=EPS):
    return bb.relax(natural, jax.tree.map(jnp.zeros_like, natural), temperature=temperature, eps=eps)


def relaxed_loss(natural, batch):
    return loss(relaxed(natural), batch)


def straight_through_loss(latent, batch):
    return loss(bb.straight_through(latent), batch)


def start(scale, dtype=float):
    """Normal numbers times scale, none of them within scale / 1000 of 0."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES[:1])["params"]

    def leaf_start(leaf):
        x = rng.normal(size=leaf.shape)
        return jnp.asarray(scale * np.sign(x) * (np.abs(x) + 1e-3), dtype)

    return jax.tree.map(leaf_start, shapes)


def flat(tree):
    """The leaves of a tree side by side, [..., weight], for leaves with two axes of their own."""
    return np.concatenate([np.reshape(x, (*x.shape[:-2], -1)) for x in jax.tree.leaves(tree)], axis=-1)


def train(tx, loss, params, state=None):
    """Params and Bop's averages (None for others) after every step, [step, weight]."""

    def body(carry, batch):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, getattr(state, "average", None))

    state = tx.init(params) if state is None else state
    _, (history, averages) = jax.jit(lambda *carry: jax.lax.scan(body, carry, jnp.asarray(BATCHES)))(params, state)
    return flat(history), None if averages is None else flat(averages)


def flips(signs):
    return np.sum(signs[1:] != signs[:-1])


# Claim 1: without noise and as the temperature goes to 0, BayesBiNN is straight-through training ---------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_at_temperature_zero_weights_and_gradient_are_those_of_ste(dtype, x64):
    """Settings: temperature = eps = 1e-10, every abs(lambda) > 1e-8.

    The weights are the sign to the last bit. The gradient is that of STE up to the rounding of eps / temperature = 1.
    """
    natural = start(1.0, dtype)
    assert np.min(np.abs(flat(natural))) > 1e-8
    np.testing.assert_array_equal(flat(relaxed(natural)), flat(bb.straight_through(natural)))

    value, grad = jax.jit(jax.value_and_grad(relaxed_loss))(natural, BATCHES[0])
    ste_value, ste_grad = jax.jit(jax.value_and_grad(straight_through_loss))(natural, BATCHES[0])
    rounding = float(jnp.finfo(dtype).eps)
    largest = np.max(np.abs(flat(ste_grad)))
    np.testing.assert_allclose(value, ste_value, rtol=10 * rounding)
    np.testing.assert_allclose(flat(grad), flat(ste_grad), rtol=10 * rounding, atol=10 * rounding * largest)
    assert largest > 1e-3
    assert np.mean(flat(ste_grad) != 0) > 0.9


@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0])
def test_the_derivative_of_ste_is_the_ratio_of_eps_and_temperature(ratio, x64):
    """Settings: temperature 1e-10, eps = ratio * temperature. STE is the limit with eps = temperature alone.

    1 - w^2 itself vanishes: without eps the gradient is 0 and no weight moves.
    """
    natural = start(1.0)
    grad = jax.grad(lambda x: loss(relaxed(x, eps=ratio * TEMPERATURE), BATCHES[0]))(natural)
    ste_grad = jax.grad(straight_through_loss)(natural, BATCHES[0])
    np.testing.assert_allclose(flat(grad), ratio * flat(ste_grad), rtol=1e-12, atol=1e-15)


def test_weights_and_derivatives_converge_as_the_temperature_falls(x64):
    """Settings: temperature = eps = 1, 1e-1, ..., 1e-10.

    Every weight comes closer with every temperature, by 2 / (1 + exp(2 abs(lambda) / temperature)) of the sign.
    Derivatives converge weight by weight and not uniformly: where abs(lambda) is near the temperature they are large.
    What shrinks is the share of such weights.
    """
    natural = start(1.0)
    sign, distances, shares = flat(bb.straight_through(natural)), [], []
    for temperature in 10.0 ** -np.arange(11):
        weights, slopes = jax.jvp(
            lambda x, temperature=temperature: relaxed(x, temperature, eps=temperature),
            (natural,),
            (jax.tree.map(jnp.ones_like, natural),),
        )
        distances.append(np.abs(flat(weights) - sign))
        shares.append(np.mean(np.abs(flat(slopes) - 1) > 0.01))
        expected = 2 * np.exp(-np.logaddexp(0, 2 * np.abs(flat(natural)) / temperature))
        np.testing.assert_allclose(distances[-1], expected, rtol=1e-6, atol=1e-15)

    assert np.all(np.diff(distances, axis=0) <= 0)
    assert np.max(distances[0]) > 0.9
    assert np.max(distances[-1]) == 0
    assert np.all(np.diff(shares) <= 0)
    assert shares[0] > 0.9
    assert 0 < shares[2] < 0.1
    assert shares[-1] == 0


@pytest.mark.parametrize("eps", [1e-10, 1e-5])
def test_bayesbinn_is_gradient_descent_with_the_gradient_of_ste(eps, x64):
    """Settings: kl_weight 0, momentum 0, temperature 1e-10, float64, 300 steps, abs(lambda) > 40 before every step.

    There 1 - tanh^2 is lost in eps, at lambda and at lambda / temperature. The derivative of w is eps / temperature,
    the Fisher information eps, and the step

        lambda <- lambda - alpha N (eps / temperature) / eps g = lambda - alpha (N / temperature) g

    with the gradient g of STE: `optax.sgd` with learning rate alpha N / temperature, for every eps, on latent weights
    that nothing clips (`ste` clips them to [-1, 1]).
    """
    learning_rate, natural = 1e-2, start(1e10)
    rule = bb.bayesbinn(learning_rate, N, kl_weight=0.0, eps=eps)
    naturals, _ = train(rule, lambda x, batch: loss(relaxed(x, eps=eps), batch), natural)
    latents, _ = train(optax.sgd(learning_rate * SCALE), straight_through_loss, natural)

    assert np.min(np.abs(np.vstack([flat(natural), naturals]))) > SATURATED
    assert flips(naturals > 0) > 10_000
    np.testing.assert_array_equal(naturals > 0, latents > 0)
    np.testing.assert_allclose(naturals, latents, rtol=0, atol=1e-10 * np.max(np.abs(latents)))


def test_a_weight_that_is_not_saturated_takes_other_steps_than_ste(x64):
    """Settings: as before, but with abs(lambda) from 0.01 to 30. The step is smaller, by eps / (1 - tanh^2 + eps)."""
    natural = start(10.0)
    tx = bb.bayesbinn(1.0, N, kl_weight=0.0)
    updates, _ = tx.update(jax.grad(relaxed_loss)(natural, BATCHES[0]), tx.init(natural), natural)
    ste_updates = -SCALE * flat(jax.grad(straight_through_loss)(natural, BATCHES[0]))
    factor = EPS / (1 / np.cosh(flat(natural)) ** 2 + EPS)
    np.testing.assert_allclose(flat(updates), factor * ste_updates, rtol=1e-6)
    assert np.min(factor) < 2 * EPS
    assert np.max(factor) > 0.999


# Claim 2: BayesBiNN with a constant scale keeps the average of Bop ----------------------------------------------------


def train_bayesbinn(learning_rate, natural, **changes):
    return train(bb.bayesbinn(learning_rate, N, **changes), relaxed_loss, natural)[0]


def train_bop(gamma, natural, threshold=0.0, start_of_average=None):
    """Bop from the weights sign(lambda) and, unless another is given, from the average -lambda / s."""
    tx, weights = bb.bop(gamma, threshold), bernoulli.mode(natural)
    average = jax.tree.map(lambda x: -x / SCALE, natural) if start_of_average is None else start_of_average
    return train(tx, loss, weights, tx.init(weights)._replace(average=average))


RATES = {"constant": 0.01, "schedule": lambda count: 0.03 / (1 + 0.01 * count)}


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES.keys())
def test_bayesbinn_flips_the_weights_that_bop_flips(rate, x64):
    """Settings: learning rate = gamma (a number or a schedule), kl_weight 1, prior 0, momentum 0, temperature = eps =
    1e-10, float64, 300 steps, abs(lambda) > 40 before every step; Bop with threshold 0 and m_0 = -lambda_0 / s.

    Then s = N / temperature at every weight and step, and lambda <- (1 - alpha) lambda - alpha s g is -s times
    m <- (1 - gamma) m + gamma g. A weight of Bop is always -sign(m), which is sign(lambda).
    """
    natural = start(1e-2 * SCALE)
    naturals = train_bayesbinn(rate, natural)
    weights, averages = train_bop(rate, natural)

    history = np.vstack([flat(natural), naturals])
    assert np.min(np.abs(history)) > SATURATED
    assert flips(history > 0) > 5000
    np.testing.assert_array_equal(weights, np.where(naturals > 0, 1.0, -1.0))
    np.testing.assert_allclose(naturals, -SCALE * averages, rtol=0, atol=1e-10 * np.max(np.abs(naturals)))

    tree = jax.tree.unflatten(jax.tree.structure(natural), np.split(weights[-1], [64 * 32]))
    trained = jax.tree.map(lambda w, x: w.reshape(x.shape), tree, natural)
    assert loss(bernoulli.mode(natural), np.arange(N)) > 2  # it is training, not noise
    assert loss(trained, np.arange(N)) < 1.3


def test_from_a_small_start_bop_may_begin_with_an_average_of_zero(x64):
    """Settings: as before, but lambda_0 = +-1000, as of `init_natural`, m_0 = 0, as published, and learning rate 0.1.

    lambda_0 / s is 6e-11: the first gradient of a weight outweighs it, and until then the weight keeps its sign in
    both. lambda + s m is what is left of lambda_0.
    """
    natural = bb.init_natural(jax.random.key(0), start(1.0), scale=1000.0)
    naturals = train_bayesbinn(0.1, natural)
    weights, averages = train_bop(0.1, natural, start_of_average=jax.tree.map(jnp.zeros_like, natural))

    history = np.vstack([flat(natural), naturals])
    assert np.min(np.abs(history)) > SATURATED
    assert flips(history > 0) > 5000
    np.testing.assert_array_equal(weights, np.where(naturals > 0, 1.0, -1.0))
    assert np.max(np.abs(naturals + SCALE * averages)) < 1000


def test_with_another_setting_the_flips_are_others(x64):
    """Each of these alone: Bop's threshold above 0, its average started at 0, kl_weight 0.5, momentum 0.9."""
    natural = start(1e-2 * SCALE)
    naturals = train_bayesbinn(0.01, natural)
    zeros = jax.tree.map(jnp.zeros_like, natural)
    others = {
        "threshold": train_bop(0.01, natural, threshold=1e-5)[0],
        "start": train_bop(0.01, natural, start_of_average=zeros)[0],
        "kl_weight": train_bayesbinn(0.01, natural, kl_weight=0.5),
        "momentum": train_bayesbinn(0.01, natural, momentum=0.9),
    }
    for name, other in others.items():
        different = np.sum((other > 0) != (naturals > 0), axis=1)
        assert different[-1] > 20, (name, different[-1])
