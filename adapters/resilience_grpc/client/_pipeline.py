"""The policies around each method: which pipeline a method has, and how its policies fit a call over gRPC."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, TypeVar, cast

from grpc import StatusCode

from resilience import Hedge, Keyed, Pipeline, Policy, Resilience, Timeout
from resilience.client import (
    ClientContext,
    TransportTimeout,
    may_call_again,
    owns_call,
    runs_in_threads,
)
from resilience.errors import ConfigurationError, Problem
from resilience.plugins import KeyedPolicy
from resilience.policy import AroundPolicy
from resilience_grpc._method_names import is_infrastructure, is_listed, service_of
from resilience_grpc.client._call import CallDetails, OutgoingCall, SentDetails, SentT, aio_details, method_of
from resilience_grpc.client._errors import CallError, ErrorDecoder, as_call_error
from resilience_grpc.client._options import CallOptions

__all__ = ("GuardedMethod", "MethodPipelines", "PipelineChoice", "per_method")

PipelineChoice: TypeAlias = Pipeline | str | Callable[[str], Pipeline | str | None] | None
"""One pipeline for all methods, the name of one, or a function that takes `shop.Orders/Get` and returns either."""

AttemptT = TypeVar("AttemptT", bound=Callable[..., object])


def per_method(make: Callable[[str], Policy | AroundPolicy], **options: Any) -> Keyed:
    """Return a policy that has one policy for each method.

    Args:
        make: Takes a method as `shop.Orders/Get` and returns its policy.
        options: The options of `Keyed`, such as `name`.

    Example:
        >>> from resilience import CircuitBreaker
        >>> breakers = per_method(lambda method: CircuitBreaker(failure_rate_threshold=0.5))
    """
    return Keyed(make, method_of, **options)


class MethodPipelines:
    """The guarded methods of a channel. Each is made at its first call.

    Args:
        resilience: The toolkit. None for `Resilience.default()`.
        pipeline: The pipeline of all methods, its name, or a function from method to either. None for the pipeline of
            the method or of its service.
        idempotent: Methods that may be called twice.
        retryable: Statuses after which such a call is worth another attempt.
        target: The server that the channel connects to, by which the toolkit keeps circuits, limits and bulkheads.
        is_aio: Whether the channel is one of `grpc.aio`.
    """

    def __init__(
        self,
        resilience: Resilience | None,
        pipeline: PipelineChoice,
        idempotent: Iterable[str],
        retryable: Iterable[StatusCode | str],
        target: str,
        *,
        is_aio: bool,
    ) -> None:
        self._options = CallOptions(
            idempotent=cast("tuple[str, ...]", idempotent),
            retryable=cast("tuple[str, ...]", retryable),
            target=target,
        )
        given: object = pipeline
        if not (given is None or isinstance(given, Pipeline | str) or callable(given)):
            expected = "a Pipeline, the name of one, or a function that takes a method and returns either"
            raise ConfigurationError([Problem("pipeline", pipeline, expected)])
        self._toolkit = Resilience.default() if resilience is None else Resilience.of(resilience)
        self.client_context = ClientContext.of(self._toolkit)
        retried = [StatusCode[name] for name in self._options.retryable]
        self.decode = ErrorDecoder(self._toolkit.catalog, retried, is_aio=is_aio)
        if isinstance(pipeline, str):
            self._toolkit.existing_pipeline(pipeline)  # raises here if the name or its settings are wrong
        self._is_aio = is_aio
        self.rebuild = aio_details if is_aio else SentDetails
        self._idempotent = (*self._options.idempotent, *self._toolkit.config.client.idempotent_methods)
        self._choice = pipeline
        self._methods: dict[str | bytes, GuardedMethod | None] = {}

    def method(self, name: str | bytes) -> GuardedMethod | None:
        """Return the guarded method of this full name, None if calls of it are left alone."""
        try:
            return self._methods[name]
        except KeyError:  # two threads may make one each: their policies are the same ones
            text = name if isinstance(name, str) else name.decode()
            return self._methods.setdefault(name, None if is_infrastructure(text) else self._new(text))

    def _new(self, name: str) -> GuardedMethod:
        with self.as_call_errors():
            pipeline = self._pipeline(name.lstrip("/"))
        return GuardedMethod(pipeline, self, is_idempotent=is_listed(name, self._idempotent))

    @contextlib.contextmanager
    def as_call_errors(self) -> Iterator[None]:
        """Raise a `ConfigurationError` as an error of grpcio, which other interceptors of the channel expect."""
        try:
            yield
        except ConfigurationError as error:
            raise as_call_error(error, is_aio=self._is_aio) from error.__cause__

    def _pipeline(self, method: str) -> Pipeline:
        if self._choice is None:
            return self._configured(method)
        chosen = self._choice if isinstance(self._choice, Pipeline | str) else self._choice(method)
        if chosen is None:
            return Pipeline(method)
        if not isinstance(chosen, Pipeline | str):
            raise ConfigurationError([Problem(f"pipeline({method!r})", chosen, "a Pipeline, the name of one, or None")])
        if isinstance(chosen, Pipeline):
            return chosen
        self._toolkit.existing_pipeline(chosen)  # an unknown name is refused
        return self._toolkit.client_pipeline(chosen, self._options.target)

    def _configured(self, method: str) -> Pipeline:
        """Return the pipeline of the method, if it is configured; else that of its service."""
        if self._toolkit.config.has_pipeline(method):
            return self._toolkit.client_pipeline(method, self._options.target)
        # A hedge learns its delay from the calls that it sees, so each method has a hedge of its own.
        return self._toolkit.client_pipeline(service_of(method), self._options.target, hedge=f"{method}.hedge")


class GuardedMethod:
    """One method of a channel, and the policies around its calls.

    Args:
        pipeline: The pipeline of the method.
        methods: The channel's methods, which share client context and error decoder.
        is_idempotent: Whether the method may be called twice.
    """

    def __init__(self, pipeline: Pipeline, methods: MethodPipelines, *, is_idempotent: bool) -> None:
        self._pipeline, self._methods = pipeline, methods
        self._is_idempotent = is_idempotent
        self._guarded: dict[tuple[Callable[..., object], bool], Callable[..., object]] = {}
        self.has_races = is_idempotent and any(map(_is_hedge, pipeline.policies))
        """Whether two attempts may be in flight at the same time, so that one has to be cancelled."""

    def outgoing(
        self, send: Callable[[Any, Any], SentT], details: CallDetails, request: object, *, is_resendable: bool = False
    ) -> OutgoingCall[SentT, Any]:
        """Return a call that is about to be made.

        Args:
            send: The continuation of grpcio, which sends one attempt.
            details: The call details of the caller.
            request: The message, or an iterator of messages.
            is_resendable: Whether the request can be sent again. Default: False.
        """
        known, is_repeatable = self._methods, is_resendable and self._is_idempotent
        return OutgoingCall(
            send, details, request, known.client_context, known.decode, known.rebuild, is_repeatable=is_repeatable
        )

    def guarded(
        self, attempt: AttemptT, *, is_resendable: bool, is_stream: bool = False, is_blocking: bool = False
    ) -> AttemptT:
        """Return `attempt` with the policies around it. It is compiled at the first call.

        Args:
            attempt: A function of an `OutgoingCall` that makes one attempt.
            is_resendable: Whether the request can be sent again. If not, no policy calls twice.
            is_stream: Whether responses are streamed. Policies that own a call are then left out. Default: False.
            is_blocking: Whether the caller's thread waits for the call, so that threads may be used. Default: False.
        """
        is_repeatable = is_resendable and self._is_idempotent
        guarded = self._guarded.get((attempt, is_repeatable))
        if guarded is None:
            with self._methods.as_call_errors():
                pipeline = self._pipeline_for(is_repeatable=is_repeatable, is_stream=is_stream)
                if not is_blocking:
                    _refuse_threads(pipeline)
                guarded = pipeline(attempt)
            self._guarded[attempt, is_repeatable] = guarded
        return cast("AttemptT", guarded)

    def _pipeline_for(self, *, is_repeatable: bool, is_stream: bool) -> Pipeline:
        policies = [policy for policy in self._pipeline.policies if is_repeatable or not may_call_again(policy)]
        if is_stream:
            return self._pipeline.with_policies(*[policy for policy in policies if not owns_call(policy)])
        margin = self._methods.client_context.options.margin
        return self._pipeline.with_policies(
            *[
                TransportTimeout(policy, CallError, margin) if isinstance(policy, Timeout) else policy
                for policy in policies
            ]
        )


def _is_hedge(policy: object) -> bool:
    return isinstance(policy.template if isinstance(policy, KeyedPolicy) else policy, Hedge)


def _refuse_threads(pipeline: Pipeline) -> None:
    for policy in pipeline.policies:
        if runs_in_threads(policy):
            reason = "nothing of this call blocks; use a Bulkhead"
            raise ConfigurationError(
                f"pipeline {pipeline.name!r} cannot move a call to the threads of {policy.name!r}: {reason}"
            )
