"""Trains a binary network on images and shows what it knows and what it does not.

    python -m experiments.image_classification --preset digits
    python -m experiments.image_classification --preset mnist-short --method ste
    python -m experiments.image_classification --preset cifar10 --seeds 5 --resume

Every field of `image_config.Config` is a flag. The run folder holds config.json,
metrics.jsonl, checkpoints, results.json and a figure.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.image_classification")

from functools import partial
from pathlib import Path
from typing import Any

from experiments.common import classifier, command, console, devices
from experiments.common.image_config import Config
from experiments.common.presets import PRESETS
from experiments.image_classification import figure


def run(config: Config, prepared: classifier.Prepared, out: Path) -> dict[str, Any]:
    """Trains, evaluates, draws and returns the results."""
    outcome = classifier.run(config, prepared, out)
    devices.on_first(partial(figure.draw, out / "figure.png", outcome, prepared.dataset))
    return outcome.results


def show(results: dict[str, Any]) -> None:
    """The closing table of an image run: mode and mean side by side, and what the posterior knows."""
    predictors = [name for name in ("mode", "mean") if results[f"test_accuracy_{name}"] is not None]
    titles = {
        "mode": "mode" if results["num_binary_weights"] else "network",
        "mean": f"mean of {results['eval_samples']}",
    }
    seeds = f", mean +- std of {results['seeds']} seeds" if "seeds" in results else ""
    scores = (
        ("test_accuracy_{}", "accuracy", "{:.2%}"),
        ("test_nll_{}", "negative log likelihood (nats)", "{:.4f}"),
        ("test_brier_{}", "Brier score", "{:.4f}"),
        ("test_ece_{}", "expected calibration error", "{:.4f}"),
        ("output_temperature_{}", "output temperature fitted on validation images", "{:.3f}"),
        ("test_nll_{}_scaled", "negative log likelihood at it (nats)", "{:.4f}"),
        ("test_ece_{}_scaled", "expected calibration error at it", "{:.4f}"),
    )
    console.write_table(
        f"{results['dataset']} test set, {results['method']}, {results['epochs']} epochs{seeds}",
        ("", *(titles[name] for name in predictors)),
        [
            (title, *(console.number(results, x.format(name), style) for name in predictors))
            for x, title, style in scores
        ],
    )
    if "mean" in predictors:
        console.write("mode: the one most probable network, mean: the average over networks drawn from the posterior")
    console.write_totals(results)


EXPERIMENT = command.Experiment(
    classifier.EXPERIMENT,
    Config,
    PRESETS,
    classifier.prepare,
    run,
    show,
    classifier.folder,
    classifier.finished,
)
main = partial(command.main, EXPERIMENT)

if __name__ == "__main__":
    main()
