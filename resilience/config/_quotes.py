"""Quotes that an env file left around a value: `docker --env-file` passes them on, a shell does not."""

from __future__ import annotations

__all__ = ("STRAY", "unquoted")

STRAY = "no quote at either end, or the same one at both ends and nowhere between them"
"""Completes the sentence "expected ..."."""

_QUOTES = ("'", '"')


def unquoted(text: str) -> str | None:
    """Return the value without the one pair of quotes around it, or None if there are quotes that make no pair.

    No setting has a value that begins or ends with a quote, so a pair is never part of it. A JSON array may be between
    two quotes and hold the same ones.
    """
    if not text.startswith(_QUOTES) and not text.endswith(_QUOTES):
        return text
    quote, inner = text[:1], text[1:-1].strip()
    is_pair = len(text) > 1 and quote in _QUOTES and text.endswith(quote)
    if not is_pair or inner.startswith(_QUOTES) or inner.endswith(_QUOTES):
        return None
    return inner if quote not in inner or inner.startswith("[") else None
