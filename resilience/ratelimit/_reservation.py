"""A booking: tokens that were paid for a turn in the future."""

from __future__ import annotations

import math
from collections.abc import Generator
from types import TracebackType
from typing import Any, Protocol, Self

from resilience.clock import SYSTEM_SLEEPER, Clock
from resilience.errors import RateLimitedError
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._store import Buckets
from resilience.ratelimit._waiting import within_deadline
from resilience.running import warn_if_loop_waits

__all__ = ("Reservation",)


class _Limiter(Protocol):
    """The part of `TokenBucket` that a reservation needs."""

    shadow: bool

    @property
    def name(self) -> str: ...
    @property
    def rate_text(self) -> str: ...
    def refund(self, key: str, decision: Decision, /) -> None: ...
    async def arefund(self, key: str, decision: Decision, /) -> None: ...


class Reservation:
    """The answer of `TokenBucket.reserve`: a turn that was booked, or a refusal. It is true exactly if it was booked.

    Use it in one of these ways:

    - Read `delay`, do something else until then, and make the call. No method is needed.
    - `reservation.wait()` blocks until the turn, and `await reservation` suspends the task. If the wait is interrupted
      or cancelled, the tokens go back.
    - `with reservation:` (or `async with`) gives the tokens back if the block ends before the turn has come. The block
      does not wait by itself.
    - `reservation.cancel()` (or `await reservation.acancel()`) gives the tokens back at any time, once.

    Args:
        limiter: The limiter that was asked.
        buckets: The buckets that have paid.
        key: The key that has paid.
        decision: The decision about the payment.
        clock: Returns seconds that never go back.

    Attributes:
        decision: The decision about the payment.
        key: The key that has paid.

    Example:
        >>> from resilience import TokenBucket
        >>> mails = TokenBucket("1/minute", name="mails")
        >>> mails.reserve("client-42").delay
        0.0
        >>> later = mails.reserve("client-42", max_wait="2m")
        >>> f"{later.delay:.0f} s"
        '60 s'
        >>> later.cancel()
        >>> mails.reserve("client-42", max_wait="30s").decision.allowed
        False
    """

    __slots__ = ("_buckets", "_clock", "_limiter", "_payments", "_starts_at", "decision", "key")

    def __init__(self, limiter: _Limiter, buckets: Buckets, key: str, decision: Decision, clock: Clock) -> None:
        self.decision = decision
        self.key = key
        self._limiter = limiter
        self._buckets = buckets
        self._clock = clock
        # One item until the tokens go back: to delete it is one step to other threads.
        self._payments = [decision] if decision.allowed else []
        # In shadow a call has no turn to wait for.
        self._starts_at = clock() + (0.0 if limiter.shadow else decision.wait)

    @property
    def allowed(self) -> bool:
        """Whether a turn was booked."""
        return self.decision.allowed

    @property
    def delay(self) -> float:
        """Seconds from now until the turn: 0 once it has come, `math.inf` if none was booked."""
        return max(0.0, self._starts_at - self._clock()) if self.allowed else math.inf

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the same call fits; None if it never fits."""
        return self.decision.retry_after

    def wait(self) -> None:
        """Block this thread until the turn. An interrupt gives the tokens back.

        Raises:
            RateLimitedError: No turn was booked, or it was cancelled, or it comes after the deadline in force. Then the
                tokens are given back.
        """
        if delay := self._due():
            try:
                warn_if_loop_waits(self._limiter, delay)
                SYSTEM_SLEEPER.sleep(delay)
            except BaseException:
                self._give_back()
                raise

    def __await__(self) -> Generator[Any, None, None]:
        """Suspend this task until the turn. A cancellation gives the tokens back. Otherwise like `wait`."""
        return self._await().__await__()

    async def _await(self) -> None:
        if delay := self._due():
            try:
                await SYSTEM_SLEEPER.asleep(delay)
            except BaseException:
                self._give_back()
                raise

    def _due(self) -> float:
        """Return the seconds until the turn, or raise `RateLimitedError`."""
        if not self._payments:
            raise self._error("no turn is booked")
        delay = self.delay
        if delay > within_deadline(delay):
            self._give_back()
            raise self._error("its turn comes after the deadline")
        return delay

    def _error(self, reason: str) -> RateLimitedError:
        name, rate = self._limiter.name, self._limiter.rate_text
        message = f"rate limit {name!r}: {rate} exceeded; {reason}"
        return RateLimitedError(message, policy=name, retry_after=self.decision.retry_after)

    def _give_back(self) -> None:
        """Give the tokens back, once, without a wait: on Redis in the background."""
        if self._takes_payment() and not self._limiter.shadow:
            self._buckets.give_back(self.key, self.decision)

    def _takes_payment(self) -> bool:
        try:
            del self._payments[-1]
        except IndexError:
            return False
        return True

    def cancel(self) -> None:
        """Give the tokens back, once. On Redis this blocks for up to the connection's timeout.

        If other calls wait for their turns behind this one, they keep them: see `TokenBucket.refund`.
        """
        if self._takes_payment():
            self._limiter.refund(self.key, self.decision)

    async def acancel(self) -> None:
        """Give the tokens back, once, without blocking the event loop."""
        if self._takes_payment():
            await self._limiter.arefund(self.key, self.decision)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.delay > 0:
            self._give_back()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.delay > 0:
            self._give_back()

    def __bool__(self) -> bool:
        return self.allowed

    def __repr__(self) -> str:
        state = f"in {self.delay:.3g} s" if self.allowed else "refused"
        return f"<Reservation of {self._limiter.name!r} {state}>"
