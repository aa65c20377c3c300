"""The notebooks run from top to bottom, and what is stored in them is what a run gave."""

import json
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted(Path(__file__).parents[1].glob("experiments/notebooks/*.ipynb"))
ABSOLUTE_PATH = re.compile(r"(^|[\s'\"(=])(/\w|[A-Za-z]:\\)")


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def stored_texts(output):
    data = output.get("data", {})
    texts = [output.get("text", ""), *(text for kind, text in data.items() if kind.startswith("text/"))]
    return ["".join(text) for text in texts]


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {"from_posterior_to_bits", "posterior_sampling", "where_the_bits_are"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    namespace = {"__name__": "__main__"}
    with matplotlib.rc_context():
        for number, cell in enumerate(code_cells(path), 1):
            exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), namespace)
            plt.close("all")
    assert not list(tmp_path.iterdir())  # nothing is left behind


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_of_one_clean_run(path):
    cells = code_cells(path)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [text for output in outputs for text in stored_texts(output) if ABSOLUTE_PATH.search(text)]
    assert path.stat().st_size < 250_000


def test_an_absolute_path_is_seen():
    for text in ("/home/me/run", "in '/var/x'", "at C:\\run"):
        assert ABSOLUTE_PATH.search(text)
    for text in ("layers_0/binary_kernel", "1 / 2", "bits/weight"):
        assert not ABSOLUTE_PATH.search(text)
