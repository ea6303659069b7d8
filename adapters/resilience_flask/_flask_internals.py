"""Internals of Flask and Werkzeug that this adapter relies on. No other file relies on any.

All of them are there in Flask 3.0.0 with Werkzeug 3.0.1, and in the current versions.

- `Flask.error_handler_spec`, by blueprint, status and class (described in Flask's API documentation as an internal data
  structure): `app_handlers`, `handler_for`, `last_resort`. If it changes, our handlers are registered over those of the
  application.
- The overridden `get_body` and `get_response` of an `HTTPException`: `has_own_body`. If they are renamed, errors with a
  body of their own get an envelope.
- `Flask.log_exception` as the name of the function that logs an unhandled error: `OneLine`. If it is renamed, a path
  with %0a can forge a line of the log.
- `Flask.before_request` raises `AssertionError` after the first request: `_extension.py`. If it does not, a late call
  of `init_app` is not refused.
- `type(app).wsgi_app`, Flask's own WSGI application without the middleware around it: `_middleware.py`. It is public;
  a subclass may override it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import cast

from flask import Flask, current_app, request
from flask.typing import ErrorHandlerCallable
from werkzeug.exceptions import HTTPException

from resilience.errors import one_line

__all__ = ("OneLine", "app_handlers", "handler_for", "has_own_body", "last_resort")

_LOG_FUNCTION = "log_exception"


def app_handlers(app: Flask) -> dict[type[Exception], ErrorHandlerCallable]:
    """Return the error handlers of an application by class, without those of blueprints and statuses."""
    return app.error_handler_spec[None][None]


def handler_for(error: BaseException, ours: Collection[object]) -> ErrorHandlerCallable | None:
    """Return the application's own handler for the nearest class of an error below `Exception`, None without one.

    In Flask's order: all handlers of the blueprints, from the innermost one, then those of the application.

    Args:
        error: The error. Handlers for a status are not looked up.
        ours: The handlers to pass over.
    """
    for name in (*request.blueprints, None):
        known = current_app.error_handler_spec[name][None]
        for kind in type(error).__mro__:
            handler = None if kind is Exception else known.get(cast("type[Exception]", kind))
            if handler is not None and not any(handler is each for each in ours):
                return handler
    return None


def last_resort() -> ErrorHandlerCallable | None:
    """Return the application's handler for `Exception`, a blueprint's or its own; None without one."""
    known = (current_app.error_handler_spec[name][None].get(Exception) for name in (*request.blueprints, None))
    return next((handler for handler in known if handler is not None), None)


def has_own_body(error: HTTPException) -> bool:
    """Return whether the application decides how this error looks, by a response or by a class of its own."""
    kind, plain = type(error), HTTPException
    return (
        error.response is not None or kind.get_body is not plain.get_body or kind.get_response is not plain.get_response
    )


class OneLine(logging.Filter):
    """Escapes line breaks in the message of `Flask.log_exception`: a path with %0a would forge a line of the log.

    Records of other functions pass unchanged. All filters of this class are equal, so that a logger that several
    applications share has one.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass, with a message of one line."""
        if record.funcName == _LOG_FUNCTION and isinstance(record.msg, str) and not record.msg.isprintable():
            record.msg = one_line(record.msg)
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OneLine)

    def __hash__(self) -> int:
        return hash(OneLine)
