"""The part of the benchmarks that needs several devices: a process of its own, whose CPU is some of them.

How many devices a CPU is must be said before JAX starts. `rows` starts the process,
``python -m experiments.benchmarks.devices`` is it: the config comes in as JSON, the rows go out as JSON.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks import programs as benchmark_programs
from experiments.benchmarks import timing
from experiments.benchmarks.presets import Config
from experiments.benchmarks.timing import Program
from experiments.common import runs


def rows(config: Config) -> list[dict[str, Any]]:
    """What `measure_here` returns, from a process of its own.

    Raises:
        RuntimeError: the process ended without it; its last line is told.
    """
    text = json.dumps(dataclasses.asdict(config), default=str)
    command = [sys.executable, "-m", "experiments.benchmarks.devices"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"the process with {max(config.device_counts)} devices failed: {last}")
    return json.loads(done.stdout)


def measure_here(config: Config) -> list[dict[str, Any]]:
    """A step of the learning rule with its batch split among devices, its natural parameters on each of them.

    Each row has also ``max_relative_difference``, of the first update to that on the first number
    of devices: the largest difference in a leaf, divided by the leaf's largest number.
    """
    of_problem = benchmark_programs.problem(config, config.hidden, config.batch_size)
    programs, updates = [], []
    for count in config.device_counts:
        state = benchmark_programs.initial(benchmark_programs.bayesbinn(), of_problem)
        before = jax.device_get(state.params[0])
        program = _program(count, of_problem, state)
        after = jax.device_get(program.call()[0].params[0])  # type: ignore[misc]
        updates.append([x - x0 for x, x0 in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True)])
        programs.append(program)
    measured = timing.measure(programs, config.seconds, config.min_rounds)
    return [
        {**row, "max_relative_difference": _max_relative_difference(update, updates[0])}
        for row, update in zip(measured, updates, strict=True)
    ]


def _program(count: int, of_problem: benchmark_programs.Problem, state: Any) -> Program:
    mesh = Mesh(np.array(jax.devices()[:count]), ("batch",))
    on_each, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
    state, key = jax.device_put((state, of_problem.key), on_each)
    return benchmark_programs.step_program(
        f"{count} device{'s' * (count > 1)}",
        benchmark_programs.bayesbinn(),
        of_problem._replace(data=jax.device_put(of_problem.data, split), key=key),
        {"network": of_problem.name, "devices": count},
        state=state,
        out_shardings=on_each,
    )


def _max_relative_difference(update: list[np.ndarray], reference: list[np.ndarray]) -> float:
    pairs = zip(update, reference, strict=True)
    return max(float(np.max(np.abs(x - x0)) / np.max(np.abs(x0))) for x, x0 in pairs)


def main() -> None:
    """The process: reads a config, writes rows."""
    config = runs.config_of(Config, json.load(sys.stdin))
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(config.device_counts))
    json.dump(measure_here(config), sys.stdout)


if __name__ == "__main__":
    main()
