"""The table and the figure of image runs, from folders made by hand."""

import contextlib
import json
import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest

from experiments.common import paper
from experiments.report import __main__ as report
from experiments.report import figure, runs

RESULTS = {
    "experiment": "image_classification",
    "preset": "mnist",
    "dataset": "mnist",
    "method": "bayesbinn",
    "epochs": 2,
    "device": "cpu",
    "wall_seconds": 90.0,
    "test_accuracy_mean": None,
    "command": "python -m experiments.image_classification --preset mnist",
}
PNG = b"\x89PNG"


def write_run(folder, accuracy=0.98, seed=0, config=None, curve=(0.9, 0.98), **fields):
    """A finished run folder; curve None leaves out metrics.jsonl, config False config.json."""
    folder.mkdir(parents=True)
    results = RESULTS | {"seed": seed, "test_accuracy_mode": accuracy} | fields
    (folder / "results.json").write_text(json.dumps(results))
    if config is not False:
        write_config(folder, **{"seed": seed, "epochs": results["epochs"]} | (config or {}))
    if curve is not None:
        write_metrics(folder / "metrics.jsonl", curve)
    return results


def write_config(folder, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    config = {"experiment": "image_classification", "preset": "mnist", "seed": 0, "out": str(folder), "epochs": 2}
    (folder / "config.json").write_text(json.dumps(config | fields))


def write_metrics(path, curve, **fields):
    lines = [{"epoch": epoch, "test_accuracy_mode": x} | fields for epoch, x in enumerate(curve, 1)]
    with open(path, "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def read_report(capsys, *arguments, unread=0):
    """Rows of the table as dictionaries, and the lines below it; last, with an exit code, what could not be read."""
    with pytest.raises(SystemExit) if unread else contextlib.nullcontext() as stop:
        report.main([*map(str, arguments), "--markdown"])
    output = capsys.readouterr()
    assert stop is None or stop.value.code == 2
    end = f"error: left out of the table: {unread} that could not be read, named below it\n"
    assert output.err == (end if unread else "")
    table, rest = output.out.split("\n\n", 1)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[1] == ["---"] * len(lines[0])
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]], rest


def fail(capsys, *arguments):
    """What is said to bad input: one line."""
    with pytest.raises(SystemExit) as stop:
        report.main([*map(str, arguments)])
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


def test_row_is_mean_and_sample_deviation_beside_the_paper(tmp_path, capsys):
    for seed, accuracy in enumerate((0.97, 0.98, 0.99)):
        write_run(
            tmp_path / str(seed), accuracy, seed, test_accuracy_mean=accuracy - 0.01, wall_seconds=60.0 + 30 * seed
        )
    rows, rest = read_report(capsys, tmp_path)
    assert rows == [
        {
            "dataset": "mnist",
            "method": "bayesbinn",
            "paper: mode": "98.86 +- 0.05",
            "mode": "98.00 +- 1.00",  # n - 1, not n
            "paper: mean": "98.86 +- 0.05",
            "mean": "97.00 +- 1.00",
            "seeds": "3",
            "epochs": "2",
            "device": "cpu",
            "min a run": "1.5",
        }
    ]
    assert "2002.10778" in rest
    assert "500 epochs" in rest
    assert "best validation epoch" in rest


def test_one_seed_has_no_deviation_and_no_posterior_no_mean(tmp_path, capsys):
    write_run(tmp_path / "a", 0.9869, method="ste")
    (row,), _ = read_report(capsys, tmp_path)
    assert (row["mode"], row["mean"], row["paper: mode"], row["paper: mean"]) == ("98.69", "", "98.85 +- 0.09", "")


def test_rows_by_dataset_method_and_epochs_in_the_order_of_the_paper(tmp_path, capsys):
    presets = {"d": "cifar100-short", "f": "digits", "g": "digits-bayes"}
    for name, dataset, method, epochs in (
        ("a", "mnist", "bayesbinn", 2),
        ("b", "mnist", "bayesbinn", 5),
        ("c", "mnist", "ste", 2),
        ("d", "cifar100", "full_precision", 2),
        ("e", "digits", "sgd", 2),
        ("f", "digits", "bayesbinn", 2),
        ("g", "digits", "bayesbinn", 2),
    ):
        write_run(tmp_path / name, dataset=dataset, preset=presets.get(name, "mnist"), method=method, epochs=epochs)
    rows, _ = read_report(capsys, tmp_path)
    assert [(row["dataset"], row["method"], row["epochs"], row["paper: mode"]) for row in rows] == [
        ("cifar100", "full_precision", "2", "74.83 +- 0.26"),
        ("digits", "bayesbinn", "2", ""),
        ("digits", "bayesbinn (preset digits-bayes)", "2", ""),
        ("digits", "sgd (preset mnist)", "2", ""),
        ("mnist", "ste", "2", "98.85 +- 0.09"),
        ("mnist", "bayesbinn", "5", "98.86 +- 0.05"),
        ("mnist", "bayesbinn", "2", "98.86 +- 0.05"),
    ]


def test_paper_is_table_10():
    assert len(paper.PAPER) == 3 * 6
    assert paper.PAPER["cifar10", "pmf"] == (91.43, 0.14)
    assert paper.PAPER["cifar10", "full_precision"] == (93.90, 0.17)
    assert paper.PAPER["cifar100", "bayesbinn"] == (73.68, 0.31)
    assert paper.PAPER["cifar100", "bayesbinn mean"] == (73.65, 0.41)
    assert paper.PAPER["mnist", "bop"] == (98.47, 0.02)


def test_runs_of_other_settings_are_split_and_say_what_differs(tmp_path, capsys):
    for seed, accuracy in enumerate((0.97, 0.99)):
        write_run(tmp_path / f"a{seed}", accuracy, seed, {"learning_rate": 1e-3, "hidden": [64, 64], "momentum": 0.0})
    write_run(tmp_path / "b", 0.95, 2, {"learning_rate": 1e-4, "hidden": [32], "momentum": 0.0})
    write_run(tmp_path / "c", 0.96, 3, {"learning_rate": 1e-4, "hidden": [2048, 2048, 2048], "temperature": 1e-10})
    rows, _ = read_report(capsys, tmp_path)
    assert [(row["method"], row["mode"], row["seeds"], row["paper: mode"]) for row in rows] == [
        ("bayesbinn", "96.00", "1", "98.86 +- 0.05"),
        ("bayesbinn (hidden=32)", "95.00", "1", ""),  # what the preset has is not told, and no paper beside another net
        ("bayesbinn (learning_rate=0.001, hidden=64 64)", "98.00 +- 1.41", "2", ""),
    ]


def test_settings_that_change_nothing_do_not_split(tmp_path, capsys):
    write_run(tmp_path / "a", 0.98, 0, {"stop_after_epochs": 2, "resume": True, "overwrite": False, "seeds": 1})
    write_run(tmp_path / "b", 0.98, 1, {"stop_after_epochs": None, "resume": False, "overwrite": True, "seeds": 2})
    (row,), _ = read_report(capsys, tmp_path)
    assert (row["method"], row["seeds"]) == ("bayesbinn", "2")


def test_runs_on_another_device_or_of_another_preset_are_split(tmp_path, capsys):
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1, device="NVIDIA H200")
    write_run(tmp_path / "c", seed=2, preset="mine")
    rows, _ = read_report(capsys, tmp_path)
    assert sorted((row["method"], row["device"]) for row in rows) == [
        ("bayesbinn", "NVIDIA H200"),
        ("bayesbinn", "cpu"),
        ("bayesbinn (preset mine)", "cpu"),
    ]


def test_run_that_ends_before_its_schedule_says_so(tmp_path, capsys):
    write_run(tmp_path / "a", config={"epochs": 500})
    write_run(tmp_path / "b", config={"epochs": 2})
    rows, _ = read_report(capsys, tmp_path)
    assert sorted(row["epochs"] for row in rows) == ["2", "2 of 500"]


def test_command_says_nothing_and_a_run_without_a_config_is_a_row_of_its_own(tmp_path, capsys):
    write_run(tmp_path / "a", seed=0, command="x --learning-rate 7")
    write_run(tmp_path / "b", seed=1, config=False)
    rows, _ = read_report(capsys, tmp_path)
    assert [(row["method"], row["paper: mode"]) for row in rows] == [
        ("bayesbinn", "98.86 +- 0.05"),
        ("bayesbinn (settings unknown)", ""),
    ]


def test_config_may_lie_beside_or_within_the_results(tmp_path, capsys):
    config = {"epochs": 2, "learning_rate": 0.1, "seed": 0}
    write_run(tmp_path / "a", seed=0, config=config)
    results = write_run(tmp_path / "b", seed=1, config=False)
    (tmp_path / "b" / "results.json").write_text(json.dumps(results | {"config": config}))
    line = RESULTS | {"seed": 2, "test_accuracy_mode": 0.98, "config": config}
    (tmp_path / "lines.jsonl").write_text(json.dumps(line) + "\n")
    rows, _ = read_report(capsys, tmp_path)
    assert [(row["method"], row["seeds"]) for row in rows] == [("bayesbinn (learning_rate=0.1)", "3")]


def test_setting_that_the_preset_does_not_have_is_told(tmp_path, capsys):
    write_run(tmp_path / "a", seed=0, config={"of_another_version": 1})
    (row,), _ = read_report(capsys, tmp_path)
    assert (row["method"], row["paper: mode"]) == ("bayesbinn (of_another_version=1)", "")


def test_seed_that_comes_again_has_a_row_of_its_own(tmp_path, capsys):
    for name, accuracy, seed in (("a", 0.97, 0), ("b", 0.99, 1), ("c", 0.5, 1)):
        write_run(tmp_path / name, accuracy, seed)
    rows, rest = read_report(capsys, tmp_path)
    assert [(row["method"], row["mode"]) for row in rows] == [
        ("bayesbinn", "98.00 +- 1.41"),
        ("bayesbinn (repeat 1)", "50.00"),
    ]
    assert f"seed 1 again, not averaged with the first: {tmp_path / 'c' / 'results.json'}" in rest


def test_folders_that_overlap_count_each_run_once(tmp_path, capsys):
    write_run(tmp_path / "runs" / "a")
    rows, _ = read_report(capsys, tmp_path, tmp_path / "runs", tmp_path / "runs" / "a" / ".." / "a")
    assert [row["seeds"] for row in rows] == ["1"]


def test_several_seeds_of_one_program(tmp_path, capsys):
    seeds = [{"seed": seed, "test_accuracy_mode": x} for seed, x in ((3, 0.97), (4, 0.99))]
    fields = {"experiment": "image_classification", "dataset": "mnist", "method": "bayesbinn", "epochs": 2}
    write_run(
        tmp_path / "a",
        0.123,
        "3, 4",
        {"seed": 3},
        runs=[fields | seed for seed in seeds],
        wall_seconds=600.0,
        curve=None,
    )
    for seed, curve in ((3, (0.9, 0.97)), (4, (0.91, 0.99))):
        write_metrics(tmp_path / "a" / "metrics.jsonl", curve, seed=seed)
    (row,), _ = read_report(capsys, tmp_path)
    assert (row["mode"], row["seeds"], row["min a run"], row["device"]) == ("98.00 +- 1.41", "2", "5.0", "cpu")
    (first, second), _ = runs.read_folder(tmp_path / "a")
    assert first.errors == pytest.approx({1: 10, 2: 3})
    assert second.errors == pytest.approx({1: 9, 2: 1})


def test_seeds_of_one_program_and_of_their_own_are_averaged(tmp_path, capsys):
    write_run(tmp_path / "a", runs=[RESULTS | {"seed": seed, "test_accuracy_mode": 0.96} for seed in (0, 1)])
    write_run(tmp_path / "b", 0.99, 2)
    (row,), _ = read_report(capsys, tmp_path)
    assert (row["mode"], row["seeds"]) == ("97.00 +- 1.73", "3")  # sqrt(3)


def test_lines_of_a_results_file_are_runs_and_other_files_are_ignored(tmp_path, capsys):
    lines = [
        RESULTS
        | {"seed": seed, "test_accuracy_mode": 0.98, "config": {"epochs": 2, "seeds": 2}}
        | {"metrics": [{"epoch": 1, "test_accuracy_mode": x}]}
        for seed, x in ((0, 0.9), (1, 0.8))
    ]
    other = {"experiment": "regression", "rmse": 0.1}
    (tmp_path / "mnist.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, other]))
    (tmp_path / "other.json").write_text("{")
    (row,), rest = read_report(capsys, tmp_path)
    assert (row["method"], row["seeds"], row["min a run"]) == ("bayesbinn", "2", "0.8")  # 90 s for both
    assert "no figure: --out FILE.png draws" in rest
    found, _ = runs.read_lines(tmp_path / "mnist.jsonl")
    assert [run.errors for run in found] == [pytest.approx({1: 10}), pytest.approx({1: 20})]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[", "is damaged in line 1: it is not JSON"),
        (json.dumps(RESULTS), "line 1 lacks seed, test_accuracy_mode"),
        (
            json.dumps(RESULTS | {"seed": 0, "test_accuracy_mode": 1, "metrics": 3}),
            "line 1: metrics is not a JSON object",
        ),
        (
            json.dumps(RESULTS | {"seed": 0, "test_accuracy_mode": 1, "metrics": [3]}),
            "line 1: metrics is not a JSON object",
        ),
        (
            json.dumps(RESULTS | {"seed": 0, "test_accuracy_mode": 1, "config": []}),
            "line 1: config is not a JSON object",
        ),
    ],
)
def test_damaged_line_of_a_results_file_is_named(tmp_path, line, told):
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    assert told in beside_a_good_run(tmp_path, tmp_path / "bad.jsonl")


def test_results_of_another_experiment_are_ignored(tmp_path, capsys):
    write_run(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results.json").write_text('{"experiment": "regression", "rmse": 0.1}')
    write_config(tmp_path / "c", experiment="regression")
    (tmp_path / "c" / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    rows, rest = read_report(capsys, tmp_path)
    assert len(rows) == 1
    assert "not finished" not in rest


def test_torn_last_line_is_left_out(tmp_path, capsys):
    write_run(tmp_path / "a", curve=(0.9, 0.95))
    with open(tmp_path / "a" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "test_accu')
    rows, _ = read_report(capsys, tmp_path)
    (run,), _ = runs.read_folder(tmp_path / "a")
    assert len(rows) == 1
    assert run.errors == pytest.approx({1: 10, 2: 5})


def test_without_metrics_there_is_a_table_and_no_figure(tmp_path, capsys):
    write_run(tmp_path / "a", curve=None)
    rows, rest = read_report(capsys, tmp_path, "--out", tmp_path / "figure.png")
    assert len(rows) == 1
    assert "no figure: no metrics" in rest
    assert not (tmp_path / "figure.png").exists()


def test_a_figure_is_written_where_out_says_and_nowhere_else(tmp_path, capsys, monkeypatch):
    write_run(tmp_path / "a")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    _, rest = read_report(capsys, tmp_path / "a")
    assert rest.endswith("no figure: --out FILE.png draws learning curves\n")
    assert not list(tmp_path.rglob("*.png"))
    _, rest = read_report(capsys, tmp_path / "a", "--out", tmp_path / "here" / "curves.png")
    assert rest.endswith(f"figure: {tmp_path}/here/curves.png\n")
    assert [path.name for path in tmp_path.rglob("*.png")] == ["curves.png"]


@pytest.mark.parametrize(("stop_after_epochs", "total"), [(None, 20), (9, 9), (3, 20)])
def test_unfinished_run_is_told_below_the_table(tmp_path, capsys, stop_after_epochs, total):
    write_run(tmp_path / "a", seed=0)
    write_config(tmp_path / "b", epochs=20, stop_after_epochs=stop_after_epochs)
    write_metrics(tmp_path / "b" / "metrics.jsonl", (0.5,) * 7)
    with open(tmp_path / "b" / "metrics.jsonl", "a") as file:
        file.write('{"epoch"')
    rows, rest = read_report(capsys, tmp_path)
    assert [row["seeds"] for row in rows] == ["1"]
    assert f"not finished: {tmp_path / 'b'}, epoch 7 of {total}\n" in rest


def test_figure_has_a_panel_for_each_dataset_and_a_line_for_each_row(tmp_path, capsys, monkeypatch):
    panels = {}

    def remember(axes, dataset, rows, against, draw=figure.learning_curves):
        draw(axes, dataset, rows, against)
        panels[dataset] = axes

    monkeypatch.setattr(figure, "learning_curves", remember)
    for seed, curve in enumerate(((0.9, 0.95), (0.8, 0.97))):
        write_run(tmp_path / f"a{seed}", seed=seed, curve=curve)
    write_run(tmp_path / "b", method="ste", curve=(0.7, 0.96))
    write_run(tmp_path / "c", epochs=20, curve=[1 - 0.5 / epoch for epoch in range(1, 21)])
    write_run(tmp_path / "d", dataset="digits", curve=(0.5, 1.0))
    read_report(capsys, tmp_path, "--out", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(PNG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a0", "a1", "b", "c", "d", "figure.png"]
    assert list(panels) == ["digits", "mnist"]
    handles, labels = panels["mnist"].get_legend_handles_labels()
    assert labels == ["ste, 2 epochs, 1 seed", "bayesbinn, 20 epochs, 1 seed", "bayesbinn, 2 epochs, 2 seeds"]
    assert handles[2].get_ydata() == pytest.approx([15, 4])
    (band,) = (shape.get_extents() for shape in panels["mnist"].collections[2].get_paths())
    assert (band.ymin, band.ymax) == pytest.approx((3, 20))
    assert handles[0].get_color() != handles[1].get_color() == handles[2].get_color()
    assert handles[1].get_linestyle() != handles[2].get_linestyle()
    assert panels["mnist"].get_xscale() == "log"
    assert panels["digits"].get_xscale() == "linear"
    assert panels["digits"].get_ylim() == pytest.approx((0, 55))
    assert panels["mnist"].get_ylim() == pytest.approx((0.85 * (100 - 98.86), 55))
    ticks = [line.get_ydata()[0] for line in panels["mnist"].lines if line.get_transform() != panels["mnist"].transData]
    assert sorted(ticks) == pytest.approx([100 - 98.86, 100 - 98.85])


def test_curves_run_over_minutes_where_that_is_asked_for(tmp_path, capsys, monkeypatch):
    panels = []
    monkeypatch.setattr(
        figure, "learning_curves", lambda axes, *args, f=figure.learning_curves: panels.append(f(axes, *args) or axes)
    )
    for seed, seconds in enumerate((60, 180)):
        write_run(tmp_path / f"a{seed}", seed=seed, curve=(0.9, 0.95), wall_seconds=seconds)
    write_run(tmp_path / "b", method="ste", curve=(0.7, 0.96), wall_seconds=None)
    read_report(capsys, tmp_path, "--out", tmp_path / "figure.png", "--against", "minutes")
    (axes,) = panels
    ((line,), labels) = axes.get_legend_handles_labels()  # the run that does not say how long it took has no curve
    assert labels == ["bayesbinn, 2 epochs, 2 seeds"]
    assert line.get_xdata() == pytest.approx([1, 2])  # minutes, the mean of 1 and 3 in all
    assert axes.get_xlabel() == "minutes of training"


def broken(text):
    def write(folder):
        write_run(folder)
        (folder / "results.json").write_text(text)

    return write


BAD_FOLDERS = {
    "no such folder": (lambda folder: None, ["no such folder"]),
    "empty folder": (lambda folder: folder.mkdir(), ["no finished runs"]),
    "a file": (lambda folder: folder.write_text("{}"), ["no such folder"]),
    "only unfinished": (
        lambda folder: (write_config(folder), write_metrics(folder / "metrics.jsonl", (0.5,))),
        ["no finished runs", "epoch 1 of 2"],
    ),
    "results that are not JSON": (broken('{"experiment": '), ["results.json", "is damaged"]),
    "results that are a list": (broken("[]"), ["results.json", "is damaged"]),
    "results that are no text": (broken("\x00"), ["results.json", "is damaged"]),
    "results that lack all": (broken("{}"), ["results.json", "experiment", "test_accuracy_mode"]),
    "results that lack some": (
        broken(json.dumps(RESULTS | {"seed": 0})),
        ["results.json lacks test_accuracy_mode"],
    ),
    "an accuracy that is no number": (
        lambda folder: write_run(folder, "high"),
        ["results.json lacks test_accuracy_mode", "wrong type"],
    ),
    "no seeds": (lambda folder: write_run(folder, runs=[]), ["results.json lacks"]),
    "a seed that lacks some": (
        lambda folder: write_run(folder, runs=[RESULTS | {"seed": 1}]),
        ["results.json lacks test_accuracy_mode"],
    ),
    "a config that is not JSON": (
        lambda folder: (write_run(folder), (folder / "config.json").write_text("epochs: 2")),
        ["config.json"],
    ),
    "metrics torn in the middle": (
        lambda folder: (write_run(folder), (folder / "metrics.jsonl").write_text('{"epoch": 1, "te\n{"epoch": 2}\n')),
        ["metrics.jsonl", "line 1"],
    ),
}


def test_one_bad_run_does_not_hide_the_others(tmp_path, capsys):
    write_run(tmp_path / "good")
    broken("{}")(tmp_path / "bad")
    write_run(tmp_path / "nan", float("nan"))
    rows, rest = read_report(capsys, tmp_path, unread=2)
    assert len(rows) == 1
    assert f"left out: {tmp_path / 'bad' / 'results.json'} lacks experiment" in rest
    assert f"left out: {tmp_path / 'nan' / 'results.json'} lacks test_accuracy_mode" in rest


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folder_ends_in_one_line_and_draws_nothing(tmp_path, capsys, case):
    make, expected = BAD_FOLDERS[case]
    make(tmp_path / "bad")
    error = fail(capsys, tmp_path / "bad")
    assert str(tmp_path / "bad") in error
    assert all(text in error for text in expected), error
    assert not list(tmp_path.rglob("*.png*"))


@pytest.mark.parametrize("case", [case for case in BAD_FOLDERS if BAD_FOLDERS[case][1] != ["no such folder"]])
def test_bad_folder_beside_a_good_one_is_told_below_the_table(tmp_path, capsys, case):
    make, expected = BAD_FOLDERS[case]
    make(tmp_path / "bad")
    write_run(tmp_path / "good")
    unread = int(case not in ("empty folder", "only unfinished"))  # nothing to read is no damage
    rows, rest = read_report(capsys, tmp_path / "bad", tmp_path / "good", unread=unread)
    assert [row["mode"] for row in rows] == ["98.00"]
    assert f"no finished runs of image_classification in {tmp_path / 'bad'}\n" in rest
    assert all(text in rest for text in expected), rest


def test_folder_that_is_not_there_is_refused_beside_a_good_one(tmp_path, capsys):
    write_run(tmp_path / "good")
    assert f"no such folder: {tmp_path / 'typo'}" in fail(capsys, tmp_path / "good", tmp_path / "typo")


# Files of strangers ---------------------------------------------------------------------------------------------------


def beside_a_good_run(tmp_path, path):
    """What is told of a bad file where a good run lies beside it: one line that names the file."""
    write_run(tmp_path / "good", 0.5)
    found, told = runs.find([tmp_path])
    assert [run.mode for run in found] == [50]
    (line,) = told
    assert line.startswith(f"left out: {path}")
    return line


DEEP = "[" * 100_000
WRONG = {
    "experiment": (["image_classification"], 1, None),
    "preset": (3, [], {}, "x" * 101, "a\nb"),
    "dataset": ({"name": "mnist"}, None, "", "\x1b[31m", "\ud800"),
    "method": ({}, 1.5, ["ste"], "\u202e"),
    "seed": ([0], "0", -1, 1.0, True, None),
    "epochs": (-1, 0, 2.0, "2", None, float("nan")),
    "device": (0, ["cpu"]),
    "wall_seconds": ("90", -1, float("inf"), float("nan"), [], True),
    "test_accuracy_mode": (1.5, -0.1, True, "0.9", [0.9], float("inf")),
    "test_accuracy_mean": ("0.9", {}, float("nan"), 98.0),
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in WRONG for value in WRONG[field]])
def test_field_of_the_wrong_type_is_named_with_its_file(tmp_path, field, value):
    write_run(tmp_path / "bad", **{field: value})
    line = beside_a_good_run(tmp_path, tmp_path / "bad" / "results.json")
    assert f"results.json lacks {field}, or they are of the wrong type" in line


@pytest.mark.parametrize("runs", [{}, [[]], ["x"], 1, [{"seed": [1]}], [{"runs": [{}]}]])
def test_runs_of_the_wrong_type_are_named_with_their_file(tmp_path, runs):
    write_run(tmp_path / "bad", runs=runs)
    beside_a_good_run(tmp_path, tmp_path / "bad" / "results.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", "2"),
        ("stop_after_epochs", -1),
        ("hidden", [[512]]),
        ("hidden", {"width": 512}),
        ("learning_rate", float("nan")),
        ("kl_weight", [float("inf")]),
    ],
)
def test_config_of_the_wrong_type_is_named(tmp_path, field, value):
    write_run(tmp_path / "bad", config={field: value})
    assert f"lacks {field}" in beside_a_good_run(tmp_path, tmp_path / "bad" / "config.json")
    (tmp_path / "bad" / "results.json").unlink()  # the same of a run that is not finished
    assert runs.find([tmp_path])[1][0].startswith(f"left out: {tmp_path / 'bad' / 'config.json'} lacks {field}")


CONTENTS = {
    "deep": DEEP.encode(),
    "deep and closed": b'{"experiment": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "digits beyond Python's limit": b'{"seed": ' + b"9" * 5000 + b"}",
    "digits beyond every float": b'{"epochs": 1' + b"0" * 400 + b"}",
    "not UTF-8": b'{"experiment": "\xff\xfe"}',
    "binary": bytes(range(256)),
    "null": b"null",
    "a number": b"1e999",
}


@pytest.mark.parametrize("name", ["results.json", "config.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", CONTENTS)
def test_content_that_is_no_record_is_named(tmp_path, name, content):
    write_run(tmp_path / "bad")
    (tmp_path / "bad" / name).write_bytes(CONTENTS[content] + b"\n")
    assert "is damaged" in beside_a_good_run(tmp_path, tmp_path / "bad" / name)


@pytest.mark.parametrize("name", ["results.json", "config.json", "metrics.jsonl"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "link to itself", "link to nothing", "device"])
def test_what_is_no_file_is_named_and_nothing_waits(tmp_path, name, kind):
    write_run(tmp_path / "bad")
    path = tmp_path / "bad" / name
    path.unlink()
    {
        "folder": path.mkdir,
        "pipe": partial(os.mkfifo, path),
        "link to itself": partial(path.symlink_to, path),
        "link to nothing": partial(path.symlink_to, tmp_path / "nothing"),
        "device": partial(path.symlink_to, "/dev/zero"),
    }[kind]()
    assert "cannot be read: not a file" in beside_a_good_run(tmp_path, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("name", ["results.json", "config.json", "metrics.jsonl", ""])
def test_what_may_not_be_read_is_named(tmp_path, name):
    write_run(tmp_path / "bad")
    path = tmp_path / "bad" / name
    path.chmod(0)
    try:
        assert "Permission denied" in beside_a_good_run(tmp_path, path)
    finally:
        path.chmod(0o700)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        DEEP,
        '{"epoch": 0, "test_accuracy_mode": 0.5}',
        '{"epoch": "3", "test_accuracy_mode": 0.5}',
        '{"epoch": 3, "test_accuracy_mode": NaN}',
        '{"epoch": 3, "test_accuracy_mode": 1' + "0" * 400 + "}",
        '{"epoch": 3, "test_accuracy_mode": 0.5, "seed": [0]}',
        '{"epoch": 3}',
    ],
)
def test_damaged_line_of_the_metrics_is_named_by_its_number(tmp_path, line):
    write_run(tmp_path / "bad")
    with open(tmp_path / "bad" / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    line = beside_a_good_run(tmp_path, tmp_path / "bad" / "metrics.jsonl")
    assert "metrics.jsonl: line 3 lacks" in line or "metrics.jsonl is damaged in line 3: " in line


NAMES = ("a[/x]", "a\x1b[31mb", "a\nb", ":smile:", "a\u202eb", os.fsdecode(b"\xff"))


def test_paths_reach_the_terminal_without_codes(tmp_path, capsys):
    for name in NAMES:
        write_run(tmp_path / name, seed=0)  # a seed that comes again is told with its path
        broken("{")(tmp_path / f"{name} bad")
    with pytest.raises(SystemExit):
        report.main([str(tmp_path), "--out", str(tmp_path / "a\x1b[31m.png")])
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    assert out.count("seed 0 again") == len(NAMES) - 1
    for name in ("a[/x]", r"a\x1b[31mb", r"a\nb", ":smile:", r"a\u202eb", r"\udcff"):
        assert out.count(f"/{name}/results.json") + out.count(f"/{name} bad/results.json") in (1, 2)
    error = fail(capsys, tmp_path / "a\x1b[31mb bad")
    assert error[:-1].isprintable()


def test_names_of_strangers_are_drawn_as_they_are(tmp_path, capsys):
    names = ("$", r"$\frac{$", "_hidden", "a|b", "[red]x[/red] :smile:", "\U0001f600")
    for name in names:
        write_run(tmp_path / str(names.index(name)), method=name, dataset=name, config={"$x": "$y"})
    read_report(capsys, tmp_path / "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.main([str(tmp_path), "--markdown", "--out", str(tmp_path / "curves.png")])
    out = capsys.readouterr().out
    assert r"| a\|b | a\|b (preset mnist, $x=$y) |" in out
    assert "| [red]x[/red] :smile: |" in out
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_legend_shows_each_name(tmp_path, monkeypatch):
    shown = []
    draw = figure.learning_curves

    def remember(axes, *arguments):
        draw(axes, *arguments)
        shown.extend((text.get_text(), text.get_parse_math()) for text in axes.get_legend().get_texts())
        shown.append((axes.get_title(), axes.title.get_parse_math()))

    monkeypatch.setattr(figure, "learning_curves", remember)
    write_run(tmp_path / "a", method="_x", dataset="$x$")
    report.main([str(tmp_path), "--out", str(tmp_path / "curves.png")])
    assert shown == [("_x (preset mnist), 2 epochs, 1 seed", False), ("$x$", False)]


@pytest.mark.parametrize(
    "variable", ["PYTHONIOENCODING=ascii", "COLUMNS=0", "MPLBACKEND=module://not_installed.backend"]
)
def test_command_in_a_poor_environment(tmp_path, variable):
    write_run(tmp_path / "\U0001f600", method="\U0001f600", dataset="\xe9")
    name, value = variable.split("=")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.report", str(tmp_path), "--out", str(tmp_path / "curves.png")],
        cwd=Path(__file__).parents[1],
        env=os.environ | {name: value},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    assert b"98.00" in done.stdout
    assert (b"\\U0001f600" in done.stdout) == (value == "ascii")


# The figure -----------------------------------------------------------------------------------------------------------


def test_figure_that_cannot_be_written_ends_in_one_line(tmp_path, capsys):
    write_run(tmp_path / "a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.png").mkdir()
    for out in (tmp_path / "folder", tmp_path / "folder.png", tmp_path / "missing" / "figure.png"):
        assert str(out) in fail(capsys, tmp_path / "a", "--out", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder", "folder.png"]


def test_failure_while_drawing_leaves_the_old_figure(tmp_path, capsys, monkeypatch):
    def half_written(self, file, **options):
        file.write(PNG)
        raise OSError("the disk is full")

    monkeypatch.setattr(figure.Figure, "savefig", half_written)
    write_run(tmp_path / "a")
    (tmp_path / "curves.png").write_text("old")
    assert "disk is full" in fail(capsys, tmp_path, "--out", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_text() == "old"
    assert not list(tmp_path.glob("*.partial"))


def test_command_prints_the_whole_table_and_loads_no_tensorflow(tmp_path):
    write_run(tmp_path / "a", 0.97, 0, {"learning_rate": 0.0001, "hidden": [2048, 2048, 2048]})
    write_run(tmp_path / "b", 0.99, 1, {"learning_rate": 0.01, "hidden": [512]}, device="NVIDIA H200")
    out = str(tmp_path / "curves.png")
    command = [sys.executable, "-X", "importtime", "-m", "experiments.report", str(tmp_path), "--out", out]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    modules = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "experiments.common.endings" in modules
    assert not modules & {"tensorflow", "tensorflow_datasets", "experiments.image_classification.figure"}
    for text in ("97.00", "99.00", "98.86 +- 0.05", "NVIDIA H200", "learning_rate=0.01", "2002.10778"):
        assert text in done.stdout
    assert "…" not in done.stdout
    assert f"figure: {out}" in done.stdout
    assert Path(out).read_bytes().startswith(PNG)
