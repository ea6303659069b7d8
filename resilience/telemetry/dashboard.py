"""A dashboard for Grafana, made from the metric table: `python -m resilience metrics --dashboard` prints it."""

from __future__ import annotations

from resilience.telemetry.alerts import family

__all__ = ("dashboard",)

_WIDTH, _HEIGHT, _PER_ROW = 8, 7, 3


def _by(name: str, labels: str, selector: str = "", part: str = "") -> str:
    return f"sum by ({labels}) (rate({family(name, part)}{_selected(selector)}[$__rate_interval]))"


def _level(name: str, labels: str, selector: str = "") -> str:
    return f"sum by ({labels}) ({family(name)}{_selected(selector)})"


def _selected(selector: str) -> str:
    return "{" + ", ".join(filter(None, ('job=~"$job"', selector))) + "}"


_DURATION = "resilience.server.request.duration"
_P99 = f"histogram_quantile(0.99, {_by(_DURATION, 'le, route', part='_bucket')})"

# The title of each row, and its panels: title, unit, and the queries with their legends.
_ROWS = (
    (
        "Is a dependency sick?",
        (
            ("Circuits that are not closed", "short", [
                (_level("resilience.breaker.circuits", "policy, state", 'state!="closed"'), "{{policy}} {{state}}"),
            ]),
            ("Calls by outcome", "reqps", [
                (_by("resilience.breaker.calls", "policy, outcome"), "{{policy}} {{outcome}}"),
            ]),
            ("Health checks that fail", "short", [
                (_level("resilience.health.checks", "policy", 'state="failed"'), "{{policy}}"),
            ]),
        ),
    ),
    (
        "What do our clients get?",
        (
            ("Requests by status", "reqps", [(_by(_DURATION, "status", part="_count"), "{{status}}")]),
            ("Duration, 99th percentile", "s", [(_P99, "{{route}}")]),
            ("Requests in flight", "short", [(_level("resilience.lifecycle.requests", "job"), "{{job}}")]),
        ),
    ),
    (
        "What is refused, and why?",
        (
            ("Rate limits", "reqps", [
                (_by("resilience.ratelimit.decisions", "policy, outcome"), "{{policy}} {{outcome}}"),
            ]),
            ("Bulkheads: places in use, waiting", "short", [
                (_level("resilience.bulkhead.calls", "policy, state"), "{{policy}} {{state}}"),
            ]),
            ("Bulkheads and timeouts: refused", "reqps", [
                (_by("resilience.bulkhead.refused", "policy, reason"), "{{policy}} {{reason}}"),
                (_by("resilience.timeout.refused", "policy, reason"), "{{policy}} {{reason}}"),
            ]),
        ),
    ),
    (
        "What do we repeat and replace?",
        (
            ("Retries and hedges", "ops", [
                (_by("resilience.retry.attempts", "policy"), "{{policy}} retries"),
                (_by("resilience.hedge.attempts", "policy"), "{{policy}} hedges"),
                (_by("resilience.budget.refused", "policy"), "{{policy}} refused by the budget"),
            ]),
            ("Timeouts", "reqps", [(_by("resilience.timeout.elapsed", "policy"), "{{policy}}")]),
            ("Fallbacks, caches, shared calls", "reqps", [
                (_by("resilience.fallback.calls", "policy, outcome"), "{{policy}} {{outcome}}"),
                (_by("resilience.cache.lookups", "policy, outcome"), "{{policy}} {{outcome}}"),
                (_by("resilience.singleflight.calls", "policy, outcome"), "{{policy}} {{outcome}}"),
            ]),
        ),
    ),
    (
        "Are there connections?",
        (
            ("Connections of pools", "short", [
                (_level("resilience.pool.connections", "policy, state"), "{{policy}} {{state}}"),
            ]),
            ("Borrowers that wait", "short", [
                (_level("resilience.pool.pending_requests", "policy"), "{{policy}}"),
            ]),
            ("Borrows that failed, failed connects", "reqps", [
                (_by("resilience.pool.timeouts", "policy"), "{{policy}} timed out"),
                (_by("resilience.pool.refused", "policy"), "{{policy}} refused"),
                (_by("resilience.pool.connect_failures", "policy"), "{{policy}} failed to connect"),
            ]),
        ),
    ),
    (
        "How is the process?",
        (
            ("Share of time the event loop is blocked", "percentunit", [
                (_by("resilience.process.loop_lag", "instance"), "{{instance}}"),
            ]),
            ("Threads, tasks, late threads", "short", [
                (_level("resilience.process.threads", "instance"), "{{instance}} threads"),
                (_level("resilience.process.tasks", "instance"), "{{instance}} tasks"),
                (_level("resilience.timeout.late_threads", "policy"), "{{policy}} late"),
            ]),
            ("Memory", "bytes", [(_level("resilience.process.memory", "instance"), "{{instance}}")]),
        ),
    ),
)  # fmt: skip


def dashboard() -> dict[str, object]:
    """Return the dashboard as data, for import into Grafana 9 or later with a Prometheus as its source."""
    panels: list[dict[str, object]] = []
    top = 0
    for title, row in _ROWS:
        place = {"x": 0, "y": top, "w": _WIDTH * _PER_ROW, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place, "collapsed": False})
        for column, (name, unit, queries) in enumerate(row):
            panels.append(_panel(len(panels) + 1, name, unit, queries, column * _WIDTH, top + 1))
        top += 1 + _HEIGHT
    variable = {
        "name": "job",
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values({family('resilience.lifecycle.state')}, job)",
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }
    return {
        "title": "Resilience",
        "uid": "resilience",
        "tags": ["resilience"],
        "schemaVersion": 38,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_SOURCE_VARIABLE, variable]},
        "panels": panels,
    }


_SOURCE = {"type": "prometheus", "uid": "${source}"}
_SOURCE_VARIABLE = {"name": "source", "type": "datasource", "query": "prometheus"}


def _panel(number: int, title: str, unit: str, queries: list[tuple[str, str]], x: int, y: int) -> dict[str, object]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expr, "legendFormat": legend}
        for index, (expr, legend) in enumerate(queries)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": targets,
    }
