"""Several devices and several processes: the numbers of one, to rounding, and what each of them has to say."""

import dataclasses
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbinn_jax as bb
from experiments.common import classifier, training
from experiments.common import devices as sharding
from experiments.common.methods import STE, Activations, BayesBiNN, Weights
from experiments.common.networks import MLP
from experiments.common.presets import PRESETS
from experiments.image_classification.__main__ import main
from tests import commands
from tests.commands import content_of, read_metrics

pytestmark = pytest.mark.long

ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # they share small programs
SETTINGS = {
    "weights": BayesBiNN(Weights(temperature=0.5, num_samples=4), kl_weight=0.01, init_scale=1.0, learning_rate=0.01),
    "activations": BayesBiNN(Activations(), kl_weight=0.01, init_scale=1.0, learning_rate=0.01),
    "ste": STE(learning_rate=1e-3),
}


def start(num_devices, *arguments):
    """A process of its own: how many host devices there are is settled before JAX starts."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[1],
        env=os.environ | ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": str(num_devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    output, error = process.communicate(timeout=300)
    return process.returncode, output, error


# Devices --------------------------------------------------------------------------------------------------------------


def test_epoch_on_several_devices_equals_that_on_one():
    code = (
        "from tests import test_packing as p, test_sharding as t; p.check_sharded(); t.check_noise(); t.check_epochs()"
    )
    returncode, _, error = ended(start(4, "-c", code))
    assert returncode == 0, error


def check_noise():
    """Bit for bit, drawn in blocks or all at once, with each sample on a device of its own or all on each."""
    natural = [jnp.zeros((300, 300)), jnp.zeros(7)]  # 90,000 numbers are drawn in two blocks

    def draw(keys):
        return jax.vmap(lambda key: sharding.over_samples(bb.logistic_noise(key, natural)))(keys)

    keys = jax.random.split(jax.random.key(0), 4)
    expected = jax.jit(draw)(keys)
    assert len(np.unique(expected[1])) == 28
    for shape in ((1, 2), (4, 1), (2, 2), (1, 4)):
        with jax.set_mesh(jax.make_mesh(shape, ("data", "sample"), (jax.sharding.AxisType.Auto,) * 2)):
            noise = jax.jit(draw)(keys)
        assert len(noise[0].sharding.device_set) == shape[0] * shape[1] or shape[1] == 1
        assert {len(shard.data) for shard in noise[0].addressable_shards} == {4 // shape[1]}
        for a, b in zip(noise, expected, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def check_epochs():
    """Six steps with dropout and batch norms. On the network go only sums: of gradients, statistics and metrics."""
    for case, shape in {"weights": (2, 2), "activations": (4, 1), "ste": (2, 1)}.items():
        expected, program = epoch(case, 1, 1)
        assert "all-reduce" not in program
        actual, program = epoch(case, *shape)
        assert "all-reduce" in program and "all-gather" not in program
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=case)


def epoch(case, data_parallel, sample_parallel):
    config = dataclasses.replace(
        PRESETS["digits"]("ste"),
        method=SETTINGS[case],
        network=MLP(hidden=(24,), dropout=0.2, batch_norm_decay=0.98, output_scale=True),
        batch_size=32,
        train_images=192,
        devices=sharding.Devices(data_parallel, sample_parallel),
    )
    problem, dataset, index, mesh, *_ = classifier.prepare(config)
    keys = jax.random.key(0)[None]
    states = jax.vmap(partial(training.init, problem), (0, None))(keys, dataset.train.images)
    epoch_fn = partial(training.train_epoch, problem)
    train_epoch, args = sharding.compiled(epoch_fn, mesh, states, keys, dataset.train, index.train)
    states, metrics, _ = sharding.here(train_epoch(*args))
    assert int(states.step[0]) == 6
    return (states.params, states.batch_stats, metrics), train_epoch.as_text()


# The command ----------------------------------------------------------------------------------------------------------

COMMAND = (
    "--preset digits --hidden 32 --epochs 4 --temperature 0.5 --num-samples 2 --init-scale 1 --learning-rate 0.01 "
    "--kl-weight 0.01 --checkpoint-seconds 0 --eval-samples 2 --train-images 400 --eval-images 100"
).split()
DIVIDED = ["--data-parallel", "2", "--sample-parallel", "2"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    main([*COMMAND, "--out", str(out)])
    return out


def assert_same_numbers(actual, expected):
    lines, expected_lines = read_metrics(actual), read_metrics(expected)
    results, expected_results = (commands.read_results(out) for out in (actual, expected))
    for a, b in (*zip(lines, expected_lines, strict=True), (results, expected_results)):
        assert a.keys() == b.keys()
        for name, value in b.items():
            if isinstance(value, float) and "seconds" not in name:
                assert a[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name
    posterior, expected_posterior = (bb.load_posterior(out / "network-0.safetensors") for out in (actual, expected))
    for a, b in zip(jax.tree.leaves(posterior[:3]), jax.tree.leaves(expected_posterior[:3]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in actual.iterdir()) == sorted(path.name for path in expected.iterdir())


def processes(out, *arguments):
    """Two processes with two devices each: what each of them returns and prints."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = ["-m", "experiments.image_classification", *COMMAND, *DIVIDED, "--out", out, *arguments]
    command += ["--coordinator-address", address, "--num-processes", "2", "--process-id"]
    return [ended(process) for process in [start(2, *command, str(i)) for i in range(2)]]


def test_two_processes_that_continue_what_four_devices_began_equal_one_device(tmp_path, plain):
    out = tmp_path / "run"
    begin = ["-m", "experiments.image_classification", *COMMAND, *DIVIDED, "--stop-after-epochs", "2", "--out", out]
    returncode, _, error = ended(start(4, *begin))
    assert returncode == 0, error
    assert commands.read_results(out)["device"] == "4 x cpu"
    (returncode, output, error), (other_returncode, other_output, other_error) = processes(out, "--resume")
    assert (returncode, other_returncode) == (0, 0), error + other_error
    assert "continuing after epoch 2" in output
    assert "digits" not in other_output
    assert_same_numbers(out, plain)
    before = content_of(out)
    for returncode, _, error in processes(out):  # the first one finds a run in the folder, and both say so
        assert returncode == 2
        assert f"error: --out {out} holds a finished run" in error
    assert content_of(out) == before


REFUSED = {
    "more devices than there are": (["--data-parallel", "50"], ["--data-parallel 50", "devices", "got 50"]),
    "batch that cannot be divided": (["--data-parallel", "3"], ["--data-parallel", "--batch-size 50", "got 3"]),
    "samples that cannot be divided": (
        ["--num-samples", "4", "--sample-parallel", "3"],
        ["--sample-parallel", "--num-samples 4", "got 3"],
    ),
    "no samples": (["--num-samples", "0", "--sample-parallel", "2"], ["--sample-parallel", "--num-samples 0", "got 2"]),
    "method without samples": (
        ["--method", "ste", "--sample-parallel", "2"],
        ["--sample-parallel", "--num-samples 0", "got 2"],
    ),
    "noise without samples": (
        ["--preset", "digits-bayes", "--sample-parallel", "2"],
        ["--sample-parallel", "--num-samples 0", "got 2"],
    ),
    "no device": (["--data-parallel", "0"], ["data_parallel", "got 0"]),
    "no port": (["--coordinator-address", "localhost"], ["--coordinator-address", "'localhost'"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_divided_is_refused_and_writes_nothing(tmp_path, capsys, case):
    arguments, expected = REFUSED[case]
    error = commands.refused(capsys, main, [*arguments, "--out", str(tmp_path / "run")])
    assert all(text in error for text in expected), error
    assert not (tmp_path / "run").exists()
