"""One call that gives a service JSON logs, and the same as a dictionary for servers that configure logging."""

from __future__ import annotations

import logging
import sys
from typing import Any

from resilience.config import Config, load
from resilience.errors import ConfigurationError, Problem
from resilience.logs._filter import ContextFilter
from resilience.logs._formatters import JsonFormatter, TextFormatter

__all__ = ("SERVER_LOGGERS", "configure_logging", "logging_config")

SERVER_LOGGERS = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "gunicorn.error",
    "gunicorn.access",
    "hypercorn.error",
    "hypercorn.access",
)
"""The loggers to which servers give handlers of their own."""
_FORMATTERS = {"json": JsonFormatter, "text": TextFormatter}


class _OwnHandler(logging.StreamHandler[Any]):
    """The handler of `configure_logging`: a second call replaces it."""


def configure_logging(config: Config | None = None) -> logging.Handler:
    """Write the lines of all loggers to one stream, as JSON or text, with the ids of request and trace.

    Call it once, at the start of your service, in the process that serves. It gives the root logger a handler with a
    `ContextFilter` and a formatter, and sets its level. Handlers of the root logger that write to the terminal are
    removed, and so are those that uvicorn, gunicorn and hypercorn give to their own loggers, whose records then reach
    the root logger. Other handlers stay, such as those of files and error trackers. With `requests`, the access logs
    of these servers are off: the lines of this library take their place.

    Nothing else in this library changes the root logger.

    Args:
        config: The settings, such as `toolkit.config`; it uses `format`, `level`, `stream`, `max_text`, `redact` and
            `requests` of the section `log`, and the name of the service. Default: those of the environment.

    Returns:
        The handler, for example to add a filter of your own.

    Raises:
        ConfigurationError: A setting is wrong. The error lists every problem.
    """
    config = _checked(config)
    handler = _OwnHandler(sys.stdout if config.log.stream == "stdout" else sys.stderr)
    handler.addFilter(ContextFilter(config.service.name))
    handler.setFormatter(_FORMATTERS[config.log.format](**_arguments(config)))
    root = logging.getLogger()
    _remove_terminal_handlers(root)
    root.addHandler(handler)
    root.setLevel(config.log.level.upper())
    for name in SERVER_LOGGERS:
        logger = logging.getLogger(name)
        _remove_terminal_handlers(logger)
        logger.propagate = True
        if config.log.requests and name.endswith(".access"):
            logger.setLevel(logging.WARNING)
    return handler


def logging_config(config: Config | None = None) -> dict[str, Any]:
    """Return what `configure_logging` does as a dictionary for `logging.config.dictConfig`.

    Pass it to a server, so that the lines of its start have the same form: `uvicorn.run(app, log_config=...)`, or
    `logconfig_dict = ...` in the configuration file of gunicorn. You can change it before.

    Args:
        config: As for `configure_logging`.

    Raises:
        ConfigurationError: A setting is wrong. The error lists every problem.

    Example:
        >>> from resilience.config import load
        >>> logging_config(load({"RESILIENCE_LOG__LEVEL": "warning"}))["root"]
        {'level': 'WARNING', 'handlers': ['resilience']}
    """
    config = _checked(config)
    loggers: dict[str, dict[str, Any]] = {name: {"handlers": [], "propagate": True} for name in SERVER_LOGGERS}
    if config.log.requests:
        for name in SERVER_LOGGERS:
            if name.endswith(".access"):
                loggers[name]["level"] = "WARNING"
    formatter = _FORMATTERS[config.log.format]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"resilience": {"()": "resilience.logs.ContextFilter", "service_name": config.service.name}},
        "formatters": {"resilience": {"()": f"resilience.logs.{formatter.__name__}", **_arguments(config)}},
        "handlers": {
            "resilience": {
                "class": "logging.StreamHandler",
                "stream": f"ext://sys.{config.log.stream}",
                "filters": ["resilience"],
                "formatter": "resilience",
            }
        },
        "root": {"level": config.log.level.upper(), "handlers": ["resilience"]},
        "loggers": loggers,
    }


def _checked(config: object) -> Config:
    if config is None:
        return load()
    if not isinstance(config, Config):  # only its type is shown: it may hold a password
        raise ConfigurationError([Problem("config", type(config).__name__, "a Config, such as toolkit.config")])
    return config


def _arguments(config: Config) -> dict[str, Any]:
    log = config.log
    return {"service_name": config.service.name, "max_text": log.max_text, "redact": log.redact}


def _remove_terminal_handlers(logger: logging.Logger) -> None:
    for handler in logger.handlers[:]:
        if isinstance(handler, _OwnHandler) or _writes_to_terminal(handler):
            logger.removeHandler(handler)


def _writes_to_terminal(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None)
    return isinstance(handler, logging.StreamHandler) and stream in (
        sys.stdout,
        sys.stderr,
        sys.__stdout__,
        sys.__stderr__,
    )
