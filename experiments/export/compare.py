"""Every form of a network in one folder, and how long each takes for one input: timed in turn, in one process."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import console, runs, timing
from experiments.export import compiled, forms
from experiments.export.functions import Exported, num_weights

REFERENCE = "ONNX, float32"
FORMS: tuple[tuple[str, str, Callable[[Path, Exported], forms.Written]], ...] = (  # name, ending, what writes it
    (REFERENCE, "_float32.onnx", partial(forms.onnx, packed=False)),
    ("ONNX, bits", ".onnx", forms.onnx),
    ("C, bits", ".c", partial(forms.c, flags=())),
    ("C, bits, AVX2", ".c", forms.c),
    ("safetensors, float32, in JAX", "_float32.safetensors", forms.floats),
    ("safetensors, bits, in JAX", ".packed.safetensors", forms.packed),
)


def run(exported: Exported, out: Path, seconds: float = 3.0) -> dict[str, Any]:
    """Writes all forms and results.json into a folder, and shows a table.

    Args:
        exported: what is written.
        out: the folder.
        seconds: how long each form is timed for.
    """
    out.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    rows = timing.measure(list(programs(exported, out)), seconds, 50)
    results = runs.record("export", exported.config) | {
        "dataset": exported.config.dataset,
        "networks": int(exported.about["networks"]),
        "network": shape_of(exported),
        "num_binary_weights": num_weights(exported.weights),
        "cpu": compiled.cpu(),
        "cpu_cores": os.cpu_count(),
        "load_at_start": load,
        "load_at_end": os.getloadavg()[0],
        "rows": rows,
    }
    runs.write_json(out / "results.json", results)
    show(results)
    return results


def shape_of(exported: Exported) -> str:
    """The widths of a network in a few characters: 64-512-512-10."""
    network = exported.config.network
    inputs = exported.pixels.shape[1:]
    channels = [f"{width}C" for width in getattr(network, "channels", ())]
    first = "x".join(map(str, inputs)) if channels else str(np.prod(inputs))
    return "-".join([first, *channels, *map(str, network.hidden), str(exported.num_classes)])


def programs(exported: Exported, out: Path) -> Iterator[timing.Program]:
    """Writes a form after the other, and gives what computes one input with it."""
    for name, ending, write in FORMS:
        written = write(out / f"{exported.name}{ending}", exported)
        labels = {"bytes": written.bytes, "difference": written.difference}
        yield timing.Program(name, written.call, 1, 0.0, None, labels)


def show(results: dict[str, Any]) -> None:
    """The table: a line for each form."""
    rows = [
        [
            row["program"],
            f"{row['bytes'] / 1e3:,.1f}",
            f"{8 * row['bytes'] / results['num_binary_weights']:.2f}",
            f"{1e3 * row['seconds']:.3f}",
            f"{1e3 * row['seconds_iqr']:.3f}",
            f"{row['ratio']:.2f}",
            "-" if row["difference"] is None else f"{row['difference']:.0e}",
        ]
        for row in results["rows"]
    ]
    columns = ["", "kB", "bits a weight", "one input (ms)", "IQR", f"time by {REFERENCE}", "difference from JAX"]
    networks = f"{results['networks']} network{'s' * (results['networks'] > 1)}"
    title = f"{results['network']}, {results['num_binary_weights']:,} weights, {networks}"
    console.write_table(title, columns, rows)
