"""Shows the files outside of `docs/` to which pages link, such as examples and tests, as pages of the site.

A link reads `../examples/fastapi_shop.py` or `../tests/core/test_pipeline.py#test_name`. On GitHub it opens the file.
In the site it opens the highlighted file, at the definition of that name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util import logging

__all__ = ("setup",)

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)(#[\w-]+)?\)")
_SCHEME = "source:"
_log = logging.getLogger(__name__)
_DEFINITION = re.compile(r"^(?:async def|def|class) (\w+)|^(\w+)(?:: [^=]+)? = ")


def _mark_links(app: Sphinx, docname: str, content: list[str]) -> None:
    """Give a link to a file outside of `docs/` a scheme of its own, for the function below."""
    folder = (Path(app.srcdir) / docname).parent

    def marked(link: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / link[1]))
        if path.is_relative_to(app.srcdir) or not path.is_file():
            return link[0]
        return f"]({_SCHEME}{path.relative_to(ROOT).as_posix()}{link[2] or ''})"

    content[0] = _LINK.sub(marked, content[0])


def _resolve_links(app: Sphinx, document: nodes.document) -> None:
    """Replace each marked link by one to the page of its file."""
    for link in list(document.findall(pending_xref)):
        if str(link["reftarget"]).startswith(_SCHEME):
            path, _, name = str(link["reftarget"]).removeprefix(_SCHEME).partition("#")
            if name and name not in _lines_of_names(path):
                _log.warning("%s defines no %s", path, name, location=link)
            uri = app.builder.get_relative_uri(app.env.docname, _page_of(path)) + (f"#{name}" if name else "")
            link.replace_self(nodes.reference("", "", *link.children, internal=True, refuri=uri))


def _page_of(path: str) -> str:
    return f"_source/{path}"


def _lines_of_names(path: str) -> dict[str, int]:
    """Return the line of each definition at the left margin or in a class of a Python file."""
    found: dict[str, int] = {}
    for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
        if match := _DEFINITION.match(line):
            found.setdefault(match[1] or match[2], number)
    return found


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{path}</title><meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="{root}_static/pygments.css"><link rel="stylesheet" href="{root}_static/source.css"></head>
<body><p><a href="{root}index.html">resilience-plugins</a></p><h1>{path}</h1>
{code}
</body></html>
"""
"""A page without the navigation, which would take as long as the pages with text."""


def _write_pages(app: Sphinx, error: Exception | None) -> None:
    """Write a page for each file that a page links to."""
    for path in sorted(_linked_files(app)) if error is None and app.builder.format == "html" else ():
        page = Path(app.outdir) / f"{_page_of(path)}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        root = "../" * (path.count("/") + 1)
        page.write_text(_PAGE.format(path=path, root=root, code=_highlighted(path)))


def _linked_files(app: Sphinx) -> set[str]:
    """Return the files to which the written pages link."""
    found = set()
    for docname in app.env.found_docs:
        page = Path(app.env.doc2path(docname))
        if page.suffix == ".md":
            content = [page.read_text()]
            _mark_links(app, docname, content)
            found |= set(re.findall(rf"\]\({_SCHEME}([^)#]+)", content[0]))
    return found


def _highlighted(path: str) -> str:
    text = (ROOT / path).read_text()
    try:
        lexer = get_lexer_for_filename(path)
    except ClassNotFound:
        lexer = TextLexer()
    lines = highlight(text, lexer, HtmlFormatter(nowrap=True)).splitlines()
    for name, number in _lines_of_names(path).items():
        lines[number - 1] = f'<span id="{name}">{lines[number - 1]}</span>'
    return '<div class="highlight"><pre>' + "\n".join(lines) + "</pre></div>"


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.connect("source-read", _mark_links)
    app.connect("doctree-read", _resolve_links)
    app.connect("build-finished", _write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
