"""The authors' trajectories, the NumPy reference and the library are one and the same, step by step in float64."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbinn_jax as bb
from tests import reference

FOLDER = Path(os.environ.get("BBINN_TRAJECTORIES", "unset"))
FILES = sorted(FOLDER.glob("*.npz"))
NO_FILE = pytest.param(None, marks=pytest.mark.skip(reason="BBINN_TRAJECTORIES does not name a folder of .npz files"))
TOLERANCE = 1e-6

every_file = pytest.mark.parametrize("path", FILES or [NO_FILE], ids=lambda path: path.stem if path else "none")


def relative_error(a, b):
    """The largest error over all steps, relative to the largest value that the weight (or the loss) takes.

    An error relative to every single value would say nothing where a natural parameter crosses 0. What is left is
    the rounding of the authors' 1 - mu * mu: at abs(natural) = 15 the last bit of mu is 1e-6 of it.
    """
    assert np.all(np.isfinite(a))
    return np.max(np.abs(a - b) / np.max(np.abs(b), axis=0))


def load(path):
    return {name: array if array.ndim else array.item() for name, array in np.load(path).items()}


def settings(run):
    names = ("learning_rate", "momentum", "temperature", "kl_weight", "train_set_size", "prior")
    return {name: run[name] for name in names}


def mlp_loss(leaves, x, y):
    for w, b in zip(leaves[:-2:2], leaves[1:-2:2], strict=True):
        x = jnp.tanh(x @ w.T + b[None])
    logit = (x @ leaves[-2].T + leaves[-1][None])[:, 0]
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logit, y))


def run_library(gradient, run, prior):
    """(natural [step + 1, P], loss [step]); gradient(natural, t) gives the loss and its gradient at step t."""
    learning_rates = jnp.asarray(run["learning_rate"])
    tx = bb.bayesbinn(
        lambda count: learning_rates[count],
        run["train_set_size"],
        prior_natural=prior,
        momentum=run["momentum"],
        kl_weight=run["kl_weight"],
    )

    def step(carry, t):
        natural, state = carry
        loss, grads = gradient(natural, t)
        updates, state = tx.update(grads, state, natural)
        natural = optax.apply_updates(natural, updates)
        return (natural, state), (jnp.concatenate([leaf.ravel() for leaf in natural]), loss)

    natural = [jnp.asarray(leaf) for leaf in reference.unflatten(run["natural"][0], run["shapes"])]
    start = (natural, tx.init(natural))
    _, (naturals, losses) = jax.jit(lambda: jax.lax.scan(step, start, jnp.arange(len(learning_rates))))()
    return np.concatenate([run["natural"][:1], naturals]), np.asarray(losses)


def gradient_with_recorded_noise(run, noise):
    """By relax and vmap."""
    x, y, shapes = jnp.asarray(run["X"]), jnp.asarray(run["y"]), run["shapes"]
    noise = jnp.asarray(noise)

    def loss(natural, t):
        if run["num_samples"] == 0:
            no_noise = [jnp.zeros_like(leaf) for leaf in natural]
            return mlp_loss(bb.relax(natural, no_noise, temperature=1.0), x, y)

        def loss_of_sample(delta):
            delta = reference.unflatten(delta, shapes)
            return mlp_loss(bb.relax(natural, delta, temperature=run["temperature"]), x, y)

        return jnp.mean(jax.vmap(loss_of_sample)(noise[t]))

    return jax.value_and_grad(loss)


def gradient_of_expected_loss(run, noise, monkeypatch):
    """By expected_loss, which draws its own noise: the recorded noise is found by the key of the sample."""
    x, y, shapes = jnp.asarray(run["X"]), jnp.asarray(run["y"]), run["shapes"]
    num_steps, num_samples, num_weights = noise.shape
    loss = bb.expected_loss(mlp_loss, temperature=run["temperature"], num_samples=num_samples)
    step_keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(num_steps))

    if num_samples:
        flat_noise = jnp.asarray(noise).reshape(-1, num_weights)
        table = jax.random.key_data(jax.vmap(lambda key: jax.random.split(key, num_samples))(step_keys))
        table = table.reshape(len(flat_noise), -1)
        assert len(np.unique(table, axis=0)) == len(table)

        def recorded_noise(key, natural):
            row = jnp.argmax(jnp.all(table == jax.random.key_data(key)[None], axis=1))
            return reference.unflatten(flat_noise[row], shapes)

        monkeypatch.setattr("bbinn_jax.relaxation.logistic_noise", recorded_noise)

    return lambda natural, t: jax.value_and_grad(loss)(natural, step_keys[t], x, y)


# The authors' trajectories -------------------------------------------------------------------------------------------


@every_file
def test_reference_reproduces_the_authors(path):
    run = load(path)
    natural, loss = reference.train(
        lambda w: reference.mlp_loss_and_grad(w, run["shapes"], run["X"], run["y"]),
        run["natural"][0],
        reference.half_logistic(run["uniform"]),
        **settings(run),
    )
    assert relative_error(natural, run["natural"]) < TOLERANCE
    assert relative_error(loss, run["loss"]) < TOLERANCE


@every_file
def test_relax_reproduces_the_authors(path, x64):
    run = load(path)
    prior = reference.unflatten(run["prior"], run["shapes"])
    gradient = gradient_with_recorded_noise(run, reference.half_logistic(run["uniform"]))
    natural, loss = run_library(gradient, run, prior)
    assert relative_error(natural, run["natural"]) < TOLERANCE
    assert relative_error(loss, run["loss"]) < TOLERANCE


@every_file
def test_expected_loss_reproduces_the_authors(path, x64, monkeypatch):
    run = load(path)
    prior = reference.unflatten(run["prior"], run["shapes"])
    gradient = gradient_of_expected_loss(run, reference.half_logistic(run["uniform"]), monkeypatch)
    natural, loss = run_library(gradient, run, prior)
    assert relative_error(natural, run["natural"]) < TOLERANCE
    assert relative_error(loss, run["loss"]) < TOLERANCE


# A generated problem -------------------------------------------------------------------------------------------------


def generated_run(momentum, num_samples, temperature, scale=1.0):
    rng = np.random.default_rng(0)
    shapes = np.array([(3, 2), (3, 0), (1, 3), (1, 0)])
    num_weights, num_steps = 13, 60
    x = rng.normal(size=(20, 2))
    run = {
        "X": x,
        "y": (x[:, 0] * x[:, 1] > 0).astype(float),
        "shapes": shapes,
        "natural": scale * rng.normal(size=(1, num_weights)),
        "learning_rate": 0.02 * 0.97 ** np.arange(num_steps),
        "momentum": momentum,
        "num_samples": num_samples,
        "temperature": temperature,
        "kl_weight": 0.5,
        "train_set_size": 20,
        "prior": rng.normal(size=num_weights),
    }
    return run, reference.half_logistic(rng.uniform(size=(num_steps, num_samples, num_weights)))


@pytest.mark.parametrize(
    "momentum, num_samples, temperature, tree_prior",
    [
        (0.0, 0, 1.0, True),
        (0.9, 0, 1.0, False),
        (0.0, 1, 1.0, False),
        (0.9, 5, 1.0, True),
        (0.0, 5, 0.1, False),
        (0.9, 1, 0.1, True),
        (0.0, 5, 1e-10, True),
        (0.9, 1, 1e-10, False),
    ],
)
def test_library_equals_reference(momentum, num_samples, temperature, tree_prior, x64, monkeypatch):
    run, noise = generated_run(momentum, num_samples, temperature)
    run["prior"] = run["prior"] if tree_prior else 0.3
    expected_natural, expected_loss = reference.train(
        lambda w: reference.mlp_loss_and_grad(w, run["shapes"], run["X"], run["y"]),
        run["natural"][0],
        noise,
        **settings(run),
    )
    prior = reference.unflatten(run["prior"], run["shapes"]) if tree_prior else 0.3
    gradient = gradient_of_expected_loss(run, noise, monkeypatch)
    natural, loss = run_library(gradient, run, prior)
    assert relative_error(natural, expected_natural) < 1e-10
    assert relative_error(loss, expected_loss) < 1e-10
    assert np.max(np.abs(natural[-1] - natural[0])) > 0.1  # something was learned that could differ


def test_relax_equals_reference(x64):
    run, noise = generated_run(momentum=0.9, num_samples=5, temperature=0.5)
    expected_natural, _ = reference.train(
        lambda w: reference.mlp_loss_and_grad(w, run["shapes"], run["X"], run["y"]),
        run["natural"][0],
        noise,
        **settings(run),
    )
    prior = reference.unflatten(run["prior"], run["shapes"])
    natural, _ = run_library(gradient_with_recorded_noise(run, noise), run, prior)
    assert relative_error(natural, expected_natural) < 1e-10


def test_reference_gradient_equals_finite_differences():
    """The oracle is checked too: its gradient is written by hand."""
    run, _ = generated_run(0.0, 1, 1.0)
    flat, h = run["natural"][0], 1e-6
    _, grad = reference.mlp_loss_and_grad(flat, run["shapes"], run["X"], run["y"])
    for i, unit in enumerate(np.eye(len(flat))):
        above, _ = reference.mlp_loss_and_grad(flat + h * unit, run["shapes"], run["X"], run["y"])
        below, _ = reference.mlp_loss_and_grad(flat - h * unit, run["shapes"], run["X"], run["y"])
        assert abs((above - below) / (2 * h) - grad[i]) < 1e-8
