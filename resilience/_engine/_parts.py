"""What both drivers need to know of a policy. No call is made and nothing waits here."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast, overload

from resilience._engine._steps import Steps
from resilience.errors import ConfigurationError
from resilience.policy import RetryAfter, Slot, Substitute, Verdict

__all__ = ("Compiled", "Defer", "ReturnedAwaitable", "blocks", "by_key", "discard", "scored")

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
T = TypeVar("T")
Defer = Callable[[Any], tuple[Callable[..., Any], Callable[..., Any] | None]]
"""Given the awaitable a plain function returned: how to finish this call, and every later one (None: found anew)."""


class ReturnedAwaitable(BaseException):
    """A plain function handed back an awaitable: the call has not happened yet, so nothing may be scored."""

    def __init__(self, awaitable: Any) -> None:
        self.awaitable = awaitable


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


def blocks(steps: Steps) -> Steps:
    """Return `steps`, unless the policy has to await its verdicts."""
    if steps.awaits:
        reason = "it awaits its decisions; guard a coroutine function, or use wrap_async"
        raise ConfigurationError(f"{steps.name!r} cannot guard a blocking call: {reason}")
    return steps


def scored(
    steps: Steps, permit: object, ended: Exception | Substitute
) -> Any:  # a verdict; a blocking driver gets none that is `Pending`
    """Settle `permit` by an error, or by what really became of the call that a substitute stands in for."""
    error = ended if isinstance(ended, Exception) else ended.error
    if error is None:
        on_success = steps.on_success
        return None if on_success is None else on_success(permit, cast("Substitute", ended).result)
    verdict = steps.on_failure(permit, error)
    if verdict is not None:
        discard(steps, error, verdict)
    return verdict


def discard(steps: Steps, error: Exception, verdict: Verdict) -> None:
    """Release the resources of a failed attempt if `verdict` makes another one: the caller will not see its error.

    An error that holds a resource, such as the connection of a failed answer, has a method `discard()`. It is called
    before the wait, so that the resource is not held during the wait.
    """
    release: Callable[[], object] | None = getattr(error, "discard", None)
    if release is not None and isinstance(verdict, RetryAfter):
        try:
            release()
        except BaseException:
            steps.on_abandon(verdict.permit)
            raise


def by_key(steps: Steps, compose: Callable[[Steps], Callable[P, R]], defer: Defer | None = None) -> Callable[P, R]:
    """Return a call guarded by whichever policy its arguments choose; what it returns is of the inner call's kind.

    As in the drivers, an empty `**kwargs` is not passed on: it would cost a dictionary each time.
    """
    place, choose = _Place(), cast("Callable[..., Slot]", steps.slot)
    here = weakref.ref(place)  # hashed once: looking up by it costs what any key costs
    later: Callable[P, R] | None = None

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal later
        if later is not None:
            return later(*args, **kwargs)
        slot = choose(*args, **kwargs) if kwargs else choose(*args)
        guarded = slot.compiled.get(here)
        if guarded is None:
            guarded = place.keep(slot, here, compose(steps.of_slot(slot)))
        try:
            return guarded(*args, **kwargs) if kwargs else guarded(*args)  # type: ignore[no-any-return]  # of the inner function
        except ReturnedAwaitable as signal:
            if defer is None:
                raise
            finish, later = defer(signal.awaitable)
            return finish(*args, **kwargs)  # type: ignore[no-any-return]  # the awaitable form of R

    return call
