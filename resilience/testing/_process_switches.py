"""What a test can do to all policies of the process, besides stopping their clock."""

from __future__ import annotations

from contextlib import AbstractContextManager

from resilience._support.fork import resettable_objects
from resilience.retry import no_waits, set_active
from resilience.testing._off_switch import OFF_SWITCH

__all__ = ("no_waits", "policies_off", "reset")


def policies_off() -> AbstractContextManager[None]:
    """Let all calls pass through all policies of the process while the `with` block runs.

    No call is refused, repeated, timed, cached or counted. A call that begins in the block ends without a policy. A
    call that began before the block is counted as always. A `ThreadPoolBulkhead` still runs blocking calls in its
    threads, because the event loop of an awaiting caller must not block.

    Raises:
        RuntimeError: The switch is not installed: see `manual_clock`.

    Example:
        ::

            with policies_off():
                charge("order-1")  # one attempt, with its own outcome
    """
    if not OFF_SWITCH.is_installed:
        raise RuntimeError("policies_off: call resilience.testing.install() before the first policy is made")
    return OFF_SWITCH.off()


def reset() -> None:
    """Give every policy of the process the state of a new one. The pytest plugin calls this after each test.

    Circuits are closed, buckets in memory are full, caches are empty, the counts of `snapshot()` are zero, the outcomes
    of health checks are forgotten, and retries are switched on. A lifecycle that is draining is ready again. Options,
    listeners, places of calls in flight, and buckets on Redis stay.

    Example:
        >>> from resilience import CircuitBreaker
        >>> breaker = CircuitBreaker(name="docs-reset")
        >>> opened = breaker.open()
        >>> reset()
        >>> breaker.current_state
        'closed'
    """
    for thing in resettable_objects():
        thing.after_test()
    set_active(True)
