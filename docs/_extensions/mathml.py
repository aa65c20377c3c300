"""Equations as MathML, which browsers draw by themselves: no script, and nothing to fetch."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def mathml(tex, **options):
    """Without the sizes of brackets, which a browser finds by itself."""
    return tex2mathml(re.sub(r"\\[bB]igg?(?![a-zA-Z])", "", tex), **options)


def inline(writer, node):
    """``$x$`` within a sentence."""
    writer.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block(writer, node):
    """``$$x$$`` on lines of its own."""
    writer.body.append(f'<div class="math">{mathml(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app):
    """Called by Sphinx, which takes the one renderer that is there besides its own."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
