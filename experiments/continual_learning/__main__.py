"""Trains a binary network on one task after the other: does yesterday's posterior keep it from forgetting?

    python -m experiments.continual_learning
    python -m experiments.continual_learning --prior none
    python -m experiments.continual_learning --preset permuted-mnist --seeds 3 --resume
    python -m experiments.continual_learning --preset split-mnist --method cbln

The prior of each task is the posterior after the task before; of ``--method cbln`` the posterior of
each task is stored instead, and tests find out which one is asked. No example of an earlier task is
kept. Every field of `presets.Config` is a flag. The run folder holds config.json, metrics.jsonl (a
line a task and seed), checkpoints, results.json and figures.
Source: arXiv 2002.10778, section 4.3, and arXiv 1910.04112.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.continual_learning")

from functools import partial
from pathlib import Path
from typing import Any

from experiments.common import command, reading
from experiments.continual_learning import figure, learner, summary
from experiments.continual_learning.presets import PRESETS, Chained, Config

NAME = learner.EXPERIMENT


def prepare(config: Config) -> learner.Prepared:
    """Loads the images, makes method and network, and looks whether there is a run to show beside this one."""
    read_beside(config)
    return learner.prepare(config)


def read_beside(config: Config) -> dict[str, Any] | None:
    """The results of the run that the figure shows next to this one: of the same data set and as many tasks."""
    folder, num_tasks = config.beside, config.stop_after_tasks or config.tasks
    results = reading.read(folder).results if folder is not None and folder.is_dir() else None
    of_this_kind = results is not None and results.get("experiment") == NAME and "curve_accuracy" in results
    if folder is not None and not of_this_kind:
        raise ValueError(f"beside must be the folder of a finished run of {NAME}, got {str(folder)!r}")
    if results is not None and (results["dataset"], results["tasks"]) != (config.dataset, num_tasks):
        wanted, got = f"{num_tasks} of {config.dataset}", f"{results['tasks']} of {results['dataset']}"
        raise ValueError(f"beside must be a run with the tasks of this one, {wanted}, got {got} in {str(folder)!r}")
    return results


def run(config: Config, prepared: learner.Prepared, out: Path) -> dict[str, Any]:
    """Trains on all tasks, draws and returns the results."""
    results = learner.run(config, prepared, out)
    draw(config, results, out)
    return results


def draw(config: Config, results: dict[str, Any], out: Path) -> None:
    """Draws the figures of a run into its folder."""
    beside = read_beside(config)
    figure.accuracy_of_tasks(out / "figure.png", results, beside)
    if results["weight_probability_histograms"] is not None:
        figure.weight_probabilities(out / "weights.png", results)
    if "chosen_mutual_information_after_task" in results and results["tasks"] > 1:  # with one there is no choice
        figure.stored_posteriors(out / "stored.png", results, beside)


def finished(config: Config, results: dict[str, Any], out: Path) -> bool:
    """Whether a run that is there has all the tasks that are asked for; if so, its figures are drawn again."""
    if results["tasks"] < (config.stop_after_tasks or config.tasks):
        return False
    draw(config, results, out)
    return True


def folder(config: Config) -> str:
    """What the run folder is named where the user does not."""
    prior = f"-prior-{config.method.prior}" if isinstance(config.method, Chained) else ""
    return f"{config.preset}-{config.method.name}{prior}-{config.seed}"


EXPERIMENT = command.Experiment(NAME, Config, PRESETS, prepare, run, summary.show, folder, finished)
main = partial(command.main, EXPERIMENT)

if __name__ == "__main__":
    main()
