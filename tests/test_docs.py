"""The documentation builds without a warning, has every public name and experiment, and no link that leads nowhere."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.test_api import PUBLIC

pytest.importorskip("sphinx", reason="the documentation needs the extra docs")
from sphinx.util.inventory import InventoryFile

ROOT = Path(__file__).parents[1]
RESULTS = sorted(ROOT.glob("experiments/*/RESULTS.md"))
NOTEBOOKS = sorted(ROOT.glob("experiments/notebooks/*.ipynb"))
sys.path.append(str(ROOT / "docs/_extensions"))


class Page(HTMLParser):
    """What a page refers to, what it loads, and the places in it that can be referred to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.places, self.texts = [], [], set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.places.update(attributes[name] for name in ("id", "name") if attributes.get(name))
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in ("img", "script", "iframe", "source") and attributes.get("src"):
            self.loaded.append(attributes["src"])
        if tag == "link" and attributes.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(attributes["href"])

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built as `make docs` does, which runs the notebooks too: here their stored outputs do."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-D", "nb_execution_mode=off"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [*command, "-d", out / "doctrees", ROOT / "docs", out / "html"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return out / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if "digit" not in path.relative_to(site).parts}


def test_every_public_name_has_its_place(site):
    known = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    places = {name for kind in known if kind.startswith("py:") for name in known[kind]}
    public = {f"{module}.{name}" for module, names in PUBLIC.items() for name in names}
    assert public - places == set()


def test_every_experiment_and_notebook_is_in_the_gallery_with_its_figures(site, pages):
    index = pages[site / "gallery/index.html"]
    for path in RESULTS:
        page = pages[site / f"gallery/{path.parent.name}.html"]
        title = re.search(r"^# (.*)$", path.read_text(), re.MULTILINE)[1]
        assert title in "".join(page.texts)
        assert f"{path.parent.name}.html" in index.links
        figures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text())
        assert len([image for image in page.loaded if "_images/" in image]) == len(figures)
    for path in NOTEBOOKS:
        page = pages[site / f"gallery/{path.stem}.html"]
        assert json.loads(path.read_text())["cells"][0]["source"][0].lstrip("# ").strip() in "".join(page.texts)
        assert f"{path.stem}.html" in index.links


def test_every_guide_is_in_the_menu(site, pages):
    links = pages[site / "guides/index.html"].links
    for path in (ROOT / "docs/guides").glob("*.md"):
        assert path.stem == "index" or f"{path.stem}.html" in links, path


def test_links_within_the_site_lead_somewhere(site, pages):
    """To a file that is there, and to a place that it has."""
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if site / "digit" in target.parents:
                continue
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if parts.fragment and target in pages and "_modules" not in path.parts:  # which Sphinx makes by itself
                assert unquote(parts.fragment) in pages[target].places, f"{path.relative_to(site)}: {link}"


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for path, page in pages.items():
        for source in page.loaded:
            parts = urlsplit(source)
            assert not parts.scheme or parts.scheme == "data", f"{path}: {source}"
            assert not parts.path or parts.scheme or (path.parent / unquote(parts.path)).is_file(), f"{path}: {source}"
    for path in [*site.rglob("_static/**/*.css")]:
        assert not re.search(r"url\(\s*['\"]?https?:|@import\s+['\"]?https?:", path.read_text()), path


def test_names_of_other_libraries_are_links(site, pages):
    links = pages[site / "api/bayesbinn.html"].links
    assert "https://optax.readthedocs.io/en/latest/api/generated/optax.partition.html#optax.partition" in links
    assert any(link.startswith("https://docs.jax.dev/") for link in pages[site / "api/estimators.html"].links)
    assert any(link.startswith("https://flax.readthedocs.io/") for link in pages[site / "api/nnx.html"].links)


@pytest.mark.parametrize(
    "typed, shown",
    [
        ("w = tanh((lambda + delta) / tau),    dw = 1", "w = tanh((λ + δ) / τ),               dw = 1"),
        ("lambda <- lambda - alpha * g", "λ ← λ − α * g"),  # noqa: RUF001
        ("KL(q || p) + lambda0^2", "KL(q || p) + λ₀²"),
        ("mutual_information", "mutual_information"),
    ],
)
def test_formulas_have_the_letters_that_they_stand_for(typed, shown):
    from docstrings import formula

    assert formula(typed) == shown
