"""The options of the telemetry."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Flag, Options, option

__all__ = ("TelemetryOptions",)


@dataclass(frozen=True, kw_only=True)
class TelemetryOptions(Options):
    """The signals that the OpenTelemetry instrumentation emits."""

    metrics: bool = option(True, Flag(), "whether OpenTelemetry gets the counters and gauges of docs/metrics.md")
    histograms: bool = option(
        False, Flag(), "whether OpenTelemetry gets the waits of docs/metrics.md as histograms: each costs about 7 us"
    )
    span_events: bool = option(
        True, Flag(), "whether refusals, retries and changes of state are events of the present span"
    )
    attempt_spans: bool = option(
        False,
        Flag(),
        "whether each attempt of a retry or hedge of a function has a span",
    )
