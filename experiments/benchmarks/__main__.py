"""How long the library takes, beside what it is compared with.

    python -m experiments.benchmarks
    python -m experiments.benchmarks --quick
    python -m experiments.benchmarks --parts step sampling --seconds 30

A table for each part:

    step         a training step of each method, as a ratio to one of SGD
    epoch        an epoch as one loop on the device, and as a Python loop over compiled steps
    sampling     random numbers for weights, beside those of JAX
    predictive   the predictive distribution from few and many samples
    seeds        several networks trained in one program
    width        the learning rule beside SGD as the network gets wider
    batch        the learning rule beside SGD as the batch grows
    devices      the batch split among devices, and whether the numbers stay the same

Programs that are compared run in turn in one process (`timing`). Every field of
`presets.Config` is a flag. The run folder holds config.json, metrics.jsonl (a line a
program, as it is measured) and results.json (the same under "rows").
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.benchmarks")

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib

from experiments.benchmarks import devices, programs
from experiments.benchmarks.presets import PRESETS, Config, PartName
from experiments.common import command, console, runs, timing
from experiments.common.endings import first_line, user_errors
from experiments.common.timing import Program

Row = dict[str, Any]


class Part(NamedTuple):
    """How the rows of a part are measured and shown.

    Attributes:
        title: of the table.
        unit: of which times are given.
        programs: the groups of programs that are timed; None: a process of its own measures.
        columns: fields of a row that lead its line.
    """

    title: str
    unit: str
    programs: Callable[[Config], Iterable[list[Program]]] | None
    columns: tuple[str, ...] = ("network", "program")


TABLES: dict[PartName, Part] = {
    "step": Part("one training step", "step", programs.step, ("program",)),
    "epoch": Part("an epoch in one loop and step by step", "step", programs.epoch),
    "sampling": Part("random numbers for weights", "weight", programs.sampling, ("program",)),
    "predictive": Part("the predictive distribution of a batch", "sample", programs.predictive),
    "seeds": Part("networks trained in one program", "step of a network", programs.seeds),
    "width": Part("networks of several widths", "step", programs.width, ("width", "program")),
    "batch": Part("batches of several sizes", "step", programs.batch, ("batch_size", "program")),
    "devices": Part("a batch split among devices of one CPU", "step", None, ("program",)),
}


def run(config: Config, prepared: None, out: Path) -> dict[str, Any]:
    """Measures part after part, shows each, and returns the results."""
    start = time.perf_counter()
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    console.write(f"{jax.devices()[0].device_kind}, {cores} CPU cores, load {load:.2f}")
    of_jax: Any = jax.config
    cache = of_jax.jax_compilation_cache_dir if of_jax.jax_enable_compilation_cache else None
    if cache:
        console.write(f"programs may come compiled from {cache}: times of compilation are not to be trusted")
    rows: list[Row] = []
    for part in config.parts:
        try:
            rows_of_part = measure(config, part, out)
        except RuntimeError as error:  # too little memory, as a rule
            error.add_note(f"{out}/metrics.jsonl has what was measured before")
            raise OSError(f"part {part}: {first_line(error)}") from error
        write_table(part, rows_of_part)
        rows += rows_of_part
    return {
        "num_devices": jax.device_count(),
        "cpu_cores": cores,
        "load_at_start": load,
        "load_at_end": os.getloadavg()[0],
        "jaxlib_version": jaxlib.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "matmul_precision": of_jax.jax_default_matmul_precision,
        "compilation_cache": cache,
        "wall_seconds": time.perf_counter() - start,
        "process": os.getpid(),
        "rows": rows,
    }


def measure(config: Config, part: PartName, out: Path) -> list[Row]:
    """The rows of a part, which are kept in metrics.jsonl from now on."""
    of_part = TABLES[part].programs
    groups = (
        (timing.measure(group, config.seconds, config.min_rounds) for group in of_part(config))
        if of_part
        else [devices.rows(config)]
    )
    rows: list[Row] = []
    for group in groups:
        lines = [{"part": part, "unit": TABLES[part].unit, **row} for row in group]
        runs.append_metrics(out, lines)
        rows += lines
    return rows


def write_table(part: PartName, rows: list[Row]) -> None:
    """The table of a part."""
    table = TABLES[part]
    time_unit, factor = ("ns", 1e9) if table.unit == "weight" else ("ms", 1e3)
    networks = {row["network"] for row in rows if "network" in row and "network" not in table.columns}
    of_network = f", {networks.pop()}" if len(networks) == 1 else ""
    references = dict.fromkeys(row["compared_with"] for row in rows if row["compared_with"])
    columns: dict[str, Callable[[Row], str]] = {
        **{name.replace("_", " "): lambda row, name=name: str(row[name]) for name in table.columns},  # type: ignore[misc]
        f"ratio to {' or '.join(references) or 'none'}": lambda row: _cell(row["ratio"], row["ratio_iqr"]),
        f"{time_unit} a {table.unit}": lambda row: _cell(row["seconds"], row["seconds_iqr"], factor),
        "rounds": lambda row: str(row["rounds"]),
        "compiled in s": lambda row: f"{row['compile_seconds']:.2f}",
        "memory in MB": lambda row: _megabytes(row["planned_bytes"]),
    }
    if "max_relative_difference" in rows[0]:
        columns["update differs by"] = lambda row: f"{row['max_relative_difference']:.1e}"
    lines = [[cell(row) for cell in columns.values()] for row in rows]
    console.write_table(f"{part}: {table.title}{of_network}", list(columns), lines)


def _cell(value: float | None, iqr: float | None, factor: float = 1.0) -> str:
    if value is None or iqr is None:
        return "too much memory"
    return f"{_number(value * factor)} ({_number(iqr * factor)})"


def _number(value: float) -> str:
    """Three digits, and none behind the point from 100 on."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}".rstrip(".")


def _megabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:,.1f}"


def show(results: dict[str, Any]) -> None:
    """What the tables, which stand above, are to be read as."""
    peaks = [row["device_peak_bytes"] for row in results["rows"] if row["device_peak_bytes"] is not None]
    held = f"; the device held {max(peaks) / 1e6:,.0f} MB at most" if peaks else ""
    console.write(
        "ratio: median over rounds, each to the same round of the program compared with; (): between the quartiles",
        f"memory: what the compiler plans, arguments, outputs and temporaries{held}",
    )


EXPERIMENT = command.Experiment("benchmarks", Config, PRESETS, lambda config: None, run, show)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """The command line; returns what results.json holds."""
    argv = sys.argv[1:] if argv is None else argv
    with user_errors():
        if "--quick" in argv and any(argument.split("=")[0] == "--preset" for argument in argv):
            raise ValueError("--quick is short for --preset quick, got --preset as well")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_enable_compilation_cache", False)  # compilation is timed, too
    return command.main(EXPERIMENT, ["--preset=quick" if argument == "--quick" else argument for argument in argv])


if __name__ == "__main__":
    main()
