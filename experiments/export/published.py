"""How the tables of RESULTS.md are made of the lines in results/."""

from experiments.common.tables import Column, Line, Table


def _programs(line: Line) -> list[Line]:
    """A line for each program and batch, with how many times as fast it is as the two others are."""
    seconds = {(row["batch_size"], row["program"]): row["seconds"] for row in line["rows"]}
    return [
        line
        | row
        | {"faster": 1 / row["ratio"], "than_numpy": seconds[row["batch_size"], "NumPy, float32"] / row["seconds"]}
        for row in line["rows"]
    ]


def _forms(line: Line) -> list[Line]:
    """A line for each form of a network, with what it takes for each weight."""
    return [line | row | {"bits": 8 * row["bytes"] / line["num_binary_weights"]} for row in line["rows"]]


TABLES = {
    "forms": Table(
        "forms",
        (
            Column("kB", "bytes", 1, 1e-3),
            Column("bits a weight", "bits", 2),
            Column("one input (ms)", "seconds", 3, 1e3),
            Column("IQR (ms)", "seconds_iqr", 3, 1e3),
            Column("time by ONNX, float32", "ratio", 2),
            Column("from JAX (1e-6)", "difference", 1, 1e6),
        ),
        (Column("network", "network"), Column("networks", "networks"), Column("form", "program")),
        _forms,
    ),
    "speed": Table(
        "speed",
        (
            Column("a batch (ms)", "seconds", 3, 1e3),
            Column("times as fast as onnxruntime", "faster", 2),
            Column("as NumPy", "than_numpy", 2),
        ),
        (Column("batch", "batch_size"), Column("program", "program")),
        _programs,
    ),
}
