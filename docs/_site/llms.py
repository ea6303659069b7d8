"""Writes `llms.txt` and `llms-full.txt` (https://llmstxt.org) into the site, and each page as Markdown beside its HTML.

The index follows the navigation. A line has the title of a page and its first sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sphinx.application import Sphinx

from _site.navigation import DOCS, sections

__all__ = ("full", "index", "setup", "summary")

_INTRODUCTION = """# resilience-plugins

> A resilience toolkit for existing Python web services: circuit breakers, retries, rate limits, bulkheads, timeouts,
> one error shape and health endpoints for FastAPI, Flask and gRPC services and for their outbound calls.

The addresses are relative to this file. `llms-full.txt` has the text of all pages. The API reference is in `api/`.
"""
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_BLOCKS = re.compile(r"^(```).*?^\1$", re.MULTILINE | re.DOTALL)


def summary(page: str) -> tuple[str, str]:
    """Return the title of a page and the first sentence of its text."""
    text = (DOCS / f"{page}.md").read_text()
    title = _TITLE.search(text)
    if title is None:
        raise LookupError(f"docs/{page}.md has no title")
    paragraphs = _BLOCKS.sub("", text[title.end() :]).strip().split("\n\n")
    prose = next((each for each in paragraphs if each.strip() and each.strip()[0] not in "!|#<"), "")
    sentence = re.split(r"(?<=[.:])\s", " ".join(_LINK.sub(r"\1", prose).split()), maxsplit=1)[0]
    return title[1], re.sub(r"[:.]$", ".", sentence)


def index() -> str:
    """Return the text of `llms.txt`."""
    return "\n".join([_INTRODUCTION, *_sections()])


def _sections() -> Iterator[str]:
    for section in sections():
        yield f"## {section.title}\n"
        for page in section.pages:
            if (DOCS / f"{page}.md").exists():
                title, sentence = summary(page)
                yield f"- [{title}]({page}.md): {sentence}"
        yield ""


def full() -> str:
    """Return the text of `llms-full.txt`: all pages in the order of the navigation, each below its address."""
    pages = ["index", *(page for section in sections() for page in section.pages)]
    texts = ((page, DOCS / f"{page}.md") for page in pages)
    return (
        "\n\n".join(f"<!-- {page}.md -->\n\n{path.read_text().strip()}" for page, path in texts if path.exists()) + "\n"
    )


def _write(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    (site / "llms.txt").write_text(index())
    (site / "llms-full.txt").write_text(full())
    for page in ("index", *(page for section in sections() for page in section.pages)):
        if (source := DOCS / f"{page}.md").exists():
            (site / f"{page}.md").write_text(source.read_text())


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
