"""The blocking shell of the cache; `_aio.py` is the same with `await`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from resilience.policy import Substitute

if TYPE_CHECKING:
    from resilience.cache._policy import Cache
    from resilience.cache._space import Space

__all__ = ("around",)

P = ParamSpec("P")
R = TypeVar("R")


def around(cache: Cache, space: Space, call: Callable[P, R], *, is_inner: bool) -> Callable[P, R]:
    """Return `call`, answered from `space` where that is fresh; a stale answer is a `Substitute` where `is_inner`."""
    keys, fresh = space.keys, cache.fresh

    def cached(*args: P.args, **kwargs: P.kwargs) -> R:
        key = keys(args, kwargs)
        entry = fresh(space, key)
        if entry is not None:
            return cast("R", entry.value)
        miss = cache.missed(space, key)
        try:
            result = call(*args, **kwargs)
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
