"""The adapter for `requests.Session`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from requests.models import PreparedRequest, Response
from urllib3.util import Timeout as StepTimeout

from resilience import DeadlineExceededError, ErrorCatalog, Pipeline, Resilience, idempotent
from resilience.client import ClientContext, Destination, is_failure, may_repeat
from resilience.envelope import read_envelope
from resilience.errors import Portable
from resilience.timeout import Deadline
from resilience_http._envelope import MAX_ENVELOPE, fits, may_be_envelope
from resilience_http._errors import REFUSED_OR_LATE, Counterparts, ErrorKinds
from resilience_http._exchange import (
    MAX_READ_AHEAD,
    MIN_TIMEOUT,
    AttemptTimeout,
    ClientExchange,
    is_spent,
    longest_step,
    retry_after_of,
)
from resilience_http._pipeline import PipelinePair, host_of, pipeline_for, toolkit_of
from resilience_http._requests_internals import peek_body, shut_down_read, when_released

__all__ = ("ResilienceAdapter",)

_ERRORS = ErrorKinds(
    transient=(
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        requests.HTTPError,
    ),
    permanent=(requests.exceptions.SSLError,),
    ours=(ValueError,),  # InvalidURL, InvalidHeader and their like
    counterparts=Counterparts(
        late=requests.Timeout,
        full=requests.ConnectionError,
        refused=requests.ConnectionError,
        status=requests.HTTPError,
    ),
)


class RequestsFailedResponse(Portable, requests.HTTPError):
    """Raised to the policies for a response that is a failure. The session gets `response` itself."""

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
        self.retry_after = retry_after_of(response, response.status_code)
        self.seconds, self.allowed = seconds, allowed
        self.is_callers = allowed is not None

    @property
    def log_name(self) -> str:
        """The error in the log: the type that policies name, and the status."""
        return f"HTTPError {self.answer.status_code}"

    def discard(self) -> None:
        """Free the connection: another attempt follows, and this response is not read."""
        _close([self.answer])


class ResilienceAdapter(HTTPAdapter):
    """Guards every request of a `requests.Session`: `session.mount("https://", ResilienceAdapter())`.

    Unless a request has `stream=True`, its body is read within the guarded call, so that a body that breaks off is a
    failure too. A bulkhead holds its permit for a stream until the stream is read or closed.

    If a policy refuses a request, the error is a `RejectedError` and a `requests.ConnectionError`. If the time has
    passed, the error is a `DeadlineExceededError` and a `requests.Timeout`. An `AppError` raised for an answer is a
    `requests.HTTPError`, too.

    A request raises a `RejectedError` if a policy refuses it. If the deadline in force leaves no time, it raises an
    error that is both a `DeadlineExceededError` and a `requests.Timeout`.

    A session with an adapter can be pickled if the adapter takes everything from the configuration: the process that
    unpickles it uses its own configuration. An adapter with a `Resilience` or a `Pipeline` raises `TypeError`.

    Args:
        resilience: The toolkit; None for `Resilience.default()`. It has the circuits, limits and bulkheads.
        pipeline: A `Pipeline`; or the name of a configured pipeline, whose breaker, limits and bulkhead become one per
            host. None for the pipeline named `http`. Below its settings, every client has a retry and a breaker.
        sends_context: Whether requests carry request id, trace and deadline. Use False for hosts that are not yours.
        raises_envelopes: Whether an error answer with one of our envelopes is raised as its `AppError`.
        catalog: The catalog that knows the codes of these errors.
        options: Those of `requests.adapters.HTTPAdapter`, such as `pool_maxsize`.

    Raises:
        ConfigurationError: No pipeline has this name, or an argument is wrong.
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
        self.toolkit = toolkit_of(resilience)
        self._pipelines = PipelinePair.of(pipeline_for(self.toolkit, pipeline, _ERRORS), when_released)
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
        """The pipeline of requests that may be repeated. Other requests skip its policies that repeat."""
        return self._pipelines.repeating

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - requests' signature
        timeout: object = None,
        verify: object = True,  # noqa: FBT002 - requests' signature
        cert: object = None,
        proxies: object = None,
    ) -> Response:
        """Send a request through the policies, which decide how many attempts are made.

        For the arguments see `requests.adapters.HTTPAdapter.send`.
        """
        repeats = may_repeat(request.method or "", request.headers) and isinstance(request.body, bytes | str | None)
        exchange: ClientExchange[Response] = ClientExchange(repeats=repeats)
        settings = {"stream": stream, "timeout": timeout, "verify": verify, "cert": cert, "proxies": proxies}
        call = _RequestsAttempts(self, exchange, settings)
        try:
            answer = self._guarded(call, request, repeats=repeats)
            _close(exchange.finish(answer))
        except BaseException:
            _close(exchange.finish(None))
            raise
        answer.request = request  # requests makes redirects and authentication from it, not from our copy
        return answer

    def send_plain(self, request: PreparedRequest, settings: dict[str, Any]) -> Response:
        """Send a request without policies."""
        return super().send(request, **settings)

    def prepared(self, request: PreparedRequest) -> PreparedRequest:
        """Return a copy of the request to send, with our headers. Headers of the caller win over ours."""
        try:
            carried = self.client_context.headers() if self._sends_context else {}
            if not self._sends_context:
                self.client_context.refuse_if_spent()
        except DeadlineExceededError as spent:
            raise _ERRORS.deadline_error(str(spent), request, seconds=0.0) from None
        sent = request.copy()
        for name, text in carried.items():
            sent.headers.setdefault(name, text)
        return sent

    def allowed_before(self, answer: Response, allowance: AttemptTimeout) -> float | None:
        """Return the seconds that this service allows, if `answer` reports that the deadline we sent has passed."""
        if not self._sends_context:
            return None
        return allowance.allowed_before(answer.status_code, self.client_context.options.margin)

    def _guarded(self, call: _RequestsAttempts, request: PreparedRequest, *, repeats: bool) -> Response:
        try:
            with Destination(host_of, request):
                if repeats:
                    answer = self._pipelines.repeating.call(call.send_idempotent, request)
                else:
                    answer = self._pipelines.sending_once.call(call.send_once, request)
        except RequestsFailedResponse as failed:
            answer = failed.answer
        except REFUSED_OR_LATE as error:
            raise _ERRORS.as_theirs(error, request) from error.__cause__
        if self._raises_envelopes and may_be_envelope(answer.status_code, answer.headers):
            self._raise_envelope(request, answer)
        return answer

    def _raise_envelope(self, request: PreparedRequest, answer: Response) -> None:
        body = peek_body(answer, MAX_ENVELOPE)
        if body is not None:
            error = read_envelope(answer.status_code, body, answer.headers, catalog=self._catalog)
            if error is not None:
                raise _ERRORS.as_theirs(error, request, answer)


class _RequestsAttempts:
    """The attempts of one request."""

    __slots__ = ("_adapter", "_exchange", "_settings")

    def __init__(
        self, adapter: ResilienceAdapter, exchange: ClientExchange[Response], settings: dict[str, Any]
    ) -> None:
        self._adapter, self._exchange, self._settings = adapter, exchange, settings

    def send_once(self, request: PreparedRequest) -> Response:
        adapter, exchange = self._adapter, self._exchange
        _close(exchange.take_failed())
        sent = adapter.prepared(request)
        own = session_limit(self._settings["timeout"])
        allowance = AttemptTimeout(adapter.client_context.timeout(), own, Deadline.current())
        timeout = capped(self._settings["timeout"], allowance.seconds)
        try:
            answer = adapter.send_plain(sent, {**self._settings, "timeout": timeout})
            _close(exchange.add(answer))
            if not self._settings["stream"] or (
                is_failure(answer.status_code) and fits(answer.headers, MAX_READ_AHEAD)
            ):
                _ = answer.content  # read now, and kept
        except (requests.Timeout, requests.ConnectionError) as error:
            margin = adapter.client_context.options.margin
            if allowance.snapshot.left - margin > MIN_TIMEOUT:
                raise
            raise _ERRORS.deadline_error(
                "the deadline passed before the answer",
                request,
                seconds=allowance.seconds,
                allowed=allowance.allowed,
                retryable=not is_spent(exchange.deadline, margin),
            ) from error
        if not is_failure(answer.status_code):
            return answer
        exchange.add_failed(answer)
        allowed = adapter.allowed_before(answer, allowance)
        raise RequestsFailedResponse(request, answer, seconds=allowance.seconds, allowed=allowed)

    @idempotent
    def send_idempotent(self, request: PreparedRequest) -> Response:
        return self.send_once(request)


def session_limit(timeout: object) -> float | None:
    """Return the seconds that the session itself allows a request, None if it sets no limit."""
    if isinstance(timeout, StepTimeout):
        return longest_step(timeout.connect_timeout, timeout.read_timeout)
    return longest_step(*timeout) if isinstance(timeout, tuple) else longest_step(timeout)


def capped(timeout: Any, left: float | None) -> Any:
    """Return a timeout for requests that ends with the deadline, `left` seconds from now."""
    if left is None:
        return timeout
    left = max(MIN_TIMEOUT, left)
    if not isinstance(timeout, StepTimeout):
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        return StepTimeout(connect=connect, read=read, total=left)
    capped = timeout.clone()
    capped.total = left if timeout.total is None else min(left, cast("float", timeout.total))
    return capped


def _close(answers: Iterable[Response]) -> None:
    for answer in answers:
        with contextlib.suppress(Exception):
            shut_down_read(answer.raw)
        with contextlib.suppress(Exception):  # no caller is left to get the error
            answer.close()
