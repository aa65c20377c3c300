"""How the tables of RESULTS.md are made of the lines in results/."""

from experiments.common.tables import Column, Line, Table
from experiments.continual_learning.stored import BATCHES, RULES

METHOD = Column("method", "config.method")
PRIOR = Column("prior", "config.prior")
NORM = Column("norm", "config.batch_norm")
HIDDEN = Column("hidden", "config.hidden")
RATE = Column("learning rate", "config.learning_rate")
STEP = Column("largest step", "config.max_step")
FACTOR = Column("train_set_factor", "config.train_set_factor")
WINDOW = Column("memory window", "config.memory_window")
EPOCHS = Column("epochs a task", "config.epochs")


def after_tasks(*tasks: int) -> tuple[Column, ...]:
    """The average accuracy of the mean on all tasks so far."""
    titles = {i: f"after {i}" for i in tasks} | {tasks[0]: f"accuracy of the mean (%) after task {tasks[0]}"}
    return tuple(Column(titles[i], f"average_accuracy_after_task_mean.{i - 1}", 1, 100) for i in tasks)


def _one_network(line: Line) -> list[Line]:
    """The line; a method without a posterior has one network, whose accuracy stands in the column of the mean."""
    modes = {
        name: line[f"{name.removesuffix('mean')}mode"]
        for name, x in line.items()
        if name.endswith("_mean") and x is None
    }
    return [line | modes]


def _not_told(line: Line) -> list[Line]:
    """The line; one network for all tasks has one accuracy, whatever the batch, that stands where one image does."""
    accuracy = line["test_accuracy_mode" if line["test_accuracy_mean"] is None else "test_accuracy_mean"]
    if line["method"] == "cbln":
        return [line | {"told_accuracy": accuracy}]
    return [line | {"untold_accuracy_mutual_information_after_task": [[accuracy]]}]


def _rules(line: Line) -> list[Line]:
    """A line for each rule by which the task is found; none of a method that stores nothing."""
    names = ("task_rate", "untold_accuracy")
    found = [
        {"rule": f"least {rule.replace('_', ' ')}"} | {name: line[f"{name}_{rule}_after_task"][-1] for name in names}
        for rule in RULES
        if f"task_rate_{rule}_after_task" in line
    ]
    return [line | of_rule for of_rule in found]


def of_batches(first: str, field: str) -> tuple[Column, ...]:
    """What is found for batches of 1, 10 and 100 images after the last task, in percent."""
    titles = [f"{first}, images in a batch: {BATCHES[0]}", *map(str, BATCHES[1:])]
    return tuple(Column(title, f"{field}.{i}", 1, 100) for i, title in enumerate(titles))


def after_last(title: str, field: str, digits: int = 2) -> Column:
    """What is measured after each task, after the last one."""
    return Column(title, f"{field}_after_task.-1", digits)


DATASET = Column("data", "config.dataset")
BITS = after_last("bits a weight", "bits_per_weight", 1)
TOLD = Column("told the task (%)", "told_accuracy", 1, 100)
FOUND, UNTOLD = "task_rate_mutual_information_after_task.-1", "untold_accuracy_mutual_information_after_task.-1"
MODE = Column("of the mode after 5", "average_accuracy_after_task_mode.4", 1, 100)
ENTROPY = Column("entropy (bits a weight)", "posterior_entropy_after_task.4", 2)

TABLES = {
    "permuted-mnist": Table(
        "permuted-mnist",
        (
            *after_tasks(1, 2, 3, 4, 5),
            MODE,
            Column("forgetting (points)", "forgetting_mean", 1, 100),
            ENTROPY,
            Column("minutes a run", "minutes", 0),
        ),
        (
            Column("preset", "config.preset"),
            PRIOR,
            Column("averaged", "config.average"),
            EPOCHS,
        ),
    ),
    "wide": Table(
        "wide",
        (
            *after_tasks(1, 2, 5, 10),
            Column("of the mode after 10", "average_accuracy_after_task_mode.9", 1, 100),
            Column("entropy (bits a weight)", "posterior_entropy_after_task.9", 2),
            Column("minutes a run", "minutes", 0),
        ),
        (METHOD, PRIOR, EPOCHS, WINDOW, Column("likelihood weight", "config.likelihood_weight"), HIDDEN),
    ),
    "settings": Table("settings", (*after_tasks(1, 2, 3, 4, 5), MODE, ENTROPY)),
    "stream": Table(
        "stream",
        (
            Column("last 5 tasks (%)", "last_tasks_accuracy_mean", 1, 100),
            Column("all 100 (%)", "test_accuracy_mean", 1, 100),
            *after_tasks(10),
            Column("certain weights (%)", "certain_share.-1", 0, 100),
            Column("minutes a run", "minutes", 1),
        ),
        (METHOD, PRIOR, RATE, FACTOR, STEP, WINDOW, HIDDEN),
        _one_network,
    ),
    "stream-settings": Table(
        "stream-settings",
        (
            Column("last 5 tasks (%)", "last_tasks_accuracy_mean_percent", 1),
            Column("all 100 (%)", "test_accuracy_mean_percent", 1),
        ),
        (METHOD, RATE, FACTOR, Column("momentum", "config.momentum"), STEP, WINDOW, HIDDEN),
    ),
    "digits": Table("digits", after_tasks(1, 2, 3, 4, 5), (METHOD, PRIOR, NORM), _one_network),
    "stored": Table(
        "stored",
        (
            *of_batches("accuracy (%)", UNTOLD),
            *of_batches("task found (%)", FOUND),
            TOLD,
            BITS,
            Column("minutes a run", "minutes", 1),
        ),
        (DATASET, METHOD, PRIOR, NORM, HIDDEN, RATE),
        _not_told,
    ),
    "stored-rules": Table(
        "stored",
        (*of_batches("task found (%)", "task_rate"), *of_batches("accuracy (%)", "untold_accuracy")),
        (DATASET, NORM, RATE, Column("rule", "rule")),
        _rules,
    ),
    "stored-sharing": Table(
        "stored-sharing",
        (
            after_last("components a weight", "components_per_weight"),
            after_last("bits of which one", "index_bits_per_weight"),
            BITS,
            TOLD,
            Column("mode, told (%)", "test_accuracy_mode", 1, 100),
            *of_batches("task found (%)", FOUND)[:2],
            *of_batches("accuracy (%)", UNTOLD)[:2],
        ),
        (DATASET, Column("shared below (nats)", "config.share_below")),
        _not_told,
    ),
}
