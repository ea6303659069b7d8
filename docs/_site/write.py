"""Writes the parts of the committed pages that are generated from tables of the code: `python docs/_site/write.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

DOCS = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "adapters"), str(DOCS)]

from resilience.envelope import ErrorCatalog  # noqa: E402 - see above

__all__ = ("generated", "page")

MARK = "<!-- generated -->"


def page(name: str, part: str) -> str:
    """Return a page with the part below its mark replaced."""
    head, mark, _ = (DOCS / name).read_text().partition(MARK)
    if not mark:
        raise LookupError(f"docs/{name} has no line {MARK}")
    return f"{head}{MARK}\n\n{part.strip()}\n"


def generated() -> Iterator[tuple[Path, str]]:
    """Yield each file that is generated, with the text that it must have."""
    parts: dict[str, Callable[[], str]] = {"codes.md": codes}
    for name, part in parts.items():
        yield DOCS / name, page(name, part())


def codes() -> str:
    """Return the table of the codes of the toolkit."""
    return ErrorCatalog().markdown().partition("## Codes of the toolkit\n")[2]


if __name__ == "__main__":
    for path, text in generated():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"{path.relative_to(DOCS.parent)}\n")
