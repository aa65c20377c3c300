"""How the tables of RESULTS.md are made of the lines in results/."""

from experiments.common.tables import Column, Line, Table
from experiments.learning_rates.presets import CLAIMED, MOMENTA, RATES
from experiments.learning_rates.rules import RULES

PLACE = RATES.index(CLAIMED[0]) * len(MOMENTA) + MOMENTA.index(CLAIMED[1])  # of the claimed cell among the rows


def _standings(line: Line) -> list[Line]:
    """A line for each method and seed of a run; of a posterior for its mode and for the mean of networks drawn."""
    lines = []
    for found in line["standings"]:
        rows = [row for row in line["rows"] if row["method"] == found["method"]]
        has_mean = "accuracy_mean_best" in found
        predictors = {"": "mode", "_mean": f"mean of {line['config']['eval_samples']}"} if has_mean else {"": ""}
        for of, title in predictors.items():
            label = ", ".join(filter(None, (RULES[found["method"]].label, title)))
            lines += _seeds(line | {"label": label}, found, rows, of)
    return lines


def _seeds(line: Line, found: Line, rows: list[Line], of: str) -> list[Line]:
    """A line for each seed of a method, by the predictor whose scores end in ``of``."""
    at = {(row["rate"], row["momentum"]): row for row in rows}
    accuracy, nll = f"accuracy{of}", f"nll{of}"
    best, claimed = at[tuple(found[f"{accuracy}_best_cell"])], rows[PLACE]
    near = [row for row in rows if row[accuracy] is not None and row[accuracy] > best[accuracy] - 0.01]
    facts = {
        "network": line["config"]["network"],
        "best_pair": _pair(found[f"{accuracy}_best_cell"]),
        "best_pair_nll": _pair(found[f"{nll}_best_cell"]),
        "rank": _rank(found[f"{accuracy}_rank"], found[f"{accuracy}_tied"]),
        "rank_nll": _rank(found[f"{nll}_rank"], found[f"{nll}_tied"]),
        "within": f"{found[f'{accuracy}_within']}, {'with' if found[f'{accuracy}_claimed_within'] else 'without'} it",
        "within_nll": f"{found[f'{nll}_within']}, {'with' if found[f'{nll}_claimed_within'] else 'without'} it",
        "within_a_point": len(near),
        "diverged": found["diverged_cells"],
    }
    distance = found[f"{accuracy}_distance"] or [None] * line["seeds"]
    return [
        line | facts | {"best": best_of_seed, "claimed": claimed_of_seed, "distance": behind}
        for best_of_seed, claimed_of_seed, behind in zip(
            best[f"{accuracy}_of_seeds"], claimed[f"{accuracy}_of_seeds"], distance, strict=True
        )
    ]


def _cells(line: Line) -> list[Line]:
    """A line for each method, cell and seed."""
    kl_weight = line["config"]["kl_weight"]
    return [
        line
        | {"label": f"learning rule, mode, KL weight {kl_weight:g}" if row["method"] == "bayesbinn" else "STE"}
        | {"rate": row["rate"], "momentum": row["momentum"], "accuracy": accuracy, "nll": nll}
        for row in line["rows"]
        for accuracy, nll in zip(row["accuracy_of_seeds"], row["nll_of_seeds"], strict=True)
    ]


def _pair(cell: list[float] | tuple[float, float]) -> str:
    return "({:g}, {:g})".format(*cell)


def _rank(rank: int | None, tied: int | None) -> str:
    return "diverged" if rank is None else f"{rank}, {tied} equal" if tied else f"{rank}"


RUN = (Column("images", "dataset"), Column("network", "network"), Column("epochs", "epochs"), Column("method", "label"))
TABLES = {
    "standings": Table(
        "grids",
        (
            Column("best accuracy (%)", "best", 2, 100),
            Column("claimed (%)", "claimed", 2, 100),
            Column("behind by (points)", "distance", 2, 100),
            Column("its rank", "rank"),
            Column("within one error", "within"),
            Column("within a point", "within_a_point"),
            Column("best pair", "best_pair"),
            Column("rank by NLL", "rank_nll"),
            Column("within one error, NLL", "within_nll"),
            Column("best pair, NLL", "best_pair_nll"),
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
