"""The awaiting shell of the cache: `_sync.py` with `await`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience.cache._space import MOST_UNTOLD, Space
from resilience.policy import Substitute

if TYPE_CHECKING:
    from resilience.cache._policy import Cache

__all__ = ("around_async",)

P = ParamSpec("P")
R = TypeVar("R")


def around_async(
    cache: Cache, space: Space, call: Callable[P, Awaitable[R]], *, is_inner: bool
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return `call`, answered from `space` where that is fresh; a stale answer is a `Substitute` where `is_inner`."""
    keys, is_plain, find = space.keys, space.keys.are_arguments, space.entries.get
    clock, used = cache.clock, cache.used

    async def cached(*args: P.args, **kwargs: P.kwargs) -> R:
        # A hit is written out: calling for each of its steps would be most of what it costs.
        key = args if is_plain and not kwargs else keys(args, kwargs)
        try:
            entry = find(key)
        except TypeError as error:
            raise cache.unhashable(key, error) from None
        if entry is not None and clock() < entry.fresh_until:
            cache.hits += 1
            used.append(entry)
            if len(used) >= MOST_UNTOLD:
                cache.note_used()
            return entry.value  # type: ignore[no-any-return]  # what the function returned before
        miss = cache.missed(space, key)
        try:
            result = await call(*args, **kwargs)
        except Exception as error:
            entry = cache.stale(miss, error)
            if entry is None:
                raise
            if is_inner:
                raise Substitute(entry.value, error=error) from error
            return cast("R", entry.value)
        cache.keep(miss, result)
        return result

    return cached
