"""How the tables of RESULTS.md are made of the lines in results/."""

from experiments.common.tables import Column, Line, Table
from experiments.learning_rates.presets import CLAIMED
from experiments.learning_rates.rules import RULES


def _standings(line: Line) -> list[Line]:
    """A line for each method and seed of a run."""
    lines = []
    for found in line["standings"]:
        rows = [row for row in line["rows"] if row["method"] == found["method"]]
        at = {(row["rate"], row["momentum"]): row for row in rows}
        best, claimed = at[tuple(found["accuracy_best_cell"])], at[CLAIMED]
        cells = line["num_cells"]
        facts = {
            "label": RULES[found["method"]].label,
            "network": line["config"]["network"],
            "best_pair": _pair(found["accuracy_best_cell"]),
            "best_pair_nll": _pair(found["nll_best_cell"]),
            "rank": _rank(found["accuracy_rank"], found["accuracy_tied"], cells),
            "rank_nll": _rank(found["nll_rank"], found["nll_tied"], cells),
            "within": f"{found['accuracy_within']}, {'with' if found['accuracy_claimed_within'] else 'without'} it",
            "diverged": found["diverged_cells"],
        }
        for i in range(line["seeds"]):
            measured = {
                "best": best["accuracy_of_seeds"][i],
                "claimed": claimed["accuracy_of_seeds"][i],
                "distance": found["accuracy_distance"] and found["accuracy_distance"][i],
            }
            lines.append(line | facts | measured)
    return lines


def _cells(line: Line) -> list[Line]:
    """A line for each method, cell and seed."""
    kl_weight = line["config"]["kl_weight"]
    return [
        line
        | {"label": f"learning rule, KL weight {kl_weight:g}" if row["method"] == "bayesbinn" else "STE"}
        | {"rate": row["rate"], "momentum": row["momentum"], "accuracy": accuracy, "nll": nll}
        for row in line["rows"]
        for accuracy, nll in zip(row["accuracy_of_seeds"], row["nll_of_seeds"], strict=True)
    ]


def _pair(cell: list[float] | tuple[float, float]) -> str:
    return "({:g}, {:g})".format(*cell)


def _rank(rank: int | None, tied: int | None, cells: int) -> str:
    return "diverged" if rank is None else f"{rank} of {cells}" + (f", {tied} equal" if tied else "")


RUN = (Column("images", "dataset"), Column("network", "network"), Column("epochs", "epochs"), Column("method", "label"))
TABLES = {
    "standings": Table(
        "grids",
        (
            Column("best accuracy (%)", "best", 2, 100),
            Column("claimed (%)", "claimed", 2, 100),
            Column("behind by (points)", "distance", 2, 100),
            Column("its rank", "rank"),
            Column("within one error of the best", "within"),
            Column("best pair", "best_pair"),
            Column("best pair by NLL", "best_pair_nll"),
            Column("rank of the claimed by NLL", "rank_nll"),
            Column("diverged", "diverged"),
        ),
        RUN,
        _standings,
    ),
    "wider": Table(
        "wider",
        (Column("accuracy (%)", "accuracy", 2, 100), Column("NLL", "nll", 3)),
        (Column("digits, 100 epochs", "label"), Column("rate", "rate"), Column("momentum", "momentum")),
        _cells,
    ),
}
