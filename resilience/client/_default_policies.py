"""Which policies guard an outgoing call: the default ones, and the configured ones as a transport needs them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Protocol

from resilience._engine._steps import Member, Steps
from resilience.breaker import CircuitBreaker
from resilience.hedge import Hedge
from resilience.keyed import Keyed
from resilience.retry import Retry

__all__ = ("configured_policies", "default_policies", "hedge_named", "may_call_again", "owns_call", "runs_in_threads")

_KEYED_KINDS = frozenset({"breaker", "ratelimit", "bulkhead"})
"""Kinds of policies whose state describes one host."""


class _PolicySource(Protocol):
    """The part of `Resilience` that makes configured policies."""

    def policies(self, name: str, *, key: str = "") -> tuple[Any, ...]: ...


def default_policies(
    retry_on: Callable[[Exception], bool] | type[Exception] = Exception,
    *,
    exclude: Iterable[type[Exception]] = (),
    breaker_key: Callable[..., Hashable] | None = None,
    breaker_name: str | None = None,
) -> tuple[Any, ...]:
    """Return the policies of a client for which nothing is configured.

    They are a `Retry` with 3 attempts within 30 s, and inside of it a `CircuitBreaker`. The circuit opens when half of
    its last 100 calls have failed, and makes trial calls after 30 s.

    Args:
        retry_on: The errors after which another attempt may succeed: a class, or a predicate of an error.
        exclude: Classes of errors that say nothing about the other side. The breaker does not count them.
        breaker_key: A function that takes the arguments of a call and returns the key of its circuit, such as the host.
            None (the default) for one circuit.
        breaker_name: The name of the breaker. None (the default) for `<pipeline>.breaker`.

    Example:
        >>> [policy.kind for policy in default_policies()]
        ['retry', 'breaker']
    """
    excluded = tuple(exclude)

    def breaker(_key: str) -> CircuitBreaker:
        return CircuitBreaker(failure_rate_threshold=0.5, reset_timeout=30, exclude=excluded)

    retry = Retry(attempts=3, on=retry_on, timeout=30)
    if breaker_key is not None:
        return retry, Keyed(breaker, breaker_key, name=breaker_name)
    return retry, CircuitBreaker(failure_rate_threshold=0.5, reset_timeout=30, exclude=excluded, name=breaker_name)


def configured_policies(
    toolkit: _PolicySource,
    pipeline: str,
    *,
    retry_on: Callable[[Exception], bool] | type[Exception],
    exclude: Iterable[type[Exception]],
    key: Callable[..., Hashable],
) -> tuple[Any, ...]:
    """Return the configured policies of a pipeline, adapted to a client that calls many hosts.

    Text cannot name the errors of a library. So a configured `Retry` gets `retry_on`, and breakers get `exclude`.
    Breakers, rate limits and bulkheads become one per key.

    Args:
        toolkit: The `Resilience` that has the configuration.
        pipeline: The name of a configured pipeline.
        retry_on: The errors after which another attempt may succeed: a class, or a predicate of an error.
        exclude: Classes of errors that breakers do not count.
        key: A function that takes the arguments of a call and returns its key, such as the host.
    """
    excluded = tuple(exclude)

    def adapted(policy: Any) -> object:
        if isinstance(policy, Retry):
            retry = Retry(on=retry_on, **_options_of(policy))
            retry.sources = policy.sources
            return retry
        if policy.kind not in _KEYED_KINDS:
            return policy

        def make(host: str) -> Any:
            made = next(each for each in toolkit.policies(pipeline, key=host) if each.kind == policy.kind)
            if isinstance(made, CircuitBreaker):
                made.add_excluded_exceptions(*excluded)
            return made

        return Keyed(make, key, name=f"{pipeline}.{policy.kind}")

    return tuple([adapted(policy) for policy in toolkit.policies(pipeline)])


def hedge_named(policy: Member, name: str) -> Member:
    """Return a configured `Hedge` anew under `name`, so that it learns its own delay; any other policy as it is.

    Options, sources and events are those of the given policy.
    """
    if not isinstance(policy, Hedge) or not policy.sources:
        return policy
    hedge = Hedge(**_options_of(policy), name=name)
    hedge.sources, hedge.events = policy.sources, policy.events
    return hedge


def _options_of(policy: Retry | Hedge) -> dict[str, Any]:
    return {field: getattr(policy.options, field) for field in policy.options.fields()}


def may_call_again(policy: Member) -> bool:
    """Return whether a policy may make a call more than once: a `Retry`, or a policy for idempotent functions only.

    A client leaves such a policy out for a call that does harm if it arrives twice.
    """
    steps = Steps.of(policy)
    return steps.retries or (steps.applies_to is not None and not steps.applies_to(_not_idempotent))


def owns_call(policy: Member) -> bool:
    """Return whether a policy, or the policy of each key, decides how the call runs: a `Timeout`, `Hedge`, `Cache` ...

    A client leaves such a policy out for a stream, which no policy can own.
    """
    return Steps.of(policy).owns_call


def runs_in_threads(policy: Member) -> bool:
    """Return whether a policy, or the policy of each key, moves an awaited call to threads: a `ThreadPoolBulkhead`."""
    steps = Steps.of(policy)
    return (steps.template or steps).run_in_threads is not None


def _not_idempotent() -> None:
    """Stand for any function that is not marked as idempotent."""
