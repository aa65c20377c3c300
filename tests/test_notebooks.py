"""What is stored in the notebooks is what a run gave. `make docs` runs them, and fails where one of them does."""

import json
import re
from pathlib import Path

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
