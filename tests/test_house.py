"""The plan of the house: who may import whom, how long a function may be, and where a command starts."""

import ast
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").rglob("*.py"))
COMMANDS = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/__main__.py"))
FLOORS = [  # of the library; no module imports one of a floor above its own
    ["_affine", "_boxes", "_checks", "_convolution", "_dtypes", "_linear", "_mapping", "_threefry", "_tracing"],
    ["bernoulli"],
    ["relaxation"],
    ["objective", "bayesbinn"],
]


def imports_of(path):
    """The modules and names that a file imports, as dotted paths."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def code_lines(path):
    """The numbers of the lines of a file that hold code: no comments, no blank lines, no docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            docstrings |= set(range(first.lineno, first.end_lineno + 1))
    nothing = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    with open(path, "rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in nothing]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return lines - docstrings


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_and_take_few_things(path):
    lines = code_lines(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            code = lines & set(range(node.lineno, node.end_lineno + 1))
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = [argument.arg for argument in arguments if argument.arg != "self"]
            assert len(names) <= 6, f"{node.name} has {len(names)} parameters"
            assert len(code) <= 50, f"{node.name} has {len(code)} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_experiments_stand_side_by_side_on_what_is_public(path):
    here = path.relative_to(ROOT / "experiments").parts[0]
    for name in imports_of(path):
        package, *rest = name.split(".")
        if package == "bbinn_jax":
            assert not any(part.startswith("_") for part in rest), name
        if package == "experiments" and len(rest) > 1:
            assert rest[0] in ("common", here), f"{here} imports {name}"


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_no_import_of_the_library_runs_upwards(floor):
    below = {name for names in FLOORS[: floor + 1] for name in names}
    for module in FLOORS[floor]:
        found = {name.split(".")[1] for name in imports_of(ROOT / "bbinn_jax" / f"{module}.py") if "bbinn_jax." in name}
        assert found <= below, f"{module} imports {found - below}"


def test_experiments_are_listed_with_a_line_each():
    done = subprocess.run([sys.executable, "-m", "experiments"], cwd=ROOT, capture_output=True, text=True, check=True)
    first, _, *lines = done.stdout.splitlines()
    assert "python -m experiments.NAME" in first
    assert [line.split()[0] for line in lines] == sorted([*COMMANDS, "prepare"])
    assert all(20 < len(line) <= 140 and line.endswith((".", "?")) for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_is_run_as_a_file_says_how_to_start(name, tmp_path):
    done = subprocess.run([sys.executable, ROOT / "experiments" / name], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"start it with: python -m experiments.{name}\n")


def test_the_source_distribution_has_all_that_its_tests_read():
    """`testpaths` and what else tests are of, but for what setuptools takes by itself."""
    testpaths = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]
    grafted = {line.split()[1] for line in (ROOT / "MANIFEST.in").read_text().splitlines() if line.startswith("graft ")}
    assert {*testpaths, "experiments"} - {"bbinn_jax", "README.md"} <= grafted
