"""One line in the log for each request that was answered."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from resilience._support.log_writer import may_write, write_line
from resilience._support.printable import one_line
from resilience.clock import monotonic

__all__ = ("RequestRecord",)

_LOG = logging.getLogger("resilience.requests")
_LONGEST_METHOD, _LONGEST_ROUTE = 20, 300


class RequestRecord:
    """The facts of the line of one request. It is made when the request begins, and written when its answer has ended.

    The line has the template of the route and never the path, which may hold secrets and names of customers. Nor does
    it have the query.
    """

    __slots__ = ("_began", "route", "status")

    def __init__(self) -> None:
        self._began = monotonic()
        self.route: str | None = None
        """The template of the route, None if no route has served the request; the method of a gRPC service."""
        self.status: int | str | None = None
        """The status that the client gets, None until it is sent: a number, or the name of a status of gRPC."""

    @property
    def seconds(self) -> float:
        """The time since the beginning."""
        return monotonic() - self._began

    def write(self, method: str, client: str, ids: Mapping[str, str]) -> None:
        """Write the line.

        Args:
            method: The HTTP method; "" for gRPC.
            client: The address of the client.
            ids: The ids of the request, if the line is written outside of its context.
        """
        if not may_write(logging.INFO, _LOG):
            return
        duration = self.seconds * 1000
        route = None if self.route is None else one_line(self.route, _LONGEST_ROUTE)
        status = "no answer" if self.status is None else self.status
        took = f"{status} in {duration:.3g} ms" if duration < 1000 else f"{status} in {duration:.0f} ms"  # noqa: PLR2004 - three digits
        if method:
            method = one_line(method, _LONGEST_METHOD)
            text = f"{method} {'(no route)' if route is None else route} {took}"
            fields = {"http_method": method, "http_route": route, "http_status": self.status}
        else:
            text = f"{route} {took}"
            fields = {"grpc_method": route, "grpc_status": self.status}
        extra = {**fields, "duration_ms": round(duration, 3), "client_address": client or None, **ids}
        write_line(logging.INFO, text, extra=extra, logger=_LOG)
