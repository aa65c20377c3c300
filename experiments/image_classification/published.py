"""How the tables of RESULTS.md are made of the lines in results/."""

from experiments.common.paper import text
from experiments.common.tables import Column, Line, Table

PRESET = Column("preset", "config.preset")
METHOD = Column("method", "config.method")
NOISE = Column("noise", "config.noise")
MODE = Column("accuracy of the mode (%)", "test_accuracy_mode", 2, 100)
MEAN = Column("of the mean", "test_accuracy_mean", 2, 100)
ENTROPY = Column("entropy (bits a weight)", "posterior_entropy_bits_per_weight", 3)
MINUTES = Column("minutes a run", "minutes", 1)


def scores(digits: int) -> tuple[Column, ...]:
    """Likelihood and calibration of the mode and of the mean."""
    return (
        Column("NLL of the mode", "test_nll_mode", digits),
        Column("of the mean", "test_nll_mean", digits),
        Column("ECE of the mode", "test_ece_mode", digits),
        Column("of the mean", "test_ece_mean", digits),
    )


# Test accuracy in percent of the authors' five released runs after their first epochs, mean (least to most).
AUTHORS = ("96.77 (96.57 to 97.03)", "97.16 (96.94 to 97.33)", "97.46 (97.32 to 97.65)")


def _epochs(line: Line) -> list[Line]:
    """A line for each epoch, beside the authors' first ones."""
    return [line | metrics | {"authors": AUTHORS[metrics["epoch"] - 1]} for metrics in line["metrics"]]


def _beside_the_paper(line: Line) -> list[Line]:
    """The line with the numbers of 500 epochs."""
    names = {"paper": line["method"], "paper_mean": f"{line['method']} mean"}
    return [line | {field: text("mnist", method) or None for field, method in names.items()}]


TABLES = {
    "digits": Table(
        "digits",
        (MODE, MEAN, *scores(3), ENTROPY),
        (PRESET, METHOD, Column("batch-norm images", "config.batch_norm_images")),
    ),
    "mnist-first-epochs": Table(
        "mnist-first-epochs",
        (
            Column("authors, 5 runs: accuracy (%)", "authors"),
            Column("ours: accuracy of the mode (%)", "test_accuracy_mode", 2, 100),
            Column("training accuracy", "train_accuracy", 2, 100),
            Column("entropy (bits a weight)", "posterior_entropy_bits_per_weight", 4),
        ),
        (Column("epoch", "epoch"),),
        _epochs,
    ),
    "mnist-fast": Table("mnist-fast", (MODE, MEAN, *scores(4), ENTROPY, MINUTES), (METHOD, NOISE)),
    "cifar10-small": Table("cifar10-small", (MODE, MEAN, *scores(3), ENTROPY, MINUTES), (METHOD, NOISE)),
    "mnist-bayes": Table(
        "mnist-bayes",
        (MODE, MEAN, *scores(4), ENTROPY, MINUTES),
        (METHOD, Column("shared variance", "config.shared_variance")),
    ),
    "mnist-page": Table(
        "mnist-page",
        (Column("validation accuracy of the mode (%)", "validation_accuracy", 2, 100), MODE, MEAN, *scores(4), ENTROPY),
        (Column("network", "config.hidden"), Column("kl_weight", "config.kl_weight")),
    ),
    "mnist-short": Table(
        "mnist-short",
        (
            Column("paper, 500 epochs: accuracy of the mode (%)", "paper"),
            Column("of the mean", "paper_mean"),
            Column("ours: accuracy of the mode (%)", "test_accuracy_mode", 2, 100),
            MEAN,
            MINUTES,
        ),
        (METHOD, Column("epochs", "config.epochs")),
        _beside_the_paper,
    ),
    "mnist-settings": Table(
        "mnist-settings",
        (MODE, MEAN, *scores(4), ENTROPY),
        (
            METHOD,
            NOISE,
            Column("temperature", "config.temperature"),
            Column("learning rate", "config.learning_rate"),
            Column("kl_weight", "config.kl_weight"),
            Column("start", "config.init_scale"),
        ),
    ),
    "cifar10": Table(
        "cifar10",
        (
            Column("loss", "metrics.0.train_loss", 2),
            Column("training accuracy (%)", "metrics.0.train_accuracy", 1, 100),
            Column("validation", "metrics.0.validation_accuracy", 1, 100),
            Column("test, mode", "metrics.0.test_accuracy_mode", 1, 100),
            MINUTES,
        ),
        (METHOD,),
    ),
}
