"""Machines whose true weights are known: does a posterior over binary weights know what it does not know?

    python -m experiments.rbm
    python -m experiments.rbm --num-samples 0 --methods bayesbinn
    python -m experiments.rbm --preset digits
    python -m experiments.rbm --preset mnist

A planted restricted Boltzmann machine with binary weights makes examples, and five methods have to find its weights
from them; likelihoods are exact. The presets of images learn black and white pictures. Every field of `presets.Config`
is a flag. The run folder holds config.json, pieces.jsonl (a line for each finished piece, for --resume), results.json
(with "rows") and a figure. Sources: arXiv 2007.04676 and 1911.07662.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.rbm")

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import command, console, pieces
from experiments.rbm import figure, images, planted
from experiments.rbm.presets import LABELS, PRESETS, Config


def prepare(config: Config) -> images.Images | None:
    """Loads the images, where the machines learn images."""
    return None if config.data == "planted" else images.load(config)


def run(config: Config, prepared: images.Images | None, out: Path) -> dict[str, Any]:
    """Learns, piece by piece, draws, and returns the results."""
    work = planted.work(config) if prepared is None else images.work(config, prepared)
    rows, seconds = pieces.done(out, work)
    rows = json.loads(json.dumps(rows))
    if prepared is None:
        figure.planted(out / "figure.png", rows)
    else:
        figure.images(out / "figure.png", rows, round(prepared.test.shape[1] ** 0.5))
        rows = [{name: value for name, value in row.items() if name not in images.SHOWN} for row in rows]
    oracle = [row for row in rows if row["method"] == planted.BAYES]
    return {
        "wall_seconds": seconds,
        "rows": [row for row in rows if row["method"] != planted.BAYES],
        **({"bayes": oracle} if oracle else {}),
    }


def show(results: dict[str, Any]) -> None:
    """The closing table, a line for each method and point."""
    rows = sorted(
        results["rows"] + results.get("bayes", []), key=lambda row: (row["hidden_units"], row.get("alpha", 0))
    )
    columns = {
        name: title
        for name, title in {
            "overlap": "overlap",
            "weight_ece_pooled": "weight ECE",
            "mean_agreement": "mean(mu W*)",
            "mean_square": "mean(mu^2)",
            "test_log_likelihood_mode": "test ln p, mode",
            "test_log_likelihood": "mixture",
            "reconstruction_error": "pixels wrong in a reconstruction",
            "entropy_bits": "bits a weight",
        }.items()
        if name in rows[0]
    }

    def cells(row: dict[str, Any]) -> list[str]:
        point = f"P={row['hidden_units']}" + (f", alpha={row['alpha']:g}" if "alpha" in row else "")
        return [point, LABELS[row["method"]][0], *(f"{row[x]:.3f}" if row[x] is not None else "-" for x in columns)]

    console.write_table("Boltzmann machines", ["", "method", *columns.values()], [cells(row) for row in rows])
    if "alpha" in rows[0]:
        truth = np.mean([row["test_log_likelihood_planted"] for row in rows])
        console.write(f"in nats; of the planted machines themselves ln p is {truth:.3f} on average")


EXPERIMENT = command.Experiment("rbm", Config, PRESETS, prepare, run, show)
main = partial(command.main, EXPERIMENT)

if __name__ == "__main__":
    main()
