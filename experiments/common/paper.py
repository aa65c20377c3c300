"""The paper's numbers: test accuracy in percent, mean and standard deviation of 5 runs (arXiv 2002.10778, table 10)."""

METHODS = ("ste", "bop", "pmf", "bayesbinn", "bayesbinn mean", "full_precision")
ROWS = {
    "mnist": ((98.85, 0.09), (98.47, 0.02), (98.80, 0.06), (98.86, 0.05), (98.86, 0.05), (99.01, 0.06)),
    "cifar10": ((93.55, 0.15), (93.00, 0.11), (91.43, 0.14), (93.72, 0.16), (93.72, 0.15), (93.90, 0.17)),
    "cifar100": ((72.89, 0.21), (69.58, 0.15), (70.45, 0.25), (73.68, 0.31), (73.65, 0.41), (74.83, 0.26)),
}
PAPER = {(dataset, name): x for dataset, row in ROWS.items() for name, x in zip(METHODS, row, strict=True)}


def text(dataset: str, method: str) -> str:
    """The paper's number as a cell of a table; empty where it has none."""
    return "{:.2f} +- {:.2f}".format(*PAPER[dataset, method]) if (dataset, method) in PAPER else ""
