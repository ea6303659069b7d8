"""Flask's own record of an unhandled error, which holds the path as the client wrote it."""

from __future__ import annotations

import logging

from resilience.errors import one_line

__all__ = ("OneLine",)

_BY_FLASK = "log_exception"


class OneLine(logging.Filter):
    """Escapes line breaks in the message of `Flask.log_exception`: a path with %0a would forge a line of the log.

    Records of any other function are passed on as they are. All filters of this class are equal, so that a logger
    shared by several applications has one.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass, with a message of one line."""
        if record.funcName == _BY_FLASK and isinstance(record.msg, str) and not record.msg.isprintable():
            record.msg = one_line(record.msg)
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OneLine)

    def __hash__(self) -> int:
        return hash(OneLine)
