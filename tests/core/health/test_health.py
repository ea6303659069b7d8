import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilience.errors import ConfigurationError
from resilience.health import Health, HealthOptions, Report, redis_check
from resilience.lifecycle import Lifecycle
from resilience.testing import ManualClock, RecordingListener

PATIENT = HealthOptions(timeout=10.0)
"""No check of such a Health can time out on a slow machine."""


def statuses(report: Report) -> dict[str, str]:
    return {entry.name: entry.status for entry in report.entries}


def fails() -> None:
    raise ConnectionError("hunter2")


class Gate:
    """A check that waits until the test releases it."""

    def __init__(self) -> None:
        self.runs = 0
        self.inside = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> None:
        self.runs += 1
        self.inside.set()
        assert self.go.wait(20)


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end, "it did not come true within 5 s"
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("result", "passes"), [(None, True), (True, True), (0, True), ("", True), ([], True), (False, False)]
)
def test_only_false_fails(result: object, passes: bool) -> None:  # noqa: FBT001 - a table's column
    """A check passes with any result except False."""
    health = Health(PATIENT)
    health.add("c", lambda: result)
    assert health.report("ready").ok is passes


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_a_check_raises_is_its_failure(error: BaseException) -> None:
    """A check that raises any exception has failed, others have not, and the next report runs it again."""
    health = Health(HealthOptions(timeout=10.0, cache=0))
    runs = []

    def check() -> None:
        runs.append(1)
        raise error

    health.add("bad", check)
    health.add("good", lambda: None)
    for _ in range(2):
        assert statuses(health.report("ready")) == {"ping": "ok", "bad": "failed", "good": "ok"}
    assert len(runs) == 2


def test_an_error_that_cannot_be_shown_is_a_failure_too() -> None:
    """An error whose text raises does not block the check."""

    class Unspeakable(Exception):  # noqa: N818 - it is what the test throws
        def __str__(self) -> str:
            raise RuntimeError("no")

    def check() -> None:
        raise Unspeakable

    health = Health(HealthOptions(timeout=10.0, details=True))
    health.add("c", check)
    assert "[-]c failed: Unspeakable\n" in health.report("ready").text()


async def passes_async() -> None:
    """Pass."""


async def fails_async() -> bool:
    """Return False."""
    return False


def hides_fails_async() -> object:
    """Return an awaitable from a plain function."""
    return fails_async()


@pytest.mark.parametrize("probe", [fails_async, hides_fails_async])
def test_async_checks_work_without_a_loop(probe: Any) -> None:
    """A blocking report runs async checks too, also an awaitable that a plain function returns."""
    health = Health(PATIENT)
    health.add("good", passes_async)
    health.add("bad", probe)
    assert statuses(health.report("ready")) == {"ping": "ok", "good": "ok", "bad": "failed"}


def test_async_checks_may_raise_anything_without_a_loop() -> None:
    """Any exception of an async check in a blocking report is a failure."""

    async def check() -> None:
        raise SystemExit(3)

    health = Health(PATIENT)
    health.add("c", check)
    assert not health.report("ready").ok


def test_fifty_probes_run_a_slow_check_once() -> None:
    """Fifty probes at the same time share one run and its answer."""
    health, gate = Health(PATIENT), Gate()
    health.add("slow", gate)
    with ThreadPoolExecutor(50) as pool:
        probes = [pool.submit(health.report, "ready") for _ in range(50)]
        assert gate.inside.wait(5)
        eventually(lambda: len(health._checks["slow"]._waiters) == 50)
        gate.go.set()
        assert all(probe.result(10).ok for probe in probes)
    assert gate.runs == 1
    assert not health._checks["slow"]._waiters


def test_outcomes_are_cached_by_the_clock() -> None:
    """Within `cache` seconds nothing runs again; after it, once."""
    clock, runs = ManualClock(), []
    health = Health(PATIENT, clock=clock)
    health.add("c", lambda: runs.append(1), cache="3s")
    for advance, expected in [(0.0, 1), (2.9, 1), (0.2, 2), (0.1, 2)]:
        clock.advance(advance)
        assert health.report("ready").ok
        assert len(runs) == expected
    assert health.report("ready").entries[1].age == pytest.approx(0.1)


def test_failures_are_cached_too() -> None:
    """A failure is cached too, so probes do not overload a failing dependency."""
    clock, runs = ManualClock(), []

    def check() -> None:
        runs.append(1)
        fails()

    health = Health(PATIENT, clock=clock)
    health.add("c", check)
    assert [health.report("ready").ok for _ in range(3)] == [False] * 3
    assert len(runs) == 1


@pytest.mark.realtime
def test_a_stuck_check_holds_up_nothing() -> None:
    """A check that hangs is reported on time, not started again, takes one thread, and others go on (L18)."""
    health, gate, runs = Health(HealthOptions(timeout=0.05, cache=0)), Gate(), []
    health.add("stuck", gate)
    health.add("well", lambda: runs.append(1), timeout=10)
    before = threading.active_count()
    started = time.monotonic()
    for _ in range(20):
        assert statuses(health.report("ready")) == {"ping": "ok", "stuck": "failed", "well": "ok"}
        assert health.report("live").ok
    assert time.monotonic() - started < 5  # 50 ms once, not twenty times
    assert (gate.runs, len(runs)) == (1, 20)
    assert threading.active_count() <= before + 2
    gate.go.set()
    eventually(lambda: health._checks["stuck"]._machine.run is None)
    assert statuses(health.report("ready"))["stuck"] == "ok"
    assert gate.runs == 2


def test_liveness_runs_nothing_by_default() -> None:
    """Liveness runs no check unless one is added to the group `live` (L18)."""
    health = Health(PATIENT, lifecycle=Lifecycle())
    health.add("db", fails)
    health.add("start", fails, groups=["startup"])
    assert health.report("live").text(verbose=True) == "[+]ping ok\nlivez check passed\n"
    health.add("deadlock", fails, groups=("live", "ready"))
    assert not health.report("live").ok
    assert health.names("live") == ("ping", "deadlock")


def test_a_tolerated_failure_is_shown_and_passes() -> None:
    """A check with `failure="warn"` never takes the instance out of service."""
    health = Health(PATIENT)
    health.add("cache", fails, failure="warn")
    report = health.report("ready")
    assert (report.ok, report.status, report.text()) == (True, 200, "ok")
    assert report.text(verbose=True) == "[+]ping ok\n[!]cache warning: reason withheld\nreadyz check passed\n"


def test_the_reason_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The report names the failed check without the reason; the log has the reason of every failed run."""
    health = Health(HealthOptions(timeout=10.0, cache=0))
    broken = True

    def check() -> None:
        if broken:
            fails()

    health.add("db", check)
    with caplog.at_level(logging.WARNING, "resilience"):
        for _ in range(2):
            report = health.report("ready")
            assert report.text() == "[+]ping ok\n[-]db failed: reason withheld\nreadyz check failed\n"
            assert "hunter2" not in str(report.json())
        broken = False
        assert health.report("ready").ok
    assert [record.getMessage() for record in caplog.records] == [
        "health check 'db' failed: ConnectionError: hunter2",
        "health check 'db' failed again: ConnectionError: hunter2",
        "health check 'db' passes again",
    ]


def test_details_show_the_reason_in_one_line() -> None:
    """With `details` the reason is shown, and cannot forge lines of the report."""

    def check() -> None:
        raise ValueError("no\n[+]db ok")

    health = Health(HealthOptions(timeout=10.0, details=True))
    health.add("db", check)
    report = health.report("ready")
    assert "[-]db failed: ValueError: no\\n[+]db ok\n" in report.text()
    assert report.json()["checks"][1]["reason"] == "ValueError: no\\n[+]db ok"


def test_changes_are_events() -> None:
    """A listener hears each change of a check once, with the reason."""
    health, heard = Health(HealthOptions(timeout=10.0, cache=0)), RecordingListener()
    health.events.subscribe(heard)
    outcomes = iter([None, None, False, False, None])
    health.add("db", lambda: next(outcomes))
    for _ in range(5):
        health.report("ready")
    eventually(lambda: len(heard.events) == 3)
    assert [(event.kind, event.policy, event.severity) for event in heard.events] == [
        ("health.changed", "db", "info"),
        ("health.changed", "db", "error"),
        ("health.changed", "db", "info"),
    ]
    assert [(event.facts["before"], event.facts["ok"]) for event in heard.events] == [
        (None, True),
        (True, False),
        (False, True),
    ]


def test_exclude_and_only() -> None:
    """A probe can exclude checks or ask for one; an unknown name is a warning, not an error."""
    health = Health(PATIENT)
    health.add("a", fails)
    health.add("b", lambda: None)
    report = health.report("ready", exclude=["a", "zz", "ping"])
    assert statuses(report) == {"ping": "ok", "b": "ok"}
    assert report.warnings == ("some checks cannot be excluded: no matches for 'ping', 'zz'",)
    assert "warn: some checks" in report.text(verbose=True)
    assert statuses(health.report("ready", only="b")) == {"b": "ok"}
    with pytest.raises(ConfigurationError, match=r"only='zz': expected one of ping, a, b"):
        health.report("ready", only="zz")
    with pytest.raises(ConfigurationError, match="group='all'"):
        health.report("all")


def test_excluded_checks_do_not_run() -> None:
    """An excluded check does not run."""
    health, runs = Health(PATIENT), []
    health.add("a", lambda: runs.append(1))
    health.report("ready", exclude=["a"])
    health.report("ready", only="ping")
    health.report("startup")
    assert not runs


def test_the_lifecycle_decides_first() -> None:
    """Readiness is 503 before the end of the start and from the drain on, with any `exclude`; startup only before."""
    lifecycle, health = Lifecycle(), Health(PATIENT)
    health.attach(lifecycle)

    def codes() -> tuple[int, ...]:
        return tuple(health.report(group, exclude=["lifecycle"]).status for group in ("live", "startup", "ready"))

    assert codes() == (200, 503, 503)
    assert "[-]lifecycle failed: starting\n" in health.report("ready").text()
    lifecycle.started()
    assert codes() == (200, 200, 200)
    lifecycle.drain()
    assert codes() == (200, 200, 503)
    assert health.report("ready").json()["checks"][1]["reason"] == "draining"
    lifecycle.stopped()
    assert codes() == (200, 200, 503)


def test_decorator_leaves_the_function_alone() -> None:
    """The decorator returns the function unchanged."""
    health = Health(PATIENT)

    @health.check("db", groups=("startup",), timeout=2, cache=0, failure="warn")
    def check() -> int:
        return 7

    assert check() == 7
    assert health.names("startup") == ("ping", "db")
    assert health._checks["db"].failure == "warn"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": ""}, "name=''"),
        ({"name": "a b"}, "name='a b'"),
        ({"name": "a/b"}, "name='a/b'"),
        ({"name": "a" * 64}, "name="),
        ({"name": "ping"}, "name='ping'"),
        ({"name": "lifecycle"}, "name='lifecycle'"),
        ({"name": None}, "name=None"),
        ({"name": "taken"}, "name='taken'"),
        ({"check": 3}, "check=3"),
        ({"groups": ()}, "groups=()"),
        ({"groups": "ready"}, "groups='ready'"),
        ({"groups": ["redy"]}, "groups=['redy']"),
        ({"groups": 3}, "groups=3"),
        ({"groups": [["ready"]]}, "groups="),
        ({"failure": "ignore"}, "failure='ignore'"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"timeout": "1 parsec"}, "timeout='1 parsec'"),
        ({"timeout": 301}, "timeout=301"),
        ({"cache": float("inf")}, "cache=inf"),
        ({"cache": -1}, "cache=-1"),
        ({"cache": True}, "cache=True"),
    ],
)
def test_refuses_a_bad_check(arguments: dict[str, Any], named: str) -> None:
    """`add` refuses an invalid argument by name and value, and adds nothing."""
    health = Health()
    health.add("taken", passes_async)
    add: Any = health.add
    with pytest.raises(ConfigurationError) as caught:
        add(**({"name": "c", "check": passes_async} | arguments))
    assert named in str(caught.value)
    assert health.names("ready") == ("ping", "taken")


def test_no_thread_is_a_failure_and_no_wedge(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system starts no thread, the check has failed, and the next probe tries again."""
    health = Health(HealthOptions(timeout=10.0, cache=0))
    health.add("c", lambda: None)
    with monkeypatch.context() as patch:

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        assert not health.report("ready").ok
    assert health.report("ready").ok


def test_a_broken_log_wedges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of a log handler changes neither the outcome nor the next run of a check, and is not hidden."""
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda facts: seen.append(facts.exc_value))

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    health, handler = Health(HealthOptions(timeout=10.0, cache=0)), Broken()
    health.add("c", fails)
    log = logging.getLogger("resilience")
    log.addHandler(handler)
    try:
        started = time.monotonic()
        assert [health.report("ready").ok for _ in range(3)] == [False] * 3
        assert time.monotonic() - started < 5
        eventually(lambda: len(seen) == 3)
    finally:
        log.removeHandler(handler)


def test_an_idle_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of a check is kept between runs, ends when it is idle, and starts again."""
    monkeypatch.setattr("resilience.health._check._IDLE_TIMEOUT", 0.2)
    health, threads = Health(HealthOptions(timeout=10.0, cache=0)), []
    health.add("c", lambda: threads.append(threading.current_thread()))
    health.report("ready")
    health.report("ready")
    assert threads[0] is threads[1]
    assert threads[0].daemon
    threads[0].join(5)
    assert not threads[0].is_alive()
    assert health.report("ready").ok
    assert threads[2] is not threads[0]


class Pinging:
    """A blocking client with `ping` alone."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def ping(self) -> bool:
        if self.error is not None:
            raise self.error
        return True


def test_redis_away_is_a_warning() -> None:
    """An outage of Redis takes no instance out of service, unless the check was added with `fail`."""
    health = Health(PATIENT)
    health.add("client", redis_check(Pinging()))
    health.add("away", redis_check(Pinging(ConnectionError("x"))))
    expected = {"ping": "ok", "client": "ok", "away": "warn"}
    assert statuses(health.report("ready")) == expected
    health.add("needed", redis_check(Pinging(ConnectionError("x"))), failure="fail")
    assert statuses(health.report("ready")) == expected | {"needed": "failed"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_checks_for_itself() -> None:
    """A child forked while a check runs and its lock is held starts that check again and does not hang."""
    health, gate = Health(PATIENT), Gate()
    parent = os.getpid()
    health.add("c", lambda: gate() if os.getpid() == parent else None)
    probing = threading.Thread(target=health.report, args=("ready",))
    probing.start()
    assert gate.inside.wait(5)
    with health._checks["c"]._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if health.report("ready").ok else 1)
    status = _ended(child)
    gate.go.set()
    probing.join(5)
    assert status == 0


def _ended(child: int) -> int:
    end = time.monotonic() + 15
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1
