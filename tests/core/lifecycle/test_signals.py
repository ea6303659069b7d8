"""SIGTERM to real processes, and the handler in this process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_process import free_port
from server_process import ServerProcess, started

from resilience.lifecycle import Lifecycle, LifecycleOptions
from resilience.lifecycle._signals import SIGNALS, Signals, belongs_to_a_loop

Run = Callable[..., ServerProcess]

SCRIPT = """
    import os, sys, time, threading
    from resilience.lifecycle import Lifecycle, LifecycleOptions
    def say(text):
        print(text, flush=True)
    lifecycle = Lifecycle(LifecycleOptions(drain_delay=float(sys.argv[1]), drain_timeout=5))
    lifecycle.on_drain(lambda: say("deregistered"), name="registry")
    lifecycle.on_stop(lambda: say("closed"))
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Run scripts and servers."""
    with contextlib.ExitStack() as stack:
        yield lambda source, *arguments, **named: stack.enter_context(
            started(tmp_path, source, list(arguments), **named)
        )


@pytest.mark.servers
class TestScripts:
    def test_works_to_the_end(self, run: Run) -> None:
        """A script without a server finishes its work in flight, runs its hooks, and ends by the signal."""
        source = (
            SCRIPT
            + """
    lifecycle.install_signals()
    lifecycle.start()
    def work():
        lifecycle.enter()
        say("at work")
        while not lifecycle.is_draining:
            time.sleep(0.01)
        time.sleep(0.4)
        say("done")
        lifecycle.leave()
    threading.Thread(target=work, daemon=True).start()
    while True:
        time.sleep(10)
"""
        )
        script = run(source, "app.py", "0")
        script.says("at work")
        script.tell()
        assert script.ended() == -signal.SIGTERM
        assert script.output.split("\n") == ["at work", "deregistered", "done", "closed", ""]

    def test_a_block_is_left_by_itself(self, run: Run) -> None:
        """In a `with lifecycle:` block the loop that looks at `is_draining` ends by itself, with status 0."""
        source = (
            SCRIPT
            + """
    with lifecycle:
        say("ready")
        while not lifecycle.is_draining:
            time.sleep(0.01)
        time.sleep(0.5)
        say("finished")
    say("after")
"""
        )
        script = run(source, "app.py", "0")
        script.says("ready")
        script.tell()
        assert script.ended() == 0
        assert script.output.split("\n") == ["ready", "deregistered", "finished", "closed", "after", ""]

    def test_a_block_that_does_not_look_is_left_at_the_second_signal(self, run: Run) -> None:
        """A main thread that only waits is unwound by a second signal (or after `drain_timeout`), hooks included."""
        source = (
            SCRIPT
            + """
    with lifecycle:
        say("ready")
        threading.Event().wait()
"""
        )
        script = run(source, "app.py", "0")
        script.says("ready")
        script.tell()
        script.says("deregistered")
        time.sleep(0.15)
        script.tell()
        assert script.ended() == 128 + signal.SIGTERM
        assert script.output.split("\n") == ["ready", "deregistered", "closed", ""]

    def test_a_second_signal_ends_the_delay(self, run: Run) -> None:
        """A second signal ends the drain delay."""
        source = (
            SCRIPT
            + """
    lifecycle.install_signals()
    lifecycle.start()
    say("ready")
    while True:
        time.sleep(10)
"""
        )
        script = run(source, "app.py", "30")
        script.says("ready")
        sent = script.tell()
        script.says("deregistered")
        time.sleep(0.15)
        script.tell()
        assert script.ended() == -signal.SIGTERM
        assert time.monotonic() - sent < 3
        assert "closed" in script.output

    @pytest.mark.parametrize(
        "main",
        [
            "while True: time.sleep(10)",
            "with lifecycle:\n        lifecycle.wait_draining()",
            "with lifecycle:\n        lifecycle.wait_draining(); lifecycle.wait_drained()",
            "asyncio.run(block())",
        ],
        ids=["no block", "block", "block that drains", "async block"],
    )
    def test_a_second_signal_loses_no_work(self, run: Run, main: str) -> None:
        """A second signal ends the delay, and work in flight still ends, in a block or without one."""
        source = (
            SCRIPT
            + """
    import asyncio
    async def block():
        async with lifecycle:
            await lifecycle.await_draining()
            await lifecycle.await_drained()
    lifecycle.install_signals()
    lifecycle.start()
    def work():
        lifecycle.enter()
        say("at work")
        time.sleep(1.5)
        say("done")
        lifecycle.leave()
    threading.Thread(target=work, daemon=True).start()
    """
            + main
        )
        script = run(source, "app.py", "30")
        script.says("at work")
        sent = script.tell()
        script.says("deregistered")
        time.sleep(0.2)
        script.tell()
        assert script.ended() == (-signal.SIGTERM if main.startswith("while") else 0)
        assert time.monotonic() - sent < 5
        assert script.output.split("\n") == ["at work", "deregistered", "done", "closed", ""]

    def test_the_third_signal_is_the_last_word(self, run: Run) -> None:
        """Work that does not end is given up at the third signal, and stop hooks still run."""
        source = (
            SCRIPT
            + """
    with lifecycle:
        lifecycle.enter()
        say("ready")
        lifecycle.wait_draining()
        lifecycle.wait_drained(30)
"""
        )
        script = run(source, "app.py", "30")
        script.says("ready")
        sent = script.tell()
        script.says("deregistered")
        for _ in range(2):
            time.sleep(0.2)
            assert script.is_running
            script.tell()
        assert script.ended() == 128 + signal.SIGTERM
        assert time.monotonic() - sent < 5
        assert script.output.split("\n") == ["ready", "deregistered", "closed", ""]

    def test_an_interrupt_is_never_held_back(self, run: Run) -> None:
        """Ctrl-C interrupts the main thread at once, also during the delay, and also if SIGINT is to drain."""
        source = (
            SCRIPT
            + """
    import signal
    lifecycle.install_signals(signal.SIGTERM, signal.SIGINT)
    lifecycle.start()
    say("ready")
    try:
        time.sleep(30)
    except KeyboardInterrupt:
        say(f"interrupted")
"""
        )
        script = run(source, "app.py", "30")
        script.says("ready")
        script.tell()
        script.says("deregistered")
        script.tell(signal.SIGINT)
        assert script.ended(5) == 0
        assert "interrupted" in script.output

    def test_children_keep_their_handlers(self, run: Run) -> None:
        """A child forked by a process that drains on SIGTERM ends by SIGTERM, so process pools can end."""
        source = (
            SCRIPT
            + """
    import multiprocessing
    lifecycle.install_signals()
    def codes():
        for _ in range(20):  # ended at once, some before they have run a line
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
            child.start()
            child.terminate()
            child.join(5)
            yield child.exitcode
    say(f"children {set(codes())}")
"""
        )
        script = run(source, "app.py", "0")
        assert script.ended() == 0
        assert f"children {{{-signal.SIGTERM}}}" in script.output

    def test_hooks_at_the_end_of_the_interpreter(self, run: Run) -> None:
        """`stop_at_exit` runs the stop hooks of a process that ends by itself, when no new thread can be started."""
        source = (
            SCRIPT
            + """
    lifecycle.server.stop_at_exit()
    lifecycle.started()
"""
        )
        script = run(source, "app.py", "0")
        assert script.ended() == 0
        assert script.output.split("\n") == ["deregistered", "closed", ""]

    def test_a_dependency_that_is_missing_is_a_clear_exit(self, run: Run) -> None:
        """A script that cannot start names the missing dependency in one line, and its status is not 0."""
        source = (
            SCRIPT
            + """
    lifecycle.depends_on(lambda: False, name="ledger", timeout="200ms", interval="50ms")
    with lifecycle:
        say("never")
"""
        )
        script = run(source, "app.py", "0")
        assert script.ended() == 1
        last = script.output.strip().splitlines()[-1]
        assert last.startswith("resilience.errors.StartupError: 'ledger' is not there after 0.")
        assert "never" not in script.output


APP = """
    import asyncio, contextlib
    from fastapi import FastAPI
    from resilience_fastapi import install
    def say(text):
        print(text, flush=True)
    @contextlib.asynccontextmanager
    async def lifespan(app):
        say("app starts")
        yield
        say("app stops")
    app = FastAPI(lifespan=lifespan)
    toolkit = install(app)
    toolkit.lifecycle.on_start(lambda: say("hook starts"))
    toolkit.lifecycle.on_drain(lambda: say("deregistered"))
    @toolkit.lifecycle.on_stop
    async def stops():
        say("hook stops")
    @app.get("/slow")
    async def slow():
        say("serving")
        await asyncio.sleep(1)
        return "done"
"""


@pytest.mark.everywhere
@pytest.mark.servers
class TestUvicorn:
    def serve(self, run: Run, delay: str) -> ServerProcess:
        port = free_port()
        arguments = ["-m", "uvicorn", "app:app", "--port", str(port)]
        environment = {"RESILIENCE_LIFECYCLE__DRAIN_DELAY": delay}
        server = run(APP, *arguments, port=port, environment=environment)
        server.answers("/readyz", 200)
        return server

    def test_drains(self, run: Run) -> None:
        """From SIGTERM on readiness is 503 on an open socket, requests finish, and hooks run in order (L17)."""
        server = self.serve(run, "1500ms")
        asking, answers = server.asking("/slow")
        server.says("serving")
        sent = server.tell()
        server.answers("/readyz", 503, within=1.2)
        server.says("deregistered")  # a hook has a thread of its own
        assert server.ask("/livez")[0] == 200
        late, more = server.asking("/slow")  # a router that has not noticed yet
        assert server.ended() == -signal.SIGTERM
        assert time.monotonic() - sent >= 1.5
        asking.join(5)
        late.join(5)
        assert [answers, more] == [[(200, '"done"')]] * 2
        said = [line for line in server.output.splitlines() if line in SAID]
        assert said == ["hook starts", "app starts", "serving", "deregistered", "serving", "app stops", "hook stops"]

    def test_hurries(self, run: Run) -> None:
        """A second signal ends the delay, and the server shuts down as it does without a lifecycle."""
        server = self.serve(run, "30s")
        sent = server.tell()
        server.says("deregistered")
        server.answers("/readyz", 503)
        time.sleep(0.15)
        server.tell()
        assert server.ended() == -signal.SIGTERM
        assert time.monotonic() - sent < 5
        assert "hook stops" in server.output


SAID = {"hook starts", "app starts", "serving", "deregistered", "app stops", "hook stops"}

WSGI = """
    import time
    from resilience import Resilience
    def say(text):
        print(text, flush=True)
    toolkit = Resilience.from_env()
    life = toolkit.lifecycle
    life.on_stop(lambda: say("hook stops"))
    life.install_signals()
    life.server.stop_at_exit()
    life.started()
    def app(environ, respond):
        life.enter()
        try:
            path = environ["PATH_INFO"]
            if path == "/slow":
                say("serving")
                time.sleep(1)
            answer = toolkit.health.handle(path) if path == "/readyz" else None
            respond("503 Service Unavailable" if answer and answer.status == 503 else "200 OK", [])
            return [answer.body if answer else b"done"]
        finally:
            life.leave()
"""


@pytest.mark.everywhere
@pytest.mark.servers
@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_gunicorn_drains(run: Run, worker: str) -> None:
    """Under gunicorn readiness is 503 on an open socket for the delay, requests finish, and stop hooks run (L17)."""
    pytest.importorskip("gunicorn")
    if worker == "gevent":
        pytest.importorskip("gevent")
    port = free_port()
    arguments = ["-m", "gunicorn", "app:app", "-b", f"127.0.0.1:{port}", "-k", worker, "--threads", "4"]
    server = run(WSGI, *arguments, port=port, environment={"RESILIENCE_LIFECYCLE__DRAIN_DELAY": "1500ms"})
    server.answers("/readyz", 200)
    asking, answers = server.asking("/slow")
    server.says("serving")
    server.tell()
    server.answers("/readyz", 503, within=1.4)
    assert server.ended() == 0
    asking.join(5)
    assert answers == [(200, "done")]
    assert "hook stops" in server.output


@pytest.fixture
def sigterm() -> Iterator[None]:
    """Remove the handlers of other tests, and restore the handler of SIGTERM afterwards."""
    SIGNALS.after_fork()
    before = signal.getsignal(signal.SIGTERM)
    yield
    SIGNALS.after_fork()
    signal.signal(signal.SIGTERM, before)


def test_off_the_main_thread_nothing_happens() -> None:
    """Off the main thread, as in a test client, installing does nothing and logs nothing."""
    done = list[bool]()
    thread = threading.Thread(target=lambda: done.append(Lifecycle().install_signals()))
    thread.start()
    thread.join(5)
    assert done == [False]
    assert not Lifecycle(LifecycleOptions(signals=False)).install_signals()


@pytest.mark.usefixtures("sigterm")
def test_the_previous_handler_is_restored() -> None:
    """Installing twice is installing once, and the end of the last lifecycle restores the previous handler."""
    mine: Any = lambda *_: None  # noqa: E731 - a handler
    signal.signal(signal.SIGTERM, mine)
    one, two = Lifecycle(), Lifecycle()
    assert one.install_signals()
    ours = signal.getsignal(signal.SIGTERM)
    assert one.install_signals()
    assert two.install_signals()
    assert signal.getsignal(signal.SIGTERM) == ours != mine
    one.stopped()
    assert signal.getsignal(signal.SIGTERM) == ours
    two.stopped()
    assert signal.getsignal(signal.SIGTERM) is mine


@pytest.mark.usefixtures("sigterm")
def test_an_ignored_signal_stays_ignored() -> None:
    """A process that ignores SIGTERM still ignores it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert not Lifecycle().install_signals()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


@pytest.mark.usefixtures("sigterm")
def test_without_delay_the_server_gets_the_signal_at_once() -> None:
    """Without delay and drain hooks the previous handler runs within the signal itself, and the drain follows."""
    heard = list[int]()
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    lifecycle = Lifecycle()
    lifecycle.started()
    lifecycle.install_signals()
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    assert lifecycle.wait_draining(2)
    lifecycle.stopped()


@pytest.mark.usefixtures("sigterm")
def test_a_later_handler_that_calls_ours_makes_no_circle() -> None:
    """A later handler that calls ours reaches the previous one, once, also after another install."""
    heard = list[str]()
    signal.signal(signal.SIGTERM, lambda *_: heard.append("first"))
    lifecycle = Lifecycle()
    lifecycle.install_signals()
    ours: Any = signal.getsignal(signal.SIGTERM)

    def over(number: int, frame: Any) -> None:
        heard.append("over")
        ours(number, frame)

    signal.signal(signal.SIGTERM, over)
    lifecycle.install_signals()
    signal.raise_signal(signal.SIGTERM)
    assert heard == ["over", "first"]
    lifecycle.stopped()


@pytest.mark.usefixtures("sigterm")
def test_a_later_handler_can_call_ours_after_the_end() -> None:
    """A later handler that calls ours reaches the previous one even after the end of the last lifecycle."""
    heard = list[int]()
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    lifecycle = Lifecycle()
    lifecycle.install_signals()
    ours: Any = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))  # noqa: PLW0108 - another function
    lifecycle.stopped()
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


@pytest.mark.usefixtures("sigterm")
def test_a_dropped_lifecycle_is_forgotten() -> None:
    """A lifecycle that was dropped without an end is garbage-collected, and the signal is passed on."""
    heard = list[int]()
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    lifecycle = Lifecycle(LifecycleOptions(drain_delay=30))
    lifecycle.install_signals()
    lifecycle.server.stop_at_exit()
    gone = weakref.ref(lifecycle)
    del lifecycle
    gc.collect()
    assert gone() is None
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    end = time.monotonic() + 5
    while any(thread.name == "resilience-signals" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.usefixtures("sigterm")
async def test_a_loop_sees_the_signal_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """If an event loop handles the signal, the drain begins, and a log line says that there is no delay."""
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, heard.set)
    assert belongs_to_a_loop(signal.getsignal(signal.SIGTERM))
    lifecycle = Lifecycle(LifecycleOptions(drain_delay=5))
    lifecycle.started()
    assert lifecycle.install_signals()
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(heard.wait(), 2)
    assert await lifecycle.await_draining(2)
    await asyncio.sleep(0.05)
    assert [record.message for record in caplog.records if "drain_delay" in record.message] != []
    lifecycle.stopped()
    loop.remove_signal_handler(signal.SIGTERM)


@pytest.mark.usefixtures("sigterm")
def test_one_signal_sent_by_two_ways_is_one() -> None:
    """A signal that arrives again at once (sent to the process group, and by the parent) does not end the delay."""
    heard = list[int]()
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    lifecycle = Lifecycle(LifecycleOptions(drain_delay=5))
    lifecycle.install_signals()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert heard == []
    time.sleep(0.12)
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    lifecycle.stopped()


@pytest.mark.usefixtures("sigterm")
def test_two_lifecycles_share_one_signal() -> None:
    """Two lifecycles in one process drain at the same moment; the server gets the signal after the longer delay."""
    heard = list[float]()
    signal.signal(signal.SIGTERM, lambda *_: heard.append(time.monotonic()))
    lives = [Lifecycle(LifecycleOptions(drain_delay=delay)) for delay in (0.0, 0.3)]
    for life in lives:
        life.started()
        life.install_signals()
    began = time.monotonic()
    signal.raise_signal(signal.SIGTERM)
    assert all(life.wait_draining(1) for life in lives)
    assert heard == []
    end = began + 3
    while not heard and time.monotonic() < end:
        time.sleep(0.01)
    assert heard[0] - began >= 0.3
    for life in lives:
        life.stopped()


@pytest.mark.usefixtures("sigterm")
def test_without_a_thread_to_watch_the_signal_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the system starts no thread to watch, the previous handler keeps the signal."""
    heard = list[int]()
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    lifecycle = Lifecycle(LifecycleOptions(drain_delay=30))

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not lifecycle.install_signals()
    assert "can't start new thread" in caplog.text
    signal.raise_signal(signal.SIGTERM)
    assert (heard, lifecycle.state) == ([signal.SIGTERM], "starting")
    assert lifecycle.install_signals()
    signal.raise_signal(signal.SIGTERM)
    assert lifecycle.wait_draining(5)
    assert heard == [signal.SIGTERM]
    lifecycle.stopped()


def test_without_a_lifecycle_signals_are_passed_on() -> None:
    """Without a lifecycle the handler passes each signal on."""
    heard = list[int]()
    signals = Signals()
    signals._previous[signal.SIGTERM] = [lambda number, _: heard.append(number)]
    signals._handle(signal.SIGTERM, None)
    assert heard == [signal.SIGTERM]
