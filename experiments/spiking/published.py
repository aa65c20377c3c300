"""How the tables of RESULTS.md are made of the lines in results/, one for each run: of all its seeds and methods."""

from experiments.common import changes
from experiments.common.config import flat
from experiments.common.tables import Column, Line, Table
from experiments.spiking import model
from experiments.spiking.presets import PRESETS

COLUMNS = (
    Column("test accuracy (%)", "test_accuracy", 1, 100),
    Column("NLL", "test_nll", 3),
    Column("ECE", "test_ece", 3),
    Column("entropy (nats), test", "test_entropy", 3),
    Column("far", "far_entropy", 3),
    Column("spikes a neuron and step", "spikes_per_neuron_and_step", 3),
    Column("posterior entropy (bits a weight)", "posterior_entropy_bits_per_weight", 3),
)


def _rows(line: Line) -> list[Line]:
    """A line for each predictor and seed of a run."""
    config = {name: x for name, x in line["config"].items() if name != "methods"}  # those of a row are one
    changed = changes.flags(changes.changes(config, flat(PRESETS[line["dataset"]]())))
    of_run = {name: line[name] for name in ("commit", "device", "jax_version")}
    of_run |= {"config": config, "changes": f"`{changed}`" if changed else "none"}
    return [of_run | row | {"title": model.title(row)} for row in line["rows"]]


def _table(name: str, columns: tuple[Column, ...]) -> Table:
    return Table(name, columns, (Column("changes", "changes"), Column("predictor", "title")), _rows)


TABLES = {
    "moons": _table("moons", COLUMNS),
    "digits": _table("digits", tuple(column for column in COLUMNS if column.title != "far")),
}
