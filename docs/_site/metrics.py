"""The metric table of the code as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from resilience.telemetry import METRICS, REQUEST_DURATION, Metric, MetricKind

__all__ = ("table",)

_KINDS = {MetricKind.COUNTER: "counter", MetricKind.GAUGE: "gauge", MetricKind.HISTOGRAM: "histogram"}


def table() -> str:
    """Return a table of the metrics for each noun."""
    nouns: dict[str, list[Metric]] = {}
    for metric in (*METRICS, REQUEST_DURATION):
        nouns.setdefault(metric.name.split(".")[1], []).append(metric)
    return "\n\n".join(f"### {noun}\n\n{_rows(metrics)}" for noun, metrics in nouns.items())


def _rows(metrics: Iterable[Metric]) -> str:
    lines = ["| metric | in Prometheus | kind and unit | labels | meaning |", "|---|---|---|---|---|"]
    for metric in metrics:
        unit = f"{_KINDS[metric.kind]}, {metric.unit.strip('{}')}"
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
        meaning = metric.description
        if metric.buckets:
            meaning = f"{meaning} Buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}."
        lines.append(f"| `{metric.name}` | `{metric.series}` | {unit} | {labels} | {meaning} |")
    return "\n".join(lines)
