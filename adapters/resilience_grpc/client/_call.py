"""One call on its way out, however many attempts are made of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import grpc
from grpc import StatusCode

from resilience.client import ClientContext, is_out_of_time
from resilience.clock import monotonic
from resilience.timeout import Deadline, DeadlineSnapshot, allowed_by_service
from resilience_grpc._method_names import service_of
from resilience_grpc.client._errors import CallError

__all__ = ("Details", "Lost", "Outgoing", "aio_details", "method_of")

ATTEMPTS = "grpc-previous-rpc-attempts"
"""gRFC A6: how many attempts came before this one."""


class Lost(BaseException):
    """The attempt was cancelled because its call is over: no outcome, for anybody."""


class Details(grpc.ClientCallDetails):
    """What grpcio is told of an attempt."""

    def __init__(self, given: Any, timeout: float | None, metadata: Any) -> None:
        self.method = given.method
        self.timeout = timeout
        self.metadata = metadata
        self.credentials = given.credentials
        self.wait_for_ready = given.wait_for_ready
        self.compression = getattr(given, "compression", None)


def aio_details(given: Any, timeout: float | None, metadata: Any) -> Any:
    """Return the same for grpc.aio, which has the compression in the metadata."""
    sent = grpc.aio.Metadata(*(metadata or ()))
    return grpc.aio.ClientCallDetails(given.method, timeout, sent, given.credentials, given.wait_for_ready)


class Outgoing:
    """One call: what policies that work by key are given.

    `method` is `/shop.Orders/Get`, `request` the message (an iterator where requests are streamed), `metadata` what the
    caller gave.
    """

    __slots__ = (
        "_allowance",
        "_client_context",
        "_decode",
        "_given",
        "_landed",
        "_numbers",
        "_open",
        "_rebuild",
        "_send",
        "_snapshot",
        "begun",
        "deadline",
        "is_cancelled",
        "is_over",
        "method",
        "repeats",
        "request",
    )

    def __init__(
        self,
        send: Callable[[Any, Any], Any],
        given: Any,
        request: Any,
        client_context: ClientContext,
        decode: Callable[[Any], CallError],
        rebuild: Callable[[Any, Any, Any], Any] = Details,
        *,
        repeats: bool = False,
    ) -> None:
        method = given.method
        self.method: str = method if isinstance(method, str) else method.decode()
        self.request = request
        self.deadline = _deadline(given.timeout, client_context)
        self.begun: Any = None
        """The attempt made last, or a snapshot of it."""
        self.repeats = repeats
        """Whether another attempt may follow."""
        self.is_over = False
        """Whether an attempt that ends now has lost."""
        self.is_cancelled = False
        """Whether the caller has no use for an outcome any more."""
        self._send, self._given, self._client_context, self._rebuild = send, given, client_context, rebuild
        self._decode = decode
        self._allowance: float | None = None
        self._snapshot = DeadlineSnapshot(None)
        self._numbers = itertools.count()
        self._landed: list[tuple[Any, Any]] = []
        self._open: list[Any] = []

    @property
    def service(self) -> str:
        """`shop.Orders` of `/shop.Orders/Get`."""
        return service_of(self.method)

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the caller gave."""
        return tuple(self._given.metadata or ())

    def attempt(self) -> Any:
        """Begin another attempt and return its call (to be awaited first, on grpc.aio).

        Raises `DeadlineExceededError` where no time is left for it.
        """
        self._snapshot = DeadlineSnapshot(Deadline.current())
        timeout = self._allowance = self._client_context.timeout(self._given.timeout)
        return self._send(self._rebuild(self._given, timeout, self._sent()), self.request)

    def decode(self, raised: Any) -> CallError:
        """Return what `raised`, a `grpc.RpcError` of an attempt, means."""
        error, seconds = self._decode(raised), self._allowance
        if error.facts.status is not StatusCode.DEADLINE_EXCEEDED or seconds is None or error.allowed is not None:
            return error
        if is_out_of_time(seconds, self._snapshot.left - self._client_context.options.margin):
            error.allowed = allowed_by_service(seconds, self._given.timeout, self._snapshot.moved)
            error.seconds = seconds
        return error

    def _sent(self) -> Any:
        added = self._client_context.metadata()
        number, given = next(self._numbers), self._given.metadata
        if added and given:
            known = {name for name, _ in given}
            added = tuple(pair for pair in added if pair[0] not in known)
        if number:
            added = (*added, (ATTEMPTS, str(number)))
        return (*(given or ()), *added) if added else given

    def stoppable(self, call: Any) -> Any:
        """Take note of a call that is to be cancelled when another attempt has won; at once where one has."""
        self._open.append(call)
        if self.is_over:
            call.cancel()
        return call

    def landed(self, response: Any, call: Any) -> Any:
        """Take note of which call has brought `response`."""
        self._landed.append((response, call))
        return response

    def over(self) -> None:
        """Cancel every attempt that is still under way."""
        self.is_over = True
        for call in self._open:
            call.cancel()

    def call_of(self, response: Any) -> Any:
        """Return the call that brought `response`, None where a policy stood in for it."""
        return next((call for known, call in reversed(self._landed) if known is response), None)


def _deadline(timeout: float | None, client_context: ClientContext) -> Deadline | None:
    """Return what the caller's own `timeout` means for all attempts together.

    The margin is kept back from the deadline of whoever waits for us; this one is kept to the end.
    """
    return None if timeout is None else Deadline(monotonic() + timeout + client_context.options.margin)


def method_of(call: Outgoing) -> str:
    """Return the method a call goes to, as `shop.Orders/Get`: for policies that are one per method."""
    return call.method.lstrip("/")
