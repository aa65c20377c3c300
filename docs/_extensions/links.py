"""Names in backticks are links: ``bb.sample`` and ``optax.adam(1e-3)`` in a page, `relax` in a docstring."""

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.ext.intersphinx import resolve_reference_any_inventory
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

import bbinn_jax

SHORT = {"bb": "bbinn_jax", "export": "bbinn_jax.export", "nnx": "flax.nnx", "nn": "flax.linen", "jnp": "jax.numpy"}
NAME = re.compile(r"([A-Za-z_]\w*)((?:\.[A-Za-z_]\w*)+)(?=\(|$)")
# Where a name in a docstring is looked for, after its own module.
MODULES = ["", "bernoulli.", "linen.", "nnx.", "export.", "export.c."]


def reference(env, builder, docname, target, shown):
    """A link to a public name of this library, or of one with an inventory; None where there is no such name."""
    documented = env.domains.python_domain.objects
    if target in documented:
        found = documented[target]
        return make_refnode(builder, docname, found.docname, found.node_id, [shown], target)
    wanted = pending_xref("", refdomain="py", reftype="obj", reftarget=target, refexplicit=False)
    return resolve_reference_any_inventory(env, True, wanted, shown)


class Names(SphinxPostTransform):
    """Turns literals that name something into links to it."""

    default_priority = 5  # before references are resolved

    def run(self, **kwargs):
        for literal in list(self.document.findall(nodes.literal)):
            found = NAME.match(literal.astext())
            if not found or isinstance(literal.parent, nodes.reference | pending_xref):
                continue
            target, shown = SHORT.get(found[1], found[1]) + found[2], literal.deepcopy()
            if link := reference(self.env, self.app.builder, self.env.docname, target, shown):
                literal.replace_self(link)


def on_missing(app, env, node, shown):
    """A name in a docstring that its own module does not have: of another module, or a field of what is public."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    first, _, rest = target.partition(".")
    names = [f"bbinn_jax.{module}{target}" for module in MODULES] + [f"bbinn_jax.{first}"]
    if first in SHORT:
        names.insert(0, f"{SHORT[first]}.{rest}")
    links = (reference(env, app.builder, node.get("refdoc", env.docname), name, shown) for name in names)
    return next((link for link in links if link is not None), None)


def at_the_top_too(app, env):
    """What is public in a module and at the top is documented in the module, and found under both names."""
    domain = env.domains.python_domain
    for name, found in list(domain.objects.items()):
        short = f"bbinn_jax.{name.rpartition('.')[2]}"
        module = name.rpartition(".")[0]
        is_at_the_top = module in ("bbinn_jax.bernoulli", "bbinn_jax.linen") and hasattr(bbinn_jax, short.split(".")[1])
        if is_at_the_top and short not in domain.objects:
            domain.objects[short] = found._replace(aliased=True)


def without_last_lines(app, document):
    """Called by Sphinx: pytest wants a blank line at the end of a block, a reader does not."""
    for block in document.findall(nodes.literal_block):
        if block.rawsource == block.astext():
            block.rawsource = block.rawsource.rstrip()
            block[:] = [nodes.Text(block.rawsource)]


def setup(app):
    """Called by Sphinx."""
    app.add_post_transform(Names)
    app.connect("missing-reference", on_missing)
    app.connect("doctree-read", without_last_lines)
    app.connect("env-updated", at_the_top_too)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
