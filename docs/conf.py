"""How the site is built: `make docs`.

English and French are two sites of one look, the second within the first (`fr/`): each has its own language, search and
navigation. Nothing is loaded from outside.
"""

import os
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

HERE = Path(__file__).parent

project = "étape cohorts"
copyright = "the authors of étape cohorts; EUPL-1.2"  # noqa: A001 - Sphinx's name for it
extensions = ["myst_parser"]
exclude_patterns = ["fr"]  # of the English site
nitpicky = True
myst_heading_anchors = 4
html_theme = "pydata_sphinx_theme"
html_title = project
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_end": ["theme-switcher", "other-language"],
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_static_path = [str(HERE / "_static")]
html_css_files = ["site.css"]
html_sidebars = {"appui": [], "cohortes": []}  # the French pages have none below them
smartquotes = False  # commands, and French apostrophes, are as they are written
templates_path = [str(HERE / "_templates")]


def setup(app: Sphinx) -> None:
    """Connect what Sphinx is to call."""
    app.connect("doctree-read", _link_to_the_other_site)


def _link_to_the_other_site(app: Sphinx, doctree: nodes.document) -> None:
    """Make ordinary links of those to pages of the other language, which Sphinx doesn't know here.

    A test follows every link and anchor of the Markdown files themselves.
    """
    page = app.srcdir / app.env.docname
    for xref in list(doctree.findall(pending_xref)):
        target = app.srcdir / f"{xref['reftarget']}.md"
        if xref.get("refdomain") == "doc" and xref["reftarget"] not in app.env.found_docs and target.is_file():
            address = os.path.relpath(target.resolve(), page.parent).removesuffix("md") + "html"
            if xref["reftargetid"]:
                address += f"#{xref['reftargetid']}"
            xref.replace_self(nodes.reference("", "", *xref[0].children, refuri=address))
