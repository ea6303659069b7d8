"""Logs of a service: one JSON line for each record, with the ids of its request and its trace.

Nothing here changes a logger until `configure_logging()` is called. The parts can be used alone: `ContextFilter` and
`JsonFormatter` on any handler, `StructlogProcessor` in any chain of structlog.
"""

from resilience.event_log import LogOptions
from resilience.logs._configure import configure_logging, logging_config
from resilience.logs._filter import ContextFilter
from resilience.logs._formatters import JsonFormatter, TextFormatter
from resilience.logs._structlog import StructlogProcessor

__all__ = (
    "ContextFilter",
    "JsonFormatter",
    "LogOptions",
    "StructlogProcessor",
    "TextFormatter",
    "configure_logging",
    "logging_config",
)
