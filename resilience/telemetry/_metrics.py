"""The metric table: each metric of the toolkit with its name, unit, labels, description and reading.

The OpenTelemetry instruments, the Prometheus families, docs/metrics.md, the dashboard and the alerts are made from it.
A description stands here alone: two texts for one name would be two families for Prometheus.

Labels are of low cardinality. `policy` is the name of a policy, limiter, budget, cache or check, which the application
chooses; `kind`, `outcome`, `reason` and `state` have the few values that the code gives them. No metric has a label for
a key, a user, a host, an address or the text of an error.
"""

from __future__ import annotations

from resilience.telemetry._policy_metrics import POLICY_METRICS
from resilience.telemetry._pool_metrics import POOL_METRICS
from resilience.telemetry._process import PROCESS_METRICS
from resilience.telemetry._table import COUNTER, GAUGE, HISTOGRAM, POLICY, Metric, count, each, level, same, unnamed

__all__ = ("METRICS",)

_WAITS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""The bounds of the buckets of waits, in seconds."""

_PROCESS = (
    Metric(
        "resilience.keyed.keys",
        GAUGE,
        "{key}",
        "Keys that have a policy of their own.",
        POLICY,
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
        "resilience.fleet.instances",
        GAUGE,
        "{instance}",
        "Live instances of the fleet, as this one counts them; 0 if it does not take part.",
        (),
        ("fleet",),
        unnamed(level("instances")),
    ),
    Metric(
        "resilience.health.checks",
        GAUGE,
        "{check}",
        "1 for the verdict of each check: ok, failed, or unknown before the first run.",
        ("policy", "state"),
        ("health",),
        each(same("ok", "failed", "unknown"), of_levels=True),
    ),
    Metric(
        "resilience.lifecycle.state",
        GAUGE,
        "{process}",
        "1 for the state of the process.",
        ("state",),
        ("lifecycle",),
        unnamed(each(same("starting", "ready", "draining", "stopped"), of_levels=True)),
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
        POLICY,
        buckets=_WAITS,
    ),
    Metric(
        "resilience.ratelimit.wait",
        HISTOGRAM,
        "s",
        "Waits of calls for their turn.",
        POLICY,
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

METRICS: tuple[Metric, ...] = (*POLICY_METRICS, *POOL_METRICS, *_PROCESS, *PROCESS_METRICS, *_DURATIONS)
"""All metrics of the toolkit."""
