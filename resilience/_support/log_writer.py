"""Writes lines to the logger `resilience`. No log handler of a service can change the outcome of a call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

__all__ = ("may_write", "write_line")

# Unlike most libraries we add no NullHandler. uvicorn, gunicorn and grpcio configure their own loggers only. In a
# service without logging configuration a NullHandler would hide an outage; without it, Python prints warnings.
_LOGGER = logging.getLogger("resilience")


class _Writing(threading.local):
    """Whether this thread is inside a log handler."""

    is_under_way = False


_WRITING = _Writing()


def may_write(level: int, logger: logging.Logger = _LOGGER) -> bool:
    """Whether a line of this level would be written: not by a log handler of this thread, and not if it is hidden."""
    return not _WRITING.is_under_way and logger.isEnabledFor(level)


def write_line(
    level: int,
    text: str,
    *,
    extra: Mapping[str, object] | None = None,
    error: BaseException | None = None,
    logger: logging.Logger = _LOGGER,
) -> None:
    """Write one line.

    A handler that makes guarded calls gets no lines about them: each of those lines would call the handler again. An
    exception of a handler is dropped, because the thread here is that of a caller.

    Args:
        level: A level of the package `logging`.
        text: The line, complete.
        extra: Fields for the record.
        error: The error whose traceback follows the line. Default: none.
        logger: The logger. Default: `resilience`.
    """
    if not may_write(level, logger):
        return
    _WRITING.is_under_way = True
    try:
        logger.log(level, text, extra=extra, exc_info=error)
    except Exception:  # noqa: BLE001 - a handler or filter of the service has failed, not the call
        return
    finally:
        _WRITING.is_under_way = False
