"""The contract of a policy. It never makes the call, sleeps, awaits or does I/O, so it guards calls of both colours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

from resilience._support.named import Named
from resilience._support.outcomes import NO_RESULT, STARTED, Substitute

__all__ = (
    "NO_RESULT",
    "STARTED",
    "AroundPolicy",
    "Decision",
    "Named",
    "Pending",
    "Policy",
    "PolicyBase",
    "Replace",
    "RetryAfter",
    "Substitute",
    "Verdict",
    "Wait",
)


@runtime_checkable
class Policy(Protocol):
    """Settles permits: the engine gets a permit before a call, and settles it by exactly one of the `on_` methods."""

    @property
    def name(self) -> str: ...  # noqa: D102 - a metric label: stable, and one of few

    def admit(self) -> Any:
        """Return a permit (any object), or raise a `RejectedError`. No I/O, no waiting, no code of the user."""

    def on_success(self, permit: Any, result: Any, /) -> Verdict:
        """Settle a normal return. The policy may judge the result a failure, unless it is `NO_RESULT`."""

    def on_failure(self, permit: Any, error: Exception, /) -> Verdict:
        """Settle an error. An error raised from here must have `error` as its cause."""

    def on_abandon(self, permit: Any, /) -> None:
        """Settle any other exit, such as a cancellation: give the permit back, count nothing, never raise or wait."""


@runtime_checkable
class AroundPolicy(Protocol):
    """Owns the call: returns a function of the same shape that decides how, where and how often the call runs."""

    @property
    def name(self) -> str: ...  # noqa: D102 - a metric label: stable, and one of few

    def around(self, call: Callable[..., Any], /) -> Callable[..., Any]:
        """Return a function that makes the blocking `call`."""
        ...

    def around_async(self, call: Callable[..., Awaitable[Any]], /) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Return a coroutine function that awaits `call`."""
        ...


@dataclass(slots=True, eq=False)
class RetryAfter:
    """Verdict: make another attempt after `after` seconds; it holds `permit`. The policy has `retries = True`."""

    after: float
    permit: Any


@dataclass(slots=True, eq=False)
class Replace:
    """Verdict: the caller gets `value` in place of the outcome."""

    value: Any


@dataclass(slots=True, eq=False)
class Wait:
    """Answer of `admit`: admitted with `permit`, `after` seconds from now. The policy has `may_wait = True`."""

    after: float
    permit: Any


Decision: TypeAlias = RetryAfter | Replace | None
"""The answer of a policy to an outcome. None: the outcome stands."""


@final
@dataclass(slots=True, eq=False)
class Pending:
    """Verdict: await `decision` first. The policy has `awaits = True`, and settles nothing if `decision` raises."""

    decision: Awaitable[Decision]


Verdict: TypeAlias = Decision | Pending
"""A decision, or a function of the user that the engine calls to get it."""


class PolicyBase(Named):
    """Does nothing at each step. Subclass it and override the steps you need: a step left as it is costs nothing."""

    may_wait: bool = False  # `admit` may return `Wait`
    retries: bool = False  # a verdict may be `RetryAfter`: no `with` block is guarded, because it runs only once
    awaits: bool = False  # a verdict may be `Pending`: no blocking call is guarded
    settles_once: bool = False  # `on_abandon` ignores a settled permit: the engine calls it after a step that raised

    def admit(self) -> Any:  # noqa: D102 - see Policy
        return None

    def on_success(self, _permit: Any, _result: Any, /) -> Verdict:  # noqa: D102 - see Policy
        return None

    def on_failure(self, _permit: Any, _error: Exception, /) -> Verdict:  # noqa: D102 - see Policy
        return None

    def on_abandon(self, _permit: Any, /) -> None: ...  # noqa: D102 - see Policy
