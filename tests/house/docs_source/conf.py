"""Sphinx's settings for the pages of the public functions; see tests/house/docs.py."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc, pending_xref

import fusedce

project = "fusedce"
author = "The fusedce authors"
version = release = fusedce.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
templates_path = ["templates"]

html_theme = "furo"
pygments_dark_style = "monokai"  # that of Furo underlines the names of modules
html_title = f"fusedce {version}"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_permalinks_icon = "#"
html_domain_indices = False

highlight_language = "none"  # of formulas; examples are highlighted as Python
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
maximum_signature_line_length = 80  # a longer signature has one parameter in each line
python_display_short_literal_types = True
autosummary_generate = True
autosummary_ignore_module_all = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
smartquotes = False  # a docstring is code: "mean", not “mean”
toc_object_entries = False

_NAME = re.compile(r"[A-Za-z_][\w.]*(\(\))?")


def _link_names(app: Any, doctree: nodes.document) -> None:
    """Make a link of each name in double backticks that has a page; leave the others."""
    for literal in list(doctree.findall(nodes.literal)):
        text = literal.astext()
        if not _NAME.fullmatch(text) or isinstance(literal.parent, nodes.reference | pending_xref):
            continue
        target = pending_xref(
            "", refdomain="py", reftype="obj", reftarget=text.removesuffix("()"), refwarn=False,
            refdoc=app.env.docname, **_context(app, literal),
        )  # fmt: skip
        literal.replace_self(target)
        target += literal


def _context(app: Any, node: nodes.Node) -> dict[str, str | None]:
    """The module and the class in which a name is looked up."""
    parent = node.parent
    while parent is not None:
        if isinstance(parent, desc):
            signature = parent[0]
            return {"py:module": signature["module"], "py:class": signature["class"] or None}
        parent = parent.parent
    return {"py:module": app.env.ref_context.get("py:module"), "py:class": None}


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("doctree-read", _link_names)
