"""How the tables of RESULTS.md are made of the lines in results/."""

from experiments.common.tables import Column, Line, Table

PREDICTOR = (Column("predictor", "predictor"),)


def _predictors(line: Line) -> list[Line]:
    """A line for each predictor of a run: what was measured is named ``PREDICTOR: SCORE``."""
    predictors: dict[str, Line] = {}
    for name, value in line.items():
        predictor, is_score, score = name.partition(": ")
        if is_score:
            predictors.setdefault(predictor, {"predictor": predictor})[score] = value
    return [line | scores for scores in predictors.values()]


def _answers(line: Line) -> list[Line]:
    """The same; a single network has no mutual information."""
    names = ("STE", "BayesBiNN, mode", "BayesBiNN, mean of 1")
    return [
        {name: x for name, x in part.items() if part["predictor"] not in names or "_information" not in name}
        for part in _predictors(line)
    ]


def scores(nll: int) -> tuple[Column, ...]:
    """What a predictor knows of the test images."""
    return (
        Column("accuracy (%)", "accuracy", 2, 100),
        Column("NLL", "nll", nll),
        Column("Brier", "brier", 4),
        Column("ECE", "ece", nll),
        Column("NLL, scaled", "nll_scaled", nll),
        Column("ECE, scaled", "ece_scaled", nll),
        Column("risk-coverage area", "risk_coverage_area", 5),
    )


def foreign(*sets: str) -> tuple[Column, ...]:
    """AUROC of foreign images against test images."""
    signals = {"entropy": "entropy", "information": "mutual information"}
    return tuple(
        Column(f"{images}, by {title}", f"auroc_{signal}, {images}", 3)
        for signal, title in signals.items()
        for images in sets
    )


DIGITS = ("shuffled", "rotated", "noisy")
TABLES = {
    "mnist": Table("mnist", scores(4), PREDICTOR, _predictors),
    "mnist-foreign": Table("mnist", foreign(*DIGITS, "CIFAR-10 in grey"), PREDICTOR, _answers),
    "digits": Table("digits", scores(3), PREDICTOR, _predictors),
    "digits-foreign": Table("digits", foreign(*DIGITS), PREDICTOR, _answers),
}
