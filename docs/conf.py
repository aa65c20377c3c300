"""How Sphinx builds the site: make docs. Nothing is fetched from anywhere."""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]

import bbinn_jax  # noqa: E402

project = "bbinn_jax"
author = "the authors of bbinn_jax"
version = release = bbinn_jax.__version__
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    # Of this site:
    "docstrings",  # formulas in docstrings
    "gallery",  # pages of experiments and notebooks
    "links",  # names in backticks are links
    "mathml",  # equations that a browser draws by itself
]
exclude_patterns = ["_build", "digit", "npm"]
nitpicky = True
nitpick_ignore = [("py:obj", "re.search")]

# Markdown and notebooks
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_output_stderr = "warn"  # and a warning ends `make docs`
nb_merge_streams = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_copy_empty_lines = False

# Docstrings
default_role = "py:obj"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Fields", "params_style")]
python_display_short_literal_types = True

# Inventories are kept in the clone, as plain lists of the names that are linked to: nothing is fetched.
INVENTORIES = {
    "jax": "https://docs.jax.dev/en/latest/",
    "flax": "https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/",
    "linen": "https://flax-linen.readthedocs.io/en/latest/api_reference/flax.linen/",
    "optax": "https://optax.readthedocs.io/en/latest/api/generated/",
}
intersphinx_mapping = {name: (at, str(HERE / f"_inventories/{name}.txt")) for name, at in INVENTORIES.items()}
intersphinx_disabled_reftypes = ["std:doc"]

# The look
html_theme = "furo"
html_title = "bbinn_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5fa5", "color-brand-content": "#0b5fa5"},
    "dark_css_variables": {"color-brand-primary": "#7cc0ff", "color-brand-content": "#7cc0ff"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# The page on which one draws a digit is a folder of finished files.
DIGIT = HERE / "digit"
if (DIGIT / "index.html").exists():
    tags.add("digit")  # type: ignore[name-defined]  # noqa: F821


def copy_digit(app, error):
    """Puts the page beside the others."""
    if error is None and app.builder.format == "html" and (DIGIT / "index.html").exists():
        hidden = shutil.ignore_patterns("node_modules", ".*")
        shutil.copytree(DIGIT, Path(app.outdir) / "digit", ignore=hidden, dirs_exist_ok=True)


def setup(app):
    """Called by Sphinx."""
    app.connect("build-finished", copy_digit)
