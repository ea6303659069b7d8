"""Which policies guard a method, and how each of them fits a call over gRPC."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from grpc import StatusCode

from resilience import CircuitBreaker, DeadlineExceededError, Hedge, Keyed, Pipeline, Policy, Resilience, Retry, Timeout
from resilience.client import ClientContext
from resilience.errors import ConfigurationError, Problem
from resilience.policy import AroundPolicy, KeyedPolicy
from resilience.timeout import Deadline, allowed_by_service
from resilience_grpc._method_names import is_infrastructure, is_listed, service_of
from resilience_grpc.client._call import Details, Outgoing, aio_details, method_of
from resilience_grpc.client._decode import Decoder
from resilience_grpc.client._errors import CallError, as_call_error
from resilience_grpc.client._options import CallOptions

__all__ = ("Method", "Methods", "Wanted", "per_method")

Wanted = Pipeline | str | Callable[[str], Pipeline | str | None] | None
"""One pipeline for all methods, the name of one, or a function that takes `shop.Orders/Get` and returns either."""


def per_method(make: Callable[[str], Policy | AroundPolicy], **options: Any) -> Keyed:
    """Return a policy that is one per method: `make` takes `shop.Orders/Get`. `options` are those of `Keyed`."""
    return Keyed(make, method_of, **options)


class Methods:
    """What guards each method of a channel, found at its first call."""

    def __init__(
        self,
        resilience: Resilience | None,
        pipeline: Wanted,
        idempotent: Iterable[str],
        retryable: Iterable[Any],
        *,
        is_aio: bool,
    ) -> None:
        self._options = CallOptions(
            idempotent=cast("tuple[str, ...]", idempotent), retryable=cast("tuple[str, ...]", retryable)
        )
        wanted: Any = pipeline
        if not (wanted is None or isinstance(wanted, Pipeline | str) or callable(wanted)):
            expected = "a Pipeline, the name of one, or a function that takes a method and returns either"
            raise ConfigurationError([Problem("pipeline", pipeline, expected)])
        self._toolkit = Resilience.of(resilience)
        self.client_context = ClientContext.of(self._toolkit)
        retried = [StatusCode[name] for name in self._options.retryable]
        self.decode = Decoder(self._toolkit.catalog, retried, is_aio=is_aio)
        if isinstance(pipeline, str):
            self._toolkit.existing_pipeline(pipeline)  # what is wrong with the name, or its settings, is said here
        self._is_aio = is_aio
        self.rebuild = aio_details if is_aio else Details
        self._repeatable = (*self._options.idempotent, *self._toolkit.config.client.idempotent_methods)
        self._wanted = pipeline
        self._known: dict[Any, Method | None] = {}

    def of(self, name: Any) -> Method | None:
        """Return what guards the method of this name, None where it is to be left alone."""
        try:
            return self._known[name]
        except KeyError:  # two threads may build one each: the policies are the same ones
            text = name if isinstance(name, str) else name.decode()
            return self._known.setdefault(name, None if is_infrastructure(text) else self._new(text))

    def _new(self, name: str) -> Method:
        with self.as_call_errors():
            pipeline = self._pipeline(name.lstrip("/"))
        return Method(pipeline, self, is_repeatable=is_listed(name, self._repeatable))

    @contextlib.contextmanager
    def as_call_errors(self) -> Iterator[None]:
        """Have what is wrong with a pipeline end a call as grpcio expects it: others may stand around it."""
        try:
            yield
        except ConfigurationError as error:
            raise as_call_error(error, is_aio=self._is_aio) from error.__cause__

    def _pipeline(self, method: str) -> Pipeline:
        if self._wanted is None:
            return self._configured(method)
        chosen: Any = self._wanted
        if not isinstance(chosen, Pipeline | str):
            chosen = chosen(method)
        if chosen is None:
            return Pipeline(method)
        if not isinstance(chosen, Pipeline | str):
            raise ConfigurationError([Problem(f"pipeline({method!r})", chosen, "a Pipeline, the name of one, or None")])
        return self._toolkit.existing_pipeline(chosen) if isinstance(chosen, str) else chosen

    def _configured(self, method: str) -> Pipeline:
        """Return the pipeline configured for the method, else for its service, else the usual one of the service."""
        config, service = self._toolkit.config, service_of(method)
        if config.has_pipeline(method):
            return self._toolkit.pipeline(method)
        if config.has_pipeline(service) or config.has_pipeline("default"):
            pipeline = self._toolkit.pipeline(service)
            return pipeline.with_policies(*[_of_method(policy, method) for policy in pipeline.policies])
        try:
            return self._toolkit.pipeline(service, *_usual())
        except ConfigurationError:  # it has policies already: by our own first call, or somebody's code
            return self._toolkit.pipeline(service)


def _usual() -> tuple[Any, ...]:
    return Retry(attempts=3, timeout=30), CircuitBreaker(failure_rate_threshold=0.5, reset_timeout=30)


def _of_method(policy: Any, method: str) -> Any:
    """Return a configured policy for one method: what is late is learned for each one by itself."""
    if not isinstance(policy, Hedge) or not policy.sources:
        return policy
    options: dict[str, Any] = {field: getattr(policy.options, field) for field in policy.options.fields()}
    fitted = Hedge(**options, name=f"{method}.hedge")
    fitted.sources, fitted.events = policy.sources, policy.events
    return fitted


class Method:
    """One method: what its calls carry, how their errors are read, and the policies around them."""

    def __init__(self, pipeline: Pipeline, methods: Methods, *, is_repeatable: bool) -> None:
        self._pipeline, self._methods = pipeline, methods
        self._is_repeatable = is_repeatable
        self._guarded: dict[Any, Callable[..., Any]] = {}
        self.races = is_repeatable and any(isinstance(_template(policy), Hedge) for policy in pipeline.policies)
        """Whether attempts are made at the same time, so that some have to be cancelled."""

    def outgoing(
        self, send: Callable[[Any, Any], Any], details: Any, request: Any, *, repeats: bool = False
    ) -> Outgoing:
        """Return a call that is about to be made, each attempt of it by `send`."""
        known, repeats = self._methods, repeats and self._is_repeatable
        return Outgoing(send, details, request, known.client_context, known.decode, known.rebuild, repeats=repeats)

    def guarded(self, attempt: Any, *, repeats: bool, is_stream: bool = False, blocks: bool = False) -> Any:
        """Return `attempt`, a function of an `Outgoing`, with the policies around it.

        `repeats`: its request can be sent again. `blocks`: threads may be used for it.
        """
        repeats = repeats and self._is_repeatable
        guarded = self._guarded.get((attempt, repeats))
        if guarded is None:
            with self._methods.as_call_errors():
                guarded = self._compiled(attempt, repeats=repeats, is_stream=is_stream, blocks=blocks)
            self._guarded[attempt, repeats] = guarded
        return guarded

    def _compiled(self, attempt: Any, *, repeats: bool, is_stream: bool, blocks: bool) -> Any:
        margin = self._methods.client_context.options.margin
        policies = [
            policy if is_stream else _fitted(policy, margin)
            for policy in self._pipeline.policies
            if (repeats or not _repeats(policy)) and not (is_stream and _owns(policy))
        ]
        if not blocks:
            _check_threads(self._pipeline.name, policies)
        return self._pipeline.with_policies(*policies)(attempt)


def _template(policy: Any) -> Any:
    return policy.template if isinstance(policy, KeyedPolicy) else policy


def _repeats(policy: Any) -> bool:
    """Whether a policy may call again; one that applies only to functions marked as idempotent does."""
    applies_to = getattr(policy, "applies_to", None)
    return bool(getattr(policy, "retries", False)) or (applies_to is not None and not applies_to(_unmarked))


def _unmarked() -> None:
    """Stand for any function that may not be called twice."""


def _owns(policy: Any) -> bool:
    """Whether a policy has to own the call, as nobody can own a stream."""
    return isinstance(_template(policy), AroundPolicy)


def _check_threads(name: str, policies: Iterable[Any]) -> None:
    for policy in policies:
        if hasattr(_template(policy), "run_in_threads"):
            reason = "nothing of this call blocks; use a Bulkhead"
            raise ConfigurationError(
                f"pipeline {name!r} cannot move a call to the threads of {policy.name!r}: {reason}"
            )


def _fitted(policy: Any, margin: float) -> Any:
    return _Allowance(policy, margin) if isinstance(policy, Timeout) else policy


class _Allowance:
    """A timeout that gRPC itself keeps: both sides know of it, no thread waits, and the server can stop in time."""

    kind = "timeout"

    def __init__(self, timeout: Timeout, margin: float) -> None:
        self._timeout, self._margin = timeout, margin
        self.events, self.describe, self.snapshot = timeout.events, timeout.describe, timeout.snapshot

    @property
    def name(self) -> str:
        return self._timeout.name

    def around(self, call: Callable[..., Any], /) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            seconds = self._timeout.allowance()
            with self._deadline(seconds):
                try:
                    return call(*args)
                except DeadlineExceededError as error:
                    self._count(error, seconds)
                    raise

        return timed

    def around_async(self, call: Callable[..., Any], /) -> Callable[..., Any]:
        async def timed(*args: Any) -> Any:
            seconds = self._timeout.allowance()
            with self._deadline(seconds):
                try:
                    return await call(*args)
                except DeadlineExceededError as error:
                    self._count(error, seconds)
                    raise

        return timed

    def _deadline(self, seconds: float | None) -> Deadline:
        """Return the deadline of one call; the margin, which every attempt keeps back, is on top."""
        now = self._timeout.clock() + self._margin
        if seconds is None:
            return Deadline(math.inf, clock=self._timeout.clock)
        allowed = allowed_by_service(seconds, self._timeout.options.seconds)
        limit = None if allowed is None else now + allowed
        return Deadline(now + seconds, limit=limit, clock=self._timeout.clock)

    def _count(self, error: Any, seconds: float | None) -> None:
        if seconds is not None and isinstance(error, CallError):
            self._timeout.exceeded(seconds)
