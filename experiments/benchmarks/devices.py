"""The part of the benchmarks that needs several devices: a process of its own, whose CPU is some of them.

How many devices a CPU is must be said before JAX starts. `rows` starts the process,
``python -m experiments.benchmarks.devices`` is it: the config comes in as JSON, the rows go out as JSON.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks.presets import Config
from experiments.benchmarks.programs import Case, case, initial, step_program
from experiments.common import timing
from experiments.common.config import flat, of_flat


def rows(config: Config) -> list[dict[str, Any]]:
    """What `measure_here` returns, from a process of its own.

    Raises:
        RuntimeError: the process ended without it; its last line is told.
    """
    command = [sys.executable, "-m", "experiments.benchmarks.devices"]
    options: Any = {"capture_output": True, "text": True, "cwd": Path(__file__).parents[2]}
    done = subprocess.run(command, input=json.dumps(flat(config)), **options)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"the process with {max(config.device_counts)} devices failed: {last}")
    return json.loads(done.stdout)


def measure_here(config: Config) -> list[dict[str, Any]]:
    """A step of the learning rule with its batch split among devices, its natural parameters on each of them.

    Each row has also ``max_relative_difference``, of the first update to that on the first number
    of devices: the largest difference in a leaf, divided by the leaf's largest number.
    """
    of = case(config, config.hidden, config.batch_size)
    programs, updates = [], []
    for count in config.device_counts:
        before = jax.device_get(initial(of).params[0])
        program = _program(count, of)
        after = jax.device_get(program.call()[0].params[0])  # type: ignore[misc]
        updates.append(jax.tree.map(np.subtract, after, before))
        programs.append(program)
    measured = timing.measure(programs, config.seconds, config.min_rounds)
    differences = [jax.tree.map(lambda x, x0: np.abs(x - x0).max() / np.abs(x0).max(), x, updates[0]) for x in updates]
    return [
        {**row, "max_relative_difference": float(max(jax.tree.leaves(difference)))}
        for row, difference in zip(measured, differences, strict=True)
    ]


def _program(count: int, of: Case) -> timing.Program:
    mesh = Mesh(np.array(jax.devices()[:count]), ("batch",))
    on_each, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
    state, key = jax.device_put((initial(of), of.key), on_each)
    of = of._replace(data=jax.device_put(of.data, split), key=key)
    name = f"{count} device{'s' * (count > 1)}"
    return step_program(name, of, {"devices": count}, state, out_shardings=on_each)


def main() -> None:
    """The process: reads a config, writes rows."""
    config = of_flat(Config, json.load(sys.stdin))
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(config.device_counts))
    json.dump(measure_here(config), sys.stdout)


if __name__ == "__main__":
    main()
