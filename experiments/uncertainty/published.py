"""How the tables of RESULTS.md are made of the lines in results/, one for each seed and predictor."""

from experiments.common.tables import Column, Table

PREDICTOR = (Column("predictor", "predictor"),)


def scores(nll: int) -> tuple[Column, ...]:
    """What a predictor knows of the test images; the likelihood with so many digits."""
    return (
        Column("accuracy (%)", "scores.accuracy", 2, 100),
        Column("NLL", "scores.nll", nll),
        Column("Brier", "scores.brier", 4),
        Column("ECE", "scores.ece", nll),
        Column("NLL, scaled", "scores.scaled.nll", nll),
        Column("ECE, scaled", "scores.scaled.ece", nll),
        Column("risk-coverage area", "scores.risk_coverage_area", 5),
    )


def foreign(*kinds: str) -> tuple[Column, ...]:
    """AUROC of foreign images against test images; a single network has no mutual information."""
    return tuple(
        Column(f"{kind}, by {signal.replace('_', ' ')}", f"scores.foreign.{kind}.{signal}.auroc", 3)
        for signal in ("entropy", "mutual_information")
        for kind in kinds
    )


DIGITS = ("shuffled", "rotated", "noisy")
TABLES = {
    "mnist": Table("mnist", scores(4), PREDICTOR),
    "mnist-foreign": Table("mnist", foreign(*DIGITS, "CIFAR-10 in grey"), PREDICTOR),
    "digits": Table("digits", scores(3), PREDICTOR),
    "digits-foreign": Table("digits", foreign(*DIGITS), PREDICTOR),
}
