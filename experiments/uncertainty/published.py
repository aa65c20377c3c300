"""How the tables of RESULTS.md are made of the lines in results/, one for each seed and predictor."""

from experiments.common.tables import Column, Table
from experiments.uncertainty.corruptions import TITLES

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


def corrupted(score: str, digits: int, scale: float = 1.0) -> tuple[Column, ...]:
    """A score on the test images as they are, and by kind and strength of their corruption."""
    first = Column("as they are", f"scores.{score}", digits, scale)
    fields = {title: f"scores.corrupted.{kind}.{severity}.{score}" for (kind, severity), title in TITLES.items()}
    return (first, *(Column(title, field, digits, scale) for title, field in fields.items()))


BITS = (Column("bits a weight", "scores.posterior_entropy_bits_per_weight", 3),)
DIGITS = ("shuffled", "rotated", "noisy")
TABLES = {
    "mnist": Table("mnist", scores(4), PREDICTOR),
    "mnist-foreign": Table("mnist", foreign(*DIGITS, "CIFAR-10 in grey"), PREDICTOR),
    "digits": Table("digits", scores(3), PREDICTOR),
    "digits-foreign": Table("digits", foreign(*DIGITS), PREDICTOR),
    "cifar10": Table("cifar10", scores(3) + BITS, PREDICTOR),
    "cifar10-corrupted": Table("cifar10", corrupted("accuracy", 1, 100), PREDICTOR),
    "cifar10-corrupted-nll": Table("cifar10", corrupted("nll", 3), PREDICTOR),
    "cifar10-foreign": Table("cifar10", foreign("shuffled", "MNIST in colour"), PREDICTOR),
}
