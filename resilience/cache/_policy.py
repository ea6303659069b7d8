"""The cache: recent results in place of calls, in both colours."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, runtime_checkable
from weakref import ref

from resilience._support.awaiting import CoroutineFunction
from resilience._support.matching import Errors, Kinds, known
from resilience._support.sharing import KEY, Keys, is_shareable, unhashable
from resilience.cache._machine import CacheEntry
from resilience.cache._options import CacheOptions
from resilience.cache._results import MAX_PENDING_HITS, CacheMiss, FunctionIndex, Results
from resilience.clock import Clock, monotonic
from resilience.events import Emitter
from resilience.options import CLOCK, Opaque, checked, is_plain_callable
from resilience.policy import Named, Substitute

if TYPE_CHECKING:
    from resilience._engine._steps import Steps

__all__ = ("Cache",)

P = ParamSpec("P")
R = TypeVar("R")
_CACHE_IF = Opaque(
    "a function of the result that says whether to keep it (not a coroutine function)",
    lambda value: value is None or is_plain_callable(value),
)
_RANDOMNESS = Opaque("a function without arguments that returns a number from 0 to 1", is_plain_callable)


@runtime_checkable
class _SharesCalls(Protocol):
    """A policy inside the cache that lets callers join a call in flight, such as `SingleFlight`."""

    def forget(self) -> None:
        """Let no further caller join the calls that are in flight now."""


class Cache(Named):
    """Answers a call with the result that the same call returned within the last `ttl`.

    Two calls are the same if the function and its arguments are equal; `self` is one of the arguments. Every caller
    gets the same object: treat it as read-only. A call that has no fresh result is made, and its result is kept.
    Not kept are results for which `cache_if` is false, iterators and awaitables, and the stand-in of a `Fallback` in
    the same pipeline. Errors are never kept. Generator functions are refused when they are wrapped.

    With `stale_on_error`, a call that raised one of `on` is answered by its previous result. Policies outside the cache
    still see the failure: a breaker counts it.

    Args:
        ttl: How long a result answers further calls: seconds, a `timedelta`, or text such as `"60s"`. Above 0.
        max_size: The number of results to keep, over all functions. Beyond it the least recently used one is evicted.
        stale_on_error: How long after `ttl` a result may still answer a call that failed. 0 for never.
        jitter: The share of `ttl`, from 0 to 1, by which each result expires sooner, at random: so that results which
            were kept together do not expire together.
        key: A function of the call's arguments that returns a hashable value. Calls with equal values are the same.
            None (the default) takes the arguments themselves.
        cache_if: A function of the result that returns whether to keep it. None keeps every result.
        on: The errors for which a stale result may answer: a class, a predicate over the error, or a tuple of them.
        name: The name in events and snapshots. None takes it from the first pipeline that holds the cache.
        clock: The clock that measures `ttl`, in seconds.
        randomness: The source of `jitter`: a function that returns a number from 0 to 1.

    Raises:
        ConfigurationError: An option has the wrong type or value.
        TypeError: At a call whose arguments cannot be hashed; give `key`.

    Example:
        >>> from resilience import Cache, Pipeline
        >>> prices = Pipeline("prices", Cache("60s"))
        >>> @prices
        ... def price(item):
        ...     print("asking for", item)
        ...     return 12.0
        >>> price("lamp"), price("lamp")
        asking for lamp
        (12.0, 12.0)
    """

    kind = "cache"
    accepts_leading_args = True

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
        self._cache_if = checked(cache_if, "cache_if", _CACHE_IF)
        self._on = Errors(on)
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self._random: Callable[[], float] = checked(randomness, "randomness", _RANDOMNESS)
        self.events = Emitter()
        self._results = Results(self.name, self.options.max_size)
        self._sharing: set[ref[_SharesCalls]] = set()  # the policies inside that share calls in flight
        self._is_made = True

    def renamed(self) -> None:
        """Use the new name in metrics."""
        self._results.name = self.name

    @property
    def hits(self) -> int:
        """Calls so far that a fresh result answered."""
        return self._results.hits

    @property
    def misses(self) -> int:
        """Calls so far that had to be made."""
        return self._results.misses

    @property
    def stale_served(self) -> int:
        """Failed calls so far that a stale result answered."""
        return self._results.stale_served

    def choose_steps(self, steps: Steps) -> Steps:
        """Leave out the steps of a cache inside other policies, unless a stale result may stand in for an error."""
        if self.options.stale_on_error:
            return steps
        return dataclasses.replace(steps, around_nested=None, around_nested_async=None)

    def bind(self, policies: tuple[object, ...]) -> None:
        """Find the policies inside that share calls in flight: a call from before an invalidation must not be joined.

        Args:
            policies: All policies of the pipeline that takes the cache in, the outermost first.
        """
        inside = policies[[policy is self for policy in policies].index(True) + 1 :]
        for policy in inside:
            if isinstance(policy, _SharesCalls):
                self._sharing.add(ref(policy, self._sharing.discard))

    def around(self, call: Callable[P, R], /, *, leading_args: int = 0) -> Callable[P, R]:
        """Answer the blocking `call` from its earlier results."""
        return self._blocking(call, leading_args=leading_args)

    def around_async(self, call: Callable[P, Awaitable[R]], /, *, leading_args: int = 0) -> CoroutineFunction[P, R]:
        """Answer the awaiting `call` from its earlier results."""
        return self._awaiting(call, leading_args=leading_args)

    def around_nested(self, call: Callable[P, R], /, *, leading_args: int = 0) -> Callable[P, R]:
        """Answer the blocking `call` inside other policies: a stale result is raised as a `Substitute`."""
        return self._blocking(call, leading_args=leading_args, is_nested=True)

    def around_nested_async(
        self, call: Callable[P, Awaitable[R]], /, *, leading_args: int = 0
    ) -> CoroutineFunction[P, R]:
        """Answer the awaiting `call` inside other policies: a stale result is raised as a `Substitute`."""
        return self._awaiting(call, leading_args=leading_args, is_nested=True)

    def _blocking(self, call: Callable[P, R], /, *, leading_args: int = 0, is_nested: bool = False) -> Callable[P, R]:
        index, results = self._results.new_index(Keys(self._key, leading_args)), self._results
        keys, is_plain, find = index.keys, index.keys.are_arguments, index.entries.get
        clock, pending_hits = self._clock, results.pending_hits

        def cached(*args: P.args, **kwargs: P.kwargs) -> R:
            # The hit is written out here and in `_awaiting`: in a function that both call it costs 10 to 14 % more.
            key = args if is_plain and not kwargs else keys(args, kwargs)
            try:
                entry = find(key)
            except TypeError as error:
                raise unhashable(self.name, key, error) from None
            if entry is not None and clock() < entry.fresh_until:
                results.hits += 1
                pending_hits.append(entry)
                if len(pending_hits) >= MAX_PENDING_HITS:
                    results.report_hits()
                return entry.value  # type: ignore[no-any-return]  # an earlier result of the same function
            miss = self._miss(index, key)
            try:
                result = call(*args, **kwargs)
            except Exception as error:
                if (stale := self._stale(miss, error, is_nested)) is None:
                    raise
                return cast("R", stale.value)
            self._keep(miss, result)
            return result

        return cached

    def _awaiting(
        self, call: Callable[P, Awaitable[R]], /, *, leading_args: int = 0, is_nested: bool = False
    ) -> CoroutineFunction[P, R]:
        index, results = self._results.new_index(Keys(self._key, leading_args)), self._results
        keys, is_plain, find = index.keys, index.keys.are_arguments, index.entries.get
        clock, pending_hits = self._clock, results.pending_hits

        async def cached(*args: P.args, **kwargs: P.kwargs) -> R:
            # The same as in `_blocking`, for the same reason.
            key = args if is_plain and not kwargs else keys(args, kwargs)
            try:
                entry = find(key)
            except TypeError as error:
                raise unhashable(self.name, key, error) from None
            if entry is not None and clock() < entry.fresh_until:
                results.hits += 1
                pending_hits.append(entry)
                if len(pending_hits) >= MAX_PENDING_HITS:
                    results.report_hits()
                return entry.value  # type: ignore[no-any-return]  # an earlier result of the same function
            miss = self._miss(index, key)
            try:
                result = await call(*args, **kwargs)
            except Exception as error:
                if (stale := self._stale(miss, error, is_nested)) is None:
                    raise
                return cast("R", stale.value)
            self._keep(miss, result)
            return result

        return cached

    def _miss(self, index: FunctionIndex, key: Hashable) -> CacheMiss:
        """Count and return a call that has to be made."""
        self._results.misses += 1
        return self._results.miss(index, key)

    def _stale(self, miss: CacheMiss, error: Exception, is_nested: bool) -> CacheEntry | None:  # noqa: FBT001 - called by two lines of this class
        """Return the stale entry that answers in place of `error`, or None. Raises it as a `Substitute` if nested."""
        entry, now = miss.entry, self._clock()
        if entry is None or now >= entry.expires_at or not self._results.is_current(miss) or error not in self._on:
            return None
        self._results.stale_served += 1
        facts: dict[str, object] = {"error": error, "expired_for": now - entry.fresh_until}
        self.events.emit("cache.stale_served", self.name, now, "warning", **facts)
        if is_nested:
            raise Substitute(entry.value, error=error) from error
        return entry

    def _keep(self, miss: CacheMiss, result: object) -> None:
        """Keep the result of a call, if it can be shared and `cache_if` agrees."""
        if not is_shareable(result) or not (self._cache_if is None or known(self._cache_if, self._cache_if(result))):
            return
        now = self._clock()
        fresh_until = now + self.options.ttl * (1 - self.options.jitter * self._random())
        self._results.add(miss, result, fresh_until, fresh_until + self.options.stale_on_error, now)

    def invalidate(self, *args: object, **kwargs: object) -> None:
        """Remove the results of calls with these arguments, for every function of this cache.

        The result of a call that is in flight now is not kept either: it may have read the value that has just changed.
        A `SingleFlight` inside the cache lets no further caller join that call.

        Raises:
            TypeError: The arguments cannot be hashed.
        """
        key = Keys(self._key).of(args, kwargs)
        try:
            hash(key)
        except TypeError as error:
            raise unhashable(self.name, key, error) from None
        self._forget_shared_calls()
        self._results.invalidate(key)

    def clear(self) -> None:
        """Remove all results. The results of calls that are in flight now are not kept either."""
        self._forget_shared_calls()
        self._results.clear()

    def _forget_shared_calls(self) -> None:
        for reference in list(self._sharing):
            if (policy := reference()) is not None:
                policy.forget()

    def describe(self) -> dict[str, Any]:
        """Return kind, name and options as plain data, with the errors for which a stale result may answer."""
        described = super().describe()
        return {**described, "options": {**described["options"], "on": self._on.names}}

    def snapshot(self) -> dict[str, int]:
        """Return how many results are kept, and how calls were answered so far."""
        results = self._results
        size, evicted = results.count(self._clock())
        counts = {"hits": results.hits, "misses": results.misses, "stale": results.stale_served, "evicted": evicted}
        return {"size": size, **counts}

    def __repr__(self) -> str:
        return f"<Cache {self.name!r} {self.options.ttl:g} s, {self.snapshot()['size']}/{self.options.max_size}>"
