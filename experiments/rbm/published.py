"""How the tables of RESULTS.md are made of the lines in results/, and the numbers that others have published."""

from functools import partial

from experiments.common.tables import Column, Line, Table
from experiments.rbm.presets import LABELS, Config

# Overlap of Huang's method at P = 2 by examples for each visible unit, read off a figure of the public reproduction.
OVERLAPS = {1.0: 0.30, 2.0: 0.475, 3.0: 0.62, 4.0: 0.67, 5.0: 0.74}


def _points(line: Line, hidden_units: tuple[int, ...], alphas: tuple[float, ...]) -> list[Line]:
    """A line for each planted machine of each method and point of a run, sorted by point."""
    rows = [
        row for row in line["rows"] + line["bayes"] if row["hidden_units"] in hidden_units and row["alpha"] in alphas
    ]
    rows.sort(key=lambda row: (row["hidden_units"], row["alpha"], list(LABELS).index(row["method"])))
    return [
        line
        | row
        | {
            "title": LABELS[row["method"]][0],
            "published": _published(row),
            "weight_ece_pooled": f"{row['weight_ece_pooled']:.3f}",  # one number of all machines
        }
        | machine
        for row in rows
        for machine in row["machines"]
    ]


def _published(row: Line) -> float | None:
    is_it = row["method"] == "clipped_mean" and row["hidden_units"] == 2
    return OVERLAPS.get(row["alpha"]) if is_it else None


def _methods(line: Line) -> list[Line]:
    """A line for each method and seed of a run on images."""
    biases = "yes" if line["config"]["biases"] else "no"
    return [line | row | {"title": LABELS[row["method"]][0], "biases": biases} for row in line["rows"]]


METHOD = Column("method", "title")
OF_IMAGES = (
    Column("reconstruction, wrong pixels (%)", "reconstruction_error", 2, 100),
    Column("10 % flipped, wrong pixels (%)", "denoising_error", 2, 100),
    Column("free-energy gap (nats)", "free_energy_gap", 2),
    Column("scale", "scale", 2),
    Column("bits a weight", "entropy_bits", 3),
)
POINT = (Column("P", "hidden_units"), Column("alpha", "alpha"), METHOD)
KNOWN = (
    Column("weight ECE", "weight_ece_pooled"),
    Column("mean(mu W*)", "mean_agreement", 3),
    Column("gap", "nishimori_gap", 3),
)
MIXTURE = Column("test ln p, mixture of 50", "test_log_likelihood", 3)
TABLES = {
    "planted": Table(
        "planted",
        (
            Column("overlap", "overlap", 3),
            Column("published", "published"),
            *KNOWN,
            Column("test ln p, mode", "test_log_likelihood_mode", 3),
            MIXTURE,
        ),
        POINT,
        partial(_points, hidden_units=(2,), alphas=Config().alphas),
    ),
    "planted_others": Table(
        "planted",
        (Column("overlap", "overlap", 3), *KNOWN, MIXTURE),
        POINT,
        partial(_points, hidden_units=(1, 3), alphas=(1, 3, 5, 10)),
    ),
    "digits": Table(
        "digits",
        (
            Column("test ln p, mode", "test_log_likelihood_mode", 2),
            Column("mixture of 50", "test_log_likelihood", 2),
            *OF_IMAGES,
        ),
        (Column("biases", "biases"), METHOD),
        _methods,
    ),
    "mnist": Table("mnist", OF_IMAGES, (METHOD,), _methods),
}
