"""Secrets never reach a screen, a log or an error: they are hidden before a value becomes text."""

from __future__ import annotations

import re
from typing import Any

__all__ = ("HIDDEN", "redacted")

HIDDEN = "***"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(.*)", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9._-]*")


def redacted(value: Any, *, secret: bool) -> Any:
    """Return `value` fit to be shown: a secret as `***`, a URL without its password and parameters."""
    if value is None or (isinstance(value, str) and not value):
        return value
    if isinstance(value, tuple | list):
        shown = [redacted(item, secret=secret) for item in value]
        return shown if isinstance(value, list) else tuple(shown)
    if isinstance(value, str) and (url := _URL.fullmatch(value)) is not None:
        return url[1] + _without_password(url[2], secret=secret)
    return HIDDEN if secret else value


def _without_password(rest: str, *, secret: bool) -> str:
    credentials, at, place = rest.rpartition("@")
    if "?" in credentials:
        return HIDDEN  # a password with a bare "?", or a parameter with a bare "@": hide more rather than guess
    place = _without_parameters(place) if secret else place
    if not at:
        return place
    user, colon, _ = credentials.partition(":")
    return f"{user}:{HIDDEN}@{place}" if colon and _PLAIN.fullmatch(user) else f"{HIDDEN}@{place}"


def _without_parameters(place: str) -> str:
    path, question, _ = place.partition("?")
    return path + question + (HIDDEN if question else "")
