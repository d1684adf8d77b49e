"""The documentation as a site: Sphinx, MyST for Markdown, the Furo theme. The same files are read as plain Markdown."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

from ext_authz import __version__

project = "Tollgate"
version = release = __version__
html_title = f"Tollgate {release}"
html_theme = "furo"
html_show_copyright = html_show_sphinx = False
html_copy_source = html_show_sourcelink = False
extensions = ["myst_parser"]
myst_heading_anchors = 3
root_doc = "index"
exclude_patterns = ["build"]
nitpicky = True

_INDEXES = frozenset({"index", "adr/README", "cookbook/README", "moving/README"})
_PAGE = re.compile(r"^(?:- |\| )\[[^\]]+\]\((\w[\w/.-]*)\.md\)", re.MULTILINE)


def setup(app: Sphinx) -> None:
    app.connect("source-read", _add_navigation)


def _add_navigation(_: Sphinx, page: str, source: list[str]) -> None:
    """The navigation has what the lists and tables of an index page link to, under its headings: it is written once."""
    if page in _INDEXES:
        source[0] += "".join(map(_toctree, source[0].split("\n## ")))


def _toctree(section: str) -> str:
    caption, _, text = section.partition("\n")
    pages = "\n".join(dict.fromkeys(_PAGE.findall(text)))
    caption = "" if caption.startswith("# ") else f":caption: {caption}\n"
    return f"\n```{{toctree}}\n:hidden:\n{caption}\n{pages}\n```\n" if pages else ""
