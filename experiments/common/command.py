"""What all commands do: parse, check the folder, load and make, run, write."""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common import config, console, devices, runs
from experiments.common.endings import ending, user_errors

Results = dict[str, Any]


class Experiment(NamedTuple):
    """A command.

    Attributes:
        name: of its folder in experiments/.
        config: a frozen dataclass that is a `config.Run`.
        presets: of the config.
        prepare: ``prepare(config)`` loads and makes what a run needs, and raises what is wrong with what the user gave.
        run: ``run(config, prepared, folder)`` trains, predicts, draws, and returns the results.
        show: ``show(results)`` writes the closing tables.
        folder: ``folder(config)`` names the run folder where the user does not.
        finished: ``finished(config, results, folder)`` is asked of the results that --resume finds: whether nothing is
            left to do. It may draw the figures again.
    """

    name: str
    config: type
    presets: Mapping[str, Callable[..., Any]]
    prepare: Callable[[Any], Any]
    run: Callable[[Any, Any, Path], Results]
    show: Callable[[Results], None]
    folder: Callable[[Any], str] = lambda config: f"{config.preset}-{config.seed}"
    finished: Callable[[Any, Results, Path], bool] = lambda config, results, folder: True


def main(experiment: Experiment, argv: list[str] | None = None) -> Results:
    """The command line; returns what results.json holds."""
    with ending():
        devices.keep_compiled_programs()
        chosen = config.parse(experiment.config, experiment.presets, f"python -m experiments.{experiment.name}", argv)
        return execute(experiment, chosen)


def execute(experiment: Experiment, chosen: Any) -> Results:
    """The run of a config, from its checks to the table at the end; returns what results.json holds."""
    out = chosen.out or Path("runs") / f"{experiment.name}-{experiment.folder(chosen)}"
    with contextlib.ExitStack() as lock:

        def start() -> None:
            lock.enter_context(runs.start(out, experiment.name, chosen))

        with user_errors():
            if hasattr(chosen, "devices"):
                devices.join(chosen.devices)
            results = devices.on_first(partial(runs.check, out, experiment.name, chosen))
            if results and experiment.finished(chosen, results, out):
                console.write(f"run folder {out} holds a finished run, nothing is left to do")
                experiment.show(results)
                return results
            prepared = experiment.prepare(chosen)
            devices.on_first(start)
        console.write(f"{experiment.name}: run folder {out}")
        results = runs.record(experiment.name, chosen) | experiment.run(chosen, prepared, out)
        results = devices.on_first(partial(runs.write_results, out, results))
    experiment.show(results)
    if str(results["commit"]).endswith("-dirty"):
        console.write(f"the code has uncommitted changes: commit {results['commit']} alone does not give these numbers")
    console.write(*(f"figure:  {path}" for path in sorted(out.glob("*.png"))), f"results: {out / 'results.json'}")
    return results
