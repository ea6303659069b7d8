"""Alerts and recording rules for Prometheus, made from the metric table.

`python -m resilience metrics --rules` prints them. Each alert has a page in docs/runbook.
"""

from __future__ import annotations

from dataclasses import dataclass

from resilience.telemetry._metrics import METRICS
from resilience.telemetry._process import REQUEST_DURATION

__all__ = ("ALERTS", "RECORDINGS", "Alert", "Recording", "family", "rules")

_BY_NAME = {metric.name: metric for metric in (*METRICS, REQUEST_DURATION)}


def family(name: str, part: str = "") -> str:
    """Return the name of the series of a metric for Prometheus.

    Args:
        name: The name in the metric table.
        part: `_count`, `_sum` or `_bucket` of a histogram.

    Raises:
        KeyError: The table has no such metric.

    Example:
        >>> family("resilience.breaker.calls")
        'resilience_breaker_calls_total'
    """
    return _BY_NAME[name].series + part


@dataclass(frozen=True)
class Recording:
    """A recording rule: the series `record` has the values of `expr`."""

    record: str
    expr: str


@dataclass(frozen=True)
class Alert:
    """An alert.

    Args:
        name: Its name, and the title of its page.
        expr: Fires for each series that this expression returns.
        after: How long the expression must hold.
        severity: `page` wakes a person; `ticket` can wait for the morning.
        summary: One sentence with the labels of the series.
    """

    name: str
    expr: str
    after: str
    severity: str
    summary: str

    @property
    def page(self) -> str:
        """The name of its page in docs/runbook."""
        words = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in self.name)
        return words.removeprefix("-resilience-")


_REQUESTS = "resilience.server.request.duration"
_FAILED = "5..|INTERNAL|UNAVAILABLE|UNKNOWN|DEADLINE_EXCEEDED"


def _rate(name: str, selector: str = "", *, by: str = "job, policy", part: str = "") -> str:
    """Return the rate of a counter over five minutes, summed over the instances."""
    series = family(name, part) + ("{" + selector + "}" if selector else "")
    return f"sum by ({by}) (rate({series}[5m]))"


def _now(name: str, selector: str = "", *, by: str = "job, policy") -> str:
    """Return a gauge, summed over the instances."""
    series = family(name) + ("{" + selector + "}" if selector else "")
    return f"sum by ({by}) ({series})"


def _share(part: str, whole: str) -> str:
    return f"{part} / {whole}"


RECORDINGS = (
    Recording(
        "policy:resilience_breaker_refused:ratio_rate5m",
        _share(_rate("resilience.breaker.calls", 'outcome="refused"'), _rate("resilience.breaker.calls")),
    ),
    Recording(
        "policy:resilience_breaker_failed:ratio_rate5m",
        _share(
            _rate("resilience.breaker.calls", 'outcome="failure"'),
            _rate("resilience.breaker.calls", 'outcome=~"failure|success"'),
        ),
    ),
    Recording(
        "policy:resilience_ratelimit_refused:ratio_rate5m",
        _share(
            _rate("resilience.ratelimit.decisions", 'outcome="refused"'),
            _rate("resilience.ratelimit.decisions", 'outcome=~"refused|allowed"'),
        ),
    ),
    Recording(
        "job:resilience_requests_failed:ratio_rate5m",
        _share(
            _rate(_REQUESTS, f'status=~"{_FAILED}"', by="job", part="_count"),
            _rate(_REQUESTS, by="job", part="_count"),
        ),
    ),
)

ALERTS = (
    Alert(
        "ResilienceCircuitOpen",
        _now("resilience.breaker.circuits", 'state="open"') + " > 0",
        "1m",
        "page",
        "{{ $value }} circuits of {{ $labels.policy }} are open: its dependency is sick.",
    ),
    Alert(
        "ResilienceCallsRefused",
        "policy:resilience_breaker_refused:ratio_rate5m > 0.05",
        "5m",
        "page",
        "{{ $labels.policy }} refuses {{ $value | humanizePercentage }} of its calls.",
    ),
    Alert(
        "ResilienceCircuitForced",
        _now("resilience.breaker.overrides", 'state=~"forced_open|disabled"') + " > 0",
        "1h",
        "ticket",
        "A circuit of {{ $labels.policy }} has been forced open or disabled for an hour.",
    ),
    Alert(
        "ResilienceRetryBudgetSpent",
        _rate("resilience.budget.refused") + " > 0",
        "5m",
        "ticket",
        "The retry budget {{ $labels.policy }} refuses retries: too many calls fail at once.",
    ),
    Alert(
        "ResilienceRateLimitRefuses",
        "policy:resilience_ratelimit_refused:ratio_rate5m > 0.1",
        "10m",
        "ticket",
        "{{ $labels.policy }} refuses {{ $value | humanizePercentage }} of its requests.",
    ),
    Alert(
        "ResilienceBulkheadFull",
        _rate("resilience.bulkhead.refused") + " > 0",
        "5m",
        "page",
        "{{ $labels.policy }} is full and refuses {{ $value | humanize }} calls a second.",
    ),
    Alert(
        "ResilienceLateThreads",
        _now("resilience.timeout.late_threads") + " > 0",
        "10m",
        "ticket",
        "{{ $value }} threads of {{ $labels.policy }} work on calls that no caller waits for.",
    ),
    Alert(
        "ResilienceFallbackExhausted",
        _rate("resilience.fallback.calls", 'outcome="exhausted"') + " > 0",
        "5m",
        "page",
        "No alternative of {{ $labels.policy }} answers: callers get the error.",
    ),
    Alert(
        "ResiliencePoolExhausted",
        _rate("resilience.pool.timeouts") + " > 0",
        "5m",
        "page",
        "Borrowers of the pool {{ $labels.policy }} wait in vain for a connection.",
    ),
    Alert(
        "ResiliencePoolCannotConnect",
        _rate("resilience.pool.connect_failures") + " > 0",
        "2m",
        "page",
        "The pool {{ $labels.policy }} cannot connect.",
    ),
    Alert(
        "ResiliencePoolLeaks",
        "sum by (job, policy) (increase(" + family("resilience.pool.lost_leases") + "[1h]))"
        " + sum by (job, policy) (increase(" + family("resilience.pool.leaks") + "[1h])) > 0",
        "5m",
        "ticket",
        "Borrowers of the pool {{ $labels.policy }} keep or lose connections.",
    ),
    Alert(
        "ResilienceRedisDown",
        _now("resilience.redis.down", by="job, kind") + " > 0",
        "1m",
        "page",
        "Redis does not answer: {{ $labels.kind }} decides by its outage mode.",
    ),
    Alert(
        "ResilienceCheckFailed",
        _now("resilience.health.checks", 'state="failed"') + " > 0",
        "2m",
        "page",
        "The check {{ $labels.policy }} fails in {{ $value }} instances.",
    ),
    Alert(
        "ResilienceDrainStuck",
        _now("resilience.lifecycle.state", 'state="draining"', by="job, instance") + " > 0",
        "5m",
        "ticket",
        "{{ $labels.instance }} has been draining for five minutes.",
    ),
    Alert(
        "ResilienceEventsDropped",
        "sum by (job) (increase(" + family("resilience.events.dropped") + "[10m])) > 0",
        "5m",
        "ticket",
        "A listener of {{ $labels.job }} is too slow: {{ $value | humanize }} events were dropped.",
    ),
    Alert(
        "ResilienceEventLoopBlocked",
        _rate("resilience.process.loop_lag", by="job, instance") + " > 0.2",
        "5m",
        "page",
        "Code blocks the event loop of {{ $labels.instance }} for {{ $value | humanizePercentage }} of the time.",
    ),
    Alert(
        "ResilienceRequestsFail",
        "job:resilience_requests_failed:ratio_rate5m > 0.05",
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of the requests of {{ $labels.job }} fail.",
    ),
)


def rules(runbook: str = "docs/runbook") -> dict[str, object]:
    """Return the rules as data, for YAML or JSON: Prometheus reads both.

    Args:
        runbook: The place of the runbook pages, such as the address of your copy of the documentation site. Default:
            the folder in the repository.
    """
    suffix = "html" if runbook.startswith(("http://", "https://")) else "md"
    place = runbook.rstrip("/")
    recordings = [{"record": each.record, "expr": each.expr} for each in RECORDINGS]
    alerts = [
        {
            "alert": each.name,
            "expr": each.expr,
            "for": each.after,
            "labels": {"severity": each.severity},
            "annotations": {"summary": each.summary, "runbook_url": f"{place}/{each.page}.{suffix}"},
        }
        for each in ALERTS
    ]
    groups = [{"name": "resilience-recordings", "rules": recordings}, {"name": "resilience-alerts", "rules": alerts}]
    return {"groups": groups}
