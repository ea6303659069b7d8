"""The contract every policy keeps, built-in or third-party. Nothing here is coloured: no await, no sleep, no I/O.

A driver asks, a policy answers, and a policy never calls user code. Two escape hatches exist, both decided when a
pipeline is compiled and never per call: `WaitingPolicy` (admission that waits for somebody else, such as Redis) and
`AroundPolicy` (policies that own the call: timeout, fallback, hedge).
"""

from __future__ import annotations

from collections.abc import Awaitable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeAlias, TypeVar, final, runtime_checkable

from resilience.options import Options, Text, checked

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from contextlib import AbstractAsyncContextManager

__all__ = (
    "NO_RESULT",
    "STARTED",
    "AroundPolicy",
    "Decision",
    "FastPermitPolicy",
    "KeyedPolicy",
    "Named",
    "Pending",
    "Policy",
    "PolicyBase",
    "Replace",
    "RetryAfter",
    "ScopedPolicy",
    "Slot",
    "Substitute",
    "Verdict",
    "Wait",
    "WaitingPolicy",
)

P = ParamSpec("P")
R = TypeVar("R")
_NAME = Text("a name", longest=100)


@final
class _Started:
    """Its one instance is `STARTED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "STARTED"


STARTED = _Started()
"""What a guarded generator may yield ahead of its first item: it is under way, and may still be started again.

A retry starts a generator anew only before an item is out. This is none; whoever iterates passes over it.
"""


@final
class _NoResult:
    """Its one instance is `NO_RESULT`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NO_RESULT"


NO_RESULT = _NoResult()
"""What `on_success` is given where nothing was returned: by a block, or a generator that ended without a value.

None would be taken for a result by those who judge results; this is none, and nobody's predicate is asked about it.
"""


class RetryAfter:
    """Verdict: make another attempt after `after` seconds, holding `permit` from then on."""

    __slots__ = ("after", "permit")

    def __init__(self, after: float, permit: Any) -> None:
        self.after = after
        self.permit = permit


class Replace:
    """Verdict: the caller gets `value` instead of this outcome."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Wait:
    """Answer of `admit` (only where `may_wait` is true): admitted with `permit`, but `after` seconds from now."""

    __slots__ = ("after", "permit")

    def __init__(self, after: float, permit: Any) -> None:
        self.after = after
        self.permit = permit


Decision: TypeAlias = RetryAfter | Replace | None
"""None lets the outcome stand."""


@final
class Pending:
    """Verdict that has to be awaited first (only where `awaits` is true).

    A `decision` that raises has settled nothing: the driver abandons the permit.
    """

    __slots__ = ("decision",)

    def __init__(self, decision: Awaitable[Decision]) -> None:
        self.decision = decision


Verdict: TypeAlias = Decision | Pending


class Substitute(BaseException):
    """Carries a stand-in for the call's outcome past the outer policies, which score the outcome itself.

    Raised by a fallback that others stand around: to them the call ended with `error`, or with `result` where that is
    None. The chain hands `value` to the caller. Not an `Exception`, so that no user's `except` can take it.
    """

    def __init__(self, value: Any, *, error: Exception | None = None, result: Any = None) -> None:
        super().__init__(value)
        self.value = value
        self.error = error
        self.result = result


@runtime_checkable
class Policy(Protocol):
    """Four decisions around one call. Exactly one of the `on_` methods settles each permit."""

    @property
    def name(self) -> str:
        """Stable and low-cardinality: it becomes a metric label."""
        ...

    def admit(self) -> Any:
        """Return a permit (any object), or raise a `RejectedError`. No I/O, no blocking, no user code."""
        ...

    def on_success(self, permit: Any, result: Any, /) -> Verdict:
        """Settle a normal return. May judge the result a failure, unless it is `NO_RESULT`."""
        ...

    def on_failure(self, permit: Any, error: Exception, /) -> Verdict:
        """Settle an `Exception`. Whatever is raised from here must keep it as its cause."""
        ...

    def on_abandon(self, permit: Any, /) -> None:
        """Settle any other exit (cancellation, interrupt, generator close): give back, count nothing, never raise."""
        ...


@runtime_checkable
class WaitingPolicy(Policy, Protocol):
    """A policy whose admission waits for somebody else, when `waits` is true: a Redis reply, a slot being freed."""

    @property
    def waits(self) -> bool:
        """Whether the two methods below are used instead of `admit`."""
        ...

    def admit_blocking(self) -> Any:
        """Return a permit, blocking this thread, or raise a `RejectedError`."""
        ...

    def admit_awaiting(self) -> Awaitable[Any]:
        """Return a permit, suspending this task, or raise a `RejectedError`. Cancellation leaves nothing behind."""
        ...


@runtime_checkable
class FastPermitPolicy(Policy, Protocol):
    """A policy that nearly always admits at once, and saves its callers from asking."""

    fast_permit: Any
    """A permit that any call may use without `admit`, or None where each one has to ask; any thread may change it."""


@runtime_checkable
class AroundPolicy(Protocol):
    """A policy that owns the call: it returns a function of the same shape that decides how the inner one runs."""

    @property
    def name(self) -> str:
        """Stable and low-cardinality: it becomes a metric label."""
        ...

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        """Wrap a blocking call."""
        ...

    def around_async(self, call: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R]]:
        """Wrap an awaiting call."""
        ...


@runtime_checkable
class ScopedPolicy(AroundPolicy, Protocol):
    """An around policy that can own an `async with` block as well."""

    def scope(self) -> AbstractAsyncContextManager[Any]:
        """Return a context manager around the block."""
        ...


class Slot(Protocol):
    """The policy of one key, and what was compiled with it."""

    @property
    def policy(self) -> Policy | AroundPolicy:
        """The policy this key has."""
        ...

    @property
    def compiled(self) -> dict[Any, Callable[..., Any]]:
        """Calls already composed with the policy; the driver's, who keeps it in order."""
        ...


@runtime_checkable
class KeyedPolicy(Protocol):
    """Many policies of one make: which one guards a call depends on the call's arguments."""

    @property
    def name(self) -> str:
        """Stable and low-cardinality: it becomes a metric label."""
        ...

    @property
    def template(self) -> Policy | AroundPolicy:
        """One of the make, never used for a call: it says which steps there are."""
        ...

    def slot(self, /, *args: Any, **kwargs: Any) -> Slot:
        """Return the slot for a call with these arguments."""
        ...


class Named:
    """Has a name from the start, or takes one from the first pipeline it joins."""

    kind: str = "policy"
    sources: Mapping[str, str] = MappingProxyType({})
    """Where each option came from, for a policy that was configured by text."""

    def __init__(self, name: str | None = None) -> None:
        self._name = None if name is None else checked(name, "name", _NAME)

    @property
    def name(self) -> str:
        """The name given, or `<pipeline>.<kind>` once a pipeline has taken an unnamed policy in."""
        return self._name or self.kind

    @name.setter
    def name(self, name: str) -> None:
        self._name = checked(name, "name", _NAME)
        self.renamed()

    def join(self, pipeline: str) -> None:
        """Name an unnamed policy after the first pipeline that holds it. Called while composing, never mid-traffic."""
        if self._name is None:
            self._name = f"{pipeline}.{self.kind}"
            self.renamed()

    def renamed(self) -> None:
        """Override where something is kept under the name."""

    def describe(self) -> dict[str, Any]:
        """Return what this policy is and was told, as plain data: kind, name, options, and their sources if known."""
        options = getattr(self, "options", None)
        told = options.as_data() if isinstance(options, Options) else {}
        return {"kind": self.kind, "name": self.name, "options": told, "sources": dict(self.sources)}

    def snapshot(self) -> dict[str, Any]:
        """Return how it is right now, as plain data. Nothing is taken, admitted or changed by looking."""
        return {}


class PolicyBase(Named):
    """Does nothing at each step; built-in and third-party policies override what they decide."""

    may_wait: bool = False
    """Whether `admit` may answer `Wait`."""
    retries: bool = False
    """Whether a verdict may be `RetryAfter`; such a policy cannot guard a `with` block, which runs only once."""
    awaits: bool = False
    """Whether a verdict may be `Pending`; such a policy cannot guard a blocking call."""
    settles_once: bool = False
    """Whether `on_abandon` gives a permit back at most once, after a step that raised as well.

    The driver calls it then: a step that an interrupt has hit may have settled the permit or not.
    """

    def admit(self) -> Any:
        """Admit every call."""
        return None

    def on_success(self, _permit: Any, _result: Any, /) -> Verdict:
        """Let the result stand."""
        return None

    def on_failure(self, _permit: Any, _error: Exception, /) -> Verdict:
        """Let the error stand."""
        return None

    def on_abandon(self, _permit: Any, /) -> None:
        """Give nothing back."""
