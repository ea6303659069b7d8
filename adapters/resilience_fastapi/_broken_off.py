"""An answer that its deadline has broken off: the server closes the connection, and logs no traceback of it."""

from __future__ import annotations

import logging

from resilience.errors import DeadlineExceededError

__all__ = ("BrokenOffError", "broken_off")

_SERVERS = ("uvicorn.error", "hypercorn.error", "gunicorn.error")
"""The loggers of the servers: each logs whatever an application raises, with its traceback."""


class BrokenOffError(DeadlineExceededError):
    """Raised into the server, which closes the connection: the client sees that something is missing.

    Layers around ours see an error too, and not an application that returned in the midst of its answer.
    """


class _Quiet(logging.Filter):
    """Drops the server's record of a `BrokenOffError`: it has a line of ours, and a client can cause many of them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let all other records pass."""
        return record.exc_info is None or not isinstance(record.exc_info[1], BrokenOffError)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Quiet)

    def __hash__(self) -> int:
        return hash(_Quiet)


def broken_off() -> BrokenOffError:
    """Return the error that ends an answer which has begun."""
    for name in _SERVERS:
        logging.getLogger(name).addFilter(_Quiet())  # once: all of them are equal
    return BrokenOffError("the deadline passed before the answer was complete", policy="server")
