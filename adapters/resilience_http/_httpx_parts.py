"""What both transports know of httpx: its errors and its requests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import httpx

from resilience import DeadlineExceededError, ErrorCatalog, Pipeline, Resilience
from resilience.client import ClientContext, is_failure, may_repeat
from resilience.envelope import read_envelope
from resilience.errors import Portable
from resilience.timeout import Deadline
from resilience_http._envelope import LARGEST, fits, may_be_envelope
from resilience_http._exchange import SMALL, Exchange, wait_asked_by
from resilience_http._httpx_body import Held
from resilience_http._httpx_errors import LateError
from resilience_http._pipeline import Errors, Guards, host_of, pipeline_for
from resilience_http._time import StepTimeouts, is_spent

__all__ = ("FailedResponse", "TransportParts")

_ERRORS = Errors(
    transient=(httpx.TransportError, httpx.HTTPStatusError),
    permanent=(httpx.UnsupportedProtocol, httpx.LocalProtocolError),
    ours=(httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.PoolTimeout),
)


class FailedResponse(Portable, httpx.HTTPStatusError):
    """An answer that policies are to judge as a failure. The client is given `response` itself."""

    def __init__(
        self,
        request: httpx.Request,
        response: httpx.Response,
        *,
        seconds: float | None = None,
        allowed: float | None = None,
    ) -> None:
        status = response.status_code
        super().__init__(f"{host_of(request)} answered {status}", request=request, response=response)
        self.retry_after = wait_asked_by(response, status)
        self.seconds, self.allowed = seconds, allowed
        self.is_callers = allowed is not None

    def discard(self) -> None:
        """Free the connection: another attempt follows, and this answer is not read."""
        if isinstance(self.response.stream, Held):
            self.response.stream.discard()


class TransportParts:
    """What a transport was told, and what it does to a request before it goes out."""

    def __init__(
        self,
        resilience: Resilience | None,
        pipeline: Pipeline | str | None,
        *,
        sends_context: bool,
        reads_bodies: bool,
        raises_envelopes: bool,
        catalog: ErrorCatalog | None,
    ) -> None:
        self.toolkit = Resilience.of(resilience)
        self.guards = Guards(pipeline_for(self.toolkit, pipeline, _ERRORS), _when_closed)
        self._client_context = ClientContext.of(self.toolkit)
        self._margin = self._client_context.options.margin
        self._sends_context = sends_context
        self._reads_bodies = reads_bodies
        self.raises_envelopes = raises_envelopes
        self._catalog = catalog

    def exchange_for(self, request: httpx.Request) -> Exchange[httpx.Response]:
        """Begin an exchange; it may be repeated where that does no harm, and the body is there to be sent again."""
        repeats = may_repeat(request.method, request.headers) and isinstance(request.stream, httpx.ByteStream)
        return Exchange(repeats=repeats)

    def addressed(self, request: httpx.Request) -> tuple[httpx.Request, StepTimeouts]:
        """Return what to send: the request itself stays as it is, for redirects are made from it.

        Headers that the caller has set win over ours.
        """
        try:
            carried = self._client_context.headers() if self._sends_context else {}
            if not self._sends_context:
                self._client_context.refuse_if_spent()
        except DeadlineExceededError as spent:
            raise LateError(str(spent), request=request, seconds=0.0) from None
        headers = request.headers.copy()
        for name, text in carried.items():
            headers.setdefault(name, text)
        times = StepTimeouts(request.extensions.get("timeout", {}), Deadline.current(), self._margin)
        extensions = {**request.extensions, "timeout": times}
        return httpx.Request(
            request.method, request.url, headers=headers, stream=request.stream, extensions=extensions
        ), times

    def begins(self, exchange: Exchange[httpx.Response], response: httpx.Response, times: StepTimeouts) -> bool:
        """Take note that a head has come; says whether the body is to be read at once."""
        times.deadline = exchange.deadline
        return self._reads_bodies or (
            exchange.repeats and is_failure(response.status_code) and fits(response.headers, SMALL)
        )

    def late(self, exchange: Exchange[httpx.Response], request: httpx.Request, times: StepTimeouts) -> LateError | None:
        """Return the error to raise for a timeout of httpx, where it was a deadline that ended the step."""
        return self.too_late(exchange, request, times) if times.is_spent else None

    def too_late(self, exchange: Exchange[httpx.Response], request: httpx.Request, times: StepTimeouts) -> LateError:
        """Return the error to raise where a deadline has passed."""
        retryable = not is_spent(exchange.deadline, self._margin)
        seconds, allowed = times.allowance.seconds, times.allowance.allowed
        message = "the deadline passed before the answer"
        return LateError(message, request=request, seconds=seconds, retryable=retryable, allowed=allowed)

    def judge(
        self,
        exchange: Exchange[httpx.Response],
        request: httpx.Request,
        response: httpx.Response,
        times: StepTimeouts,
    ) -> httpx.Response:
        """Return a response that policies are to take for a success; raise one that is a failure."""
        if not is_failure(response.status_code):
            return response
        exchange.failed(response)
        allowed = times.allowance.allowed_before(response.status_code, self._margin) if self._sends_context else None
        raise FailedResponse(request, response, seconds=times.allowance.seconds, allowed=allowed)

    def may_hold_envelope(self, response: httpx.Response) -> bool:
        """Whether a response is an error to be raised as its envelope."""
        return self.raises_envelopes and may_be_envelope(response.status_code, response.headers)

    def raise_envelope(self, response: httpx.Response, raw: bytes) -> None:
        """Raise the error a response holds, if its body holds one."""
        pieces = (raw[at : at + SMALL] for at in range(0, len(raw), SMALL))
        copy, body = httpx.Response(response.status_code, headers=response.headers, content=pieces), b""
        with contextlib.suppress(httpx.DecodingError):
            for part in copy.iter_bytes():  # of little, much may come
                body += part
                if len(body) > LARGEST:
                    return
        error = read_envelope(response.status_code, body, response.headers, catalog=self._catalog)
        if error is not None:
            raise error


def _when_closed(response: Any, settle: Callable[[], None]) -> bool:
    body = getattr(response, "stream", None)
    if not isinstance(body, Held):
        return False
    body.settles.append(settle)
    return True
