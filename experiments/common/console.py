"""What a run says on the terminal: one line an epoch, and a table at its end."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table

from experiments.common.endings import printable

PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}  # a path may look like any of them
_console = Console(**PLAIN)
if _console.width < 1:  # of COLUMNS=0, where rich would print nothing at all
    _console.width = 80


def write(*lines: str) -> None:
    """Prints lines as they are, above a progress bar where there is one; what cannot be printed is escaped."""
    for line in lines:
        _console.print(printable(line), soft_wrap=True)


def epochs(first: int, last: int, unit: str = "epoch") -> Iterator[tuple[int, Callable[[str], None]]]:
    """Counts epochs (or tasks) and shows the progress: a moving line on a terminal, elsewhere a line a second at most.

    Yields ``(epoch, report)``; ``report(text)`` tells what the epoch gave. The time
    left is that of the epochs done so far; compilation must be over before.
    """
    start = printed = time.perf_counter()
    is_terminal = _console.is_terminal
    with Progress(
        TextColumn("{task.description}", markup=False), console=_console, disable=not is_terminal
    ) as progress:
        task = progress.add_task(f"{unit} {first}")
        for epoch in range(first, last + 1):

            def report(text: str, epoch: int = epoch) -> None:
                nonlocal printed
                now = time.perf_counter()
                seconds = (now - start) / (epoch - first + 1)
                rate = f"{1 / seconds:.1f} {unit}s/s" if seconds < 1 else f"{seconds:.1f} s/{unit}"
                left = _duration(seconds * (last - epoch))
                text = f"{unit} {epoch:>{len(str(last))}}/{last}  {text}  {rate}  {left} left"
                progress.update(task, description=text)
                if not is_terminal and (now - printed >= 1 or epoch == last):
                    printed = now
                    print(text, flush=True)

            yield epoch, report


def write_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of text; all columns but the first are aligned to the right."""
    table = Table(title=printable(title))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    wide = Console(**PLAIN)
    wide.width = max(wide.width, 170)  # a line longer than the window is better than numbers broken in two
    wide.print(table)


def number(results: dict[str, Any], name: str, style: str) -> str:
    """A number of the results, with its deviation where there are several seeds; "-" of None."""
    if results[name] is None:
        return "-"
    text = style.format(results[name])
    return f"{text} +- {style.format(results[f'{name}_std']).lstrip('+')}" if "seeds" in results else text


def write_totals(results: dict[str, Any]) -> None:
    """How many weights there are, what the posterior knows of them, and the times."""
    binary, real = results["num_binary_weights"], results["num_real_parameters"]
    counts = f"{real:,} real {'parameter' if real == 1 else 'parameters'}"
    write(f"{binary:,} binary weights ({binary / 8e3:,.1f} kB at one bit each) and {counts}" if binary else counts)
    if results["posterior_entropy_bits_per_weight"] is not None:
        write(diagnosis(results))
    write(f"trained in {_duration(results['wall_seconds'])}, compiled in {_duration(results['compile_seconds'])}")


def diagnosis(results: dict[str, Any]) -> str:
    """What became of the posterior, in one line, and which flag to turn where nothing good did."""
    entropy, flipped = results["posterior_entropy_bits_per_weight"], results["flipped_since_start"]
    text = (
        f"posterior: entropy {entropy:.3f} bits per weight, {results['saturated_share']:.1%} of the weights are "
        f"decided to 99 %, {flipped:.1%} have another sign than at the start"
    )
    if flipped < 0.001:
        return f"{text}; its mode is the start: train longer, raise --learning-rate, or lower --init-scale"
    if entropy < 0.01:
        of_weights = results.get("config", {}).get("noise") != "activations"
        flags = (
            "--noise activations with a lower --learning-rate" if of_weights else "lower --learning-rate, or --epochs"
        )
        return f"{text}; it is saturated and every sample is the mode: {flags}"
    if entropy > 0.95:
        return f"{text}; it fell back to its prior: lower --kl-weight"
    return text


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
