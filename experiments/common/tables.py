"""The tables of the RESULTS.md files, each made from the lines of a jsonl file that lies in the results/ beside it.

A line is what a run has measured with one seed: the fields of its results.json, and under "config" every setting as
it was resolved. How a table is made of such lines is a `Table` in the published.py of the experiment.
"""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments.common import changes, reading

EXPERIMENTS = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Line = dict[str, Any]


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: above it.
        field: of a line; ``config.epochs`` and ``accuracies.-1`` are within an object or a list.
        digits: of the mean over the lines of a row, and of their sample deviation (n - 1); None: as it is.
        scale: is multiplied to both: 100 for percent.
    """

    title: str
    field: str
    digits: int | None = None
    scale: float = 1.0


class Table(NamedTuple):
    """How a table is made of the lines of a file.

    Attributes:
        file: in results/, without its .jsonl.
        columns: what is measured.
        by: what tells rows apart. Nothing: all settings, told as the flags that change those of the first row.
        unfold: makes lines of a line, where what it holds belongs to several rows.
    """

    file: str
    columns: tuple[Column, ...]
    by: tuple[Column, ...] = ()
    unfold: Callable[[Line], list[Line]] = lambda line: [line]


def published(folder: Path) -> dict[str, Table]:
    """The tables of an experiment, by the name in the marker."""
    return importlib.import_module(f"experiments.{folder.name}.published").TABLES


def read(path: Path) -> list[Line]:
    """The lines of a results file, with the minutes of a run: a program may have trained several seeds together."""
    lines = reading.read_lines(path)
    for line in lines:
        line["minutes"] = line["wall_seconds"] / 60 / line["config"].get("seeds", 1) if "wall_seconds" in line else None
    return lines


def render(results: Path, table: Table) -> str:
    """The table in Markdown, and a line that says where its numbers come from.

    Raises:
        ValueError: lines of one row differ in a setting.
    """
    lines = [part for line in read(results / f"{table.file}.jsonl") for part in table.unfold(line)]
    by = table.by or (Column("changes", "changes"),)
    if not table.by:
        for line in lines:
            changed = changes.changes(line["config"], lines[0]["config"])
            line["changes"] = f"`{changes.flags(changed)}`" if changed else "none"
    keys = pd.Series([tuple(cell(pd.Series([look(line, column.field)]), column) for column in by) for line in lines])
    rows = []
    for key, group in keys.groupby(keys, sort=False):
        first, *others = [lines[i]["config"] for i in group.index]
        if differing := {name for other in others for name in changes.changes(other, first)}:
            raise ValueError(f"{table.file}.jsonl: the row {key} has runs that differ in {', '.join(differing)}")
        cells = (cell(pd.Series([look(lines[i], x.field) for i in group.index]), x) for x in table.columns)
        rows.append([*key, *cells, str(len(group))])
    header = [*(column.title for column in by + table.columns), "n"]
    text = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    commits, devices, versions = (
        ", ".join(dict.fromkeys(str(line[name]) for line in lines)) for name in ("commit", "device", "jax_version")
    )
    source = f"[{table.file}.jsonl](results/{table.file}.jsonl); {devices}, jax {versions}, commit {commits}"
    return "\n".join([*text, "", f"*{source}*", ""])


def look(line: Any, field: str) -> Any:
    """A field of a line, or None where there is none."""
    for name in field.split("."):
        if isinstance(line, list):
            line = line[int(name)] if -len(line) <= int(name) < len(line) else None
        else:
            line = line.get(name) if isinstance(line, dict) else None
    return line


def cell(values: "pd.Series[Any]", column: Column) -> str:
    """Mean and sample deviation of some numbers, or the texts that differ."""
    values = values.dropna()
    if column.digits is None or values.empty:
        return ", ".join(dict.fromkeys(map(changes.as_typed, values)))
    numbers = [values.mean(), values.std()] if len(values) > 1 else [values.mean()]  # pandas divides by n - 1
    return " +- ".join(f"{column.scale * x:.{column.digits}f}" for x in numbers)


def fill(folder: Path) -> str:
    """The RESULTS.md of an experiment with its tables made anew.

    Raises:
        ValueError: a marker names no table.
    """
    tables = published(EXPERIMENTS / folder.name)

    def table(found: re.Match[str]) -> str:
        start, name, end = found.groups()
        if name not in tables:
            raise ValueError(f"{folder / 'RESULTS.md'}: there is no table {name!r}, only {', '.join(tables)}")
        return start + render(folder / "results", tables[name]) + end

    return MARKED.sub(table, (folder / "RESULTS.md").read_text())


def write(root: Path = EXPERIMENTS) -> list[Path]:
    """Makes the tables of all RESULTS.md anew; returns those that have changed."""
    changed = []
    for path in sorted(root.glob("*/RESULTS.md")):
        text = fill(path.parent)
        if text != path.read_text():
            path.write_text(text)
            changed.append(path)
    return changed
