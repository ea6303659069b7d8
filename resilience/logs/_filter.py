"""A filter for log handlers that adds the ids of the request and of the trace to each record."""

from __future__ import annotations

import logging

from resilience.logs._ids import current_ids
from resilience.logs._line import NO_ID

__all__ = ("ContextFilter",)


class ContextFilter(logging.Filter):
    """Adds `request_id`, `trace_id`, `span_id`, `trace_sampled` and `service_name` to each record of a handler.

    Any formatter can then use them, as in `%(request_id)s`. An id that does not exist is `-`. A field that the record
    has already, from `extra`, stays. Put the filter on the handler: a filter on a logger misses the records of its
    child loggers. Put it on the `QueueHandler`, if there is one: the context is known in the thread that logs.

    Args:
        service_name: The name of the service.

    Example:
        >>> record = logging.makeLogRecord({"msg": "paid"})
        >>> ContextFilter("shop").filter(record), record.service_name, record.request_id
        (True, 'shop', '-')
    """

    def __init__(self, service_name: str = "service") -> None:
        super().__init__()
        self._service_name = service_name

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields. Every record passes."""
        fields = record.__dict__
        ids = current_ids()
        for name, value in (
            ("request_id", ids.request_id or NO_ID),
            ("trace_id", ids.trace_id or NO_ID),
            ("span_id", ids.span_id or NO_ID),
            ("trace_sampled", ids.is_sampled),
            ("service_name", self._service_name),
        ):
            fields.setdefault(name, value)
        return True
