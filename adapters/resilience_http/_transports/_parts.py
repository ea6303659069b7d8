"""The parts of both transports that need no network: requests, errors, and the verdict on a response."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Generic, TypeVar

from resilience import DeadlineExceededError, ErrorCatalog, Pipeline, Resilience
from resilience.client import ClientContext, is_failure, may_repeat
from resilience.envelope import read_envelope
from resilience.errors import ConfigurationError, Portable, joined_class
from resilience.timeout import Deadline
from resilience_http._envelope import MAX_ENVELOPE, fits, may_be_envelope
from resilience_http._exchange import MAX_READ_AHEAD, ClientExchange, StepTimeouts, is_spent, retry_after_of
from resilience_http._pipeline import PipelinePair, host_of, pipeline_for, toolkit_of
from resilience_http._transports._bodies import TrackedBody
from resilience_http._transports._library import Foreign, HTTPXLibrary, HTTPXRequest, HTTPXResponse

__all__ = ("FailedResponseError", "TransportParts")

Q = TypeVar("Q", bound=HTTPXRequest)
A = TypeVar("A", bound=HTTPXResponse)


class FailedResponseError(Portable, Exception):
    """Raised to the policies for a response that is a failure. The client gets `response` itself.

    Policies get it as a `HTTPStatusError` of the library.
    """

    def __init__(
        self, request: HTTPXRequest, response: Foreign, *, seconds: float | None = None, allowed: float | None = None
    ) -> None:
        status = response.status_code
        Exception.__init__(self, f"{host_of(request)} answered {status}")
        self.request, self.response = request, response
        self.retry_after = retry_after_of(response, status)
        self.seconds, self.allowed = seconds, allowed
        self.is_callers = allowed is not None

    @property
    def log_name(self) -> str:
        """The error in the log: the type that policies name, and the status."""
        return f"HTTPStatusError {self.response.status_code}"

    def discard(self) -> None:
        """Free the connection: another attempt follows, and this response is not read."""
        if isinstance(self.response.stream, TrackedBody):
            self.response.stream.discard()


class TransportParts(Generic[Q, A]):
    """The settings of a transport, and its work on a request before and after the network."""

    def __init__(
        self,
        library: HTTPXLibrary[Q, A],
        resilience: Resilience | None,
        pipeline: Pipeline | str | None,
        *,
        sends_context: bool,
        reads_bodies: bool,
        raises_envelopes: bool,
        catalog: ErrorCatalog | None,
    ) -> None:
        self.library = library
        self._failed_response = joined_class(FailedResponseError, library.status_error)
        self.toolkit = toolkit_of(resilience)
        self.pipelines = PipelinePair.of(pipeline_for(self.toolkit, pipeline, library.errors), _when_closed)
        self._client_context = ClientContext.of(self.toolkit)
        self._margin = self._client_context.options.margin
        self._sends_context = sends_context
        self._reads_bodies = reads_bodies
        self.raises_envelopes = raises_envelopes
        self._catalog = catalog

    def exchange_for(self, request: Q) -> ClientExchange[A]:
        """Begin a request. It may be repeated if that does no harm and its body can be sent again."""
        if not isinstance(request, self.library.request_class):
            raise ConfigurationError(_other_library(self.library.name, request))
        repeats = may_repeat(request.method, request.headers) and isinstance(request.stream, self.library.byte_stream)
        return ClientExchange(repeats=repeats)

    def prepared(self, request: Q) -> tuple[Q, StepTimeouts]:
        """Return a copy of the request to send, with our headers, and its timeouts.

        Headers of the caller win over ours. The request itself does not change: httpx makes redirects from it.
        """
        try:
            carried = self._client_context.headers() if self._sends_context else {}
            if not self._sends_context:
                self._client_context.refuse_if_spent()
        except DeadlineExceededError as spent:
            raise self.library.errors.deadline_error(str(spent), request, seconds=0.0) from None
        headers = request.headers.copy()
        for name, text in carried.items():
            headers.setdefault(name, text)
        times = StepTimeouts(request.extensions.get("timeout", {}), Deadline.current(), self._margin)
        extensions = {**request.extensions, "timeout": times}
        return self.library.request_class(
            request.method, request.url, headers=headers, stream=request.stream, extensions=extensions
        ), times

    def begins(self, exchange: ClientExchange[A], response: A, times: StepTimeouts) -> bool:
        """Give the body the caller's deadline, and return whether the body must be read at once."""
        times.deadline = exchange.deadline
        return self._reads_bodies or (
            exchange.repeats and is_failure(response.status_code) and fits(response.headers, MAX_READ_AHEAD)
        )

    def late(self, exchange: ClientExchange[A], request: Q, times: StepTimeouts) -> Exception | None:
        """Return the error to raise for a timeout of httpx, if a deadline has ended the step; else None."""
        return self.deadline_error(exchange, request, times) if times.is_spent else None

    def deadline_error(self, exchange: ClientExchange[A], request: Q, times: StepTimeouts) -> Exception:
        """Return the error of a deadline that has passed."""
        retryable = not is_spent(exchange.deadline, self._margin)
        seconds, allowed = times.allowance.seconds, times.allowance.allowed
        message = "the deadline passed before the answer"
        return self.library.errors.deadline_error(
            message, request, seconds=seconds, allowed=allowed, retryable=retryable
        )

    def check_response(
        self,
        exchange: ClientExchange[A],
        request: Q,
        response: A,
        times: StepTimeouts,
    ) -> A:
        """Return a response that is a success for the policies; raise if it is a failure."""
        if not is_failure(response.status_code):
            return response
        exchange.add_failed(response)
        allowed = times.allowance.allowed_before(response.status_code, self._margin) if self._sends_context else None
        raise self._failed_response(request, response, seconds=times.allowance.seconds, allowed=allowed)

    def may_hold_envelope(self, response: A) -> bool:
        """Return whether a response may be an error that is raised as its `AppError`."""
        return self.raises_envelopes and may_be_envelope(response.status_code, response.headers)

    def raise_envelope(self, request: Q, response: A, raw: bytes) -> None:
        """Raise the `AppError` of a response whose body `raw` has been read and is an envelope."""
        pieces = (raw[at : at + MAX_READ_AHEAD] for at in range(0, len(raw), MAX_READ_AHEAD))
        copy, body = self.library.response_class(response.status_code, headers=response.headers, content=pieces), b""
        with contextlib.suppress(self.library.decoding_error):
            for part in copy.iter_bytes():  # a short body may decompress to a long one
                body += part
                if len(body) > MAX_ENVELOPE:
                    return
        error = read_envelope(response.status_code, body, response.headers, catalog=self._catalog)
        if error is not None:
            response.request = request
            response.read()  # `raw` again, for the handler of the error
            raise self.library.errors.as_theirs(error, request, response)


def _other_library(ours: str, request: object) -> str:
    theirs = type(request).__module__.partition(".")[0]
    return f"this transport is for {ours}, and its client is one of {theirs}: import it from resilience_http.{theirs}"


def _when_closed(response: object, settle: Callable[[], None]) -> bool:
    body = getattr(response, "stream", None)
    if not isinstance(body, TrackedBody):
        return False
    body.settles.append(settle)
    return True
