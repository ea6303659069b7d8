"""Functions that raise in another process; in a module of its own, which a spawned process can import."""

from __future__ import annotations

import grpc
import grpc.aio
import httpx2

from resilience import AppError, CircuitBreaker, Pipeline, RateLimitedError
from resilience.errors import joined_class
from resilience_grpc.client._errors import CallStatus, as_call_error
from resilience_http._transports._parts import FailedResponseError

__all__ = ("OrderError", "fail")


class OrderError(AppError):
    """A subclass with a constructor of its own."""

    def __init__(self, order: int, *, shop: str) -> None:
        super().__init__("SHOP_P001", f"order {order}", details={"shop": shop})
        self.order = order


def fail(name: str) -> None:
    """Raise what policies, clients and services raise."""
    if name == "open":
        breaker = CircuitBreaker(1, name="ledger", throw_new_error_on_trip=True)
        Pipeline("p", breaker).call(_busy)
    if name == "own":
        raise OrderError(7, shop="north")
    if name == "rpc":
        status = CallStatus(grpc.StatusCode.UNAVAILABLE, "down", (), grpc.aio.Metadata(("x-request-id", "r-9")))
        raise as_call_error(AppError("SHOP_C001", retry_after=2.5), status, is_aio=True)
    if name == "group":
        raise ExceptionGroup("g", [RateLimitedError("no", policy="limit", retry_after=2.0)])


def _busy() -> None:
    request = httpx2.Request("GET", "http://shop.example/")
    failed = joined_class(FailedResponseError, httpx2.HTTPStatusError)
    raise failed(request, httpx2.Response(503, headers={"Retry-After": "7"}, request=request))
