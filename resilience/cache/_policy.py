"""The cache: lock, clock and events around the store, and the public class."""

from __future__ import annotations

import functools
import random
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast
from weakref import WeakSet

from resilience._support.fork import renew_after_fork
from resilience._support.matching import Errors, Kinds, known
from resilience._support.sharing import KEY, Keys, PerCall, is_shareable, unhashable
from resilience.cache import _sync
from resilience.cache._machine import Entry, Store
from resilience.cache._options import CacheOptions
from resilience.cache._space import Miss, Space
from resilience.clock import Clock, monotonic
from resilience.events import Emitter
from resilience.options import CLOCK, Opaque, checked, is_plain_callable
from resilience.policy import Named

__all__ = ("Cache",)

P = ParamSpec("P")
R = TypeVar("R")
_STRIPES = 256
_CACHE_IF = Opaque(
    "a function of the result that says whether to keep it (not a coroutine function)",
    lambda value: value is None or is_plain_callable(value),
)
_RANDOMNESS = Opaque("a function without arguments that returns a number from 0 to 1", is_plain_callable)


class Cache(Named):
    """Answers a call with what the same call returned within the last `ttl` (seconds, timedelta or "60s").

    Calls are the same when the function and its arguments are (`self` is one of them); `key`, a function of the
    arguments, says otherwise. Every caller gets the same object: treat it as read-only. At most `max_size` results are
    kept; a result for which `cache_if` is false, an iterator, and the stand-in of a fallback in the same pipeline are
    not kept at all. With `stale_on_error` a call that raised one of `on` is answered for that much longer by what it
    returned before.

    Raises `TypeError` for arguments that cannot be hashed. Generator functions are refused: there is no one result.
    """

    kind = "cache"

    def __init__(
        self,
        ttl: float | str | timedelta = 60.0,
        *,
        max_size: int = 1024,
        stale_on_error: float | str | timedelta = 0,
        jitter: float = 0.1,
        key: Callable[..., Hashable] | None = None,
        cache_if: Callable[[Any], bool] | None = None,
        on: Kinds = Exception,
        name: str | None = None,
        clock: Clock = monotonic,
        randomness: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(name)
        self.options = CacheOptions.of(
            ttl=cast("float", ttl),
            max_size=max_size,
            stale_on_error=cast("float", stale_on_error),
            jitter=jitter,
        )
        self._key: Callable[..., Hashable] | None = checked(key, "key", KEY)
        self._cache_if: Callable[[Any], bool] | None = checked(cache_if, "cache_if", _CACHE_IF)
        self._on = Errors(on)
        self.clock: Clock = checked(clock, "clock", CLOCK)
        self._random: Callable[[], float] = checked(randomness, "randomness", _RANDOMNESS)
        self.events = Emitter()
        self.hits = self.misses = self.stale_served = 0
        self.used: deque[Entry] = deque()  # by hits, and not yet told to the store
        self._spaces: WeakSet[Space] = WeakSet()
        self._flights: WeakSet[Any] = WeakSet()
        self._epochs = [0] * _STRIPES  # of keys: what was called before an invalidation is not kept after it
        self._store = Store(self.options.max_size)
        # Guards store, epochs and spaces; nothing of the user's runs under it but finalizers, which may make calls: it
        # is re-entrant, and those in the midst of a change of the store leave the store alone.
        self._lock = threading.RLock()
        self._is_at_work = False
        if self.options.stale_on_error:  # an answer that stands in for the outcome; costs a chain only where it occurs
            self.around_nested = functools.partial(self._around, is_inner=True)
            self.around_nested_async = functools.partial(self._around_async, is_inner=True)
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Keep what the parent knew, unless one of its threads was at work on it."""
        if self._is_at_work:
            self._store = Store(self.options.max_size)
            for space in list(self._spaces):
                space.entries.clear()
        self.used.clear()
        self._lock = threading.RLock()
        self._is_at_work = False

    def bind(self, policies: tuple[Any, ...]) -> None:
        """Learn which policies inside share calls under way: what is invalidated here must not come from there."""
        inside = policies[[policy is self for policy in policies].index(True) + 1 :]
        with self._lock:
            self._flights.update(policy for policy in inside if hasattr(policy, "forget"))

    def around(self, call: Callable[P, R], /, *, leading_args: int = 0) -> Callable[P, R]:
        """Answer the blocking `call` from its earlier results."""
        return self._around(call, leading_args=leading_args, is_inner=False)

    def around_async(
        self, call: Callable[P, Awaitable[R]], /, *, leading_args: int = 0
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Answer the awaiting `call` from what it was awaited for before."""
        return self._around_async(call, leading_args=leading_args, is_inner=False)

    def per_call(self) -> PerCall:
        """Return this policy for calls that bring their function as the first argument."""
        return PerCall(self)

    def _around(self, call: Callable[P, R], /, *, leading_args: int = 0, is_inner: bool) -> Callable[P, R]:
        return _sync.around(self, self._space(leading_args), call, is_inner=is_inner)

    def _around_async(
        self, call: Callable[P, Awaitable[R]], /, *, leading_args: int = 0, is_inner: bool
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        from resilience.cache import _aio  # noqa: PLC0415 - where await may stand

        return _aio.around_async(self, self._space(leading_args), call, is_inner=is_inner)

    def _space(self, leading_args: int) -> Space:
        space = Space(Keys(self._key, leading_args))
        with self._lock:
            self._spaces.add(space)
        return space

    def note_used(self) -> None:
        """Tell the store which entries were used, in one go: a lock for each hit would be most of what a hit costs."""
        with self._lock:
            if not self._is_at_work:
                self._change(self._touch)

    def _change(self, change: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._is_at_work = True
        try:
            return change(*args, **kwargs)
        finally:
            self._is_at_work = False

    def _touch(self) -> None:
        self._store.touch([self.used.popleft() for _ in range(len(self.used))])

    def unhashable(self, key: Hashable, error: TypeError) -> TypeError:
        """Return what to raise where looking up `key` raised."""
        return unhashable(self.name, key, error)

    def missed(self, space: Space, key: Any) -> Miss:
        """Note a call that has to be made."""
        stripe = hash(key[1] if space.keys.leading_args else key) % _STRIPES
        self.misses += 1
        return Miss(space, key, stripe, self._epochs[stripe])

    def keep(self, miss: Miss, result: Any) -> None:
        """Keep what the call returned, unless it was invalidated meanwhile."""
        if not is_shareable(result) or not (self._cache_if is None or known(self._cache_if, self._cache_if(result))):
            return
        home, ttl = miss.space.entries, self.options.ttl
        # Into its place first, good for nothing yet: whatever the store holds can be found and taken out again.
        entry, old = Entry(home, miss.key, result), home.get(miss.key)
        home[miss.key] = entry
        now = self.clock()
        fresh_until = now + ttl * (1 - self.options.jitter * self._random())
        with self._lock:
            is_late = self._is_at_work or miss.epoch != self._epochs[miss.stripe]
            gone = [entry] if is_late else self._change(self._exchange, old, entry, fresh_until, now)
        for each in gone:
            each.leave_home()

    def _exchange(self, old: Entry | None, entry: Entry, fresh_until: float, now: float) -> list[Entry]:
        self._touch()
        if old is not None:
            self._store.drop(old)
        return self._store.keep(entry, fresh_until, fresh_until + self.options.stale_on_error, now)

    def stale(self, miss: Miss, error: Exception) -> Entry | None:
        """Return the entry that answers in place of `error`, or None where the error stands."""
        entry, now = miss.entry, self.clock()
        if entry is None or now >= entry.gone_at or miss.epoch != self._epochs[miss.stripe] or error not in self._on:
            return None
        self.stale_served += 1
        self.events.emit(
            "cache.stale_served", self.name, now, "warning", error=error, expired_for=now - entry.fresh_until
        )
        return entry

    def invalidate(self, *args: Any, **kwargs: Any) -> None:
        """Forget what calls with these arguments returned, whichever function they were for.

        A call under way now is not kept either: it may have read what has just changed.
        """
        key = Keys(self._key).of(args, kwargs)
        try:
            stripe = hash(key) % _STRIPES
        except TypeError as error:
            raise self.unhashable(key, error) from None
        self._forget_flights()
        with self._lock:
            self._epochs[stripe] += 1
            spaces = list(self._spaces)
        gone = [entry for space in spaces for entry in space.with_arguments(key)]
        with self._lock:
            if not self._is_at_work:
                self._change(self._drop, gone)

    def _drop(self, gone: list[Entry]) -> None:
        self._touch()
        for entry in gone:
            self._store.drop(entry)

    def clear(self) -> None:
        """Forget everything, calls under way now included."""
        self._forget_flights()
        with self._lock:
            self._epochs = [epoch + 1 for epoch in self._epochs]
            spaces, store = list(self._spaces), self._store
            self._store = Store(self.options.max_size)
            self._store.evicted = store.evicted
            self.used.clear()
        for space in spaces:
            space.entries.clear()

    def _forget_flights(self) -> None:
        with self._lock:
            flights = list(self._flights)
        for flight in flights:
            flight.forget()

    def describe(self) -> dict[str, Any]:
        """Return what this cache was told, the errors it may answer for included."""
        told = super().describe()
        return {**told, "options": {**told["options"], "on": self._on.names}}

    def snapshot(self) -> dict[str, Any]:
        """Return how many results are kept, and how calls were answered so far."""
        now = self.clock()
        with self._lock:
            gone = [] if self._is_at_work else self._change(self._store.expire, now)
            size, evicted = self._store.size, self._store.evicted
        for each in gone:
            each.leave_home()
        counts = {"hits": self.hits, "misses": self.misses, "stale": self.stale_served, "evicted": evicted}
        return {"size": size, **counts}

    def __repr__(self) -> str:
        return f"<Cache {self.name!r} {self.options.ttl:g} s, {self.snapshot()['size']}/{self.options.max_size}>"
