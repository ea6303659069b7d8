"""docs/security.md and docs/failure-modes.md name what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from resilience import TokenBucket
from resilience.server import ServerGate, ServerOptions

DOCS = Path(__file__).parents[2] / "docs"
SECURITY = (DOCS / "security.md").read_text()
FAILURES = (DOCS / "failure-modes.md").read_text()
CONFIGURATION = (DOCS / "configuration.md").read_text()
CODE = re.compile(r"`([^`]+)`")


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def headers_of_requests() -> set[str]:
    """Return the lower-case names in the first column of the first table."""
    table = SECURITY.partition("## Headers of a request")[2].partition("\n## ")[0]
    return {name.lower() for first, *_ in rows(table) for name in CODE.findall(first)}


def test_every_header_that_the_server_reads_has_a_row() -> None:
    """A header that the gate or an adapter reads stands in the table of request headers."""
    options = ServerOptions(identity_header="X-User", rate_limit="5/second", rate_limit_key="header:X-Key")
    gate = ServerGate(options, limiter=lambda name, rate, burst: TokenBucket(rate, burst, name=name))
    configured = {"x-user", "x-key"}
    of_adapters = {"accept", "accept-language", "origin", "access-control-request-method", "grpc-timeout"}
    assert (gate.wanted - configured) | of_adapters <= headers_of_requests()


def test_failure_modes_name_settings_that_exist() -> None:
    """A setting in the last column of a failure is a variable of the configuration page."""
    named = [
        name for *_, last in rows(FAILURES) for name in CODE.findall(last) if re.fullmatch(r"[A-Z_]+__[A-Z_]+", name)
    ]
    assert len(named) > 20
    prefixes = ("RESILIENCE_", "RESILIENCE_PIPELINE__<NAME>__")
    assert [name for name in named if not any(f"`{prefix}{name}`" in CONFIGURATION for prefix in prefixes)] == []


def test_failure_modes_name_events_that_exist() -> None:
    """An event in the third column of a failure is an event of the events page."""
    events = (DOCS / "events.md").read_text()
    named = [
        name
        for cells in rows(FAILURES)
        for name in CODE.findall("".join(cells[2:3]))  # some tables have two columns
        if re.fullmatch(r"[a-z_]+\.[a-z_]+", name)
    ]
    assert len(named) > 10
    assert [name for name in named if f"`{name}`" not in events] == []
