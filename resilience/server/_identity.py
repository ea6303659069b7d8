"""Which request this is: ids that callers send are used only when they cannot do harm in a log or a header."""

from __future__ import annotations

import os
import re

from resilience._support.fork import renew_after_fork

__all__ = ("REQUEST_ID", "identity_of", "request_id_of", "span_id")

REQUEST_ID = "x-request-id"

_is_sane = re.compile(r"[A-Za-z0-9._-]{1,128}").fullmatch
_is_name = re.compile(r"(?!.*,)[!-~](?:[ -~]{0,254}[!-~])?").fullmatch

_ID_BYTES, _AT_ONCE = 16, 128
_SPAN = 16
"""Characters."""


class _Supply:
    """Ids from the kernel's randomness, fetched many at a time: a system call per request is felt.

    The kernel's, because a seed the application sets must not repeat them; and never a parent's left-overs in a fork.
    """

    def __init__(self) -> None:
        self.ready: list[str] = []
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Throw away what the parent may use as well."""
        self.ready = []

    def draw(self) -> str:
        """Return an id nobody has had, and have more `ready`. Taking one off there is atomic: threads need no lock."""
        ready = os.urandom(_ID_BYTES * _AT_ONCE).hex(" ", _ID_BYTES).split()
        last = ready.pop()
        self.ready = ready  # of two threads here at once, one batch is lost and none is used twice
        return last


_supply = _Supply()


def request_id_of(offered: str | None) -> str:
    """Return the caller's id where it is sane, else a new one: 32 hexadecimal characters."""
    if offered and _is_sane(offered):
        return offered
    try:
        return _supply.ready.pop()
    except IndexError:
        return _supply.draw()


def span_id() -> str:
    """Return a parent id for an outgoing call: 16 hexadecimal characters, not all of them 0."""
    drawn = request_id_of(None)
    return drawn[:_SPAN] if int(drawn[:_SPAN], 16) else "1".rjust(_SPAN, "0")


def identity_of(offered: str | None) -> str | None:
    """Return the name of a caller where it is sane, else None: 1 to 256 printable ASCII characters.

    No comma: with one it may be two headers, and the other of the two may be the caller's own.
    """
    return offered if offered and _is_name(offered) else None
