"""What the logger `resilience` says about an outage, by default and by setting."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Keyed,
    Pipeline,
    RateLimit,
    Resilience,
    Retry,
    Timeout,
)
from resilience.events import EVENT_LOG, Emitter, Event, EventLog, LogOptions
from resilience.testing import ManualClock, RecordingListener

Refused: Any = contextlib.suppress(Exception)


class Lines(logging.Handler):
    """Keeps the records of the logger `resilience`."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [f"{record.levelname} {record.getMessage()}" for record in self.records]


@contextlib.contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("resilience")
    before, logger.level = logger.level, logging.DEBUG
    logger.addHandler(handler)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@pytest.fixture
def log() -> Iterator[Lines]:
    """Give the lines of the logger `resilience`, at every level."""
    lines = Lines()
    with logging_to(lines):
        yield lines


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def failing(*_args: object) -> None:
    raise ConnectionError("password of the bank: s3cret")


def breaker(clock: ManualClock, **options: Any) -> CircuitBreaker:
    return CircuitBreaker(
        failure_rate_threshold=0.5, sliding_window=20, minimum_calls=4, reset_timeout=30, reset_timeout_jitter=0,
        clock=clock, **options,
    )  # fmt: skip


def test_an_outage_can_be_followed_in_the_log(log: Lines, clock: ManualClock) -> None:
    """The log says that the circuit opened, by which rule, after which error, that calls are refused, and the end."""
    payments = Pipeline("payments", breaker(clock))
    for _ in range(7):
        with Refused:
            payments.call(failing)
    clock.advance(31)
    with Refused:
        payments.call(failing)
    clock.advance(31)
    payments.call(int)
    assert log.lines == [
        (
            "WARNING circuit 'payments.breaker' opened: 4 of 4 calls failed (failure rate), last ConnectionError; "
            "next trial in 30 s"
        ),
        "WARNING circuit 'payments.breaker' is open: a call was refused; next trial in 30 s",
        "INFO circuit 'payments.breaker' is half-open and admits trial calls: reset timeout elapsed",
        "WARNING circuit 'payments.breaker' opened again: trial call failed, last ConnectionError; next trial in 30 s",
        "INFO circuit 'payments.breaker' is half-open and admits trial calls: reset timeout elapsed",
        "WARNING circuit 'payments.breaker' closed: trial calls succeeded",
    ]
    assert "s3cret" not in str(log.lines)


LINES: list[tuple[str, dict[str, Any], str]] = [
    (
        "breaker.opened",
        {"reason": "slow call rate", "failures": 0, "calls": 20, "slow_calls": 12, "retry_after": 28.04},
        "WARNING circuit 'p' opened: 12 of 20 calls were slow (slow call rate); next trial in 28 s",
    ),
    (
        "breaker.opened",
        {"reason": "consecutive failures", "failures": 5, "calls": 5, "last_error": "OSError", "shadow": True},
        "WARNING circuit 'p' opened: 5 of 5 calls failed (consecutive failures), last OSError (shadow: calls are made)",
    ),
    ("breaker.opened", {"reason": "opened by hand"}, "WARNING circuit 'p' opened: opened by hand"),
    ("breaker.half_opened", {"reason": "x"}, "INFO circuit 'p' is half-open and admits trial calls: x"),
    ("breaker.closed", {"reason": "closed by hand"}, "WARNING circuit 'p' closed: closed by hand"),
    ("breaker.ramped", {"reason": "ramp completed"}, "INFO circuit 'p' admits all calls: ramp completed"),
    (
        "breaker.mode_changed",
        {"before": "automatic", "after": "forced_open", "reason": "bank\nmoves", "expires": 600.0},
        r"WARNING circuit 'p' changed its mode: automatic -> forced_open (bank\nmoves), for 600 s",
    ),
    ("breaker.rejected", {"why": "is open"}, "WARNING circuit 'p' is open: a call was refused"),
    (
        "breaker.rejected",
        {"why": "is open", "retry_after": 2, "shadow": True},
        "WARNING circuit 'p' is open: a call was refused; next trial in 2 s (shadow: the call was made)",
    ),
    ("breaker.storage_outage", {"error": "OSError"}, "ERROR circuit 'p' left its storage alone: OSError"),
    ("breaker.storage_recovered", {}, "WARNING circuit 'p' follows its storage again"),
    (
        "budget.exhausted",
        {"calls": 20, "retries": 3, "extras": 1, "shadow": False},
        "WARNING retry budget 'p' is used up: 3 retries and 1 hedges beside 20 calls",
    ),
    (
        "bulkhead.rejected",
        {"reason": "full", "max_concurrent_calls": 20},
        "WARNING bulkhead 'p' refused a call: all 20 places are taken",
    ),
    (
        "bulkhead.rejected",
        {"reason": "line", "max_concurrent_calls": 20},
        "WARNING bulkhead 'p' refused a call: all 20 places are taken and its queue is full",
    ),
    (
        "bulkhead.rejected",
        {"reason": "waited", "max_concurrent_calls": 20},
        "WARNING bulkhead 'p' refused a call: all 20 places stayed taken for as long as the call could wait",
    ),
    (
        "bulkhead.rejected",
        {"reason": "hopeless", "max_concurrent_calls": 20, "shadow": True},
        (
            "WARNING bulkhead 'p' refused a call: all 20 places are taken for longer than the call could wait "
            "(shadow: the call was made)"
        ),
    ),
    (
        "fallback.exhausted",
        {"error": OSError("secret"), "failures": ()},
        "WARNING fallback 'p' has no alternative that answers, after OSError",
    ),
    (
        "ratelimit.rejected",
        {"retry_after": 0.25, "rate": "5/second"},
        "WARNING rate limit 'p' refused a call: 5/second exceeded; retry in 0.25 s",
    ),
    (
        "ratelimit.drained",
        {"retry_after": 3.0},
        "WARNING rate limit 'p' was emptied: the dependency refused a call; first call in 3 s",
    ),
    (
        "ratelimit.outage",
        {"error": "ConnectionError", "retry_after": 0.1, "outage": "local"},
        "ERROR Redis is away (ConnectionError); rate limits follow outage=local; next try in 0.1 s",
    ),
    (
        "ratelimit.outage",
        {"error": "ReadOnlyError", "code": "READONLY", "retry_after": 0.1, "outage": "deny"},
        "ERROR Redis is away (ReadOnlyError, READONLY); rate limits follow outage=deny; next try in 0.1 s",
    ),
    ("ratelimit.recovered", {}, "WARNING Redis answers again; rate limits follow it"),
    (
        "retry.exhausted",
        {"attempts": 3, "reason": "attempts", "elapsed": 1.24, "error": OSError("secret")},
        "WARNING retry 'p' gave up after 3 attempts in 1.24 s (attempts), last OSError",
    ),
    (
        "retry.exhausted",
        {"attempts": 1, "reason": "budget", "elapsed": 0.0, "error": None},
        "WARNING retry 'p' gave up after 1 attempt in 0 s (budget), last result not accepted",
    ),
    ("thread_pool.elapsed", {"seconds": 0.2}, "WARNING thread pool 'p': a call took longer than 0.2 s"),
    (
        "thread_pool.rejected",
        {"reason": "late", "max_threads": 8},
        "WARNING thread pool 'p' refused a call: half of its 8 threads are taken by calls whose callers have left",
    ),
    ("timeout.elapsed", {"seconds": 0.2}, "WARNING timeout 'p': a call took longer than 0.2 s"),
    (
        "timeout.rejected",
        {"reason": "deadline", "remaining": 0.05, "margin": 0.1},
        "WARNING timeout 'p' refused a call: 0.05 s to the deadline are within the margin of 0.1 s",
    ),
    (
        "timeout.rejected",
        {"reason": "deadline", "remaining": -0.05, "margin": 0.1},
        "WARNING timeout 'p' refused a call: its deadline had passed",
    ),
    (
        "timeout.rejected",
        {"reason": "system", "max_threads": 8},
        "WARNING timeout 'p' refused a call: the system starts no thread",
    ),
]


@pytest.mark.parametrize(("kind", "facts", "line"), LINES, ids=[f"{each[0]}-{n}" for n, each in enumerate(LINES)])
def test_each_line(log: Lines, kind: str, facts: dict[str, Any], line: str) -> None:
    """An event has one line: the policy, the rule with its counts, the type of the last error, the next trial."""
    Emitter().emit(kind, "p", 0.0, **facts)
    assert log.lines == [line]


DETAILS: list[tuple[str, dict[str, Any], str]] = [
    (
        "retry.scheduled",
        {"attempt": 1, "wait": 0.5, "error": OSError("secret")},
        "INFO retry 'p' makes attempt 2 in 0.5 s after OSError",
    ),
    ("hedge.won", {"attempt": 2, "latency": 0.1}, "INFO hedge.won 'p': attempt=2, latency=0.1"),
    ("mine.stopped", {"error": OSError("secret")}, "INFO mine.stopped 'p': error=OSError"),
]


@pytest.mark.parametrize(("kind", "facts", "line"), DETAILS)
def test_details_are_logged_in_the_mode_all_alone(log: Lines, kind: str, facts: dict[str, Any], line: str) -> None:
    """By default an event that changes no state and refuses nothing has no line; with `all` each one has."""
    emitter = Emitter()
    emitter.emit(kind, "p", 0.0, **facts)
    assert (log.lines, emitter.wants_details) == ([], False)
    emitter.log_to(EventLog(LogOptions(events="all")))
    emitter.emit(kind, "p", 0.0, **facts)
    emitter.emit(kind, "p", 0.0, **facts)
    assert (log.lines, emitter.wants_details) == ([line, line], True)


def test_every_kind_of_the_page_has_a_line_of_its_own_or_is_a_detail(log: Lines) -> None:
    """With `all`, each event is logged once, except those that a health check or the lifecycle logs itself."""
    emitter = Emitter()
    emitter.log_to(EventLog(LogOptions(events="all")))
    for kind in ("health.changed", "lifecycle.hook_failed", "lifecycle.signalled", "lifecycle.waiting"):
        emitter.emit(kind, "p", 0.0)
    assert log.lines == []
    emitter.emit("lifecycle.started", "lifecycle", 0.0, in_flight=0)
    assert log.lines == ["INFO lifecycle.started 'lifecycle': in_flight=0"]


def test_refusals_are_sampled(log: Lines, clock: ManualClock) -> None:
    """A policy logs the first refusal, then one refusal of a kind in an interval, with the number left out."""
    limited = Pipeline("orders", RateLimit("1/hour", clock=clock))
    limited.call(int)
    for _ in range(101):
        with Refused:
            limited.call(int)
    clock.advance(60)
    with Refused:
        limited.call(int)
    assert [line.partition(";")[0] for line in log.lines] == [
        "WARNING rate limit 'orders.ratelimit' refused a call: 1/hour exceeded"
    ] * 2
    assert log.lines[1].endswith("retry in 3540 s (100 more since the last such line)")


def test_refusals_of_an_open_circuit_are_counted_on_their_fast_path(log: Lines, clock: ManualClock) -> None:
    """The number left out is exact for an open circuit, too."""
    payments = Pipeline("payments", breaker(clock, listeners=[]))
    payments.policies[0].open_for(1000)  # type: ignore[union-attr]  # a breaker
    for _ in range(42):
        with pytest.raises(CircuitOpenError):
            payments.call(int)
    clock.advance(61)
    with pytest.raises(CircuitOpenError):
        payments.call(int)
    assert [record.resilience_left_out for record in log.records] == [0, 0, 41]  # type: ignore[attr-defined]


def test_a_listener_gets_each_refusal_although_the_log_is_sampled(log: Lines, clock: ManualClock) -> None:
    """Samples are those of the log. A listener gets every event, and the log counts what it leaves out."""
    told = RecordingListener()
    full = Bulkhead(1, clock=clock)
    full.admit()
    pipeline = Pipeline("p", full, listeners=[told])
    for _ in range(5):
        with Refused:
            pipeline.call(int)
    clock.advance(60)
    with Refused:
        pipeline.call(int)
    assert (len(told.events), len(log.lines)) == (6, 2)
    assert log.lines[1].endswith("(4 more since the last such line)")


def test_each_kind_and_each_policy_has_a_sample_of_its_own(log: Lines) -> None:
    """A timeout does not hide the refusal of a bulkhead, nor one policy that of another."""
    first, second = Emitter(), Emitter()
    for emitter, name in ((first, "a"), (second, "b")):
        for kind in ("timeout.elapsed", "timeout.rejected"):
            emitter.emit(kind, name, 0.0, seconds=1, reason="system")
            emitter.emit(kind, name, 1.0, seconds=1, reason="system")
    assert len(log.lines) == 4


def test_a_thousand_circuits_that_open_at_once_do_not_flood_the_log(log: Lines, clock: ManualClock) -> None:
    """A keyed policy writes at most 20 transitions of a kind in an interval, each with its key, and counts more."""
    hosts = Pipeline("banks", Keyed(lambda _: CircuitBreaker(fail_max=1, clock=clock), key=lambda host: host))
    for number in range(1000):
        with Refused:
            hosts.call(failing, f"bank{number}.example")
    assert len(log.lines) == 20
    assert log.lines[0].startswith("WARNING circuit 'banks.breaker' (bank0.example) opened: 1 of 1 calls failed")
    assert log.lines[19].startswith("WARNING circuit 'banks.breaker' (bank19.example) opened")
    clock.advance(61)
    with Refused:
        hosts.call(failing, "late.example")
    assert log.lines[-1].endswith("(980 more since the last such line)")
    keyed: Any = hosts.policies[0]
    assert set(keyed.events.log.samples) == {"breaker.opened"}  # whatever the number of keys


def test_a_keyed_policy_with_a_listener_logs_each_event_once(log: Lines, clock: ManualClock) -> None:
    """Events that a keyed policy passes on to its listeners have one line, that of the key."""
    told = RecordingListener()
    keyed = Keyed(lambda _: CircuitBreaker(fail_max=1, clock=clock), key=lambda host: host)
    hosts = Pipeline("banks", keyed, listeners=[told])
    with Refused:
        hosts.call(failing, "a.example")
    assert (told.kinds, len(log.lines)) == (["breaker.opened"], 1)
    assert told.events[0].facts["key"] == "a.example"


def test_records_have_fields_for_a_log_in_json(log: Lines, clock: ManualClock) -> None:
    """Each record has the event, the policy, the key and the facts as plain data, under names of our own."""
    hosts = Pipeline("banks", Keyed(lambda _: breaker(clock), key=lambda host: host))
    for _ in range(4):
        with Refused:
            hosts.call(failing, "a.example")
    fields = {name: value for name, value in vars(log.records[0]).items() if name.startswith("resilience_")}
    assert json.loads(json.dumps(fields)) == {
        "resilience_event": "breaker.opened",
        "resilience_policy": "banks.breaker",
        "resilience_key": "a.example",
        "resilience_left_out": 0,
        "resilience_facts": {
            "before": "closed",
            "after": "open",
            "reason": "failure rate",
            "failures": 4,
            "calls": 4,
            "slow_calls": 0,
            "retry_after": 30.0,
            "openings": 1,
            "last_error": "ConnectionError",
        },
    }


def test_no_name_forges_a_line(log: Lines, clock: ManualClock) -> None:
    """Names, keys, reasons and types of errors are one printable line of bounded length."""
    hostile = "x\nERROR all is lost\x1b[2J" + "y" * 5000
    error = type(hostile, (Exception,), {})

    def fail(_key: str) -> None:
        raise error

    keyed = Keyed(lambda _: CircuitBreaker(fail_max=1, clock=clock), key=lambda key: key, name="x\ny %s %d")
    with Refused:
        Pipeline("p", keyed).call(fail, hostile)
    Emitter().emit("breaker.mode_changed", hostile, 0.0, reason=hostile, before=hostile, after=hostile)
    Emitter().emit("breaker.opened", hostile, 0.0, reason=hostile, last_error=hostile)
    assert len(log.lines) == 3
    for record in log.records:
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 1000
        assert len(str([value for name, value in vars(record).items() if name.startswith("resilience_")])) < 3000


def test_a_handler_that_raises_changes_nothing_for_the_caller(clock: ManualClock) -> None:
    """The caller gets its own error, whatever a log handler raises, and also if a listener raises besides (L6)."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the disk is full")

    def listener(_event: Event) -> None:
        raise ValueError("a bug")

    payments = Pipeline("payments", CircuitBreaker(fail_max=1, clock=clock), listeners=[listener])
    with logging_to(Broken()):
        with pytest.raises(ConnectionError):
            payments.call(failing)
        with pytest.raises(CircuitOpenError):
            payments.call(failing)


def test_a_handler_that_makes_guarded_calls_does_not_recurse(clock: ManualClock) -> None:
    """A log handler that sends its lines through a pipeline writes no lines about these calls."""
    sink = Pipeline("log-sink", CircuitBreaker(fail_max=1, clock=clock))
    seen: list[str] = []

    class Sending(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())
            with Refused:
                sink.call(failing)
            with Refused:
                sink.call(failing)

    for pipeline in (sink, Pipeline("payments", CircuitBreaker(fail_max=1, clock=clock))):
        pipeline.log_to(EventLog(LogOptions(events="all")))
        with logging_to(Sending()):
            for _ in range(3):
                with Refused:
                    pipeline.call(failing)
    assert len(seen) == 6  # three of each: opened, and two refusals
    assert [line for line in seen[3:] if "log-sink" in line] == []


def test_threads_that_are_refused_at_once_write_one_line(log: Lines) -> None:
    """Of refusals in many threads at the same time one is logged, and the others are counted."""
    full = Bulkhead(1)
    full.admit()
    pipeline = Pipeline("p", full)
    gate = threading.Barrier(8)

    def call() -> None:
        gate.wait()
        for _ in range(50):
            with Refused:
                pipeline.call(int)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log.lines) == 1
    assert next(full.events.log.samples["bulkhead.rejected"].left_out) == 399


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_logs(log: Lines, clock: ManualClock) -> None:
    """A child that was forked while another thread held the lock of the log writes its own lines."""
    payments = Pipeline("payments", CircuitBreaker(fail_max=1, clock=clock))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with EVENT_LOG.lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        with Refused:
            payments.call(failing)
        os._exit(0 if len(log.lines) == 1 else 1)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_none_logs_no_event(log: Lines, clock: ManualClock) -> None:
    """With `none` no event has a line; listeners still get them all."""
    told = RecordingListener()
    payments = Pipeline("payments", CircuitBreaker(fail_max=1, clock=clock), listeners=[told])
    payments.log_to(EventLog(LogOptions(events="none")))
    for _ in range(3):
        with Refused:
            payments.call(failing)
    assert (told.kinds, log.lines) == (["breaker.opened", "breaker.rejected", "breaker.rejected"], [])


def toolkit(**variables: str) -> Resilience:
    return Resilience.from_env(
        {"RESILIENCE_PIPELINE__PAYMENTS__BREAKER__FAIL_MAX": "1"}
        | {f"RESILIENCE_LOG__{name.upper()}": value for name, value in variables.items()}
    )


def test_each_toolkit_has_its_own_setting(log: Lines) -> None:
    """Two toolkits of one process log as their own settings say, and a pipeline without a toolkit by default."""
    silent, chatty, plain = toolkit(events="none"), toolkit(events="all"), Pipeline("plain", CircuitBreaker(1))
    for pipeline in (silent.pipeline("payments"), plain, chatty.pipeline("payments")):
        with Refused:
            pipeline.call(failing)
        with Refused:
            pipeline.call(failing)
        with Refused:
            pipeline.call(failing)
    assert [line.split()[2] for line in log.lines] == ["'plain.breaker'"] * 2 + ["'payments.breaker'"] * 3


def test_the_interval_is_a_setting(log: Lines, clock: ManualClock) -> None:
    """`RESILIENCE_LOG__INTERVAL` sets the time between two lines about refusals; in code, `log={"interval": ...}`."""
    for kit in (toolkit(interval="10s"), Resilience.from_env({}, log={"interval": 10})):
        pipeline = kit.pipeline("orders", RateLimit("1/hour", clock=clock))
        pipeline.call(int)
        for _ in range(3):
            with Refused:
                pipeline.call(int)
            clock.advance(5)
    assert len(log.lines) == 4


def test_a_wrong_setting_is_refused() -> None:
    """A wrong mode or interval stops the start, and names the variable, the value and the rule."""
    with pytest.raises(ConfigurationError, match="EVENTS='loud': expected one of transitions, all, none"):
        toolkit(events="loud")
    with pytest.raises(ConfigurationError, match="RESILIENCE_LOG__INTERVAL"):
        toolkit(interval="0")
    with pytest.raises(ConfigurationError, match="events='loud'"):
        EVENT_LOG.configure(events="loud")


@pytest.mark.parametrize(
    ("setting", "expected"), [("none", 0), ("all", 3), ("", 2), ("loud", 2)], ids=["none", "all", "unset", "wrong"]
)
def test_a_pipeline_without_a_toolkit_follows_the_environment(
    log: Lines, monkeypatch: pytest.MonkeyPatch, setting: str, expected: int
) -> None:
    """The log of policies that no toolkit made reads the environment. A wrong value there counts as not set."""
    monkeypatch.setenv("RESILIENCE_LOG__EVENTS", setting)
    pipeline = Pipeline("p", CircuitBreaker(1))
    pipeline.log_to(EventLog())
    for _ in range(3):
        with Refused:
            pipeline.call(failing)
    assert len(log.lines) == expected


def test_the_default_log_is_configured_in_code(log: Lines) -> None:
    """`EVENT_LOG.configure` sets the log of the policies that no toolkit made."""
    try:
        EVENT_LOG.configure(events="none")
        with Refused:
            Pipeline("p", CircuitBreaker(1)).call(failing)
        assert log.lines == []
    finally:
        EVENT_LOG.configure()
    with Refused:
        Pipeline("p", CircuitBreaker(1)).call(failing)
    assert len(log.lines) == 1


def test_calls_that_succeed_build_nothing(log: Lines) -> None:
    """While circuits are closed and calls succeed, no event is built and no sample is made."""
    pipeline = Pipeline("p", Retry(), CircuitBreaker(), RateLimit("100/second"), Bulkhead(5), Timeout(5))
    for _ in range(10):
        pipeline.call(int)
    emitters: list[Emitter] = [getattr(policy, "events") for policy in pipeline.policies]  # noqa: B009 - third parties
    assert [emitter.log.samples for emitter in emitters] == [{}] * 5
    assert not any(emitter.pending for emitter in emitters)


def test_a_logger_that_is_off_costs_no_line(clock: ManualClock) -> None:
    """If the level of the logger hides a line, its event is not built."""
    logging.getLogger("resilience").setLevel(logging.CRITICAL)
    try:
        emitter = Emitter()
        assert emitter.log.take("breaker.opened", clock()) is None
    finally:
        logging.getLogger("resilience").setLevel(logging.NOTSET)
    assert math.isfinite(emitter.log.samples["breaker.opened"].quiet_until)


SERVICE = """
import socket, threading, time
from resilience import CircuitBreaker, Pipeline, Retry
{configured}
upstream = socket.create_server(("127.0.0.1", 0))
payments = Pipeline("payments", CircuitBreaker(fail_max=3, reset_timeout=0.3, reset_timeout_jitter=0))

@payments
def pay():
    with socket.create_connection(upstream.getsockname(), timeout=5):
        pass

def attempts(times):
    for _ in range(times):
        try:
            pay()
        except Exception:
            pass

attempts(5)
port = upstream.getsockname()
upstream.close()

@payments
def pay_again():
    with socket.create_connection(port, timeout=5):
        pass
pay = pay_again
attempts(20)
upstream = socket.create_server(port)
time.sleep(0.4)
attempts(2)
"""
SEEN = [
    (
        "circuit 'payments.breaker' opened: 3 of 3 calls failed (consecutive failures), last ConnectionRefusedError; "
        "next trial in N s"
    ),
    "circuit 'payments.breaker' is open: a call was refused; next trial in N s",
    "circuit 'payments.breaker' closed: trial calls succeeded",
]
"""The lines of an outage that standard error shows."""


@pytest.mark.servers
@pytest.mark.parametrize("configured", ["", "import logging; logging.basicConfig(format='%(message)s')"])
def test_an_unconfigured_service_shows_its_outage(configured: str) -> None:
    """A service without logging configuration writes to standard error, once, that its upstream is away and back."""
    code = SERVICE.format(configured=configured)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert re.sub(r"next trial in 0\.[0-9]+ s", "next trial in N s", done.stderr).splitlines() == SEEN


class OddError(Exception):
    """An error with an attribute of the same name as ours, which cannot be read or is no text."""

    def __init__(self, name: object) -> None:
        self._name = name

    @property
    def log_name(self) -> object:
        if self._name is None:
            raise KeyError
        return self._name


@pytest.mark.parametrize(
    ("name", "shown"), [(None, "OddError"), (7, "OddError"), ("Down 503", "Down 503"), ("a\nERROR b", "a\\nERROR b")]
)
def test_an_error_may_have_a_name_for_the_log(log: Lines, clock: ManualClock, name: object, shown: str) -> None:
    """The line has the `log_name` of an error, as one line; of an error without such a text, the type."""

    def fail() -> None:
        raise OddError(name)

    with Refused:
        Pipeline("p", CircuitBreaker(fail_max=1, clock=clock)).call(fail)
    (line,) = log.lines
    assert f", last {shown}; next trial in" in line
