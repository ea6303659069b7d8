"""Secrets never reach a screen, a log or an error: they are hidden before a value becomes text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ("HIDDEN", "Secret", "hidden", "redacted", "type_of")

HIDDEN = "***"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(.*)", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9._-]*")


class Secret(str):
    """Text whose `repr` hides it: debuggers and error trackers show local variables by their `repr`.

    It is the text itself everywhere else: equal, hashed, formatted and encoded as such.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(redacted(str(self), secret=True))


def hidden(value: object) -> Any:
    """Return a copy of a mapping in which every text is a `Secret`, at any depth; any other value as it is."""
    if isinstance(value, Mapping):
        return {name: hidden(each) for name, each in value.items()}
    return Secret(value) if isinstance(value, str) else value


def type_of(value: object) -> str:
    """Return the name of the type of a value, as it was before it was hidden."""
    return "str" if isinstance(value, Secret) else type(value).__name__


def redacted(value: object, *, secret: bool) -> Any:
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
