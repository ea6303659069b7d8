"""Text of foreign origin, made fit for a log, an error or a screen."""

from __future__ import annotations

import math
import re
from typing import Any

__all__ = ("described", "named", "one_line", "shown", "span")

_LONGEST_SHOWN, _LONGEST_LINE, _LONGEST_READ = 80, 300, 1024
_CREDENTIALS = re.compile(r"://[^\s'\"<>]*@")
_ASSIGNED = re.compile(r"((?:password|passwd|pwd|secret|token|api_?key|signature)=)[^\s&;,'\"]+", re.IGNORECASE)
"""A secret with its name: a parameter of a URL, or a setting of a database driver."""
_MOST_PARTIALS = 8


def one_line(text: object, longest: int = _LONGEST_LINE) -> str:
    """Return `text` as one line that is safe in a log.

    Line breaks and all other characters that are not printable are escaped as in `repr`, so that no text can forge a
    line or change what a terminal shows. Hidden are credentials in URLs, and the values of parameters such as
    `password=`. Text beyond `longest` characters is cut. The type of an object whose text raises stands for it.
    """
    try:
        line = str(text)[:_LONGEST_READ]
    except Exception:  # noqa: BLE001 - the report must appear even if a value has no text
        line = f"<{type(text).__name__}>"
    if "@" in line:
        line = _CREDENTIALS.sub("://***@", line)
    if "=" in line:
        line = _ASSIGNED.sub(r"\1***", line)
    if not line.isprintable():
        line = "".join(each if each.isprintable() else repr(each)[1:-1] for each in line[: longest + 1])
    return line if len(line) <= longest else f"{line[:longest]}..."


def span(seconds: float) -> str:
    """Return a duration with three digits: "0.25 s", "28 s", "3540 s"."""
    return f"{seconds:.0f} s" if 100 <= seconds < math.inf else f"{seconds:.3g} s"  # noqa: PLR2004 - three digits


def described(error: BaseException) -> str:
    """Return type and text of an error as `one_line`; its type alone if its text raises."""
    kind = type(error).__name__
    try:
        return one_line(f"{kind}: {error}")
    except Exception:  # noqa: BLE001 - user code in __str__
        return kind


def shown(value: object) -> str:
    """Return `repr(value)` as `one_line` of at most 80 characters: a bad value may be a whole file."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - as in `one_line`
        text = f"<{type(value).__name__}>"
    return one_line(text, _LONGEST_SHOWN)


def named(thing: object) -> str:
    """Return the qualified name of a function or class, or the type of any other object.

    It stands in logs for the `repr`, which may show values: that of a `functools.partial` shows its arguments.
    """
    name = None
    for _ in range(_MOST_PARTIALS):
        name, inner = _attribute(thing, "__qualname__"), _attribute(thing, "func")
        if isinstance(name, str) or inner is None:
            break
        thing = inner
    return one_line(name if isinstance(name, str) else f"<{type(thing).__name__}>")


def _attribute(thing: object, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 - a property may raise anything
        return None
