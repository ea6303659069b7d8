"""The metric table: each metric of the toolkit with its name, unit, labels, description and reading.

The OpenTelemetry instruments, the Prometheus families, docs/metrics.md, the dashboard and the alerts are made from it.
A description stands here alone: two texts for one name would be two families for Prometheus.

Labels are of low cardinality. `policy` is the name of a policy, limiter, budget, cache or check, which the application
chooses; `kind`, `outcome`, `reason` and `state` have the few values that the code gives them. No metric has a label for
a key, a user, a host, an address or the text of an error.
"""

from __future__ import annotations

from resilience.telemetry._process import PROCESS_METRICS
from resilience.telemetry._table import Metric, MetricKind, count, each, each_other, level, unnamed

__all__ = ("METRICS",)

_WAITS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""The bounds of the buckets of waits, in seconds."""
COUNTER, GAUGE, HISTOGRAM = MetricKind


def _same(*words: str) -> dict[str, str]:
    return {word: word for word in words}


_POLICY = ("policy",)
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
        each(_same("success", "failure", "refused", "shadow")),
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
        each(_same("forced_open", "disabled", "metrics_only"), of_levels=True),
    ),
)
_RETRY = (
    Metric(
        "resilience.retry.attempts",
        COUNTER,
        "{attempt}",
        "Attempts after the first one.",
        _POLICY,
        ("retry",),
        count("retries"),
    ),
    Metric(
        "resilience.retry.retried_calls",
        COUNTER,
        "{call}",
        "Calls that were made again at least once.",
        _POLICY,
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
        each(_same("first", "retry", "hedge"), of_levels=True),
    ),
    Metric(
        "resilience.budget.limit",
        GAUGE,
        "{call}",
        "Retries and hedged attempts that may be in flight now.",
        _POLICY,
        ("budget",),
        level("limit"),
    ),
    Metric(
        "resilience.budget.refused",
        COUNTER,
        "{attempt}",
        "Retries and hedged attempts that the budget refused.",
        _POLICY,
        ("budget",),
        count("refused"),
    ),
    Metric(
        "resilience.hedge.calls",
        COUNTER,
        "{call}",
        "Calls of the hedge that have ended.",
        _POLICY,
        ("hedge",),
        count("calls"),
    ),
    Metric(
        "resilience.hedge.attempts",
        COUNTER,
        "{attempt}",
        "Hedged attempts: those beside the first one.",
        _POLICY,
        ("hedge",),
        count("hedges"),
    ),
    Metric(
        "resilience.hedge.won_calls",
        COUNTER,
        "{call}",
        "Calls that a hedged attempt answered.",
        _POLICY,
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
        each(_same("budget", "deadline", "threads")),
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
        each(_same("allowed", "refused", "shadow")),
    ),
    Metric(
        "resilience.bulkhead.calls",
        GAUGE,
        "{call}",
        "Calls that have a place or thread (running), and callers that wait for one (waiting).",
        ("policy", "kind", "state"),
        _BULKHEADS,
        each(_same("running", "waiting"), with_kind=True, of_levels=True),
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
        _POLICY,
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
        _POLICY,
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
        each(_same("used", "exhausted")),
    ),
    Metric(
        "resilience.cache.lookups",
        COUNTER,
        "{lookup}",
        "Calls that a fresh result answered (hit), and calls that had to be made (miss).",
        ("policy", "outcome"),
        ("cache",),
        each(_same("hit", "miss")),
    ),
    Metric(
        "resilience.cache.stale_answers",
        COUNTER,
        "{call}",
        "Failed calls that an expired result answered.",
        _POLICY,
        ("cache",),
        count("stale"),
    ),
    Metric(
        "resilience.cache.evictions",
        COUNTER,
        "{result}",
        "Results that were removed to make room.",
        _POLICY,
        ("cache",),
        count("evicted"),
    ),
    Metric("resilience.cache.size", GAUGE, "{result}", "Results that are kept.", _POLICY, ("cache",), level("size")),
    Metric(
        "resilience.singleflight.calls",
        COUNTER,
        "{call}",
        "Calls that were made, and callers that shared the outcome of a call of another caller.",
        ("policy", "outcome"),
        ("singleflight",),
        each(_same("made", "shared")),
    ),
)
_PROCESS = (
    Metric(
        "resilience.keyed.keys",
        GAUGE,
        "{key}",
        "Keys that have a policy of their own.",
        _POLICY,
        ("keyed",),
        level("keys"),
    ),
    Metric(
        "resilience.redis.down",
        GAUGE,
        "{store}",
        "1 while Redis does not answer and decisions are made without it. The label kind says for which part.",
        ("kind",),
        ("redis",),
        level("down"),
    ),
    Metric(
        "resilience.redis.outages",
        COUNTER,
        "{outage}",
        "Outages of Redis that began.",
        ("kind",),
        ("redis",),
        count("outages"),
    ),
    Metric(
        "resilience.health.checks",
        GAUGE,
        "{check}",
        "1 for the verdict of each check: ok, failed, or unknown before the first run.",
        ("policy", "state"),
        ("health",),
        each(_same("ok", "failed", "unknown"), of_levels=True),
    ),
    Metric(
        "resilience.lifecycle.state",
        GAUGE,
        "{process}",
        "1 for the state of the process.",
        ("state",),
        ("lifecycle",),
        unnamed(each(_same("starting", "ready", "draining", "stopped"), of_levels=True)),
    ),
    Metric(
        "resilience.lifecycle.requests",
        GAUGE,
        "{request}",
        "Requests in flight, as the drain counts them.",
        (),
        ("lifecycle",),
        unnamed(level("in flight")),
    ),
    Metric(
        "resilience.events.dropped",
        COUNTER,
        "{event}",
        "Events that no listener got, because listeners were too slow.",
        (),
        ("events",),
        unnamed(count("dropped")),
    ),
    Metric(
        "resilience.events.waiting",
        GAUGE,
        "{event}",
        "Events that wait for a slow listener.",
        (),
        ("events",),
        unnamed(level("waiting")),
    ),
)

_DURATIONS = (
    Metric(
        "resilience.retry.wait",
        HISTOGRAM,
        "s",
        "Waits before another attempt.",
        _POLICY,
        buckets=_WAITS,
    ),
    Metric(
        "resilience.ratelimit.wait",
        HISTOGRAM,
        "s",
        "Waits of calls for their turn.",
        _POLICY,
        buckets=_WAITS,
    ),
    Metric(
        "resilience.bulkhead.wait",
        HISTOGRAM,
        "s",
        "Waits of callers that found no free place or thread, whether they got one or not.",
        ("policy", "kind"),
        buckets=_WAITS,
    ),
)

METRICS: tuple[Metric, ...] = (*_BREAKER, *_RETRY, *_LIMITS, *_ANSWERS, *_PROCESS, *PROCESS_METRICS, *_DURATIONS)
"""All metrics of the toolkit."""
