"""The violations that pydantic reports, without the values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import cast

__all__ = ("violations_of",)

_WRITTEN_BY_HAND = frozenset({"value_error", "assertion_error"})
_WITHHELD = "The value is not valid."
_SHORTEST_SECRET = 4
_MOST_VALUES = 10_000


def violations_of(errors: Iterable[Mapping[str, object]]) -> list[dict[str, str]]:
    """Return the `errors()` of pydantic, or of a framework that uses it, as `validation_envelope` takes them.

    Each has its place with dots, its message and its type. The text of a hand-written validator is withheld if it
    repeats at least 4 characters of the refused value or of a value inside it (L16), or if there are more than 10,000
    values.
    """
    return [
        {
            "field": ".".join(str(step) for step in cast("Iterable[object]", one.get("loc", ()))),
            "message": _message(one),
            "type": str(one.get("type", "")),
        }
        for one in errors
    ]


def _message(one: Mapping[str, object]) -> str:
    message = str(one.get("msg", ""))
    is_telling = one.get("type") in _WRITTEN_BY_HAND and _may_repeat(message, one.get("input"))
    return _WITHHELD if is_telling else message


def _may_repeat(message: str, value: object) -> bool:
    """Whether a message repeats a part of a value, or the value is too large to find out. It can be nested deeply."""
    pending, seen = [value], 0
    while pending:
        each, seen = pending.pop(), seen + 1
        if isinstance(each, Mapping):
            pending.extend(each.values())
        elif isinstance(each, Collection) and not isinstance(each, str | bytes):
            pending.extend(each)
        elif len(text := _text(each)) >= _SHORTEST_SECRET and text in message:
            return True
        if seen + len(pending) > _MOST_VALUES:
            return True
    return False


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
