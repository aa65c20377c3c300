"""How long the MNIST network takes in C, in onnxruntime and in NumPy: batches of several sizes, on one thread.

    python -m experiments.export.speed
    python -m experiments.export.speed --out speed.jsonl --seconds 5

The weights are random: they change no time. Programs run in turn in one process, and each is compared with onnxruntime
on the float model. A line with all numbers is added to the file that --out names.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.export.speed")

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import threadpoolctl

from bbinn_jax import export
from experiments.common import console, runs, timing
from experiments.common.endings import ending, user_errors
from experiments.export import compiled, forms

C = {"C": (), "C, AVX2": compiled.AVX2}
REFERENCE, NUMPY = "onnxruntime, float32", "NumPy, float32"


@dataclass(frozen=True)
class Config:
    """What is timed."""

    preset: str = "speed"
    """Names what is timed."""
    seed: int = 0
    """Seeds the weights."""
    widths: tuple[int, ...] = (784, 2048, 2048, 2048, 10)
    """Sets the widths of the layers, inputs first."""
    batch_sizes: tuple[int, ...] = (1, 8, 32, 256)
    """Sets how many images there are at a time."""
    seconds: float = 3.0
    """Runs each program with each batch for so long."""
    min_rounds: int = 20
    """Runs it so often at least."""


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m experiments.export.speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="gets a line with all numbers")
    parser.add_argument("--seconds", type=float, default=Config.seconds, help="for each program and batch")
    parser.add_argument("--widths", type=int, nargs="+", default=Config.widths, help="of the layers, inputs first")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=Config.batch_sizes, help="images at a time")
    arguments = parser.parse_args(argv)
    with ending(), user_errors():
        if not compiled.runs(()):
            raise ValueError("a C compiler is needed, as cc")
        config = Config(
            widths=tuple(arguments.widths), batch_sizes=tuple(arguments.batch_sizes), seconds=arguments.seconds
        )
        results = measure(config)
        show(results)
        if arguments.out:
            with open(arguments.out, "a") as file:
                file.write(json.dumps(results) + "\n")


def measure(config: Config) -> dict[str, Any]:
    """The times of all programs for all batches, and what the network takes in C."""
    load = os.getloadavg()[0]
    weights, constants = network(config)
    fn = partial(answer, constants)
    rows = []
    with tempfile.TemporaryDirectory() as folder, threadpoolctl.threadpool_limits(1):
        examples = jax.numpy.asarray(images(config, 3))
        footprint = export.c(Path(folder, "mnist.c"), fn, weights, examples)
        export.onnx(Path(folder, "float.onnx"), fn, weights, examples, packed=False)
        for batch_size in config.batch_sizes:
            programs = list(of_batch(config, Path(folder), weights, constants, batch_size))
            rows += timing.measure(programs, config.seconds, config.min_rounds)
    return runs.record("export", config) | {
        "network": "-".join(map(str, config.widths)),
        "num_binary_weights": sum(w.size for w in weights),
        "cpu": compiled.cpu(),
        "cpu_cores": os.cpu_count(),
        "load_at_start": load,
        "load_at_end": os.getloadavg()[0],
        "footprint": footprint._asdict(),
        "rows": rows,
    }


def network(config: Config) -> tuple[list[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]:
    """Random weights, and the scale and shift of a batch norm behind each matrix."""
    rng, pairs = np.random.default_rng(config.seed), list(zip(config.widths, config.widths[1:], strict=False))
    weights = [rng.choice(np.array([-1, 1], np.float32), pair) for pair in pairs]
    constants = [(rng.uniform(0.5, 1.5, n) / m**0.5, rng.normal(size=n)) for m, n in pairs]
    return weights, [(scale.astype(np.float32), shift.astype(np.float32)) for scale, shift in constants]


def images(config: Config, batch_size: int) -> np.ndarray:
    """Random pixels."""
    return np.random.default_rng(1).uniform(size=(batch_size, config.widths[0])).astype(np.float32)


def answer(constants: list[tuple[np.ndarray, np.ndarray]], weights: Any, x: Any) -> Any:
    """Logits, in JAX or in NumPy."""
    numpy: Any = np if isinstance(x, np.ndarray) else jax.numpy
    for i, (w, (scale, shift)) in enumerate(zip(weights, constants, strict=True)):
        x = (x @ w) * scale[None] + shift[None]
        x = numpy.maximum(x, 0) if i < len(weights) - 1 else x
    return x


def of_batch(config: Config, folder: Path, weights: Any, constants: Any, batch_size: int) -> Iterator[timing.Program]:
    """The programs for one batch; all give the same answer."""
    x = images(config, batch_size)
    in_onnx = forms.session(folder / "float.onnx", x)
    calls: dict[str, Callable[[], Any]] = {
        REFERENCE: lambda: in_onnx()[0],
        NUMPY: lambda: answer(constants, weights, x),
    }
    for name, flags in C.items():
        call = compiled.load(folder / "mnist.c", flags, x, [(config.widths[-1],)])
        if call is not None:
            calls[name] = lambda call=call: call()[0]  # type: ignore[misc]
    wanted = calls[REFERENCE]()
    for name, call in calls.items():
        np.testing.assert_allclose(call(), wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=name)
        yield timing.Program(name, call, 1, 0.0, None, {"batch_size": batch_size})


def show(results: dict[str, Any]) -> None:
    """A line for each program and batch."""
    in_numpy = {row["batch_size"]: row["seconds"] for row in results["rows"] if row["program"] == NUMPY}
    rows = [
        [
            str(row["batch_size"]),
            row["program"],
            f"{1e3 * row['seconds']:.3f}",
            f"{1e3 * row['seconds_iqr']:.3f}",
            f"{1 / row['ratio']:.2f}",
            f"{in_numpy[row['batch_size']] / row['seconds']:.2f}",
            str(row["rounds"]),
        ]
        for row in results["rows"]
    ]
    columns = ["batch", "program", "a batch (ms)", "IQR", "faster than onnxruntime", "than NumPy (medians)", "rounds"]
    console.write_table(f"{results['network']}, one thread of {results['cpu']}", columns, rows)
    took = results["footprint"]
    console.write(
        f"C takes {took['weight_bytes']:,} bytes for {results['num_binary_weights']:,} weights, {took['real_bytes']:,} "
        f"for real parameters, and {took['memory_bytes']:,} of RAM; float32 weights take "
        f"{4 * results['num_binary_weights']:,}"
    )


if __name__ == "__main__":
    main()
