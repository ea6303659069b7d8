"""A process that can start no more threads refuses calls as when all threads are taken, and blames no dependency."""

import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from no_threads import out_of_threads

from resilience import (
    BulkheadFullError,
    CircuitBreaker,
    Health,
    Hedge,
    Lifecycle,
    Pipeline,
    Retry,
    RetryBudget,
    ThreadPoolBulkhead,
    Timeout,
    idempotent,
)
from resilience._support import executor
from resilience.health import HealthServer
from resilience.lifecycle import LifecycleOptions
from resilience.testing import RecordingListener

MAKERS: list[Callable[[], Any]] = [
    lambda: Timeout(5, max_threads=1),
    lambda: ThreadPoolBulkhead(1, max_wait=0),
    lambda: ThreadPoolBulkhead(1, max_wait="50ms"),
]


def test_the_system_is_really_out_of_threads() -> None:
    """The tests of this module are about what CPython raises when the system starts no thread."""
    with out_of_threads(), pytest.raises(RuntimeError, match="can't start new thread"):
        threading.Thread(target=int).start()
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


@pytest.mark.parametrize("make", MAKERS)
def test_a_call_is_refused_and_the_circuit_stays_closed(make: Callable[[], Any]) -> None:
    """A call without a thread is refused: no retry, no failure of the dependency, no place lost, no thread left."""
    policy, listener, made = make(), RecordingListener(), list[int]()
    breaker = CircuitBreaker(fail_max=1)
    policy.events.subscribe(listener)
    pipeline = Pipeline("p", Retry(attempts=3, on=Exception, wait_initial=0), breaker, policy)
    with out_of_threads():
        for _ in range(3):
            with pytest.raises(BulkheadFullError, match="no thread can be started") as caught:
                pipeline.call(made.append, 1)
            assert caught.value.policy == policy.name
    assert (breaker.current_state, breaker.fail_counter, made, policy.is_idle) == ("closed", 0, [], True)
    assert {event.facts["reason"] for event in listener.events} == {"system"}
    assert {event.kind for event in listener.events} == {f"{policy.kind}.rejected"}
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is executor._Worker and each.ident is None]
    assert pipeline.call(int) == 0


async def test_an_awaiting_caller_is_refused_as_well() -> None:
    """A pool of threads refuses an awaiting caller in the same way."""
    breaker, pool = CircuitBreaker(fail_max=1), ThreadPoolBulkhead(1, max_wait=0)
    pipeline = Pipeline("p", breaker, pool)
    with out_of_threads():
        for _ in range(2):
            with pytest.raises(BulkheadFullError, match="no thread can be started"):
                await pipeline.acall(int)
    assert (breaker.current_state, pool.is_idle) == ("closed", True)
    assert await pipeline.acall(int) == 0


async def test_coroutines_need_no_thread() -> None:
    """Timeout and hedge of a coroutine go on where no thread can be started."""

    @idempotent
    async def answer() -> int:
        return threading.get_ident()

    guarded = Pipeline("p", Hedge(60), Timeout(5))(answer)
    with out_of_threads():
        assert await guarded() == threading.get_ident()


def test_a_hedged_call_is_made_in_the_caller_s_thread() -> None:
    """If the first attempt gets no thread, the caller makes it, and the call is not hedged."""
    breaker, budget = CircuitBreaker(fail_max=1), RetryBudget()
    hedge = Hedge(0, budget=budget)
    guarded = Pipeline("p", breaker, hedge)(idempotent(threading.get_ident))
    with out_of_threads():
        assert guarded() == threading.get_ident()
    assert (breaker.current_state, hedge.snapshot()["suppressed"]["threads"]) == ("closed", 1)
    assert (budget.calls, budget.extras, hedge.is_idle) == (0, 0, True)


def test_a_later_attempt_without_a_thread_is_left_out() -> None:
    """If a hedge gets no thread, the caller has the answer of the attempts under way, and the budget has its place."""
    release, begun, budget = threading.Event(), threading.Event(), RetryBudget()
    hedge, answers = Hedge("10ms", budget=budget), list[Any]()

    @idempotent
    def ask() -> str:
        begun.set()
        return "first" if release.wait(10) else "late"

    caller = threading.Thread(target=lambda: answers.append(Pipeline("p", hedge)(ask)()))
    hedge.events.subscribe(lambda _event: release.set())  # hedge.suppressed: the attempt that is left out
    real_start = executor._Worker.start

    def start(worker: Any) -> None:
        with out_of_threads() if begun.is_set() else contextlib.nullcontext():
            real_start(worker)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "_idle", [])
        patch.setattr(executor._Worker, "start", start)
        caller.start()
        caller.join(20)
    assert answers == ["first"]
    assert (hedge.snapshot()["suppressed"]["threads"], budget.extras) == (1, 0)


AT_EXIT = """
import atexit, threading
from resilience import BulkheadFullError, CircuitBreaker, Hedge, Pipeline, ThreadPoolBulkhead, Timeout, idempotent

breaker = CircuitBreaker(fail_max=1)
calls = {
    "timeout": Pipeline("timeout", breaker, Timeout(5)),
    "pool": Pipeline("pool", breaker, ThreadPoolBulkhead(2)),
    "hedge": Pipeline("hedge", breaker, Hedge(0)),
}

@idempotent
def answer():
    return 42

def starts():
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return False
    return True

def call(when):
    print(when, "starts", starts())
    for name, pipeline in calls.items():
        try:
            outcome = pipeline(answer)()
        except BulkheadFullError:
            outcome = "refused"
        print(when, name, outcome, breaker.current_state)

atexit.register(call, "atexit")
threading._register_atexit(call, "shutdown")
"""


def test_end_of_the_interpreter() -> None:
    """If no thread starts while the interpreter ends, calls are refused, and hedged calls are made without a hedge."""
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, check=True, timeout=60)
    starts = "shutdown starts True" in done.stdout  # CPython 3.12 starts none; 3.11 and 3.13.0 do
    assert sys.version_info[:2] != (3, 12) or not starts
    answers = {"timeout": "42" if starts else "refused", "pool": "42" if starts else "refused", "hedge": "42"}
    assert done.stdout.splitlines() == [
        line
        for when in ("shutdown", "atexit")
        for line in (f"{when} starts {starts}", *(f"{when} {name} {answers[name]} closed" for name in answers))
    ], done.stderr


@pytest.mark.parametrize("is_async", [False, True])
async def test_steps_of_the_lifecycle_run_where_they_are_called(*, is_async: bool) -> None:
    """If no thread can be started, start and stop hooks run in the caller's thread, and none is left out."""
    ran, here, variable = list[tuple[str, int]](), threading.get_ident(), ContextVar("variable", default="caller")

    def step(name: str) -> None:
        ran.append((name, threading.get_ident()))
        variable.set("hook")

    lifecycle = Lifecycle(LifecycleOptions(signals=False))
    lifecycle.on_start(lambda: step("start"))
    lifecycle.on_drain(lambda: step("drain"))
    lifecycle.on_stop(lambda: step("stop"))
    with out_of_threads():
        if is_async:
            async with lifecycle:
                pass
        else:
            with lifecycle:
                pass
    assert ran == [(name, here) for name in ("start", "drain", "stop")]
    assert variable.get() == "caller"


def test_a_health_server_without_a_thread_leaves_no_port_open() -> None:
    """A server of probes that gets no thread says so when it is made, and leaves no port that is open and silent."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with out_of_threads(), pytest.raises(RuntimeError, match="can't start new thread"):
        HealthServer(Health(), port)
    with HealthServer(Health(), port) as server:
        assert server.is_listening


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_without_a_thread_closes_the_port_for_health() -> None:
    """A worker that gets no thread for its probes closes the port, so that another process can have it."""
    with HealthServer(Health(), 0) as server, out_of_threads():
        pid = os.fork()
        if pid == 0:
            os._exit(1 if server.is_listening else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
