"""How the tables of RESULTS.md are made of the lines in results/."""

from functools import partial

from experiments.common.tables import Column, Line, Table
from experiments.spiking import model

COLUMNS = (
    Column("test accuracy (%)", "test_accuracy", 1, 100),
    Column("NLL", "test_nll", 3),
    Column("ECE", "test_ece", 3),
    Column("entropy (nats), test", "test_entropy", 3),
    Column("far", "far_entropy", 3),
    Column("spikes a neuron and step", "spikes_per_neuron_and_step", 3),
    Column("posterior entropy (bits a weight)", "posterior_entropy_bits_per_weight", 3),
)
MINUTES = Column("minutes a seed", "minutes", 2)
NOT_OF_A_ROW = ("methods", "seeds", "resume", "overwrite", "out")


def rows_of(dataset: str, line: Line) -> list[Line]:
    """A line for each predictor and seed of a run on a data set."""
    if line["dataset"] != dataset:
        return []
    settings = {name: x for name, x in line["config"].items() if name not in NOT_OF_A_ROW}
    start = "as released" if settings["init_scale"] == 10 else f"{settings['init_scale']:g}"
    where = {name: line[name] for name in ("commit", "device", "jax_version")}
    return [
        where
        | row
        | {"config": settings | {"seed": row["seed"]}, "title": model.title(row), "start": start}
        | {"minutes": row["wall_seconds"] / 60 / line["seeds"]}
        for row in line["rows"]
    ]


TABLES = {
    dataset: Table(dataset, (*COLUMNS, MINUTES), (Column("", "title"),), partial(rows_of, dataset))
    for dataset in ("moons", "digits")
}
