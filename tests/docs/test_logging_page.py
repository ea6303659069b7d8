"""docs/howto/logging.md lists the lines that the code writes."""

import json
import logging
import re
from pathlib import Path

import pytest

from resilience.config._render import written
from resilience.config._schema import section
from resilience.event_log import _lines
from resilience.event_log._lines import Volume
from resilience.logs import JsonFormatter
from resilience.options import rule_of
from resilience.server import RequestContext, RequestRecord

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "logging.md").read_text()
TRACE = "0af7651916cd43dd8448eb211c80319c"
LOGGED = {Volume.TRANSITION: "each", Volume.SAMPLE: "sample"}


def test_the_table_and_the_code_name_the_same_lines() -> None:
    """Every event that is logged by default has a row with its level and its volume, and every row is such an event."""
    rows = re.findall(r"^\| `(\w+\.\w+)` \| ([A-Z]+) \| (\w+) \|$", PAGE, re.MULTILINE)
    lines = {kind: line for kind, line in _lines.LINES.items() if line.volume is not Volume.DETAIL}
    assert rows == [(kind, logging.getLevelName(line.level), LOGGED[line.volume]) for kind, line in lines.items()]


def test_the_settings_are_those_of_the_code() -> None:
    """The page has a row for each variable of the log, with its default."""
    rows = dict(re.findall(r"^\| `RESILIENCE_LOG__(\w+)` \| [^|]+ \| ([^|]+) \|", PAGE, re.MULTILINE))
    fields = section("log").fields
    assert list(rows) == [name.upper() for name in fields]
    for name, field in fields.items():
        assert rows[name.upper()].strip("` ") == written(field.default, rule_of(field))


def test_the_fields_are_those_of_a_line() -> None:
    """The table of fields has the fields of a line, in their order, and the example has those of its table."""
    with RequestContext("5f0c", TRACE, headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}):
        line = json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "x"})))
    table = PAGE.partition("| field | value |")[2].partition("all others")[0]
    fields = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)))
    assert set(fields) == {*line, "exception", "exception_type", "stack"}
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert list(json.loads(example))[: len(line)] == list(line)


def test_the_lines_of_requests_are_those_of_the_code(caplog: pytest.LogCaptureFixture) -> None:
    """The page shows the line of a request of each kind as it is written, up to the time."""
    found = []
    with caplog.at_level(logging.INFO, "resilience.requests"):
        for method, route, status in (
            ("GET", "/orders/{order_id}", 200),
            ("", "/shop.Orders/Place", "RESOURCE_EXHAUSTED"),
        ):
            record = RequestRecord()
            record.route, record.status = route, status
            record.write(method, "192.0.2.1", {})
            found.append(caplog.records[-1].getMessage())
    for line in found:
        assert re.search(f"^{re.escape(line.partition(' in ')[0])} in [0-9.]+ ms$", PAGE, re.MULTILINE)
    fields = {
        name for record in caplog.records for name in vars(record) if name.startswith(("http_", "grpc_", "client_"))
    }
    assert all(f"`{name}`" in PAGE for name in fields)
