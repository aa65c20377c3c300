"""How the tables of RESULTS.md are made of the lines in results/."""

from experiments.common.tables import Column, Line, Table

METHOD = Column("method", "config.method")
PRIOR = Column("prior", "config.prior")
NORM = Column("norm", "config.batch_norm")
HIDDEN = Column("hidden", "config.hidden")
RATE = Column("learning rate", "config.learning_rate")
STEP = Column("largest step", "config.max_step")
FACTOR = Column("train_set_factor", "config.train_set_factor")
WINDOW = Column("memory window", "config.memory_window")


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
            Column("epochs a task", "config.epochs"),
        ),
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
}
