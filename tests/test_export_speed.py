"""The comparison of a network in C with onnxruntime and NumPy: what it writes down, at a size that takes no time."""

import json
import shutil

import pytest

from experiments.export import compiled, speed

TINY = ["--widths", "20", "16", "4", "--batch-sizes", "1", "3", "--seconds", "0.001"]


@pytest.mark.skipif(not compiled.runs(()), reason="there is no C compiler")
def test_every_program_is_timed_for_every_batch(tmp_path, capsys):
    speed.main([*TINY, "--out", str(tmp_path / "speed.jsonl")])
    (line,) = (tmp_path / "speed.jsonl").read_text().splitlines()
    results = json.loads(line)
    programs = [speed.REFERENCE, speed.NUMPY, *(name for name, flags in speed.C.items() if compiled.runs(flags))]
    found = [(row["batch_size"], row["program"]) for row in results["rows"]]
    assert found == [(batch_size, program) for batch_size in (1, 3) for program in programs]
    assert all(row["seconds"] > 0 and row["rounds"] >= 20 for row in results["rows"])
    assert results["footprint"]["weight_bytes"] == (32 * 16 + 16 * 8) // 8
    assert results["network"] == "20-16-4" and results["num_binary_weights"] == 20 * 16 + 16 * 4
    assert "20-16-4, one thread of" in capsys.readouterr().out


def test_without_a_compiler_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit):
        speed.main(TINY)
    assert "a C compiler is needed" in capsys.readouterr().err
