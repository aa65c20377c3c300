"""A run that is made of independent pieces: each finished one is a line of pieces.jsonl, which --resume reads.

The random numbers of a piece must depend on the config and on the piece alone. Then a run that was interrupted gives
the same rows as one that was not.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.common import console, reading, runs

Rows = list[dict[str, Any]]


def done(
    folder: Path, work: Mapping[str, Callable[[], Rows]], is_kept: Callable[[str], bool] = lambda piece: True
) -> tuple[Rows, float]:
    """Computes the pieces that a run folder does not have yet.

    Args:
        folder: of the run, which `runs.start` has made.
        work: by the name of a piece, the function that computes its rows: flat objects that JSON can hold. What is
            not finite must be None there.
        is_kept: whether what a finished piece has left beside its rows is still there; if not, it is computed again.

    Returns:
        The rows of all pieces, in the order of ``work``, and the seconds spent on them, in earlier processes too.

    Raises:
        FloatingPointError: a number of a row is not finite.
    """
    path = folder / runs.PIECES
    found = {line["piece"]: line for line in _whole_lines(path) if line["piece"] in work and is_kept(line["piece"])}
    with runs.whole(path) as file:  # what was damaged, or not finished, is gone and computed again
        file.write(runs.metrics_text(list(found.values())).encode())
    if found:
        console.write(f"continuing after {len(found)} of {len(work)} pieces")
    missing = [name for name in work if name not in found]
    for i, report in console.epochs(1, len(missing), unit="piece"):
        name, start = missing[i - 1], time.perf_counter()
        rows = work[name]()
        for row in rows:
            runs.to_json(row)  # names what is not finite
        seconds = time.perf_counter() - start
        line = json.loads(runs.to_json({"piece": name, "seconds": seconds, "rows": rows}))  # as --resume will read it
        found[name] = line | {"sha256": reading.digest_of(line)}
        with open(path, "a") as file:
            file.write(runs.metrics_text([found[name]]))
        report(name)
    return [row for name in work for row in found[name]["rows"]], sum(line["seconds"] for line in found.values())


def _whole_lines(path: Path) -> Rows:
    """The lines that are as they were written; says which are not."""
    lines: Rows = []
    for i, text in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and line.get("sha256") == reading.digest_of(line):
                lines.append(line)
                continue
        console.write(f"{path} is damaged in line {i}: that piece is computed again")
    return lines
