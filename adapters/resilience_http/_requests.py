"""The adapter of `requests.Session`."""

from __future__ import annotations

import contextlib
import functools
import socket
import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from requests.models import PreparedRequest, Response
from urllib3.util import Timeout as StepTimeout

from resilience import DeadlineExceededError, ErrorCatalog, Pipeline, Resilience, idempotent
from resilience.client import ClientContext, is_failure, may_repeat
from resilience.envelope import read_envelope
from resilience.errors import Portable
from resilience.timeout import Deadline
from resilience_http._envelope import LARGEST, fits, may_be_envelope
from resilience_http._exchange import SMALL, Exchange, wait_asked_by
from resilience_http._pipeline import Errors, Guards, host_of, pipeline_for
from resilience_http._requests_body import body_of
from resilience_http._time import LEAST, Allowance, is_spent, longest

__all__ = ("ResilienceAdapter",)

_ERRORS = Errors(
    transient=(
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        requests.HTTPError,
    ),
    permanent=(requests.exceptions.SSLError,),
    ours=(ValueError,),  # InvalidURL, InvalidHeader and their like
)


class FailedResponse(Portable, requests.HTTPError):
    """An answer that policies are to judge as a failure. The session is given `response` itself."""

    def __init__(
        self,
        request: PreparedRequest,
        response: Response,
        *,
        seconds: float | None = None,
        allowed: float | None = None,
    ) -> None:
        super().__init__(f"{host_of(request)} answered {response.status_code}", request=request, response=response)
        self.answer = response
        self.retry_after = wait_asked_by(response, response.status_code)
        self.seconds, self.allowed = seconds, allowed
        self.is_callers = allowed is not None

    def discard(self) -> None:
        """Free the connection: another attempt follows, and this answer is not read."""
        _close([self.answer])


class LateError(DeadlineExceededError, requests.Timeout):
    """The deadline in force, rather than a timeout of the session, left no time; for handlers of either kind."""

    def __init__(
        self,
        message: str,
        *,
        request: PreparedRequest,
        seconds: float | None = None,
        retryable: bool = False,
        allowed: float | None = None,
    ) -> None:
        requests.Timeout.__init__(self, message, request=request)
        self.policy, self.seconds, self.running, self.allowed = "client", seconds, None, allowed
        self.retryable = retryable  # only where it was one attempt's time, and the caller has more of it


class ResilienceAdapter(HTTPAdapter):
    """Guards every request of a `requests.Session`: `session.mount("https://", ResilienceAdapter())`.

    Arguments are those of `ResilienceTransport`, and of `requests.adapters.HTTPAdapter` by name. Unless `stream=True`,
    a body is read within the guarded call, so one that breaks off is a failure too; a stream holds its place in a
    bulkhead until it is read or closed.

    Raises `RejectedError` where a policy refuses, and an error that is both a `DeadlineExceededError` and a
    `requests.Timeout` where the deadline in force leaves no time.

    A session can be pickled with one that takes all from the configuration: where it is unpickled it is configured by
    what is set there. With a `Resilience` or `Pipeline` of its own it is a `TypeError`.
    """

    __attrs__ = (*HTTPAdapter.__attrs__, "_given", "_sends_context", "_raises_envelopes", "_catalog")

    def __init__(
        self,
        resilience: Resilience | None = None,
        *,
        pipeline: Pipeline | str | None = None,
        sends_context: bool = True,
        raises_envelopes: bool = False,
        catalog: ErrorCatalog | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._given = resilience, pipeline
        self._sends_context = sends_context
        self._raises_envelopes = raises_envelopes
        self._catalog = catalog
        self._build()

    def _build(self) -> None:
        resilience, pipeline = self._given
        self.toolkit = Resilience.of(resilience)
        self._guards = Guards(pipeline_for(self.toolkit, pipeline, _ERRORS), _when_closed)
        self.client_context = ClientContext.of(self.toolkit)

    def __getstate__(self) -> object:
        resilience, pipeline = self._given
        if resilience is not None or isinstance(pipeline, Pipeline):
            raise TypeError(
                "this ResilienceAdapter cannot be copied or pickled: its Resilience or Pipeline lives in this process. "
                "Name a pipeline that is configured (ResilienceAdapter(pipeline='payments')), or mount the adapter "
                "where the session is used."
            )
        return super().__getstate__()

    def __setstate__(self, state: object) -> None:
        super().__setstate__(state)  # type: ignore[misc]  # the stubs leave it out
        self._build()

    @property
    def pipeline(self) -> Pipeline:
        """What guards requests that may be repeated; others go through the same policies less those that repeat."""
        return self._guards.repeating

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - requests' signature
        timeout: Any = None,
        verify: Any = True,  # noqa: FBT002 - requests' signature
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Send a request, through the policies, as often as they say."""
        repeats = may_repeat(request.method or "", request.headers) and isinstance(request.body, bytes | str | None)
        exchange: Exchange[Response] = Exchange(repeats=repeats)
        settings = {"stream": stream, "timeout": timeout, "verify": verify, "cert": cert, "proxies": proxies}
        call = _Call(self, exchange, settings)
        try:
            answer = self._guarded(call, request, repeats=repeats)
            _close(exchange.ended(answer))
        except BaseException:
            _close(exchange.ended(None))
            raise
        answer.request = request  # what is sent again (redirects, authentication) is made from it, not from our copy
        return answer

    def send_plain(self, request: PreparedRequest, settings: dict[str, Any]) -> Response:
        """Send a request as it is."""
        return super().send(request, **settings)

    def addressed(self, request: PreparedRequest) -> PreparedRequest:
        """Return what to send: a copy with what it carries. Headers that the caller has set win over ours."""
        try:
            carried = self.client_context.headers() if self._sends_context else {}
            if not self._sends_context:
                self.client_context.refuse_if_spent()
        except DeadlineExceededError as spent:
            raise LateError(str(spent), request=request, seconds=0.0) from None
        sent = request.copy()
        for name, text in carried.items():
            sent.headers.setdefault(name, text)
        return sent

    def allowed_before(self, answer: Response, allowance: Allowance) -> float | None:
        """Return the seconds this service allows, if `answer` says that the deadline we sent has passed."""
        if not self._sends_context:
            return None
        return allowance.allowed_before(answer.status_code, self.client_context.options.margin)

    def _guarded(self, call: _Call, request: PreparedRequest, *, repeats: bool) -> Response:
        try:
            if repeats:
                answer = self._guards.repeating.call(call.again, request)
            else:
                answer = self._guards.once.call(call.once, request)
        except FailedResponse as failed:
            answer = failed.answer
        if self._raises_envelopes and may_be_envelope(answer.status_code, answer.headers):
            self._raise_envelope(answer)
        return answer

    def _raise_envelope(self, answer: Response) -> None:
        body = body_of(answer, LARGEST)
        if body is not None:
            error = read_envelope(answer.status_code, body, answer.headers, catalog=self._catalog)
            if error is not None:
                raise error


class _Call:
    """One exchange, attempt by attempt."""

    __slots__ = ("_adapter", "_exchange", "_settings")

    def __init__(self, adapter: ResilienceAdapter, exchange: Exchange[Response], settings: dict[str, Any]) -> None:
        self._adapter, self._exchange, self._settings = adapter, exchange, settings

    def once(self, request: PreparedRequest) -> Response:
        adapter, exchange = self._adapter, self._exchange
        _close(exchange.useless())
        sent = adapter.addressed(request)
        own = own_limit(self._settings["timeout"])
        allowance = Allowance(adapter.client_context.timeout(), own, Deadline.current())
        timeout = within(self._settings["timeout"], allowance.seconds)
        try:
            answer = adapter.send_plain(sent, {**self._settings, "timeout": timeout})
            _close(exchange.arrived(answer))
            if not self._settings["stream"] or (is_failure(answer.status_code) and fits(answer.headers, SMALL)):
                _ = answer.content  # read now, and kept
        except (requests.Timeout, requests.ConnectionError) as error:
            margin = adapter.client_context.options.margin
            if allowance.snapshot.left - margin > LEAST:
                raise
            raise LateError(
                "the deadline passed before the answer",
                request=request,
                seconds=allowance.seconds,
                retryable=not is_spent(exchange.deadline, margin),
                allowed=allowance.allowed,
            ) from error
        if not is_failure(answer.status_code):
            return answer
        exchange.failed(answer)
        allowed = adapter.allowed_before(answer, allowance)
        raise FailedResponse(request, answer, seconds=allowance.seconds, allowed=allowed)

    @idempotent
    def again(self, request: PreparedRequest) -> Response:
        return self.once(request)


def own_limit(timeout: Any) -> float | None:
    """Return the seconds that the session itself allows a request, None if it sets no limit."""
    if isinstance(timeout, StepTimeout):
        return longest(timeout.connect_timeout, timeout.read_timeout)
    return longest(*timeout) if isinstance(timeout, tuple) else longest(timeout)


def within(timeout: Any, left: float | None) -> Any:
    """Return a timeout as requests takes it, that ends with what is left of the deadline."""
    if left is None:
        return timeout
    left = max(LEAST, left)
    if not isinstance(timeout, StepTimeout):
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        return StepTimeout(connect=connect, read=read, total=left)
    capped = timeout.clone()
    capped.total = left if timeout.total is None else min(left, cast("float", timeout.total))
    return capped


def _when_closed(answer: Any, settle: Callable[[], None]) -> bool:
    """Have `settle` called when urllib3 gives the connection back: after the last byte, or when closed before."""
    is_read = getattr(answer, "_content", False) is not False  # requests has no other word for it
    if not isinstance(answer, Response) or answer.raw is None or is_read:
        return False
    raw = weakref.ref(answer.raw)
    give_back = vars(answer.raw).get("release_conn") or functools.partial(_release, raw)  # there may be two bulkheads

    def release_conn() -> None:
        # The body holds this function, and this function does not hold the body: when the application drops an answer
        # unclosed, reference counting frees both of them, and `settle` with them.
        give_back()
        settle()

    answer.raw.release_conn = release_conn  # type: ignore[method-assign]  # the one moment both ways of ending share
    return True


def _release(raw: weakref.ref[Any]) -> None:
    body = raw()
    if body is not None:
        type(body).release_conn(body)


def _close(answers: Iterable[Response]) -> None:
    for answer in answers:
        with contextlib.suppress(Exception):
            _stop_reading(answer.raw)
        with contextlib.suppress(Exception):  # nobody is left to be told
            answer.close()


def _stop_reading(raw: Any) -> None:
    """End a read of the body that another thread is in: until it ends `close` would wait for it.

    A body that was read to its end has given its connection back, which may serve another call by now: urllib3 2.3 has
    kept the socket all the same, and would shut it down.
    """
    if raw._connection is None:  # noqa: SLF001 - urllib3 has no public name for it
        return
    if hasattr(raw, "shutdown"):  # urllib3 2.3
        raw.shutdown()
    else:
        raw._connection.sock.shutdown(socket.SHUT_RD)  # noqa: SLF001 - older ones have no public name for it
