"""The rows of the metric table for policies, limiters and budgets."""

from __future__ import annotations

from resilience.telemetry._table import COUNTER, GAUGE, POLICY, Metric, count, each, each_other, level, same

__all__ = ("POLICY_METRICS",)

_BULKHEADS = ("bulkhead", "thread_pool")

_BREAKER = (
    Metric(
        "resilience.breaker.calls",
        COUNTER,
        "{call}",
        "Calls that the breaker counted as a success or a failure, and calls that it refused. In shadow: calls that it "
        "would have refused.",
        ("policy", "outcome"),
        ("breaker",),
        each(same("success", "failure", "refused", "shadow")),
    ),
    Metric(
        "resilience.breaker.transitions",
        COUNTER,
        "{transition}",
        "Changes of the state of a circuit, by the state that began.",
        ("policy", "state"),
        ("breaker",),
        each({"entered closed": "closed", "entered open": "open", "entered half-open": "half_open"}),
    ),
    Metric(
        "resilience.breaker.circuits",
        GAUGE,
        "{circuit}",
        "Circuits in each state. A breaker has one circuit; a keyed breaker has one for each key.",
        ("policy", "state"),
        ("breaker",),
        each({"closed": "closed", "open": "open", "half-open": "half_open"}, of_levels=True),
    ),
    Metric(
        "resilience.breaker.overrides",
        GAUGE,
        "{circuit}",
        "Circuits that an operator or the configuration keeps in a mode.",
        ("policy", "state"),
        ("breaker",),
        each(same("forced_open", "disabled", "metrics_only"), of_levels=True),
    ),
    Metric(
        "resilience.breaker.fleet_states",
        GAUGE,
        "{circuit}",
        "Shared circuits that the fleet keeps open or half-open, that have an override of an operator in force "
        "(override), and that decide without the fleet (alone).",
        ("policy", "state"),
        ("breaker",),
        each(
            {
                "fleet open": "open",
                "fleet half-open": "half_open",
                "fleet override": "override",
                "fleet alone": "alone",
            },
            of_levels=True,
        ),
    ),
)
_RETRY = (
    Metric(
        "resilience.retry.attempts",
        COUNTER,
        "{attempt}",
        "Attempts after the first one.",
        POLICY,
        ("retry",),
        count("retries"),
    ),
    Metric(
        "resilience.retry.retried_calls",
        COUNTER,
        "{call}",
        "Calls that were made again at least once.",
        POLICY,
        ("retry",),
        count("retried_calls"),
    ),
    Metric(
        "resilience.retry.failed_calls",
        COUNTER,
        "{call}",
        "Calls that failed for good: after retries (exhausted), at the first attempt (not_retried), or by a "
        "cancellation after retries (abandoned).",
        ("policy", "outcome"),
        ("retry",),
        each(
            {
                "failed_with_retry": "exhausted",
                "failed_without_retry": "not_retried",
                "abandoned_with_retry": "abandoned",
            }
        ),
    ),
    Metric(
        "resilience.budget.calls",
        GAUGE,
        "{call}",
        "Calls in flight that the budget counts: at their first attempt, retries, and hedged attempts.",
        ("policy", "state"),
        ("budget",),
        each(same("first", "retry", "hedge"), of_levels=True),
    ),
    Metric(
        "resilience.budget.limit",
        GAUGE,
        "{call}",
        "Retries and hedged attempts that may be in flight now.",
        POLICY,
        ("budget",),
        level("limit"),
    ),
    Metric(
        "resilience.budget.refused",
        COUNTER,
        "{attempt}",
        "Retries and hedged attempts that the budget refused.",
        POLICY,
        ("budget",),
        count("refused"),
    ),
    Metric(
        "resilience.hedge.calls",
        COUNTER,
        "{call}",
        "Calls of the hedge that have ended.",
        POLICY,
        ("hedge",),
        count("calls"),
    ),
    Metric(
        "resilience.hedge.attempts",
        COUNTER,
        "{attempt}",
        "Hedged attempts: those beside the first one.",
        POLICY,
        ("hedge",),
        count("hedges"),
    ),
    Metric(
        "resilience.hedge.won_calls",
        COUNTER,
        "{call}",
        "Calls that a hedged attempt answered.",
        POLICY,
        ("hedge",),
        count("won"),
    ),
    Metric(
        "resilience.hedge.suppressed",
        COUNTER,
        "{attempt}",
        "Hedged attempts that were due and not made.",
        ("policy", "reason"),
        ("hedge",),
        each(same("budget", "deadline", "threads")),
    ),
)
_LIMITS = (
    Metric(
        "resilience.ratelimit.decisions",
        COUNTER,
        "{decision}",
        "Decisions of a rate limit or limiter. In shadow: calls that were let through and would have been refused.",
        ("policy", "outcome"),
        ("ratelimit",),
        each(same("allowed", "refused", "shadow")),
    ),
    Metric(
        "resilience.bulkhead.calls",
        GAUGE,
        "{call}",
        "Calls that have a place or thread (running), and callers that wait for one (waiting).",
        ("policy", "kind", "state"),
        _BULKHEADS,
        each(same("running", "waiting"), with_kind=True, of_levels=True),
    ),
    Metric(
        "resilience.bulkhead.limit",
        GAUGE,
        "{call}",
        "Places or threads.",
        ("policy", "kind"),
        _BULKHEADS,
        level("limit", with_kind=True),
    ),
    Metric(
        "resilience.bulkhead.refused",
        COUNTER,
        "{call}",
        "Calls that got no place or thread: none was free (full), too many callers waited (line), the wait was too "
        "long (waited) or hopeless, late calls held half of the threads (late), the system started no thread (system). "
        "In shadow: calls that would have been refused.",
        ("policy", "kind", "reason"),
        _BULKHEADS,
        each_other(with_kind=True),
    ),
    Metric(
        "resilience.timeout.elapsed",
        COUNTER,
        "{call}",
        "Calls that took longer than they were allowed.",
        POLICY,
        ("timeout",),
        count("elapsed"),
    ),
    Metric(
        "resilience.timeout.refused",
        COUNTER,
        "{call}",
        "Calls that the timeout did not make: no time was left (deadline), no thread was free (threads), late calls "
        "held half of the threads (late), the system started no thread (system).",
        ("policy", "reason"),
        ("timeout",),
        each_other("elapsed"),
    ),
    Metric(
        "resilience.timeout.late_threads",
        GAUGE,
        "{thread}",
        "Threads in calls whose callers have stopped waiting.",
        POLICY,
        ("timeout",),
        level("late"),
    ),
)
_ANSWERS = (
    Metric(
        "resilience.fallback.calls",
        COUNTER,
        "{call}",
        "Failed calls that an alternative answered (used), or that none could answer (exhausted).",
        ("policy", "outcome"),
        ("fallback",),
        each(same("used", "exhausted")),
    ),
    Metric(
        "resilience.cache.lookups",
        COUNTER,
        "{lookup}",
        "Calls that a fresh result answered (hit), and calls that had to be made (miss).",
        ("policy", "outcome"),
        ("cache",),
        each(same("hit", "miss")),
    ),
    Metric(
        "resilience.cache.stale_answers",
        COUNTER,
        "{call}",
        "Failed calls that an expired result answered.",
        POLICY,
        ("cache",),
        count("stale"),
    ),
    Metric(
        "resilience.cache.evictions",
        COUNTER,
        "{result}",
        "Results that were removed to make room.",
        POLICY,
        ("cache",),
        count("evicted"),
    ),
    Metric("resilience.cache.size", GAUGE, "{result}", "Results that are kept.", POLICY, ("cache",), level("size")),
    Metric(
        "resilience.singleflight.calls",
        COUNTER,
        "{call}",
        "Calls that were made, and callers that shared the outcome of a call of another caller.",
        ("policy", "outcome"),
        ("singleflight",),
        each(same("made", "shared")),
    ),
)
POLICY_METRICS = (*_BREAKER, *_RETRY, *_LIMITS, *_ANSWERS)
