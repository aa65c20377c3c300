"""The gallery: a page for each RESULTS.md of the experiments and for each notebook, written when the site is built."""

import json
import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
GALLERY = ROOT / "docs" / "gallery"
LINK = re.compile(r"(?<=\]\()([^)\s:#]+)((?:#[^)\s]*)?)(?=\))")


def page_of(path):
    """Where the site has what a file of the clone holds: a file that is no page is handed out as it is."""
    path = path.resolve()
    if path == EXPERIMENTS / "README.md":
        return GALLERY / "experiments.md"
    if path.name == "RESULTS.md":
        return GALLERY / f"{path.parent.name}.md"
    if path.suffix == ".ipynb":
        return GALLERY / path.name
    return path


def relocated(text, folder, to=GALLERY):
    """Markdown of a folder of the clone for another one, with links that lead to the same, and to pages of the site."""

    def target(found):
        return os.path.relpath(page_of(folder / found[1]), to) + found[2]

    # The page to draw on is no page of Sphinx, which would hand it out as a single file.
    digit = os.path.relpath(ROOT / "docs" / "digit" / "index.html", to)
    text = re.sub(r"\[([^\]]*)\]\([^)\s]*docs/digit/index\.html\)", rf'<a href="{digit}">\1</a>', text)
    return LINK.sub(target, text)


def card(title, text, link, image=None):
    """One entry of the overview."""
    lines = [f":::{{grid-item-card}} {title}", f":link: {link}", ":link-type: doc"]
    if image:
        lines += [f":img-top: {image}"]
    return "\n".join([*lines, "", text, ":::\n"])


def experiments():
    """Writes a page for each experiment that has results, and gives the names and the cards."""
    names, drawn, cards = [], [], []
    for path in sorted(EXPERIMENTS.glob("*/RESULTS.md")):
        name, text = path.parent.name, relocated(path.read_text(), path.parent)
        (GALLERY / f"{name}.md").write_text(text)
        title = re.search(r"^# (.*)$", text, re.MULTILINE)[1]
        question = re.search(r"\*\*Question\.\*\* (.*?)\n\n", text, re.DOTALL)
        figure = re.search(r"!\[[^\]]*\]\(([^)]+)\)", text)
        names.append(name)
        text = question[1] if question else ""
        (drawn if figure else cards).append(card(title, text, name, figure and figure[1]))
    (GALLERY / "experiments.md").write_text(relocated((EXPERIMENTS / "README.md").read_text(), EXPERIMENTS))
    return [*names, "experiments"], [*drawn, BETWEEN, *cards]


def notebooks():
    """Writes the notebooks with links that lead to the same, and gives their names and cards."""
    names, cards = [], []
    for path in sorted((EXPERIMENTS / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        texts = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
        for cell in texts:
            cell["source"] = relocated("".join(cell["source"]), path.parent)
        (GALLERY / path.name).write_text(json.dumps(notebook))
        title, _, text = texts[0]["source"].partition("\n")
        names.append(path.stem)
        cards.append(card(title.lstrip("# "), text.strip().split("\n\n")[0], path.stem))
    return names, cards


# Cards in a row are as high as the highest: those without a figure have a grid of their own.
BETWEEN = "::::\n\n::::{grid} 1 1 2 2\n:gutter: 3\n"

INDEX = """# Gallery

What the methods do, measured. Each page has the question, the answer, the tables and figures, and what was tried. The
tables are made of recorded runs, and a test holds text and data together.

## Experiments

::::{{grid}} 1 1 2 2
:gutter: 3

{experiments}
::::

[All experiments](experiments.md) in one table, with commands, times and headline numbers, and how to run them.

## Notebooks

They run from top to bottom when this site is built.

::::{{grid}} 1 1 2 3
:gutter: 3

{notebooks}
::::

```{{toctree}}
:hidden:

{names}
```
"""


def write(app):
    """Called by Sphinx, before it looks which pages there are."""
    shutil.rmtree(GALLERY, ignore_errors=True)
    GALLERY.mkdir()
    (names, cards), (more, of_notebooks) = experiments(), notebooks()
    index = INDEX.format(
        experiments="\n".join(cards), notebooks="\n".join(of_notebooks), names="\n".join([*names, *more])
    )
    (GALLERY / "index.md").write_text(index)


def on_source(app, docname, source):
    """Called by Sphinx when it reads a page: what is a page of the gallery is linked as such."""
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".md" and path.parent != GALLERY:
        source[0] = relocated(source[0], path.parent, path.parent)


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", on_source)
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
