"""The benchmarks: what they write, how they count, what they refuse. How fast anything is, is not tested."""

import os
import sys
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import __main__ as benchmarks
from experiments.benchmarks import programs
from experiments.benchmarks.__main__ import main
from experiments.benchmarks.presets import PARTS, PRESETS, Config
from experiments.common import timing
from tests.commands import assert_finished_run_stays, read_metrics, read_results, refused

pytestmark = pytest.mark.long

TINY = (
    "--quick --seconds 0 --hidden 16 --small-hidden 8 --widths 8 --batch-sizes 10 --samples 1 40 --num-weights 1000 "
    "--max-gigabytes 0.001"
).split()
MEASURED = {"ratio", "ratio_iqr", "seconds", "seconds_iqr"}
SMALL, LARGE = "64-8-10", "784-16-10"
PROGRAMS = {
    "step": [(LARGE, name) for name in programs.all_methods()],
    "epoch": [(network, name) for network in (SMALL, LARGE) for name in ("Python loop", "one loop on the device")],
    "sampling": [
        (None, name)
        for name in (
            "jax.random.bits",
            "jax.random.uniform",
            "jax.random.normal",
            "bb.logistic_noise",
            "bb.sample",
            "bb.relaxed_sample",
        )
    ],
    "predictive": [
        (network, name)
        for network in (SMALL, LARGE)
        for name in ("1 sample, all at once", "40 samples, all at once", "40 samples, 1 at a time")
    ],
    "seeds": [(network, name) for network in (SMALL, LARGE) for name in ("1 seed", "2 seeds")],
    "width": [("784-8-8-8-10", "sgd"), ("784-8-8-8-10", "bayesbinn, 1 sample")],
    "batch": [(LARGE, "sgd"), (LARGE, "bayesbinn, 1 sample")],
    "devices": [(LARGE, "1 device"), (LARGE, "2 devices")],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Every part, at tiny sizes."""
    out = tmp_path_factory.mktemp("runs") / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr(benchmarks.console, "write_table", lambda *table: printed.append(table))
        results = main([*TINY, "--out", str(out)])
    return results, printed, out


class Machine:
    """A clock that programs move on: each call takes what is written for it, times the slowness of the machine."""

    def __init__(self, *durations):
        self.now, self.slowness, self.log = 0.0, 1.0, []
        self.calls = [lambda i=i, d=d: self.work(i, d) for i, d in enumerate(durations)]

    def work(self, i, duration):
        self.log.append(i)
        self.now += duration * self.slowness

    def programs(self, *units):
        return [
            timing.Program(f"program {i}", call, n, 0.5, 1000, {"width": 10 * i})
            for i, (call, n) in enumerate(zip(self.calls, units, strict=True))
        ]


def test_every_part_has_its_programs_and_they_are_on_disk(run):
    results, _, out = run
    found = defaultdict(list)
    for row in results["rows"]:
        found[row["part"]].append((row.get("network"), row["program"]))
    assert found == PROGRAMS
    assert read_results(out) == results
    assert read_metrics(out) == results["rows"]
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "metrics.jsonl", "results.json"]
    promised = (
        "experiment preset seed device num_devices cpu_cores load_at_start load_at_end jax_version jaxlib_version "
        "flax_version optax_version numpy_version bbinn_jax_version "
        "xla_flags matmul_precision compilation_cache wall_seconds process rows config command commit "
        "sha256 sha256_of_config sha256_of_metrics"
    ).split()
    assert set(promised) == set(results)


def test_rows_say_what_was_measured_and_how_often(run):
    for row in run[0]["rows"]:
        assert {"unit", "compared_with", "rounds", "compile_seconds", "planned_bytes", *MEASURED} <= set(row)
        assert row["compile_seconds"] > 0
        assert row["planned_bytes"] is None or row["planned_bytes"] > 0
        if row["rounds"]:
            assert row["rounds"] == 3
            assert all(row[name] >= 0 for name in MEASURED)
            assert row["ratio"] > 0
    with_samples = [row for row in run[0]["rows"] if row["part"] == "predictive"]
    assert [(row["num_samples"], row["chunk_size"]) for row in with_samples] == [(1, None), (40, None), (40, 1)] * 2


def test_ratios_are_to_a_program_of_the_same_group_and_process(run):
    results, _, _ = run
    processes = defaultdict(set)
    for row in results["rows"]:
        group = [other for other in results["rows"] if other["part"] == row["part"]]
        group = [other for other in group if other.get("network") == row.get("network")]
        (reference,) = [other for other in group if other["program"] == row["compared_with"]]
        assert (reference["ratio"], reference["ratio_iqr"]) == (1, 0)
        assert reference["rounds"] == (row["rounds"] or reference["rounds"])
        processes[row["part"]].add(row["process"])
    (of_devices,) = processes.pop("devices")
    assert of_devices != os.getpid()
    assert set.union(*processes.values()) == {os.getpid()} == {results["process"]}


def test_prediction_that_needs_too_much_memory_is_not_run_and_the_table_says_so(run):
    results, printed, _ = run
    skipped = [row for row in results["rows"] if not row["rounds"]]
    assert [(row["network"], row["program"]) for row in skipped] == [(LARGE, "40 samples, all at once")]
    assert all(skipped[0][name] is None for name in MEASURED)
    assert skipped[0]["planned_bytes"] > 40 * (784 * 16 + 16 * 10) * 4
    (title, columns, lines) = printed[list(PARTS).index("predictive")]
    assert title.startswith("predictive")
    (line,) = [line for line in lines if line[:2] == [LARGE, "40 samples, all at once"]]
    assert len(line) == len(columns)
    assert line.count("too much memory") == 2


def test_there_is_a_table_for_each_part_with_a_line_for_each_program(run):
    _, printed, _ = run
    assert [title.split(":")[0] for title, _, _ in printed] == list(PARTS)
    for (_, columns, lines), expected in zip(printed, PROGRAMS.values(), strict=True):
        assert len(lines) == len(expected)
        assert {len(line) for line in lines} == {len(columns)}
        assert {"compiled in s", "memory in MB", "rounds"} <= set(columns)
    assert "ratio to sgd" in printed[0][1]
    assert "ns a weight" in printed[2][1]


def test_update_of_a_split_batch_is_the_same_to_rounding(run):
    one, two = [row for row in run[0]["rows"] if row["part"] == "devices"]
    assert (one["devices"], one["max_relative_difference"]) == (1, 0)
    assert two["devices"] == 2
    assert two["max_relative_difference"] < 1e-5


def test_both_epochs_train_the_same_network():
    config = PRESETS["quick"]()
    case = programs.case(config, (8,), config.batch_size * config.epoch_steps, 64)
    by_steps, at_once = programs.python_loop(case), programs.device_loop("", 1, case)
    assert by_steps.units == at_once.units == config.epoch_steps
    (state, _), (states, _) = by_steps.call(), at_once.call()
    assert int(state.step) == int(states.step[0]) == config.epoch_steps
    for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(states.params), strict=True):
        np.testing.assert_allclose(x, y[0], rtol=1e-4, atol=1e-4 * float(jnp.abs(x).max()))


def test_noise_that_is_not_drawn_is_zero():
    with_zeros = programs.all_methods()["bayesbinn, 1 sample, no noise drawn"]
    loss = with_zeros.expected_loss(lambda w: (jnp.sum(w), ()))
    natural = jnp.array([-1.0, 2.0, 3.0])
    assert loss(natural, jax.random.key(0)) == loss(natural, jax.random.key(1)) == (1, ())


def test_programs_take_turns_and_first_runs_are_thrown_away():
    machine = Machine(1.0, 2.0, 4.0)
    machine.slowness = 100
    first = machine.calls[0]
    count = iter(range(1000))

    def first_call():
        if next(count):  # from its second call on
            machine.slowness = 1
        first()

    times = timing.take_turns([first_call, *machine.calls[1:]], 0, 4, lambda: machine.now)
    assert len(machine.log) == 3 + 3 * 4
    rounds = [machine.log[i : i + 3] for i in range(0, 15, 3)]
    assert all(sorted(order) == [0, 1, 2] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert times[0] == [1.0] * 4
    assert max(map(max, times)) <= 400


@pytest.mark.parametrize(("seconds", "min_rounds", "rounds"), [(0, 2, 2), (10, 2, 5), (10.1, 2, 6), (10, 7, 7)])
def test_rounds_end_when_the_time_is_up_and_not_before_their_minimum(seconds, min_rounds, rounds):
    machine = Machine(1.0, 3.0)
    times = timing.take_turns(machine.calls, seconds, min_rounds, lambda: machine.now)
    assert times == [[1.0] * rounds, [3.0] * rounds]


def test_median_and_spread():
    assert timing.spread([4.0, 1.0, 3.0, 2.0, 100.0]) == (3.0, 2.0)
    assert timing.spread([1.0, 2.0]) == (1.5, 0.5)
    assert timing.spread([7.0] * 9) == (7.0, 0.0)


def test_a_machine_that_slows_down_changes_times_and_not_ratios():
    machine = Machine(1.0, 6.0)

    def clock():
        machine.slowness = 1 + len(machine.log) // 2  # another in each round
        return machine.now

    slow, fast = timing.measure(machine.programs(1, 2), 0, 5, clock)[::-1]
    assert (fast["ratio"], slow["ratio"]) == (1, 3)  # 6 s for 2 units against 1 s for one
    assert fast["ratio_iqr"] == slow["ratio_iqr"] == 0
    assert (fast["seconds"], slow["seconds"]) == (4, 12)  # slowness 2 to 6
    assert (fast["seconds_iqr"], slow["seconds_iqr"]) == (2, 6)
    assert fast["compared_with"] == slow["compared_with"] == "program 0"
    assert (fast["rounds"], fast["width"], slow["width"], slow["planned_bytes"]) == (5, 0, 10, 1000)


def test_program_that_is_not_run_has_no_times_and_others_are_compared_with_the_first_that_is():
    machine = Machine(1.0, 2.0, 8.0)
    programs = machine.programs(1, 1, 1)
    programs[0] = programs[0]._replace(call=None)
    left_out, first, second = timing.measure(programs, 0, 2, lambda: machine.now)
    assert {left_out[name] for name in MEASURED} == {None}
    assert left_out["rounds"] == 0
    assert (first["ratio"], second["ratio"], second["compared_with"]) == (1, 4, "program 1")
    assert 0 not in machine.log
    (alone,) = timing.measure(programs[:1], 10, 2, lambda: machine.now)
    assert alone["compared_with"] is None
    benchmarks.write_table("predictive", [{"network": "1-2", **alone}])


def test_planned_memory_counts_donated_arguments_once():
    x = jnp.zeros(1000)
    kept = timing.compile(lambda x: x + 1, x)
    donated = timing.compile(lambda x: x + 1, x, donate=(0,))
    assert kept.planned_bytes == 8000
    assert donated.planned_bytes == 4000


def test_device_that_counts_its_memory_is_asked(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_in_use": 1, "peak_bytes_in_use": 12_345}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert timing.device_peak_bytes() == 12_345


def test_process_that_fails_ends_the_run_in_one_line_without_results(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(SystemExit, match=r"^error: part devices: .* with 2 devices failed: exit code 1; [^\n]*$"):
        main([*TINY, "--parts", "devices", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "results.json").exists()


def test_finished_run_is_not_overwritten_unless_told(run, capsys):
    results, _, out = run
    assert_finished_run_stays(capsys, main, TINY, (results, out))


@pytest.mark.parametrize("folder", [None, "programs"])
def test_programs_are_compiled_anew_unless_there_is_a_folder_for_them(monkeypatch, capsys, folder):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if folder:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
    enabled = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", True)
        refused(capsys, main, ["--seed", "-1"])
        assert jax.config.jax_enable_compilation_cache == (folder is not None)
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)


def test_presets_are_valid_and_quick_is_one_of_them():
    assert PRESETS["full"]() == Config(preset="full")
    assert {name: preset().preset for name, preset in PRESETS.items()} == {"full": "full", "quick": "quick"}
    assert set(benchmarks.TABLES) == set(PARTS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preset", "fast"], ["--preset", "fast", "full", "quick"]),
        (["--quick", "--preset", "full"], ["--quick", "--preset"]),
        (["--parts", "steps"], ["--parts", "steps"]),
        (["--parts", "step", "step"], ["parts", "step"]),
        (["--parts"], ["parts"]),
        (["--method", "ste"], ["--method"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--seconds", "-1"], ["seconds", "-1"]),
        (["--seconds", "nan"], ["seconds", "nan"]),
        (["--seconds", "long"], ["--seconds", "long"]),
        (["--min-rounds", "1"], ["min_rounds", "1"]),
        (["--hidden", "8", "0"], ["hidden", "(8, 0)"]),
        (["--small-hidden", "0"], ["small_hidden", "(0,)"]),
        (["--batch-size", "1"], ["batch_size", "1"]),
        (["--epoch-steps", "0"], ["epoch_steps", "0"]),
        (["--num-weights", "0"], ["num_weights", "0"]),
        (["--samples", "0"], ["samples", "0"]),
        (["--samples", "10", "10"], ["samples", "(10, 10)"]),
        (["--chunk-sizes", "-1"], ["chunk_sizes", "-1"]),
        (["--max-gigabytes", "-1"], ["max_gigabytes", "-1"]),
        (["--seed-counts", "0"], ["seed_counts", "0"]),
        (["--widths", "0"], ["widths", "0"]),
        (["--batch-sizes", "1"], ["batch_sizes", "1"]),
        (["--device-counts", "0"], ["device_counts", "0"]),
        (["--device-counts", "1", "3"], ["device_counts", "batch_size 100", "3"]),
    ],
)
def test_bad_argument_ends_in_one_line_and_writes_nothing(tmp_path, capsys, arguments, expected):
    error = refused(capsys, main, ["--out", str(tmp_path / "run"), *arguments])
    assert all(text in error for text in expected), error
    assert list(tmp_path.iterdir()) == []
