"""Lists the experiments: python -m experiments."""

import ast
from pathlib import Path

FOLDER = Path(__file__).parent

if __name__ == "__main__":
    print("Start one of these with: python -m experiments.NAME (with --help it lists its flags)\n")
    for path in sorted([*FOLDER.glob("*/__main__.py"), FOLDER / "prepare.py"]):
        about = ast.get_docstring(ast.parse(path.read_text())) or ""
        print(f"{path.stem if path.parent == FOLDER else path.parent.name:<20} {about.splitlines()[0]}")
