"""How the tables of RESULTS.md are made of the lines in results/."""

from experiments.common.tables import Column, Line, Table

RATIO = Column("ratio", "ratio", 2)
MEMORY = Column("planned memory (MB)", "planned_bytes", 0, 1e-6)
COMPILED = Column("compiled in (s)", "compile_seconds", 1)


def _programs(line: Line) -> list[Line]:
    """A line for each program that a run has timed."""
    flag = "--xla_cpu_prefer_vector_width="
    vectors = (line.get("xla_flags") or f"{flag}256").partition(flag)[2]
    return [line | row | {"vectors": vectors} for row in line["rows"] if row["ratio"] is not None]


def _compared(line: Line) -> list[Line]:
    """The same without what the others are compared with."""
    return [row for row in _programs(line) if row["program"] != row["compared_with"]]


PROGRAM = Column("program", "program")
AGAINST = Column("against", "compared_with")
PART = Column("part", "part")
STEP = (RATIO, Column("step (ms)", "seconds", 0, 1e3), MEMORY, COMPILED)
TABLES = {
    "step": Table("step", STEP, (PROGRAM,), _programs),
    "activations": Table(
        "activations",
        STEP,
        (PROGRAM,),
        lambda line: [row for row in _programs(line) if "activations" in row["program"] or row["program"] == "sgd"],
    ),
    "vectors": Table(
        "vectors",
        (RATIO,),
        (Column("vector bits", "vectors"), PROGRAM),
        lambda line: [row for row in _compared(line) if row["program"].startswith("bayesbinn, ")],
    ),
    "size": Table(
        "size",
        (RATIO, MEMORY),
        (PART, Column("network", "network"), Column("batch", "batch_size"), PROGRAM, AGAINST),
        _compared,
    ),
    "other": Table("other", (RATIO, MEMORY), (PART, Column("network", "network"), PROGRAM, AGAINST), _compared),
}
