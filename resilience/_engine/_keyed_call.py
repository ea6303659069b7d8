"""The part of a compiled call that picks a policy by the arguments.

The rest of the call is compiled with that policy at the first call of its key, and kept in the slot of the key. A slot
has one compiled call for each position in each chain that uses its policy.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from resilience._engine._colour import Defer, ReturnedAwaitable
from resilience._engine._steps import Slot, Steps

__all__ = ("by_key",)

P = ParamSpec("P")
R = TypeVar("R")


class _Place:
    """One position in one compiled chain. Slots drop the calls compiled for it after the chain is gone."""

    __slots__ = ("__weakref__",)

    def keep(self, slot: Slot, here: weakref.ref[_Place], call: Callable[P, R]) -> Callable[P, R]:
        """Keep `call` in `slot` for this place, and drop the calls of places that are gone.

        Threads do this at once, without a lock. Returns the call that is kept: it is that of the first thread.
        """
        for place in [place for place in list(slot.compiled) if place() is None]:
            slot.compiled.pop(place, None)
        return slot.compiled.setdefault(here, call)


def by_key(steps: Steps, compose: Callable[[Steps], Callable[P, R]], defer: Defer | None = None) -> Callable[P, R]:
    """Return a call guarded by the policy that its arguments choose; its result is of the inner call's kind.

    An empty `**kwargs` is not passed on, as in the drivers: it would cost a dictionary for each call.
    """
    place, choose = _Place(), cast("Callable[..., Slot]", steps.slot)
    here = weakref.ref(place)  # hashed once: a look-up by it costs the same as by any key
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
