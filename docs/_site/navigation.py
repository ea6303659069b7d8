"""Builds the navigation, and `llms.txt`, from `nav.toml`.

The pages keep no navigation of their own, because GitHub would show the directive as text.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

__all__ = ("Section", "page_names", "sections", "setup")

DOCS = Path(__file__).parents[1]
_GENERATED = ("api/index",)
"""Pages that another extension writes, so a clean checkout does not have them."""


@dataclass(frozen=True)
class Section:
    """A caption in the sidebar, with its pages in their order."""

    title: str
    pages: tuple[str, ...]


def page_names(docs: Path = DOCS) -> list[str]:
    """Return the names of all written pages, without the suffix, except the index."""
    found = (path.relative_to(docs).with_suffix("").as_posix() for path in docs.rglob("*.md"))
    return sorted(name for name in found if name != "index")


def sections(docs: Path = DOCS) -> list[Section]:
    """Return the sections that have a page.

    Raises:
        ExtensionError: A section names a page that does not exist, or a page is in two sections.
    """
    stated = tomllib.loads((docs / "_site" / "nav.toml").read_text())["section"]
    pages = page_names(docs)
    named = [name for section in stated for name in section["pages"] if "*" not in name]
    if unknown := set(named) - {*pages, *_GENERATED}:
        raise ExtensionError(f"docs/_site/nav.toml: no such page: {', '.join(sorted(unknown))}")
    if twice := {name for name in named if named.count(name) > 1}:
        raise ExtensionError(f"docs/_site/nav.toml: in two places: {', '.join(sorted(twice))}")
    rest = [name for name in pages if name not in named]
    found = [Section(each["title"], tuple(_expand(each["pages"], rest))) for each in stated]
    return [section for section in found if section.pages]


def _expand(stated: list[str], rest: list[str]) -> Iterator[str]:
    """Yield the named pages, and those of `rest` that a pattern takes from it."""
    for name in stated:
        found = [page for page in rest if fnmatch(page, name)] if "*" in name else [name]
        rest[:] = [page for page in rest if page not in found]
        yield from found


def _add_navigation(_: Sphinx, docname: str, content: list[str]) -> None:
    """Append the navigation to the first page."""
    if docname == "index":
        trees = (
            f"```{{toctree}}\n:hidden:\n:caption: {section.title}\n\n" + "\n".join(section.pages) + "\n```"
            for section in sections()
        )
        content[0] += "\n\n" + "\n\n".join(trees) + "\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.connect("source-read", _add_navigation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
