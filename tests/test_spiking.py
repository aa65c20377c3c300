"""Spiking networks: the neuron, its gradient and the rule by hand, the codes, and the command."""

import dataclasses
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb
from experiments.spiking import data, learning, model, neuron
from experiments.spiking.__main__ import main
from experiments.spiking.presets import METHODS, Config
from tests import reference
from tests.commands import assert_finished_run_stays, read_results, refused

pytestmark = pytest.mark.long

SMALL = "--hidden 8 6 --time-steps 12 --burn-in 3 --epochs 2 --seeds 2 --eval-samples 4".split()
WIDTHS, NUM_INPUTS, NUM_CLASSES = (6, 5), 4, 3
DECAY = [math.exp(-1 / 10), math.exp(-1 / 6), math.exp(-1 / 2)]


# By hand, in float64 --------------------------------------------------------------------------------------------------


def traces(weights, trains):
    """A layer in plain Python: for each step P, U, R and S, of one example; trains are [time, input]."""
    a, b, c = DECAY
    num_inputs, width = weights.shape
    p, q, r, s = [0.0] * num_inputs, [0.0] * num_inputs, [0.0] * width, [0.0] * width
    seen = []
    for train in trains:
        p = [a * p[i] + q[i] for i in range(num_inputs)]
        q = [b * q[i] + train[i] for i in range(num_inputs)]
        r = [c * r[j] + s[j] for j in range(width)]
        u = [sum(p[i] * weights[i, j] for i in range(num_inputs)) / num_inputs**0.5 - r[j] for j in range(width)]
        s = [float(x >= 0) for x in u]
        seen.append([np.array(x) for x in (p, u, r, s)])
    return seen


def network_by_hand(weights, trains):
    """`traces` of layers on top of each other, [layer][time], for each example of trains [time, example, input]."""
    layers = []
    for w in weights:
        of_examples = [traces(w, trains[:, n]) for n in range(trains.shape[1])]
        layers.append([[np.stack(x) for x in zip(*of_step, strict=True)] for of_step in zip(*of_examples, strict=True)])
        trains = np.stack([step[3] for step in layers[-1]])
    return layers


def loss_and_gradient(step, readout, labels):
    """The loss of what a layer says in a step, and the outer product that is its gradient."""
    p, u, _, s = step
    scores = s @ readout / len(readout) ** 0.5
    log_p = reference.log_softmax(scores)
    error = (np.exp(log_p) - np.eye(scores.shape[1])[labels]) / len(labels)
    at_neurons = error @ readout.T / len(readout) ** 0.5 * ((u > -0.5) & (u <= 0.5))
    return -log_p[np.arange(len(labels)), labels].mean(), p.T @ at_neurons / p.shape[1] ** 0.5


def drawn(seed, num_steps=5, num_examples=7):
    """Weights away from 0, readouts, spikes and labels, in float64."""
    rng = np.random.default_rng(seed)
    sizes = zip((NUM_INPUTS, *WIDTHS), WIDTHS, strict=False)
    weights = [rng.uniform(-0.6, 0.6, size) for size in sizes]
    readouts = [rng.choice([-1.0, 1.0], (width, NUM_CLASSES)) for width in WIDTHS]
    trains = rng.integers(0, 2, (num_steps, num_examples, NUM_INPUTS)).astype(float)
    return weights, readouts, trains, rng.integers(0, NUM_CLASSES, num_examples)


def tree(weights):
    return {f"Layer_{i}": {"BinaryDense_0": {"binary_kernel": jnp.float32(w)}} for i, w in enumerate(weights)}


def leaves(params):
    return [np.asarray(params[f"Layer_{i}"]["BinaryDense_0"]["binary_kernel"], np.float64) for i in range(len(WIDTHS))]


def test_traces_and_spikes_of_five_steps_are_those_of_a_calculation_by_hand():
    weights, _, trains, _ = drawn(0)
    network = neuron.Network(WIDTHS)
    found = neuron.over_time(network, tree(weights), jnp.float32(trains), lambda layers: layers)
    fired = 0
    for layer, expected in zip(found, network_by_hand(weights, trains), strict=True):
        for t, (p, _, r, s) in enumerate(expected):
            np.testing.assert_allclose(layer.membrane[t], p, rtol=1e-5)
            np.testing.assert_allclose(layer.refractory[t], r, rtol=1e-5)
            np.testing.assert_array_equal(layer.spikes[t], s)
            fired += s.mean()
    assert 1 < fired < 9  # of 2 layers in 5 steps: neither nothing nor everything


def test_a_spike_reaches_the_membrane_one_step_later():
    network, once = neuron.Network((1,)), jnp.zeros((4, 1, 1)).at[0].set(1)
    layers = neuron.over_time(network, {"Layer_0": {"BinaryDense_0": {"binary_kernel": jnp.ones((1, 1))}}}, once, tuple)
    a, b, _ = DECAY
    np.testing.assert_allclose(layers[0].membrane.ravel(), [0, 1, a + b, a * (a + b) + b * b], rtol=1e-6)


def test_derivative_of_a_spike_is_one_within_half_of_the_threshold():
    u = jnp.array([-2.0, -0.5, -0.49, 0.0, 0.5, 0.51])
    np.testing.assert_array_equal(neuron.spike(u), [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(jax.vmap(jax.grad(neuron.spike))(u), [0, 0, 1, 1, 1, 0])


def test_gradient_of_a_step_is_an_outer_product_of_what_each_layer_has_at_hand():
    weights, readouts, trains, labels = drawn(1)
    network, params = neuron.Network(WIDTHS), tree(weights)
    loss_fn = learning.step_loss(network, [jnp.float32(x) for x in readouts])
    steps = list(zip(*network_by_hand(weights, trains), strict=True))
    layers, seen = network.at_rest(jnp.float32(trains[0])), 0
    for spikes, step in zip(jnp.float32(trains), steps, strict=True):
        (loss, layers), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params, layers, spikes, labels)
        by_hand = [loss_and_gradient(x, readout, labels) for x, readout in zip(step, readouts, strict=True)]
        assert loss == pytest.approx(sum(value for value, _ in by_hand), rel=1e-5)
        for found, (_, expected) in zip(leaves(gradient), by_hand, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
            seen += np.count_nonzero(expected)
    assert seen > 40


def test_a_batch_is_the_rule_of_the_reference_in_each_step_after_the_burn_in():
    """Traces, gradients, samples and updates in float64, given the noise of the keys."""
    natural, readouts, trains, labels = drawn(2, num_steps=6)
    config = dataclasses.replace(
        Config(), time_steps=6, burn_in=2, epochs=3, batch_size=7, learning_rate=0.05, temperature=0.7, kl_weight=0.3
    )
    network, key = neuron.Network(WIDTHS), jax.random.key(3)
    method = learning.make(config, "bayesbinn", 7)
    batch = learning.batch_learner(config, method, network, [jnp.float32(x) for x in readouts])
    params = tree(natural)
    learner, loss = jax.jit(batch)(
        learning.Learner(params, method.optimizer.init(params)), key, jnp.float32(trains), jnp.asarray(labels)
    )
    losses, states = (
        [],
        [
            [np.zeros((7, n)), np.zeros((7, n)), np.zeros((7, m)), np.zeros((7, m))]
            for n, m in ((NUM_INPUTS, 6), (6, 5))
        ],
    )
    for t, (step_key, spikes) in enumerate(zip(jax.random.split(key, 6), trains, strict=True)):
        noise = leaves(bb.logistic_noise(jax.random.split(step_key, 1)[0], params))
        rate = 0.05 * 0.5 * (1 + math.cos(math.pi * (t - 2) / (3 * 4)))
        losses.append(0.0)
        for i, (delta, readout) in enumerate(zip(noise, readouts, strict=True)):
            w = reference.relaxed_sample(natural[i], delta, 0.7)
            p, q, r, s = states[i]
            p, q, r = DECAY[0] * p + q, DECAY[1] * q + spikes, DECAY[2] * r + s
            u = p @ w / len(w) ** 0.5 - r
            spikes = (u >= 0).astype(float)
            states[i] = [p, q, r, spikes]
            value, gradient = loss_and_gradient((p, u, r, spikes), readout, labels)
            losses[-1] += value
            if t >= 2:
                s = reference.gradient_scale(natural[i], w, 0.7, 7)
                natural[i] = natural[i] - rate * (s * gradient + 0.3 * natural[i])
    for found, expected in zip(leaves(learner.params), natural, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert loss == pytest.approx(np.mean(losses[2:]), rel=1e-4)


# Time -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through_time", [False, True])
def test_gradient_flows_through_time_only_where_it_is_asked_to(through_time):
    """What a network heard earlier, and a lower layer, have a gradient of the loss of the last step alone."""
    weights, readouts, trains, labels = drawn(4, num_steps=8)
    network = neuron.Network(WIDTHS)
    lower_is_silent = [jnp.zeros((6, NUM_CLASSES)), jnp.float32(readouts[1])]
    loss_fn = learning.step_loss(network, lower_is_silent)
    loss = learning.sequence_loss(loss_fn, network, 7, through_time)
    of_weights, of_spikes = jax.grad(lambda *x: loss(*x, labels)[0], (0, 1))(tree(weights), jnp.float32(trains))
    lower, upper = leaves(of_weights)
    assert np.any(upper)
    assert np.any(lower) == np.any(of_spikes[:6]) == through_time


def test_gradient_through_time_of_one_neuron_is_that_of_a_recursion_by_hand():
    """What a neuron fired earlier holds it back now: dS_t = window_t (P_t / sqrt(n) - dR_t), dR_t = c dR + dS."""
    rng = np.random.default_rng(5)
    weights, trains = rng.uniform(-0.3, 0.3, (3, 1)), rng.integers(0, 2, (12, 1, 3)).astype(float)
    network, params = neuron.Network((1,)), {"Layer_0": {"BinaryDense_0": {"binary_kernel": jnp.float32(weights)}}}
    loss_fn, label = learning.step_loss(network, [jnp.ones((1, 1))]), jnp.array([1])
    d_spike, d_refractory, expected, local = np.zeros(3), np.zeros(3), 0.0, 0.0
    for p, u, _, s in traces(weights, trains[:, 0]):
        window = float(-0.5 < u[0] <= 0.5)
        d_refractory = DECAY[2] * d_refractory + d_spike
        d_spike = window * (p / 3**0.5 - d_refractory)
        error = 1 / (1 + math.exp(-s[0])) - 1
        expected, local = expected + error * d_spike / 12, local + error * window * p / 3**0.5 / 12
    assert np.abs(expected - local).max() > 0.01
    for through_time, by_hand in ((True, expected), (False, local)):
        loss = learning.sequence_loss(loss_fn, network, 0, through_time)
        found = jax.grad(lambda w, loss=loss: loss(w, jnp.float32(trains), label)[0])(params)
        np.testing.assert_allclose(jax.tree.leaves(found)[0].ravel(), by_hand, rtol=1e-4)


def test_one_sample_is_the_same_network_in_all_steps_of_a_batch():
    """Where nothing is learnt it has the loss of one network in all of the sequence; a sample a step has not."""
    natural, readouts, trains, labels = drawn(6, num_steps=8)
    params, losses = tree(natural), {}
    for update in ("each_step", "one_sample", "one_update"):
        config = dataclasses.replace(
            Config(), time_steps=8, burn_in=1, batch_size=7, learning_rate=0.0, temperature=0.5, update=update
        )
        method = learning.make(config, "bayesbinn", 7)
        batch = learning.batch_learner(config, method, neuron.Network(WIDTHS), [jnp.float32(x) for x in readouts])
        learner = learning.Learner(params, method.optimizer.init(params))
        loss = jax.jit(batch)(learner, jax.random.key(7), jnp.float32(trains), jnp.asarray(labels))[1]
        losses[update] = float(loss)
    assert losses["one_sample"] == pytest.approx(losses["one_update"], rel=1e-5)
    assert losses["each_step"] != pytest.approx(losses["one_update"], rel=1e-3)


# Codes ----------------------------------------------------------------------------------------------------------------


def test_population_code_is_the_formula_of_the_paper():
    x = np.linspace(-0.2, 1.2, 57)
    d = 100 / 9
    expected = [
        [0.5 + 0.5 * np.cos(np.clip(np.pi * (100 * v - k * d) / d, -np.pi, np.pi)) for k in range(10)] for v in x
    ]
    found = data.population_rates(jnp.float32(np.stack([x, x[::-1]], axis=-1)))
    np.testing.assert_allclose(found[:, :10], expected, atol=2e-6)
    np.testing.assert_allclose(found[:, 10:], expected[::-1], atol=2e-6)


def test_spikes_have_their_rates_and_are_those_of_an_example_whoever_stands_beside_it():
    key, examples = jax.random.key(0), np.float32([[0.3, 0.9], [0.55, 0.02], [0.0, 1.0]])
    spikes = data.spikes_of("moons", key, examples, 4000)
    rates = np.asarray(data.population_rates(jnp.asarray(examples)))
    assert np.abs(spikes.mean(0) - rates).max() < 5 * 0.5 / 4000**0.5
    assert np.all(np.std(np.asarray(spikes), axis=0)[rates == 1] == 0)
    np.testing.assert_array_equal(data.spikes_of("moons", key, examples[:1], 4000), spikes[:, :1])
    pixels = data.spikes_of("digits", key, np.full((2, 64), 0.25, np.float32), 400)
    assert pixels.shape == (400, 2, 64)
    assert abs(pixels.mean() - 0.25) < 5 * (0.25 * 0.75 / pixels.size) ** 0.5


def test_examples_of_training_validation_and_test_are_different_ones():
    for dataset, sizes in (("moons", (200, 1000, 1000)), ("digits", (1150, 287, 360))):
        test, validation = (data.load(dataset, 0, of_validation) for of_validation in (False, True))
        assert (len(validation.train), len(validation.test), len(test.test)) == sizes
        in_train = {x.tobytes() for x in validation.train}
        assert not in_train & {x.tobytes() for x in validation.test}
        assert not {x.tobytes() for x in test.test} & {x.tobytes() for x in validation.test}
        assert test.train.min() == 0 and test.train.max() == 1


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moons_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "moons"
    return main([*SMALL, "--out", str(out)]), out


def test_run_folder_holds_rows_networks_and_a_figure(moons_run):
    results, out = moons_run
    rows = results["rows"]
    assert read_results(out) == results
    said = [(row["method"], row["predictor"], row["seed"]) for row in rows if row["seed"] == 0]
    assert said == [("bayesbinn", x, 0) for x in ("mode", "committee")] + [
        (x, "mode", 0) for x in ("ste", "full_precision")
    ]
    assert {row["seed"] for row in rows} == {0, 1}
    assert all(
        0 < row["spikes_per_neuron_and_step"] < 1 and 0 <= row["far_entropy"] <= math.log(2) + 1e-6 for row in rows
    )
    assert all((row["posterior_entropy_bits_per_weight"] is not None) == (row["method"] == "bayesbinn") for row in rows)
    assert results["num_binary_weights"] == 20 * 8 + 8 * 6
    names = {path.name for path in out.iterdir()}
    assert names >= {"figure.png", "pieces.jsonl", "network-0.safetensors", "network-ste-1.packed.safetensors"}
    assert names >= {"committee-1.packed.safetensors", "network-full_precision-0.safetensors"}


def test_numbers_of_the_results_come_back_from_kept_networks(moons_run):
    results, out = moons_run
    test = data.load("moons", 1, False)
    points = test.test * test.size + test.low
    posterior, apply_fn, preprocess, _ = model.load_network(out / "network-1.safetensors")
    spikes, key = preprocess(points), model.keys_of(1).committee
    real = model.load_network(out / "network-full_precision-1.safetensors")
    found = {
        ("bayesbinn", "mode"): bb.mode_predictive(apply_fn, posterior.natural, spikes),
        ("bayesbinn", "committee"): model.load_packed(out / "committee-1.packed.safetensors").predict(spikes),
        ("ste", "mode"): model.load_packed(out / "network-ste-1.packed.safetensors").predict(spikes),
        ("full_precision", "mode"): bb.mode_predictive(
            lambda w, x: real.apply_fn(real.posterior.natural, x), real.posterior.natural, spikes
        ),
    }
    drawn_again = bb.posterior_predictive(apply_fn, posterior.natural, key, spikes, num_samples=4)
    np.testing.assert_allclose(
        drawn_again.mutual_information, found["bayesbinn", "committee"].mutual_information, rtol=1e-3, atol=1e-5
    )
    for row in results["rows"]:
        if row["seed"] == 1:
            p = np.asarray(found[row["method"], row["predictor"]].probabilities, np.float64)
            nll = -np.log(p[np.arange(1000), test.test_labels]).mean()
            assert row["test_nll"] == pytest.approx(nll, rel=1e-3)
            assert row["test_accuracy"] == pytest.approx(np.mean(p.argmax(1) == test.test_labels), abs=2e-3)


def test_a_run_that_was_interrupted_goes_on_to_the_same_rows(moons_run, tmp_path):
    results, out = moons_run
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text((out / "config.json").read_text())
    lines = (out / "pieces.jsonl").read_text().splitlines()
    (folder / "pieces.jsonl").write_text("\n".join([lines[0], lines[2], lines[1][:100]]))
    for path in out.glob("*.safetensors"):
        (folder / path.name).write_bytes(path.read_bytes())
    again = main([*SMALL, "--resume", "--out", str(folder)])

    def without_seconds(rows):
        return [{name: x for name, x in row.items() if "seconds" not in name} for row in rows]

    assert without_seconds(again["rows"]) == without_seconds(results["rows"])


def test_a_method_whose_network_is_missing_or_damaged_is_trained_again(moons_run, tmp_path, capsys):
    results, out = moons_run
    folder = tmp_path / "run"
    shutil.copytree(out, folder)
    (folder / "committee-1.packed.safetensors").unlink()
    damaged = folder / "network-ste-0.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:200])
    again = main([*SMALL, "--resume", "--out", str(folder)])
    said = capsys.readouterr().out
    assert [f"a network of {x} is missing" in said for x in METHODS] == [True, True, False]
    assert [row["test_nll"] for row in again["rows"]] == [row["test_nll"] for row in results["rows"]]
    for name in ("committee-1.packed.safetensors", damaged.name):
        assert (folder / name).read_bytes() == (out / name).read_bytes()


def test_training_that_diverges_names_the_learning_rate(tmp_path):
    few = "--methods bayesbinn --hidden 8 --epochs 1 --seeds 1".split()
    with pytest.raises(
        SystemExit, match=r"of bayesbinn is not finite: lower --learning-rate, which is 1e\+30,"
    ) as stop:
        main([*few, "--learning-rate", "1e30", "--out", str(tmp_path / "run")])
    assert "\n" not in stop.value.code and "--resume" not in stop.value.code


def test_digits_are_drawn_as_spikes(tmp_path):
    out = tmp_path / "run"
    few = "--hidden 16 --time-steps 8 --burn-in 2 --epochs 1 --seeds 1 --eval-samples 2 --validation".split()
    results = main(["--preset", "digits", "--methods", "bayesbinn", *few, "--out", str(out)])
    assert [row["predictor"] for row in results["rows"]] == ["mode", "committee"]
    assert results["rows"][0]["far_entropy"] is None
    assert (out / "figure.png").stat().st_size > 10_000


def test_finished_run_is_not_overwritten_unless_told(moons_run, capsys):
    assert_finished_run_stays(capsys, main, SMALL, moons_run)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preset", "best"], ["--preset", "best", "moons, digits, as-released, quick"]),
        (["--dataset", "circles"], ["--dataset", "circles"]),
        (["--methods", "sgd"], ["--methods", "sgd"]),
        (["--methods", "ste", "ste"], ["methods", "('ste', 'ste')"]),
        (["--update", "never"], ["--update", "never"]),
        (["--burn-in", "100"], ["burn_in", "100"]),
        (["--time-steps", "1"], ["time_steps", "1"]),
        (["--seeds", "0"], ["seeds", "0"]),
        (["--epochs", "0"], ["epochs", "0"]),
        (["--batch-size", "201"], ["batch_size", "201"]),
        (["--temperature", "0"], ["temperature", "0"]),
        (["--temperature", "nan"], ["temperature must be finite and above", "nan"]),
        (["--learning-rate", "-1"], ["learning_rate", "-1"]),
        (["--ste-learning-rate", "nan"], ["ste_learning_rate", "nan"]),
        (["--real-learning-rate", "1e39"], ["real_learning_rate", "1e+39"]),
        (["--kl-weight", "-1"], ["kl_weight", "-1"]),
        (["--init-scale", "inf"], ["init_scale", "inf"]),
        (["--eval-samples", "1"], ["eval_samples", "1"]),
        (["--hidden", "8", "0"], ["hidden", "(8, 0)"]),
        (["--resume", "--overwrite"], ["resume", "overwrite"]),
    ],
)
def test_bad_argument_ends_in_one_line_and_writes_nothing(tmp_path, capsys, arguments, expected):
    error = refused(capsys, main, ["--out", str(tmp_path / "run"), *arguments])
    assert all(text in error for text in expected), error
    assert list(tmp_path.iterdir()) == []
