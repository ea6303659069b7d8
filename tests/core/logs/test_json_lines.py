"""One JSON line for each record, of any record."""

from __future__ import annotations

import contextlib
import enum
import io
import json
import logging
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import CircuitBreaker, Health, Lifecycle, Pipeline
from resilience.logs import ContextFilter, JsonFormatter, TextFormatter
from resilience.options import Secret
from resilience.server import RequestContext
from resilience.testing import ManualClock

NAMES = ["timestamp", "level", "logger", "event", "service_name", "request_id", "trace_id", "span_id", "duration_ms"]
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Out:
    """A logger with one real handler, and what that has written."""

    def __init__(self, formatter: logging.Formatter, name: str = "shop") -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.addFilter(ContextFilter("orders"))
        self.handler.setFormatter(formatter)
        self.log = logging.getLogger(name)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line, parse_constant=pytest.fail) for line in self.text.splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        (line,) = self.lines
        return line


def fail(error: Exception) -> None:
    raise error


def fail_because(error: Exception, cause: Exception) -> None:
    raise error from cause


@contextlib.contextmanager
def writing(formatter: logging.Formatter, name: str = "shop", level: int = logging.DEBUG) -> Iterator[Out]:
    out = Out(formatter, name)
    out.log.addHandler(out.handler)
    out.log.setLevel(level)
    try:
        yield out
    finally:
        out.log.removeHandler(out.handler)
        out.log.setLevel(logging.NOTSET)


@pytest.fixture
def out() -> Iterator[Out]:
    with writing(JsonFormatter(service_name="orders")) as found:
        yield found


def test_a_line_has_the_nine_fields_and_the_extra_ones(out: Out) -> None:
    """Each line begins with the same nine fields, null if they are unknown, and holds the extra fields as they are."""
    before = datetime.now(UTC)
    out.log.warning("paid %s", "o-1", extra={"order": "o-1", "items": 3, "tags": ["a", 1.5], "is_new": True})
    line = out.line
    assert list(line)[:9] == NAMES
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
    assert before <= datetime.fromisoformat(line["timestamp"]) <= datetime.now(UTC)
    assert [line[name] for name in NAMES[1:]] == ["warning", "shop", "paid o-1", "orders", None, None, None, None]
    assert {name: line[name] for name in list(line)[10:]} == {
        "order": "o-1",
        "items": 3,
        "tags": ["a", 1.5],
        "is_new": True,
    }


def test_in_a_request_the_line_has_its_ids(out: Out) -> None:
    """Without OpenTelemetry the ids are those of the request and of its `traceparent`, with bit 0 of its flags."""
    for flags, is_sampled in (("01", True), ("03", True), ("02", False), ("00", False)):
        with RequestContext("r-1", TRACE, headers={"traceparent": f"00-{TRACE}-{SPAN}-{flags}"}):
            out.log.info("here")
        line = out.lines[-1]
        assert [line[name] for name in ("request_id", "trace_id", "span_id", "trace_sampled")] == [
            "r-1",
            TRACE,
            SPAN,
            is_sampled,
        ]


def test_a_trace_without_its_header_has_no_span(out: Out) -> None:
    """A request whose trace id comes from elsewhere has that id alone."""
    with RequestContext("r-1", TRACE):
        out.log.info("here")
    assert (out.line["trace_id"], out.line["span_id"]) == (TRACE, None)
    assert "trace_sampled" not in out.line


def test_the_ids_are_those_of_the_thread_that_logs() -> None:
    """A line that another thread writes, behind a queue, has the ids of the request that it was logged in."""
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    handler = QueueHandler(records)
    handler.addFilter(ContextFilter("orders"))
    log = logging.getLogger("shop.queued")
    log.addHandler(handler)
    with RequestContext("r-1", TRACE, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"}):
        log.warning("here")
    log.removeHandler(handler)
    written: list[str] = []
    worker = threading.Thread(target=lambda: written.append(JsonFormatter().format(records.get())))
    with RequestContext("other"):
        worker.start()
        worker.join()
    line = json.loads(written[0])
    assert [line[name] for name in ("request_id", "span_id", "service_name")] == ["r-1", SPAN, "orders"]


def test_a_field_of_the_caller_comes_before_that_of_the_filter(out: Out) -> None:
    """Ids and a duration that the caller gives are kept; names of ours that mean something else get a prefix."""
    with RequestContext("r-1"):
        given = {
            "request_id": "r-2",
            "duration_ms": 12.5,
            "level": "gold",
            "event": "sale",
            "timestamp": 1,
            "logger": 2,
        }
        out.log.info("sold", extra=given)
    line = out.line
    assert [line[name] for name in ("request_id", "duration_ms", "event", "level")] == ["r-2", 12.5, "sold", "info"]
    assert [line[f"extra_{name}"] for name in ("event", "level", "timestamp", "logger")] == ["sale", "gold", 1, 2]


def test_no_text_breaks_a_line_or_changes_a_terminal(out: Out) -> None:
    """Newlines, escapes and separators of Unicode are escaped wherever they are: a line holds printable ASCII alone."""
    evil = 'a\n{"level":"critical"}\r\x1b[2J\u2028\u0085\x7f"'
    with RequestContext(evil, headers={}):
        try:
            fail(ValueError(evil))
        except ValueError:
            out.log.exception("%s", evil, extra={evil: evil, "nested": {evil: [evil]}})
    assert out.text.count("\n") == 1
    assert re.fullmatch(r"[ -~]+\n", out.text)
    assert out.line["event"] == evil
    assert out.line[evil] == evil


def test_a_name_of_a_logger_breaks_no_line() -> None:
    """The name of a logger, which may come from outside, is escaped as any text."""
    with writing(JsonFormatter(), name="shop\nERROR") as out:
        out.log.info("x")
    assert out.line["logger"] == "shop\nERROR"


class Awkward:
    """An object of a service whose every answer fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Chatty:
    """An object that logs when it is asked for its text."""

    def __repr__(self) -> str:
        logging.getLogger("shop").info("asked", extra={"by": self})
        return "chatty"


class Colour(enum.Enum):
    RED = "red"


class Endless(dict[str, object]):
    """A mapping whose items never end."""

    def items(self) -> Any:
        while True:
            yield "x", self

    def __len__(self) -> int:
        return 1


def circle() -> list[object]:
    found: list[object] = [1]
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (10**5000, re.compile(r"0x[0-9a-f]{4000,4200}")),
        (1 << 10**6, re.compile(r"0x10+\.\.\. \(250003 characters\)")),
        (-(2**63), -(2**63)),
        (Decimal("1.10"), "Decimal('1.10')"),
        (b"\x00raw", "b'\\x00raw'"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (Path("/tmp/x"), re.compile(r"PosixPath\('/tmp/x'\)")),  # noqa: S108 - never opened
        (Colour.RED, "red"),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        (frozenset({1}), [1]),
        (ValueError("no"), "ValueError: no"),
        (Awkward(), "<Awkward>"),
        ({"deep": [Awkward()]}, {"deep": ["<Awkward>"]}),
        (Secret("s3cret"), "***"),
        (circle(), [1, [1, [1, [1, [1, [1, "..."]]]]]]),
        (Endless(), re.compile(r".*x.*")),
        ("x" * 20_000, re.compile(r"x{8192}\.\.\. \(20000 characters\)")),
        (list(range(1000)), re.compile(r"\[0, 1, .*'\.\.\. 900 more'\]")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_value_becomes_bounded_json(out: Out, value: object, shown: object) -> None:
    """A value that JSON cannot hold, or should not, is a short text; the line is valid JSON and is written."""
    out.log.info("x", extra={"value": value})
    found = out.line["value"]
    if isinstance(shown, re.Pattern):
        assert shown.fullmatch(str(found))
    else:
        assert found == shown
    assert len(out.text) < 70_000


def test_a_repr_that_logs_ends(out: Out) -> None:
    """An object that logs itself when it is asked for its text costs one more line, and no recursion."""
    out.log.info("x", extra={"value": Chatty()})
    assert sorted(line["event"] for line in out.lines) == ["asked", "x"]


def test_the_whole_line_is_bounded(out: Out) -> None:
    """A hundred fields with lists of long texts, a long message and a long error make a line of bounded length."""
    huge = {f"f{number}": ["y" * 10_000] * 50 for number in range(300)}
    try:
        fail(ValueError("z" * 10_000_000))
    except ValueError:
        out.log.exception("m" * 1_000_000, extra=huge)
    assert len(out.text) < 300_000
    assert out.line["exception"].startswith("Traceback")
    assert "z" * 1000 in out.line["exception"]


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
))  # fmt: skip
def test_any_data_is_one_line_of_json(value: object) -> None:
    """Whatever the data are, the line is valid JSON of printable characters."""
    record = logging.makeLogRecord({"msg": "x", "levelname": "INFO", "value": value})
    line = JsonFormatter().format(record)
    assert re.fullmatch(r"[ -~]+", line)
    json.loads(line, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "strange",
    [
        {"created": "yesterday"},
        {"created": float("inf")},
        {"created": 1e30},
        {"levelname": 3, "name": None},
        {"msg": Awkward()},
        {"msg": "half a pair \ud800", "half": "\udfff"},
        {"msg": "%d", "args": ("x",)},
        {"msg": "%s", "args": (Awkward(),)},
        {"request_id": ["unhashable"], "trace_id": Awkward(), "span_id": {}},
        {"process": object(), "service_name": object(), "trace_sampled": object()},
        {"exc_info": (None, None, None)},
        {"exc_info": True},
        {"exc_text": "Traceback of another process"},
        {"resilience_facts": 5, "duration_ms": object()},
        {"color_message": "\x1b[1mx", "taskName": "t"},
    ],
    ids=", ".join,
)
def test_any_record_is_written(strange: dict[str, Any]) -> None:
    """A record of another process, with fields of any type and arguments that do not fit, is one valid line."""
    line = json.loads(JsonFormatter().format(logging.makeLogRecord({"levelname": "INFO", **strange})))
    assert list(line)[:4] == NAMES[:4]
    assert re.fullmatch(r"\d{4}-.*Z", line["timestamp"])
    assert "color_message" not in line


def test_arguments_that_do_not_fit_are_named(out: Out, capsys: pytest.CaptureFixture[str]) -> None:
    """A message with too few arguments is written as it stands, with the fault in a field, and not lost."""
    # Not by the logger: the handlers of pytest are stricter.
    out.handler.handle(logging.makeLogRecord({"msg": "paid %s of %s", "args": ("o-1",), "levelname": "INFO"}))
    assert (out.line["event"], out.line["logging_error"]) == (
        "paid %s of %s",
        "TypeError in the arguments of the message",
    )
    assert capsys.readouterr().err == ""


def test_an_exception_is_in_fields_of_its_own(out: Out) -> None:
    """The traceback, with its causes, is the text of one field, and the type of the error another."""
    try:
        fail_because(ValueError("outer"), KeyError("inner"))
    except ValueError:
        out.log.exception("failed")
    assert out.line["exception_type"] == "ValueError"
    assert re.search(r"KeyError.*direct cause.*ValueError: outer$", out.line["exception"], re.DOTALL)
    assert out.line["event"] == "failed"


def test_an_exception_without_a_text_is_written(out: Out) -> None:
    """An error whose text raises has its traceback in the line all the same."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    try:
        fail(MuteError())
    except MuteError:
        out.log.exception("failed")
    assert out.line["exception_type"] == "MuteError"


def test_the_lines_of_events_are_structured(caplog: pytest.LogCaptureFixture) -> None:
    """The line of an event has its name, policy, key and facts as fields, and the time it took as `duration_ms`."""
    with writing(JsonFormatter(), name="resilience") as out:
        clock = ManualClock()
        payments = Pipeline("payments", CircuitBreaker(fail_max=1, clock=clock))
        with contextlib.suppress(ConnectionError):
            payments.call(fail, ConnectionError("s3cret"))
    line = out.line
    assert (line["level"], line["resilience_event"]) == ("warning", "breaker.opened")
    assert (line["resilience_policy"], line["resilience_key"]) == ("payments.breaker", "")
    assert line["resilience_facts"]["last_error"] == "ConnectionError"
    assert line["resilience_facts"]["after"] == "open"
    assert line["duration_ms"] is None
    record = logging.makeLogRecord({"msg": "gave up", "resilience_facts": {"elapsed": 1.25}})
    assert json.loads(JsonFormatter().format(record))["duration_ms"] == 1250.0


def test_lines_of_health_and_lifecycle_are_structured_too() -> None:
    """The lines that checks and the lifecycle write themselves have the fields of an event."""
    with writing(JsonFormatter(), name="resilience") as out:
        health = Health()
        health.add("bank", lambda: False)
        health.handle("/readyz")
        lifecycle = Lifecycle()
        lifecycle.on_stop(lambda: fail(OSError()), name="flush")
        lifecycle.stop()
    found = {line["resilience_event"]: line["resilience_facts"] for line in out.lines if "resilience_event" in line}
    assert found["health.changed"]["ok"] is False
    (changed,) = [line for line in out.lines if line.get("resilience_event") == "health.changed"]
    assert changed["duration_ms"] == round(found["health.changed"]["seconds"] * 1000, 3)
    assert found["lifecycle.hook_failed"]["hook"] == "flush"


def test_text_is_one_line_with_an_indented_traceback() -> None:
    """The text has time, level, logger, message and fields; the lines of a traceback are indented, also forged ones."""
    with writing(TextFormatter()) as out, RequestContext("r-1"):
        try:
            fail(ValueError("x\n2026-01-01T00:00:00.000000Z CRITICAL shop forged"))
        except ValueError:
            out.log.exception("failed\nforged", extra={"order": "o\n1", "n": 2})
    first, *rest = out.text.splitlines()
    stamp, shown = first.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", stamp)
    assert shown == 'ERROR shop failed\\nforged request_id=r-1 order="o\\n1" n=2 exception_type="ValueError"'
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_importing_changes_no_logger() -> None:
    """To import the package, to make its parts and to make a toolkit leaves all loggers as they were."""
    code = (
        "import logging; logging.getLogger('resilience')\n"
        "def state(): return [(n, l.level, l.handlers, l.filters, l.propagate)\n"
        "    for n, l in sorted(logging.root.manager.loggerDict.items()) if isinstance(l, logging.Logger)]\n"
        "before = (logging.root.level, list(logging.root.handlers)), dict((s[0], s) for s in state())\n"
        "from resilience.logs import *; from resilience import Resilience\n"
        "JsonFormatter(), ContextFilter(), StructlogProcessor(), logging_config()\n"
        "Resilience.from_env({'RESILIENCE_LOG__REQUESTS': 'true'}).pipeline('p')\n"
        "after = {s[0]: s for s in state()}\n"
        "assert (logging.root.level, list(logging.root.handlers)) == before[0]\n"
        "assert after['resilience'] == before[1]['resilience']\n"
        "assert all(not s[2] and not s[3] and s[1] == 0 for n, s in after.items() if n.startswith('resilience'))\n"
        "import sys; assert 'structlog' not in sys.modules and 'opentelemetry' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
