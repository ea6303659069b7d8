"""`metrics`: the metric table, and the alerts and the dashboard that are made from it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from resilience.cli.answer import CommandOutput, Paint
from resilience.telemetry import METRICS

if TYPE_CHECKING:
    import argparse

__all__ = ("configure", "run")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--rules", action="store_true", help="print the recording rules and alerts for Prometheus")
    parser.add_argument(
        "--runbook",
        metavar="PLACE",
        default="docs/runbook",
        help="the address of the runbook pages, for the links of the alerts (default: the folder %(default)s)",
    )
    wanted.add_argument("--dashboard", action="store_true", help="print the dashboard for Grafana")


def run(arguments: argparse.Namespace, paint: Paint) -> CommandOutput:  # noqa: ARG001 - as the other commands
    """Print the names of all metrics, or what was asked for."""
    if arguments.rules:
        from resilience.telemetry.alerts import rules  # noqa: PLC0415 - asked for rarely

        return CommandOutput(json.dumps(rules(arguments.runbook), indent=2), 0)
    if arguments.dashboard:
        from resilience.telemetry.dashboard import dashboard  # noqa: PLC0415 - asked for rarely

        return CommandOutput(json.dumps(dashboard(), indent=2), 0)
    width = max(len(metric.name) for metric in METRICS)
    return CommandOutput("\n".join(f"{metric.name:{width}}  {metric.description}" for metric in METRICS), 0)
