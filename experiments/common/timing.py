"""How programs are timed: in turn, so that whatever else the machine does meets them all alike.

A round runs every program once, in an order drawn anew. The ratio of a program to the one it is
compared with is taken in each round, and the median over rounds is reported, with the distance
between the quartiles as its spread: a ratio tells of the programs, a time also of the machine.
"""

import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax


class Compiled(NamedTuple):
    """A function ready to run, and what it took to get there."""

    call: Callable[..., Any]
    seconds: float  # traced and compiled in
    planned_bytes: int | None  # of memory on each device; None where the compiler does not tell


class Program(NamedTuple):
    """What is timed.

    Attributes:
        name: unlike that of the others it is timed with.
        call: runs it once and returns arrays to wait for; ``None`` if it is not to be run.
        units: how many steps, samples, weights or the like a call does; times are of one of them.
        compile_seconds, planned_bytes: see `Compiled`.
        labels: what else is to be said of it.
    """

    name: str
    call: Callable[[], Any] | None
    units: int
    compile_seconds: float
    planned_bytes: int | None
    labels: dict[str, Any]


class Spread(NamedTuple):
    """The median of some numbers, and the distance between their quartiles."""

    median: float
    iqr: float


def compile(function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = (), out_shardings=None) -> Compiled:
    """Compiles a function for these arguments; donated ones are overwritten by its outputs."""
    start = time.perf_counter()
    jitted = jax.jit(function, donate_argnums=donate, out_shardings=out_shardings)
    compiled = jitted.lower(*args).compile()
    return Compiled(compiled, time.perf_counter() - start, planned_bytes(compiled))


def planned_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Memory that a program needs by the compiler's plan: arguments, outputs and temporaries, shared bytes once."""
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    used = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return used - plan.alias_size_in_bytes


def device_peak_bytes() -> int | None:
    """The most that the first device has held since the process started; None where it keeps no count (as a CPU)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def take_turns(
    calls: Sequence[Callable[[], Any]], seconds: float, min_rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Runs every call once a round until they have taken ``seconds`` times their number, for ``min_rounds`` at least.

    The first run of each is thrown away.

    Returns:
        The seconds that each call took, [call][round].
    """
    for call in calls:
        jax.block_until_ready(call())
    times: list[list[float]] = [[] for _ in calls]
    order = list(range(len(calls)))
    shuffle, spent = random.Random(0).shuffle, 0.0
    while calls and (len(times[0]) < min_rounds or spent < seconds * len(calls)):
        shuffle(order)
        for i in order:
            start = clock()
            jax.block_until_ready(calls[i]())
            elapsed = clock() - start
            times[i].append(elapsed)
            spent += elapsed
    return times


def spread(values: Sequence[float]) -> Spread:
    """Median and interquartile range of two numbers or more."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, high - low)


def measure(
    programs: Sequence[Program], seconds: float, min_rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[dict[str, Any]]:
    """Times programs in turn, in this process, and compares each with the first of them that runs.

    Returns:
        For each program what is known of it: its labels and, per unit, ``ratio`` and ``seconds`` with
        their spreads; these are None for a program that is not run.
    """
    calls = [program.call for program in programs if program.call is not None]
    running = [program for program in programs if program.call is not None]
    times = dict(zip((p.name for p in running), take_turns(calls, seconds, min_rounds, clock), strict=True))
    per_unit = {p.name: [t / p.units for t in times[p.name]] for p in running}
    reference = running[0].name if running else None
    peak = device_peak_bytes()
    rows = []
    for program in programs:
        ratio = time_of_unit = None
        if reference and program.name in per_unit:
            own = per_unit[program.name]
            ratio = spread([t / t0 for t, t0 in zip(own, per_unit[reference], strict=True)])
            time_of_unit = spread(own)
        rows.append(
            {
                **program.labels,
                "program": program.name,
                "compared_with": reference,
                "ratio": ratio and ratio.median,
                "ratio_iqr": ratio and ratio.iqr,
                "seconds": time_of_unit and time_of_unit.median,
                "seconds_iqr": time_of_unit and time_of_unit.iqr,
                "rounds": len(times.get(program.name, ())),
                "compile_seconds": program.compile_seconds,
                "planned_bytes": program.planned_bytes,
                "device_peak_bytes": peak,
                "process": os.getpid(),
            }
        )
    return rows
