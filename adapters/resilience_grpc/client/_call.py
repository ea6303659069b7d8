"""One call to another service, however many attempts are made of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

import grpc
import grpc.aio
from grpc import StatusCode

from resilience.client import ClientContext, is_out_of_time
from resilience.clock import monotonic
from resilience.timeout import Deadline, DeadlineSnapshot, allowed_by_service
from resilience_grpc._method_names import service_of
from resilience_grpc._types import Metadata, Metadatum
from resilience_grpc.client._errors import CallError

__all__ = (
    "AttemptSuperseded",
    "CallDetails",
    "CallObject",
    "OutgoingCall",
    "SentDetails",
    "aio_details",
    "method_of",
)

_PREVIOUS_ATTEMPTS = "grpc-previous-rpc-attempts"
"""gRFC A6: the number of attempts that were made before this one."""


class AttemptSuperseded(BaseException):
    """The attempt was cancelled because its call has ended. It has no outcome: no policy counts it."""


class CallDetails(Protocol):
    """The members of call details that both stacks have."""

    @property
    def method(self) -> str | bytes: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def metadata(self) -> Metadata | None: ...
    @property
    def credentials(self) -> grpc.CallCredentials | None: ...
    @property
    def wait_for_ready(self) -> bool | None: ...


class CallObject(Protocol):
    """The members of call objects that both stacks have."""

    def cancel(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def done(self) -> bool: ...
    def time_remaining(self) -> float | None: ...
    def add_done_callback(self, callback: Callable[[Any], None], /) -> None: ...


SentT = TypeVar("SentT")
"""What sending an attempt returns: its call object on `grpc`, an awaitable of it on `grpc.aio`."""
CallT = TypeVar("CallT", bound=CallObject)


class SentDetails(grpc.ClientCallDetails):
    """The call details of one attempt on `grpc`."""

    def __init__(self, given: CallDetails, timeout: float | None, metadata: Any) -> None:
        self.method = given.method  # type: ignore[assignment]  # text on `grpc`
        self.timeout = timeout
        self.metadata = metadata
        self.credentials = given.credentials
        self.wait_for_ready = given.wait_for_ready
        self.compression = getattr(given, "compression", None)


def aio_details(given: CallDetails, timeout: float | None, metadata: Metadata | None) -> grpc.aio.ClientCallDetails:
    """Return the call details of one attempt on `grpc.aio`, which keeps the compression in the metadata."""
    sent = grpc.aio.Metadata(*(metadata or ()))
    method: Any = given.method  # bytes, whatever the stub says
    return grpc.aio.ClientCallDetails(method, timeout, sent, given.credentials, given.wait_for_ready)


class OutgoingCall(Generic[SentT, CallT]):
    """One call. Policies that work by key are given this object.

    Args:
        send: The continuation of grpcio: sends one attempt, by call details and request.
        details: The call details that the caller gave.
        request: The message, or an iterator of messages if requests are streamed.
        client_context: Makes metadata and timeout of each attempt.
        decode: Makes our error from an error of grpcio.
        rebuild: Makes the call details of an attempt from those of the caller, a timeout and metadata.
        is_repeatable: Whether another attempt may follow. Default: False.
    """

    __slots__ = (
        "_allowance",
        "_attempt_numbers",
        "_attempts",
        "_client_context",
        "_decode",
        "_details",
        "_rebuild",
        "_responses",
        "_send",
        "_snapshot",
        "current_attempt",
        "deadline",
        "has_ended",
        "is_cancelled",
        "is_repeatable",
        "method",
        "on_begun",
        "request",
    )

    def __init__(
        self,
        send: Callable[[Any, Any], SentT],
        details: CallDetails,
        request: object,
        client_context: ClientContext,
        decode: Callable[[Exception], CallError],
        rebuild: Callable[[CallDetails, float | None, Metadata | None], object] = SentDetails,
        *,
        is_repeatable: bool = False,
    ) -> None:
        method = details.method
        self.method: str = method if isinstance(method, str) else method.decode()
        """The full name of the method: `/shop.Orders/Get`."""
        self.request = request
        self.deadline = _deadline(details.timeout, client_context)
        """The end of all attempts together, by the caller's own `timeout`. None if there is no such timeout."""
        self.is_repeatable = is_repeatable
        self.has_ended = False
        """Whether the call has a result, so that an attempt that ends now is superseded."""
        self.is_cancelled = False
        """Whether the caller has cancelled the call."""
        self.current_attempt = cast("CallT", None)  # before the first attempt has begun, nothing asks for it
        """The call object of the latest attempt."""
        self.on_begun: Callable[[CallT], object] | None = None
        """Called with the call object of each attempt that has begun."""
        self._send, self._details, self._client_context, self._rebuild = send, details, client_context, rebuild
        self._decode = decode
        self._allowance: float | None = None
        self._snapshot = DeadlineSnapshot(None)
        self._attempt_numbers = itertools.count()
        self._responses: list[tuple[object, CallT]] = []
        self._attempts: list[CallT] = []

    @property
    def service(self) -> str:
        """The name of the service: `shop.Orders` of `/shop.Orders/Get`."""
        return service_of(self.method)

    @property
    def metadata(self) -> tuple[Metadatum, ...]:
        """The metadata that the caller gave."""
        return tuple(self._details.metadata or ())

    def attempt(self) -> SentT:
        """Send another attempt, and return its call object (an awaitable of it on grpc.aio).

        Raises:
            DeadlineExceededError: No time is left for the attempt.
        """
        self._snapshot = DeadlineSnapshot(Deadline.current())
        timeout = self._allowance = self._client_context.timeout(self._details.timeout)
        return self._send(self._rebuild(self._details, timeout, self._metadata_to_send()), self.request)

    def _metadata_to_send(self) -> Metadata | None:
        added = self._client_context.metadata()
        number, given = next(self._attempt_numbers), self._details.metadata
        if added and given:
            names = {name for name, _ in given}
            added = tuple(pair for pair in added if pair[0] not in names)
        if number:
            added = (*added, (_PREVIOUS_ATTEMPTS, str(number)))
        return (*(given or ()), *added) if added else given

    def begun(self, call: CallT) -> CallT:
        """Note the call object of an attempt that has begun."""
        self.current_attempt = call
        if self.on_begun is not None:
            self.on_begun(call)
        return call

    def decode(self, raised: Exception) -> CallError:
        """Return our error for an error of an attempt, with the deadline that ended the attempt, if one did."""
        error, seconds = self._decode(raised), self._allowance
        if error.call_status.status is not StatusCode.DEADLINE_EXCEEDED:
            return error
        if seconds is None or error.allowed is not None:
            return error
        if is_out_of_time(seconds, self._snapshot.left - self._client_context.options.margin):
            error.allowed = allowed_by_service(seconds, self._details.timeout, self._snapshot.moved)
            error.seconds = seconds
        return error

    def track(self, call: CallT) -> CallT:
        """Note an attempt that is to be cancelled when another one has won, or now if one has won already."""
        self._attempts.append(call)
        if self.has_ended:
            call.cancel()
        return call

    def record_response(self, response: object, call: CallT) -> object:
        """Note which attempt has brought `response`, and return the response."""
        self._responses.append((response, call))
        return response

    def call_of(self, response: object) -> CallT | None:
        """Return the attempt that has brought `response`, None if a policy has given the response."""
        return next((call for known, call in reversed(self._responses) if known is response), None)

    def cancel_attempts(self) -> None:
        """End the call: cancel every attempt that is still in flight."""
        self.has_ended = True
        for call in self._attempts:
            call.cancel()


def _deadline(timeout: float | None, client_context: ClientContext) -> Deadline | None:
    """Return the caller's own `timeout` as a deadline.

    The client context keeps a margin back from each deadline for the service that waits for us. Nothing has to be kept
    back from the caller's timeout, so the margin is added.
    """
    return None if timeout is None else Deadline(monotonic() + timeout + client_context.options.margin)


def method_of(call: OutgoingCall[SentT, CallT]) -> str:
    """Return the method of a call as `shop.Orders/Get`, the key of policies that are one per method."""
    return call.method.lstrip("/")
