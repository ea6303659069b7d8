"""Values as a person would write them into a variable."""

from __future__ import annotations

import json
from typing import Any

from resilience.options import Duration, Rule

__all__ = ("written",)

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"))


def written(value: Any, rule: Rule) -> str:
    """Return `value` as text that the rule reads back: `100ms`, `true`, `a,b`, `none`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return _list([str(item) for item in value])
    if isinstance(value, float):
        return _duration(value) if isinstance(rule, Duration) else f"{value:.12g}"
    return str(value)


def _list(items: list[str]) -> str:
    is_plain = items and all("," not in item and item == item.strip() and item for item in items)
    return ",".join(items) if is_plain and not items[0].startswith("[") else json.dumps(items)


def _duration(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    if seconds >= 1 or seconds == 0:
        return f"{_digits(seconds)}s"
    milliseconds = seconds * 1e3
    return f"{_digits(milliseconds)}ms" if milliseconds >= 1 else f"{_digits(milliseconds * 1e3)}us"


def _digits(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")
