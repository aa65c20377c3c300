"""The table and the figure of many runs, from folders made by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import report

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


def read_report(capsys, *arguments):
    """Rows of the table as dictionaries, and the lines below it."""
    report.main([*map(str, arguments), "--markdown"])
    table, rest = capsys.readouterr().out.split("\n\n", 1)
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


def test_row_is_mean_and_population_deviation_beside_the_paper(tmp_path, capsys):
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
            "mode": "98.00 +- 0.82",  # sqrt(2 / 3)
            "paper: mean": "98.86 +- 0.05",
            "mean": "97.00 +- 0.82",
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
    assert len(report.PAPER) == 3 * 6
    assert report.PAPER["cifar10", "pmf"] == (91.43, 0.14)
    assert report.PAPER["cifar10", "full_precision"] == (93.90, 0.17)
    assert report.PAPER["cifar100", "bayesbinn"] == (73.68, 0.31)
    assert report.PAPER["cifar100", "bayesbinn mean"] == (73.65, 0.41)
    assert report.PAPER["mnist", "bop"] == (98.47, 0.02)


def test_runs_of_other_settings_are_split_and_say_what_differs(tmp_path, capsys):
    for seed, accuracy in enumerate((0.97, 0.99)):
        write_run(tmp_path / f"a{seed}", accuracy, seed, {"learning_rate": 1e-3, "hidden": [64, 64], "momentum": 0.0})
    write_run(tmp_path / "b", 0.95, 2, {"learning_rate": 1e-4, "hidden": [32], "momentum": 0.0})
    write_run(tmp_path / "c", 0.96, 3, {"learning_rate": 1e-4, "hidden": [2048, 2048, 2048], "temperature": 1e-10})
    rows, _ = read_report(capsys, tmp_path)
    assert [(row["method"], row["mode"], row["seeds"], row["paper: mode"]) for row in rows] == [
        ("bayesbinn", "96.00", "1", "98.86 +- 0.05"),
        ("bayesbinn (hidden=32)", "95.00", "1", ""),  # what the preset has is not told, and no paper beside another net
        ("bayesbinn (learning_rate=0.001, hidden=64 64)", "98.00 +- 1.00", "2", ""),
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
    write_run(tmp_path / "b", config=False)  # the preset's 500
    write_run(tmp_path / "c", config=False, command="image_classification --preset mnist --epochs 2")
    rows, _ = read_report(capsys, tmp_path)
    assert sorted(row["epochs"] for row in rows) == ["2", "2 of 500", "2 of 500"]


def test_without_a_config_the_flags_of_the_command_are_compared(tmp_path, capsys):
    command = RESULTS["command"]
    changed = "--hidden 64 64 --temperature"
    for seed, flags in enumerate(("", "", f"{changed} 1e-9 ", f"{changed}=1e-9 ")):
        write_run(
            tmp_path / str(seed),
            0.9,
            seed,
            False,
            command=f"{command} --epochs 2 {flags}--seed {seed} --out runs/{seed}",
        )
    rows, _ = read_report(capsys, tmp_path)
    assert [(row["method"], row["seeds"]) for row in rows] == [
        ("bayesbinn", "2"),
        ("bayesbinn (hidden=64 64, temperature=1e-09)", "2"),
    ]


def test_runs_with_and_without_a_config_are_averaged_where_they_agree(tmp_path, capsys):
    write_run(tmp_path / "a", seed=0, config={"learning_rate": 0.1, "output_scale": False})
    write_run(tmp_path / "b", seed=1, config=False, command="x --preset mnist --epochs 2 --learning-rate 1e-1")
    write_run(tmp_path / "c", seed=2, config=False, command="x --preset mnist --epochs 2")
    rows, _ = read_report(capsys, tmp_path)
    assert [(row["method"], row["seeds"]) for row in rows] == [
        ("bayesbinn", "1"),
        ("bayesbinn (learning_rate=0.1)", "2"),
    ]


def test_seed_that_comes_again_has_a_row_of_its_own(tmp_path, capsys):
    for name, accuracy, seed in (("a", 0.97, 0), ("b", 0.99, 1), ("c", 0.5, 1)):
        write_run(tmp_path / name, accuracy, seed)
    rows, rest = read_report(capsys, tmp_path)
    assert [(row["method"], row["mode"]) for row in rows] == [
        ("bayesbinn", "98.00 +- 1.00"),
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
    write_run(tmp_path / "a", 0.123, "3, 4", runs=[fields | seed for seed in seeds], wall_seconds=600.0, curve=None)
    for seed, curve in ((3, (0.9, 0.97)), (4, (0.91, 0.99))):
        write_metrics(tmp_path / "a" / "metrics.jsonl", curve, seed=seed)
    (row,), _ = read_report(capsys, tmp_path)
    assert (row["mode"], row["seeds"], row["min a run"], row["device"]) == ("98.00 +- 1.00", "2", "5.0", "cpu")
    first, second = report.read(tmp_path / "a" / "results.json")
    assert first.errors == pytest.approx({1: 10, 2: 3})
    assert second.errors == pytest.approx({1: 9, 2: 1})


def test_seeds_of_one_program_and_of_their_own_are_averaged(tmp_path, capsys):
    write_run(tmp_path / "a", runs=[RESULTS | {"seed": seed, "test_accuracy_mode": 0.96} for seed in (0, 1)])
    write_run(tmp_path / "b", 0.99, 2)
    (row,), _ = read_report(capsys, tmp_path)
    assert (row["mode"], row["seeds"]) == ("97.00 +- 1.41", "3")  # sqrt(2)


def test_committed_results_are_named_and_other_json_is_ignored(tmp_path, capsys):
    for seed in (0, 1):
        (tmp_path / f"mnist-{seed}.json").write_text(json.dumps(RESULTS | {"seed": seed, "test_accuracy_mode": 0.98}))
    write_metrics(tmp_path / "mnist-0.jsonl", (0.9, 0.98))
    write_metrics(tmp_path / "mnist-1.metrics.jsonl", (0.8, 0.98))
    for name, text in (("broken", "{"), ("list", "[1]"), ("sarif", '{"runs": [{}]}'), ("other", '{"runs": 3}')):
        (tmp_path / f"{name}.json").write_text(text)
    rows, rest = read_report(capsys, tmp_path)
    assert [row["seeds"] for row in rows] == ["2"]
    assert "figure: " in rest
    errors = [run.errors for seed in (0, 1) for run in report.read(tmp_path / f"mnist-{seed}.json")]
    assert errors == [pytest.approx({1: 10, 2: 2}), pytest.approx({1: 20, 2: 2})]


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
    (run,) = report.read(tmp_path / "a" / "results.json")
    assert len(rows) == 1
    assert run.errors == pytest.approx({1: 10, 2: 5})


def test_without_metrics_there_is_a_table_and_no_figure(tmp_path, capsys):
    write_run(tmp_path / "a", curve=None)
    rows, rest = read_report(capsys, tmp_path)
    assert len(rows) == 1
    assert "no figure" in rest
    assert not (tmp_path / "report.png").exists()


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

    def remember(axes, dataset, rows, draw=report._learning_curves):
        draw(axes, dataset, rows)
        panels[dataset] = axes

    monkeypatch.setattr(report, "_learning_curves", remember)
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
    "results that are not JSON": (broken('{"experiment": '), ["results.json", "not a JSON object"]),
    "results that are a list": (broken("[]"), ["results.json", "not a JSON object"]),
    "results that are no text": (broken("\x00"), ["results.json", "not a JSON object"]),
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
    rows, rest = read_report(capsys, tmp_path)
    assert len(rows) == 1
    assert f"left out: {tmp_path / 'bad' / 'results.json'} lacks experiment" in rest
    assert f"left out: {tmp_path / 'nan' / 'results.json'} lacks test_accuracy_mode" in rest


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folder_ends_in_one_line_and_draws_nothing(tmp_path, capsys, case):
    make, expected = BAD_FOLDERS[case]
    write_run(tmp_path / "good")
    make(tmp_path / "bad")
    error = fail(capsys, tmp_path / "good", tmp_path / "bad")
    assert str(tmp_path / "bad") in error
    assert all(text in error for text in expected), error
    assert not list(tmp_path.rglob("*.png*"))


def test_figure_that_cannot_be_written_ends_in_one_line(tmp_path, capsys):
    write_run(tmp_path / "a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.png").mkdir()
    for out in (tmp_path / "folder", tmp_path / "folder.png", tmp_path / "missing" / "figure.png"):
        assert str(out) in fail(capsys, tmp_path / "a", "--out", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder", "folder.png"]


def test_failure_while_drawing_leaves_the_old_figure(tmp_path, capsys, monkeypatch):
    def half_written(self, path, **options):
        path.write_bytes(PNG)
        raise OSError("the disk is full")

    monkeypatch.setattr(report.Figure, "savefig", half_written)
    write_run(tmp_path / "a")
    (tmp_path / "report.png").write_text("old")
    assert "disk is full" in fail(capsys, tmp_path)
    assert (tmp_path / "report.png").read_text() == "old"
    assert not list(tmp_path.glob("*.partial"))


def test_command_prints_the_whole_table_and_never_imports_jax(tmp_path):
    write_run(tmp_path / "a", 0.97, 0, {"learning_rate": 0.0001, "hidden": [2048, 2048, 2048]})
    write_run(tmp_path / "b", 0.99, 1, {"learning_rate": 0.01, "hidden": [512]}, device="NVIDIA H200")
    command = [sys.executable, "-X", "importtime", "-m", "experiments.report", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    modules = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "experiments.cli" in modules
    assert not modules & {"jax", "flax", "optax", "bbinn_jax", "tensorflow", "experiments.plots"}
    for text in ("97.00", "99.00", "98.86 +- 0.05", "NVIDIA H200", "learning_rate=0.01", "2002.10778"):
        assert text in done.stdout
    assert "…" not in done.stdout
    assert f"figure: {tmp_path / 'report.png'}" in done.stdout
    assert (tmp_path / "report.png").read_bytes().startswith(PNG)
