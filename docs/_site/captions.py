"""Shows the title of a code block, such as the name of a file, above the block.

A page writes ```` ```python title="orders.py" ````, which GitHub shows as a plain code block.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

__all__ = ("setup",)

_TITLED = re.compile(r'^```(\w+) title="([^"\n]+)"$', re.MULTILINE)


def _write_captions(_: Sphinx, __: str, content: list[str]) -> None:
    content[0] = _TITLED.sub(r"```{code-block} \1\n:caption: \2\n", content[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.connect("source-read", _write_captions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
