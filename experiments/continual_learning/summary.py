"""What a run of continual learning found, as numbers and as a table."""

from typing import Any

import numpy as np

from experiments.common import console
from experiments.continual_learning import stored, tasks

LAST = 5  # tasks, of a long stream
MOST_COLUMNS = 8


def results_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of one seed.

    Args:
        lines: its metrics, a line for each task.

    Returns:
        Numbers, lists with a number for each task, and matrices: the list of the accuracies on task 1
        to t after each task t. None for what the method has not.
    """
    results: dict[str, Any] = {
        "seed": lines[0]["seed"],
        "tasks": len(lines),
        "matrix_rows": "after task 1, 2, ...",
        "matrix_columns": "on task 1, 2, ...",
        "train_loss": lines[-1]["train_loss"],
        "train_accuracy": lines[-1]["train_accuracy"],
    }
    for name in ("mode", "mean"):
        results |= _scores(name, lines)
    for name, key in (
        ("flip_rate", "flip_rate"),
        ("posterior_entropy_after_task", "posterior_entropy_bits_per_weight"),
        ("certain_share", "certain_share"),
        ("weight_probability_histograms", "weight_probability_histogram"),
        ("curve_progress", "curve_progress"),
        ("curve_accuracy", "curve_accuracy"),
    ):
        results[name] = [line[key] for line in lines] if key in lines[0] else None
    results |= {f"{name}_after_task": [line[name] for line in lines] for name in stored.NAMES if name in lines[0]}
    entropies = results["posterior_entropy_after_task"]
    return results | {"posterior_entropy_bits_per_weight": entropies[-1] if entropies else None}


def _scores(name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What became of the accuracies of one predictor."""
    names = ("test_accuracy", "last_tasks_accuracy", "test_nll", "backward_transfer", "forgetting", "first_task_lost")
    lists = ("average_accuracy_after_task", "accuracy_matrix")
    if f"accuracy_{name}" not in lines[0]:
        return {f"{key}_{name}": None for key in (*names, *lists)}
    matrix = [line[f"accuracy_{name}"] for line in lines]
    values = (
        tasks.average_accuracy(matrix),
        float(np.mean(matrix[-1][-LAST:])),
        float(np.mean(lines[-1][f"nll_{name}"])),
        tasks.backward_transfer(matrix),
        tasks.forgetting(matrix),
        matrix[0][0] - matrix[-1][0] if len(matrix) > 1 else None,
        [tasks.average_accuracy([row]) for row in matrix],
        matrix,
    )
    return {f"{key}_{name}": value for key, value in zip((*names, *lists), values, strict=True)}


def progress(lines: list[dict[str, Any]]) -> str:
    """The metrics of a task, a line for each seed, in a few words."""
    name = "accuracy_mean" if "accuracy_mean" in lines[0] else "accuracy_mode"
    accuracies = np.array([line[name] for line in lines])
    loss = np.mean([line["train_loss"] for line in lines])
    told = "told the task: " if "bits_per_weight" in lines[0] else ""
    return (
        f"loss {loss:.3f}  {told}this task {accuracies[:, -1].mean():.2%}  task 1 {accuracies[:, 0].mean():.2%}  "
        f"all so far {accuracies.mean():.2%}"
    )


def show(results: dict[str, Any]) -> None:
    """The closing tables: who knows which task when, and what that comes to."""
    predictors = [name for name in ("mode", "mean") if results[f"test_accuracy_{name}"] is not None]
    seeds = f", mean +- std of {results['seeds']} seeds" if "seeds" in results else ""
    titles = {"mode": "mode", "mean": f"mean of {results['eval_samples']}"}
    told = ", told the task" if results["needs_task_identity"] else ""
    stores = "bits_per_weight_after_task" in results
    _write_matrix(results, predictors[-1], titles[predictors[-1]])
    rows = [
        (title, *(console.number(results, f"{key}_{name}", style) for name in predictors))
        for key, title, style in (
            ("test_accuracy", "average accuracy on all tasks", "{:.2%}"),
            ("last_tasks_accuracy", f"  on the last {LAST}", "{:.2%}"),
            ("test_nll", "negative log likelihood (nats)", "{:.4f}"),
            ("forgetting", "forgetting (from the best to the end)", "{:.2%}"),
            ("first_task_lost", "  of the first task (from its end)", "{:.2%}"),
            ("backward_transfer", "backward transfer (from its end)", "{:+.2%}"),
        )
    ]
    if stores:
        del rows[3:]  # a stored posterior forgets nothing
    if results["tasks"] <= LAST:
        del rows[1]
    prior = f", prior {results['prior']}" if results["prior"] else ""
    console.write_table(
        f"after task {results['tasks']}: {results['dataset']}, {results['method']}{prior}{told}{seeds}",
        ("", *(titles[name] for name in predictors)),
        rows,
    )
    if results["eval_samples"]:
        console.write("mode: the one most probable network, mean: the average over networks drawn from the posterior")
    if stores:
        _write_stored(results)
    elif results["needs_task_identity"]:
        console.write(f"batch norms {results['batch_norm']}: in tests the network is told which task an image is of")
    if results["batch_norm"] == "reestimated":
        console.write("and has seen unlabelled training images of it")
    binary, real = results["num_binary_weights"], results["num_real_parameters"]
    console.write(f"{binary:,} binary weights and {real:,} real; trained and tested in {results['wall_seconds']:.0f} s")
    if results["tasks"] < results["config"]["tasks"]:
        console.write(f"stopped after task {results['tasks']} of {results['config']['tasks']}: --resume goes on")


def _write_stored(results: dict[str, Any]) -> None:
    """What is known where nobody names the task (if there are several), and what the stored posteriors take."""
    if results["tasks"] > 1:
        _write_not_told(results)
    parts = {name: results[f"{name}_after_task"][-1] for name in stored.BITS}
    console.write(
        f"{parts['bits_per_weight']:.2f} bits a weight: {parts['components_per_weight']:.2f} posteriors of a mode bit "
        f"and {stored.CERTAINTY_BITS} bits of certainty, {parts['index_bits_per_weight']:.2f} bits for which one a "
        f"task has, {parts['real_bits_per_weight']:.2f} for real numbers"
    )


def _write_not_told(results: dict[str, Any]) -> None:
    """How often each rule finds the task, and the accuracy of what then answers."""
    console.write("told the task: the network knows which task an image is of, and takes the posterior of that task")
    rows = []
    for rule in stored.RULES:
        for name, title in (("task_rate", "batches given to their task"), ("untold_accuracy", "  accuracy")):
            of_sizes = results[f"{name}_{rule}_after_task"][-1]
            cells = ("-" if x is None else f"{x:.2%}" for x in of_sizes)
            rows.append((f"least {rule.replace('_', ' ')}: {title}" if name == "task_rate" else title, *cells))
    columns = (f"batches of {size}" for size in stored.BATCHES)
    console.write_table("not told: images come in batches of one task", ("", *columns), rows)


def _write_matrix(results: dict[str, Any], predictor: str, title: str) -> None:
    """A row for each task learned, a column for each task tested; of many tasks some rows and columns."""
    matrix, last = results[f"accuracy_matrix_{predictor}"], len(results[f"accuracy_matrix_{predictor}"])
    shown = sorted({round(x) for x in np.linspace(0, last - 1, min(last, MOST_COLUMNS))})
    entropies, certain = results["posterior_entropy_after_task"], results["certain_share"]
    columns = [f"task {j + 1}" for j in shown] + ["all so far"] + (["entropy", "certain"] if entropies else [])
    rows = []
    for t in shown:
        cells = [f"{matrix[t][j]:.1%}" if j <= t else "" for j in shown]
        cells.append(f"{results[f'average_accuracy_after_task_{predictor}'][t]:.2%}")
        cells += [f"{entropies[t]:.3f}", f"{certain[t]:.1%}"] if entropies else []
        rows.append((f"after task {t + 1}", *cells))
    of_seeds = f", average of {results['seeds']} seeds" if "seeds" in results else ""
    told = ", told the task" if results["needs_task_identity"] else ""
    head = f"{results['tested_on']} accuracy of the {title} on each task{told}{of_seeds}"
    console.write_table(head, ("", *columns), rows)
    if entropies:
        left = "" if "bits_per_weight_after_task" in results else ", no capacity left in them"
        console.write(f"entropy: bits per weight; certain: share of weights decided to 99 %{left}")
