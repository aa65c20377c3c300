"""The tables of the RESULTS.md files are those of the data beside them; and how a table is made, from lines of ours."""

import json
import re
import shutil
import statistics
from pathlib import Path

import pytest

from experiments.common import changes, tables
from experiments.common.tables import Column, Table
from experiments.report import __main__ as report

ROOT = Path(__file__).parents[1]
FOLDERS = [path.parent for path in sorted(ROOT.glob("experiments/*/RESULTS.md"))]
LINES = {path: [json.loads(x) for x in path.open()] for path in sorted(ROOT.glob("experiments/*/results/*.jsonl"))}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/guides").glob("*.md"))]
MADE = re.compile(r"(<!-- table: [\w-]+ -->\n)(.*?)<!-- end -->", re.DOTALL)
MEASURED = re.compile(r"\d+\.\d+ \+- \d+\.\d+")


def names(paths):
    return [str(path.relative_to(ROOT / "experiments")) for path in paths]


def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / folder.name))


# What is published ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS, ids=names(FOLDERS))
def test_text_and_data_agree(folder):
    """If this fails: python -m experiments.report --write."""
    assert (folder / "RESULTS.md").read_text() == tables.fill(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=names(FOLDERS))
def test_each_digit_of_a_table_is_checked(folder, tmp_path):
    """With another digit somewhere in a table the text is no longer that of the data."""
    text = (folder / "RESULTS.md").read_text()
    copy = copied(folder, tmp_path)
    digits = [found.start(2) + x.start() for found in MADE.finditer(text) for x in re.finditer(r"\d", found[2])]
    assert len(digits) > 50
    for position in digits[:: len(digits) // 5]:
        other = text[:position] + str((int(text[position]) + 1) % 10) + text[position + 1 :]
        (copy / "RESULTS.md").write_text(other)
        assert tables.fill(copy) == text != other


@pytest.mark.parametrize("folder", FOLDERS, ids=names(FOLDERS))
def test_another_number_in_the_data_is_another_text(folder, tmp_path):
    copy = copied(folder, tmp_path)
    path = sorted(copy.glob("results/*.jsonl"))[0]
    path.write_text(re.sub(r"(0\.)(\d)", lambda x: f"{x[1]}{9 - int(x[2])}", path.read_text()))
    assert tables.fill(copy) != (folder / "RESULTS.md").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=names(FOLDERS))
def test_every_table_is_published_and_none_is_written_by_hand(folder):
    text = (folder / "RESULTS.md").read_text()
    published = tables.published(folder)
    assert sorted(name for _, name, _ in tables.MARKED.findall(text)) == sorted(published)
    assert {table.file for table in published.values()} == {path.stem for path in folder.glob("results/*.jsonl")}
    assert not [line for line in MADE.sub("", text).splitlines() if line.startswith("|")]
    measured = set(MEASURED.findall("".join(found[2] for found in MADE.finditer(text))))
    assert set(MEASURED.findall(MADE.sub("", text))) <= measured


@pytest.mark.parametrize("path", LINES, ids=names(LINES))
def test_each_line_is_evidence(path):
    for line in LINES[path]:
        assert line["experiment"] == path.parts[-3]
        assert line["command"].startswith("python -m experiments.")
        assert re.fullmatch("[0-9a-f]{7,40}", line["commit"])  # and so not "-dirty"
        assert line["device"]
        assert line["jax_version"]
        assert type(line["seed"]) is int
        assert len(line["config"]) > 5
        assert all(not isinstance(value, dict) for value in line["config"].values())


def test_measured_numbers_elsewhere_are_those_of_a_table():
    """Of the index, of the table it links to; of README and guides, of any: 1.23 +- 0.04 stands there, too."""
    everything = ""
    for line in (ROOT / "experiments/README.md").read_text().splitlines():
        for folder in re.findall(r"\((\w+)/RESULTS\.md\)", line):
            text = (ROOT / "experiments" / folder / "RESULTS.md").read_text()
            assert [x for x in MEASURED.findall(line) if x not in text] == []
            everything += text
    assert len(MEASURED.findall((ROOT / "experiments/README.md").read_text())) > 10
    pages = [path for path in PAGES if path.name != "nnx.md"]  # which says what its own block gives
    prose = [line for path in pages for line in path.read_text().splitlines() if not line.startswith("|")]
    assert [x for line in prose for x in MEASURED.findall(line) if x not in everything] == []


def test_links_lead_somewhere():
    for path in [*PAGES, ROOT / "experiments/README.md", *(folder / "RESULTS.md" for folder in FOLDERS)]:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert "://" in link or (path.parent / link).exists(), f"{path}: {link}"
    for folder in FOLDERS:
        for figure in folder.glob("results/*.png"):
            assert f"results/{figure.name}" in (folder / "RESULTS.md").read_text()


# How a table is made --------------------------------------------------------------------------------------------------


def write_lines(folder, *lines):
    (folder / "results").mkdir(exist_ok=True)
    shared = {"commit": "abc1234", "device": "cpu", "jax_version": "1.0", "command": "x"}
    text = "".join(json.dumps(shared | line) + "\n" for line in lines)
    (folder / "results" / "runs.jsonl").write_text(text)
    return folder / "results"


def run(seed, x, **config):
    return {"seed": seed, "x": x, "config": {"seed": seed, "method": "ste", "width": [8, 8], **config}}


def test_row_is_mean_and_sample_deviation_over_seeds(tmp_path):
    numbers = [0.1, 0.25, 0.7]
    lines = [*(run(i, x) for i, x in enumerate(numbers)), run(0, 0.5, method="bop"), run(0, None, method="pmf")]
    table = Table("runs", (Column("x (%)", "x", 1, 100),), (Column("method", "config.method"),))
    *rows, empty, source, _ = tables.render(write_lines(tmp_path, *lines), table).split("\n")
    mean, deviation = 100 * statistics.mean(numbers), 100 * statistics.stdev(numbers)
    assert rows == [
        "| method | x (%) | n |",
        "| --- | --- | --- |",
        f"| ste | {mean:.1f} +- {deviation:.1f} | 3 |",
        "| bop | 50.0 | 1 |",
        "| pmf |  | 1 |",
    ]
    assert empty == ""
    assert source == "*[runs.jsonl](results/runs.jsonl); cpu, jax 1.0, commit abc1234*"


def test_without_columns_that_tell_rows_apart_all_settings_do(tmp_path):
    lines = [run(0, 1.0), run(1, 3.0), run(0, 5.0, width=[4], fast=True), run(0, 7.0, method="bop")]
    text = tables.render(write_lines(tmp_path, *lines), Table("runs", (Column("x", "x", 0),)))
    assert text.split("\n")[2:5] == ["| none | 2 +- 1 | 2 |", "| `--width 4` | 5 | 1 |", "| `--method bop` | 7 | 1 |"]


def test_runs_of_one_row_that_differ_in_a_setting_are_refused(tmp_path):
    results = write_lines(tmp_path, run(0, 1.0), run(1, 3.0, width=[4]))
    with pytest.raises(ValueError, match=r"runs\.jsonl: the row \('ste',\) has runs that differ in width"):
        tables.render(results, Table("runs", (Column("x", "x", 0),), (Column("method", "config.method"),)))


def test_fields_within_lists_and_objects():
    line = {"a": [{"b": 1}, {"b": 2}], "c": None}
    fields = ("a.0.b", "a.-1.b", "a.2.b", "a.-3.b", "c.d", "e", "a.0.b.c")
    assert [tables.look(line, field) for field in fields] == [1, 2, None, None, None, None, None]


def test_settings_that_differ_are_flags():
    base = {"method": "ste", "hidden": [32], "rate": 1, "scale": False, "seed": 0, "old": 1}
    config = {"method": "ste", "hidden": [64, 64], "rate": 1.0, "scale": True, "seed": 3, "new": 1}
    changed = changes.changes(config, base)
    assert changed == {"hidden": "64 64", "scale": "true"}
    assert changes.flags(changed) == "--hidden 64 64 --scale"
    assert changes.flags(changes.changes(base, config)) == "--hidden 32 --no-scale"


def test_marker_of_no_table_is_named(tmp_path):
    copy = copied(FOLDERS[-1], tmp_path)
    (copy / "RESULTS.md").write_text("<!-- table: typo -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match=r"RESULTS\.md: there is no table 'typo', only "):
        tables.fill(copy)


def test_command_writes_what_differs(tmp_path, capsys, monkeypatch):
    copy = copied(FOLDERS[0], tmp_path)
    text = (copy / "RESULTS.md").read_text()
    (copy / "RESULTS.md").write_text(MADE.sub(r"\1<!-- end -->", text))
    monkeypatch.setattr(tables.write, "__defaults__", (tmp_path,))
    report.main(["--write"])
    report.main(["--write"])
    assert (copy / "RESULTS.md").read_text() == text
    assert capsys.readouterr().out == f"written: {copy / 'RESULTS.md'}\nall tables are as they should be\n"


@pytest.mark.parametrize("arguments", [[], ["--write", "runs"]])
def test_command_wants_one_of_two_things(arguments, capsys):
    with pytest.raises(SystemExit):
        report.main(arguments)
    assert capsys.readouterr().err == "error: either --write or folders must be given\n"
