"""The one place that reads a configuration file."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from resilience.errors import Problem

__all__ = ("read_toml",)

LARGEST = 1_000_000
"""Bytes. A configuration beyond it is some other file, named by mistake."""


def read_toml(path: str, spelled: str) -> tuple[dict[str, Any], list[Problem]]:
    """Return the tables of the file at `path`, or the problem with it under the name that gave the path."""
    import tomllib  # noqa: PLC0415 - 5 ms that only users of a file pay

    try:
        return tomllib.loads(_content(path)), []
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a path with a null byte, nesting without end
        reason = str(error) or type(error).__name__
    return {}, [Problem(spelled, path, "a readable TOML file", reason)]


def _content(path: str) -> str:
    place = Path(path)
    status = place.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > LARGEST:
        raise ValueError(f"larger than {LARGEST:,} bytes")
    return place.read_text(encoding="utf-8")
