"""How the policies of a pipeline fit the calls of a client: which may call again, own the call, or use threads."""

from __future__ import annotations

from typing import Any

from resilience._engine._steps import Member, Steps
from resilience.hedge import Hedge

__all__ = ("hedge_named", "may_call_again", "owns_call", "runs_in_threads")


def hedge_named(policy: Member, name: str) -> Member:
    """Return a configured `Hedge` anew under `name`, so that it learns its own delay; any other policy as it is.

    Options, sources and events are those of the given policy.
    """
    if not isinstance(policy, Hedge) or not policy.sources:
        return policy
    hedge = Hedge(**_options_of(policy), name=name)
    hedge.sources, hedge.events = policy.sources, policy.events
    return hedge


def _options_of(policy: Hedge) -> dict[str, Any]:
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
