"""The image runs below some folders, as one table and one figure; and the tables of the RESULTS.md files.

    python -m experiments.report runs
    python -m experiments.report experiments/image_classification/results --markdown --out curves.png
    python -m experiments.report --write

Reads what the runs wrote, and writes nothing but the figure that --out names. The exit code is 2 where a file or folder
could not be read, and the other runs are in the table all the same.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.report")

import argparse
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from experiments.common import endings, paper, tables
from experiments.common.console import PLAIN
from experiments.common.endings import printable
from experiments.report import figure, runs

COLUMNS = ("dataset", "method", "paper: mode", "mode", "paper: mean", "mean", "seeds", "epochs", "device", "min a run")
EXPLANATION = """
Test accuracy in percent after the last epoch, mean +- sample standard deviation (n - 1) over seeds.
Paper: arXiv 2002.10778, table 10, 5 runs of 500 epochs, each at its best validation epoch; not beside changed settings.
"""


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m experiments.report", description="Tables and figure of runs.")
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="DIR", help="holds run folders or results (NAME.jsonl)"
    )
    parser.add_argument("--write", action="store_true", help="make the tables of all RESULTS.md anew, and nothing else")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="draw learning curves into this file")
    parser.add_argument("--against", choices=("epochs", "minutes"), default="epochs", help="what the curves run over")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    arguments = parser.parse_args(argv)
    with endings.ending(), endings.user_errors():
        if arguments.write == bool(arguments.folders):
            raise ValueError("either --write or folders must be given")
        if arguments.write:
            print("\n".join(f"written: {path}" for path in tables.write()) or "all tables are as they should be")
            return
        if arguments.out and arguments.out.suffix != ".png":
            raise ValueError(f"--out must name a .png file, got {printable(str(arguments.out))}")
        if arguments.out and not arguments.out.parent.is_dir():
            raise ValueError(f"--out must name a file in a folder that is there, got {printable(str(arguments.out))}")
        found, told = runs.find(arguments.folders)
        frame, repeats = grouped(found)
        rows = [(cells(group), group) for _, group in frame.groupby("row", sort=True)]
        drawn = "no figure: --out FILE.png draws learning curves"
        if arguments.out:
            drawn = figure.draw(arguments.out, [group for _, group in rows], arguments.against)
        show([line for line, _ in rows], arguments.markdown)
        print("\n".join((EXPLANATION, *map(printable, (*repeats, *told, drawn)))))
        if unread := sum(line.startswith("left out: ") for line in told):
            raise ValueError(f"left out of the table: {unread} that could not be read, named below it")


def grouped(found: list[runs.Run]) -> tuple[pd.DataFrame, list[str]]:
    """The runs, those that agree in all but the seed with the same "row"; and a line for each seed that comes again."""
    frame = pd.DataFrame([run[1:] for run in found], columns=runs.Run._fields[1:])  # a path need not be text
    alike = ["dataset", "method", "epochs", "total_epochs", "device", "changes"]
    again = frame.groupby([*alike, "seed"]).cumcount()
    repeats = [
        f"seed {run.seed} again, not averaged with the first: {run.path}"
        for run, count in zip(found, again, strict=True)
        if count
    ]
    marks = [f"repeat {count}" if count else "" for count in again]
    frame["changes"] = [", ".join(filter(None, both)) for both in zip(frame["changes"], marks, strict=True)]
    order = list(figure.COLORS)
    frame["place"] = [order.index(x) if x in order else len(order) for x in frame["method"]]
    frame["longest"] = -frame["epochs"]
    keys = ["dataset", "place", "method", "longest", "changes", "total_epochs", "device"]
    frame["row"] = frame.groupby(keys).ngroup()  # in the order of the keys
    return frame, repeats


def cells(group: pd.DataFrame) -> list[str]:
    """The text of a row, in the order of COLUMNS."""
    first = group.iloc[0]
    scores = []
    for name, published in (("mode", first["method"]), ("mean", f"{first['method']} mean")):
        scores.append("" if first["changes"] else paper.text(first["dataset"], published))
        scores.append(tables.cell(group[name], tables.Column(name, name, 2)))
    minutes = group["minutes"].dropna()
    time = f"{minutes.mean():.1f}" if len(minutes) else ""
    name, length = figure.names(group)
    return [first["dataset"], name, *scores, str(len(group)), length, first["device"], time]


def show(rows: list[list[str]], markdown: bool) -> None:
    """Prints the table; a narrow terminal breaks its lines, but nothing is cut off."""
    if markdown:
        lines = [COLUMNS, ["---"] * len(COLUMNS), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return
    view = Table(*COLUMNS)
    for row in rows:
        view.add_row(*row)
    console = Console(**PLAIN)
    console.width = max(console.width, 140)
    console.print(view)


if __name__ == "__main__":
    main()
