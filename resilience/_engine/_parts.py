"""What both drivers need to know of a policy. No call is made and nothing waits here."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, Generic, ParamSpec, Self, TypeAlias, TypeGuard, TypeVar, cast, overload

from resilience.errors import ConfigurationError
from resilience.policy import (
    AroundPolicy,
    FastPermitPolicy,
    KeyedPolicy,
    Pending,
    Policy,
    PolicyBase,
    Replace,
    Slot,
    Substitute,
)

__all__ = (
    "Compiled",
    "Defer",
    "Member",
    "ReturnedAwaitable",
    "blocks",
    "by_key",
    "decides",
    "discard",
    "has_fast_permit",
    "is_around",
    "is_keyed",
    "no_more_attempts",
    "on_interrupt",
    "scored",
    "stands_in",
)

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
T = TypeVar("T")
Member: TypeAlias = Policy | AroundPolicy | KeyedPolicy
Defer = Callable[[Any], tuple[Callable[..., Any], Callable[..., Any] | None]]
"""Given the awaitable a plain function returned: how to finish this call, and every later one (None: found anew)."""


class ReturnedAwaitable(BaseException):
    """A plain function handed back an awaitable: the call has not happened yet, so nothing may be scored."""

    def __init__(self, awaitable: Any) -> None:
        self.awaitable = awaitable


# Plain dictionaries of weak references: a `WeakKeyDictionary` runs Python code at every look.
_kinds: dict[Any, dict[weakref.ref[type], bool]] = {
    protocol: {} for protocol in (KeyedPolicy, AroundPolicy, FastPermitPolicy)
}


def is_keyed(policy: object) -> TypeGuard[KeyedPolicy]:
    """Whether `policy` is one policy for each key."""
    return _is_a(policy, KeyedPolicy)


def is_around(policy: object) -> TypeGuard[AroundPolicy]:
    """Whether `policy` owns the call."""
    return _is_a(policy, AroundPolicy)


def has_fast_permit(policy: object) -> TypeGuard[FastPermitPolicy]:
    """Whether `policy` may have a permit for every call."""
    return _is_a(policy, FastPermitPolicy)


def _is_a(policy: object, protocol: Any) -> bool:
    """Whether `policy` is of the kind of `protocol`, looked up once for each class: its instances are of one kind.

    Asking a protocol costs tens of microseconds on Python 3.11, and a keyed policy asks for every new key.
    """
    kind, known = type(policy), _kinds[protocol]
    answer = known.get(weakref.ref(kind))
    if answer is None:
        answer = known[weakref.ref(kind, known.pop)] = isinstance(policy, protocol)
    return answer


class Compiled(Generic[C, T]):
    """A property made at its first use and kept; threads that come first together make it each, and use the same.

    `functools.cached_property` gives each of them its own, since Python 3.12, and what shares calls would share less.
    """

    def __init__(self, make: Callable[[C], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, chain: None, owner: type, /) -> Self: ...

    @overload
    def __get__(self, chain: C, owner: type, /) -> T: ...

    def __get__(self, chain: Any, owner: type, /) -> Any:
        # Kept where an attribute of the chain is looked for first: from then on this costs nothing.
        return self if chain is None else vars(chain).setdefault(self._name, self._make(chain))


class _Place:
    """One position of one compiled chain: what slots have compiled for it is of no use once the chain is gone."""

    __slots__ = ("__weakref__",)

    def keep(self, slot: Slot, here: weakref.ref[Any], call: Callable[P, R]) -> Callable[P, R]:
        """Keep `call` for this place in `slot`, in exchange for what is left there of places that are gone.

        Returns what is kept: where another thread was first, its call. Threads do this at once, and take no lock.
        """
        for place in [place for place in list(slot.compiled) if place() is None]:
            slot.compiled.pop(place, None)
        return slot.compiled.setdefault(here, call)


def decides(policy: Policy, step: str) -> Callable[..., Any] | None:
    """Return the method of that name, or None where the policy left it as it was: the step then costs nothing."""
    method: Callable[..., Any] = getattr(policy, step)
    return None if getattr(method, "__func__", None) is getattr(PolicyBase, step) else method


def on_interrupt(policy: Policy) -> Callable[[Any], object]:
    """Return what gives a permit back where a step raised: nothing may, unless the policy settles each only once."""
    return policy.on_abandon if getattr(policy, "settles_once", False) else _nothing


def _nothing(_permit: Any) -> None: ...


def no_more_attempts(policy: Policy) -> Callable[[Any], Any]:
    """Return what tells `policy` that the attempt under way is the last, whatever it says: it returns the permit."""
    tell: Callable[[Any], Any] = getattr(policy, "no_more_attempts", lambda permit: permit)
    return tell


def blocks(policy: Policy) -> Policy:
    """Return `policy`, unless it has to await its verdicts."""
    if getattr(policy, "awaits", False):
        reason = "it awaits its decisions; guard a coroutine function, or use wrap_async"
        raise ConfigurationError(f"{policy.name!r} cannot guard a blocking call: {reason}")
    return policy


def stands_in(policies: Iterable[Member]) -> bool:
    """Whether any of `policies`, standing inside others, may hand over a `Substitute`."""
    known = (policy.template if isinstance(policy, KeyedPolicy) else policy for policy in policies)
    return any(hasattr(policy, "around_nested") for policy in known)


def scored(policy: Policy, permit: Any, ended: Exception | Substitute) -> Any:
    """Settle `permit` by an error, or by what really became of the call that a substitute stands in for."""
    error = ended if isinstance(ended, Exception) else ended.error
    if error is None:
        return policy.on_success(permit, cast("Substitute", ended).result)
    verdict = policy.on_failure(permit, error)
    if verdict is not None:
        discard(policy, error, verdict)
    return verdict


def discard(policy: Policy, error: Exception, verdict: Any) -> None:
    """Release the resources of a failed attempt if `verdict` makes another one: the caller will not see its error.

    An error that holds a resource, such as the connection of a failed answer, has a method `discard()`. It is called
    before the wait, so that the resource is not held during the wait.
    """
    release: Callable[[], object] | None = getattr(error, "discard", None)
    if release is not None and not isinstance(verdict, Replace | Pending):
        try:
            release()
        except BaseException:
            policy.on_abandon(verdict.permit)
            raise


def by_key(
    keyed: KeyedPolicy, compose: Callable[[Policy | AroundPolicy], Callable[P, R]], defer: Defer | None = None
) -> Callable[P, R]:
    """Return a call guarded by whichever policy its arguments choose; what it returns is of the inner call's kind.

    As in the drivers, an empty `**kwargs` is not passed on: it would cost a dictionary each time.
    """
    place, choose = _Place(), keyed.slot
    here = weakref.ref(place)  # hashed once: looking up by it costs what any key costs
    later: Callable[P, R] | None = None

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal later
        if later is not None:
            return later(*args, **kwargs)
        slot = choose(*args, **kwargs) if kwargs else choose(*args)
        guarded = slot.compiled.get(here)
        if guarded is None:
            guarded = place.keep(slot, here, compose(slot.policy))
        try:
            return guarded(*args, **kwargs) if kwargs else guarded(*args)  # type: ignore[no-any-return]  # of the inner function
        except ReturnedAwaitable as signal:
            if defer is None:
                raise
            finish, later = defer(signal.awaitable)
            return finish(*args, **kwargs)  # type: ignore[no-any-return]  # the awaitable form of R

    return call
