"""Callers in threads."""

import contextvars
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from resilience import (
    Cache,
    ConfigurationError,
    Deadline,
    DeadlineExceededError,
    Fallback,
    Pipeline,
    SingleFlight,
    Timeout,
)
from resilience.policy import PolicyBase
from resilience.singleflight import _flights, _sync


class Upstream:
    """A call that waits until it is let go, and counts how many are inside."""

    def __init__(self) -> None:
        self.calls = 0
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.outcomes: list[BaseException] = []

    def get(self, *_args: object) -> list[int]:
        self.calls += 1
        number = self.calls
        self.entered.release()
        assert self.go.wait(10)
        if self.outcomes:
            raise self.outcomes.pop(0)
        return [number]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(60) as threads:
        yield threads


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return how to wait until so many callers wait for others."""
    arrived = threading.Semaphore(0)
    wait = _sync._Follower.wait

    def watched(self: Any, seconds: float | None = None) -> bool:
        arrived.release()
        return wait(self, seconds)

    monkeypatch.setattr(_sync._Follower, "wait", watched)

    def until(count: int) -> None:
        for _ in range(count):
            assert arrived.acquire(timeout=10)

    return until


def start(
    pool: ThreadPoolExecutor,
    upstream: Upstream,
    guarded: Callable[..., Any],
    waiting: Callable[[int], None],
    *,
    more: int,
) -> list[Future[Any]]:
    """Have one caller make the call and `more` wait for it."""
    first = pool.submit(guarded, 1)
    assert upstream.entered.acquire(timeout=10)
    others = [pool.submit(guarded, 1) for _ in range(more)]
    waiting(more)
    return [first, *others]


def test_one_call_for_all(pool: ThreadPoolExecutor, waiting: Callable[[int], None]) -> None:
    """Callers that come while the same call is in flight get its result: fifty callers, one call."""
    upstream, single = Upstream(), SingleFlight()
    guarded = Pipeline("p", single)(upstream.get)
    callers = start(pool, upstream, guarded, waiting, more=49)
    upstream.go.set()
    results = [caller.result(10) for caller in callers]
    assert all(result is results[0] for result in results)
    assert single.snapshot() == {"calls": 1, "shared": 49}
    assert guarded(1) == [2]  # a later call is made anew


def test_misses_of_a_cache_make_one_call(pool: ThreadPoolExecutor, waiting: Callable[[int], None]) -> None:
    """Inside a cache fifty callers that miss at once make one call, and it answers all later ones."""
    upstream = Upstream()
    guarded = Pipeline("p", Cache(), SingleFlight())(upstream.get)
    callers = start(pool, upstream, guarded, waiting, more=49)
    upstream.go.set()
    assert [caller.result(10) for caller in callers] == [[1]] * 50
    assert (guarded(1), upstream.calls) == ([1], 1)


def test_other_calls_do_not_wait(pool: ThreadPoolExecutor) -> None:
    """Calls with other arguments, and those of other functions, are made side by side."""
    together = threading.Barrier(4, timeout=10)
    pipeline = Pipeline("p", SingleFlight())

    def one(number: int) -> int:
        together.wait()
        return number

    def two(number: int) -> int:
        together.wait()
        return -number

    calls = [pool.submit(pipeline(one), 1), pool.submit(pipeline(one), 2), pool.submit(pipeline(two), 1)]
    calls.append(pool.submit(pipeline.call, two, 1))
    assert [call.result(10) for call in calls] == [1, 2, -1, -1]


def test_a_key_says_which_calls_are_the_same(pool: ThreadPoolExecutor, waiting: Callable[[int], None]) -> None:
    """With `key` calls are the same when it returns the same for their arguments, also through `call`."""
    upstream = Upstream()
    pipeline = Pipeline("p", SingleFlight(key=lambda order: order["id"]))
    first = pool.submit(pipeline.call, upstream.get, {"id": 1, "x": 1})
    assert upstream.entered.acquire(timeout=10)
    second = pool.submit(pipeline.call, upstream.get, {"id": 1, "x": 2})
    waiting(1)
    upstream.go.set()
    assert (first.result(10), second.result(10)) == ([1], [1])


def test_unhashable_arguments_are_explained() -> None:
    """Arguments that cannot be hashed raise an error that names `key=`."""
    with pytest.raises(TypeError, match=r"s: a dict cannot be hashed.*give key="):
        Pipeline("p", SingleFlight(name="s"))(lambda _: 1)({})


def test_everybody_gets_the_error(pool: ThreadPoolExecutor, waiting: Callable[[int], None]) -> None:
    """The error of the call is everybody's: the maker's own, and a copy for each of the others."""
    upstream = Upstream()
    upstream.outcomes = [error := OSError("down")]
    guarded = Pipeline("p", SingleFlight())(upstream.get)
    callers = start(pool, upstream, guarded, waiting, more=5)
    upstream.go.set()
    errors = [caller.exception(10) for caller in callers]
    assert errors[0] is error
    assert {(type(each), str(each)) for each in errors} == {(OSError, "down")}
    assert len({id(each) for each in errors}) == 6


def test_stand_ins_reach_everybody_and_no_policy_takes_them_for_success(
    pool: ThreadPoolExecutor, waiting: Callable[[int], None]
) -> None:
    """A fallback inside answers all callers; policies outside see the failure of the dependency for each of them."""

    class Outer(PolicyBase):
        told: list[str] = []  # noqa: RUF012 - one object only

        def on_failure(self, _permit: Any, error: Exception, /) -> None:
            self.told.append(str(error))

    upstream, outer = Upstream(), Outer("outer")
    upstream.outcomes = [OSError("down")]
    guarded = Pipeline("p", outer, SingleFlight(), Fallback("spare"))(upstream.get)
    callers = start(pool, upstream, guarded, waiting, more=3)
    upstream.go.set()
    assert [caller.result(10) for caller in callers] == ["spare"] * 4
    assert outer.told == ["down"] * 4


def test_an_interrupted_call_is_made_by_the_next_in_line(
    pool: ThreadPoolExecutor, waiting: Callable[[int], None]
) -> None:
    """KeyboardInterrupt ends the call for its maker alone: the next in line makes it, for all who still wait."""
    upstream, single = Upstream(), SingleFlight()
    upstream.outcomes = [KeyboardInterrupt(), SystemExit()]
    guarded = Pipeline("p", single)(upstream.get)
    callers = start(pool, upstream, guarded, waiting, more=3)
    upstream.go.set()
    outcomes = [caller.exception(10) or caller.result(10) for caller in callers]
    assert [type(outcome) for outcome in outcomes] == [KeyboardInterrupt, SystemExit, list, list]
    assert outcomes[2:] == [[3], [3]]
    assert single.snapshot()["calls"] == 3
    assert guarded(1) == [4]


def test_an_interrupt_nobody_waits_behind_leaves_nothing() -> None:
    """An interrupted call without followers is over, and the next call is made."""
    upstream = Upstream()
    upstream.go.set()
    upstream.outcomes = [KeyboardInterrupt()]
    guarded = Pipeline("p", SingleFlight())(upstream.get)
    with pytest.raises(KeyboardInterrupt):
        guarded(1)
    assert guarded(1) == [2]


def test_an_interrupted_waiter_leaves_the_others_alone(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KeyboardInterrupt while waiting takes one caller out of the line."""
    upstream, single = Upstream(), SingleFlight()
    guarded = Pipeline("p", single)(upstream.get)
    first = pool.submit(guarded, 1)
    assert upstream.entered.acquire(timeout=10)
    wait = _sync._Follower.wait

    def interrupted(_self: Any, _seconds: float | None = None) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(_sync._Follower, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        guarded(1)
    monkeypatch.setattr(_sync._Follower, "wait", wait)
    upstream.go.set()
    assert first.result(10) == [1]


def test_an_heir_that_is_interrupted_passes_the_call_on(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter interrupted in the very moment the call became its own passes it on to the next in line."""
    upstream, single = Upstream(), SingleFlight()
    upstream.outcomes = [KeyboardInterrupt()]
    guarded = Pipeline("p", single)(upstream.get)
    first = pool.submit(guarded, 1)
    assert upstream.entered.acquire(timeout=10)
    wait, arrived, waits = _sync._Follower.wait, threading.Semaphore(0), [0]

    def interrupted_when_told(self: Any, seconds: float | None = None) -> bool:
        waits[0] += 1
        is_first = waits[0] == 1
        arrived.release()
        is_told = wait(self, seconds)
        if is_first:  # as the asynchronous exceptions of Celery and Dramatiq, which do not end the wait itself
            raise KeyboardInterrupt
        return is_told

    monkeypatch.setattr(_sync._Follower, "wait", interrupted_when_told)
    second = pool.submit(guarded, 1)
    assert arrived.acquire(timeout=10)
    third = pool.submit(guarded, 1)
    assert arrived.acquire(timeout=10)
    upstream.go.set()
    assert isinstance(first.exception(10), KeyboardInterrupt)
    assert isinstance(second.exception(10), KeyboardInterrupt)
    assert third.result(10) == [2]


@pytest.mark.realtime
def test_a_deadline_bounds_the_wait(pool: ThreadPoolExecutor) -> None:
    """A caller waits only as long as its own deadline allows, and its leaving does not disturb the others."""
    upstream, single = Upstream(), SingleFlight(name="s")
    guarded = Pipeline("p", single)(upstream.get)
    first = pool.submit(guarded, 1)
    assert upstream.entered.acquire(timeout=10)
    began = time.monotonic()
    with Deadline.after("30ms"), pytest.raises(DeadlineExceededError, match="did not end in time") as caught:
        guarded(1)
    assert 0.03 <= time.monotonic() - began < 5
    assert (caught.value.policy, caught.value.is_before_call) == ("s", False)
    with Deadline.after(0), pytest.raises(DeadlineExceededError) as caught:
        guarded(1)
    assert caught.value.is_before_call
    upstream.go.set()
    assert first.result(10) == [1]


def test_an_answer_that_comes_with_the_deadline_counts(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that is woken just as its time is up takes the outcome."""
    upstream = Upstream()
    guarded = Pipeline("p", SingleFlight())(upstream.get)
    first = pool.submit(guarded, 1)
    assert upstream.entered.acquire(timeout=10)
    wait = _sync._Follower.wait

    def late(self: Any, seconds: float | None = None) -> bool:
        if seconds is None:
            return wait(self)
        upstream.go.set()
        first.result(10)
        return False

    monkeypatch.setattr(_sync._Follower, "wait", late)
    with Deadline.after(60):
        assert guarded(1) == [1]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("inside", [(), (Timeout(60),)])
def test_calls_that_want_each_other_do_not_wait_in_a_ring(pool: ThreadPoolExecutor, size: int, inside: Any) -> None:
    """Where each call wants the next one's result, around to the first, one of them makes a call of its own."""
    together, made = threading.Barrier(size), list[int]()

    @Pipeline("p", SingleFlight(key=lambda number, _: number), *inside)
    def ask(number: int, left: int) -> int:
        made.append(number)
        if not left:
            return 0
        together.wait(10)
        return 1 + ask((number + 1) % size, left - 1)

    asking = [pool.submit(ask, number, 1) for number in range(size)]
    assert all(asked.result(10) for asked in asking)
    assert size < len(made) <= 2 * size


def test_a_call_that_calls_itself_does_not_wait_for_itself() -> None:
    """A function that calls itself with the same arguments goes on, as it would without the policy."""
    depth: list[int] = []
    pipeline = Pipeline("p", SingleFlight())

    @pipeline
    def again(number: int) -> int:
        depth.append(number)
        return number if len(depth) > 2 else again(number) + 1

    assert again(1) == 3


def test_what_serves_one_caller_is_not_shared(pool: ThreadPoolExecutor, waiting: Callable[[int], None]) -> None:
    """Where the result is an iterator every caller gets one of its own."""
    upstream = Upstream()
    guarded = Pipeline("p", SingleFlight())(lambda number: iter(upstream.get(number)))
    callers = start(pool, upstream, guarded, waiting, more=2)
    upstream.go.set()
    assert sorted(next(caller.result(10)) for caller in callers) == [1, 2, 3]


def test_forgotten_calls_are_not_joined(pool: ThreadPoolExecutor, waiting: Callable[[int], None]) -> None:
    """After `forget` no caller joins a call that was in flight: the next caller makes its own, which others join."""
    upstream, single = Upstream(), SingleFlight()
    guarded = Pipeline("p", single)(upstream.get)
    before = start(pool, upstream, guarded, waiting, more=1)
    single.forget()
    after = start(pool, upstream, guarded, waiting, more=1)
    upstream.go.set()
    assert [caller.result(10) for caller in [*before, *after]] == [[1], [1], [2], [2]]
    assert guarded(1) == [3]


def test_the_call_has_the_first_callers_context(pool: ThreadPoolExecutor, waiting: Callable[[int], None]) -> None:
    """The call sees the context variables of the caller that makes it, and no caller keeps any of them."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")
    upstream = Upstream()

    def get(number: int) -> str:
        upstream.get(number)
        return user.get()

    guarded = Pipeline("p", SingleFlight())(get)

    def call(name: str) -> tuple[str, str]:
        user.set(name)
        return guarded(1), user.get()

    first = pool.submit(contextvars.Context().run, call, "ada")
    assert upstream.entered.acquire(timeout=10)
    second = pool.submit(contextvars.Context().run, call, "bob")
    waiting(1)
    upstream.go.set()
    assert (first.result(10), second.result(10)) == (("ada", "ada"), ("ada", "bob"))


def test_nothing_is_held_while_user_code_runs() -> None:
    """While a key's own code runs, other threads make their calls (L1)."""
    ran: list[int] = []
    other = Pipeline("o", SingleFlight(key=str))

    class Key:
        def __hash__(self) -> int:
            thread = threading.Thread(target=lambda: ran.append(guarded(7)), daemon=True)
            thread.start()
            thread.join(10)
            return 1

    def call(of: Any) -> int:
        return other.call(len, str(of)) and 5

    guarded = Pipeline("p", SingleFlight())(call)
    assert guarded(Key()) == 5
    assert set(ran) == {5}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_waits_for_no_call_of_the_parent(pool: ThreadPoolExecutor) -> None:
    """A child makes the call itself: the thread that makes it in the parent does not exist there (fork)."""
    upstream, single = Upstream(), SingleFlight()
    guarded = Pipeline("p", single)(upstream.get)
    first = pool.submit(guarded, 1)
    assert upstream.entered.acquire(timeout=10)
    pid = os.fork()
    if pid == 0:
        upstream.go = threading.Event()
        upstream.go.set()
        os._exit(0 if guarded(1) == [2] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    upstream.go.set()
    assert first.result(10) == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_knows_of_no_wait_of_the_parent(pool: ThreadPoolExecutor) -> None:
    """What the parent's threads wait for is forgotten in a child: they are not there, and would never leave (fork)."""
    upstream, single = Upstream(), SingleFlight()
    inner = Pipeline("inner", single)(upstream.get)
    outer = Pipeline("outer", SingleFlight())(lambda number: inner(0) and number)
    first = pool.submit(inner, 0)
    assert upstream.entered.acquire(timeout=10)
    second = pool.submit(outer, 1)
    patience = time.monotonic() + 10
    while not _flights._waits and time.monotonic() < patience:
        time.sleep(0.001)
    assert len(_flights._waits) == 1
    pid = os.fork()
    if pid == 0:
        os._exit(len(_flights._waits))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    upstream.go.set()
    assert (first.result(10), second.result(10)) == ([1], 1)
    assert _flights._waits == {}


def test_errors_are_freed(pool: ThreadPoolExecutor, waiting: Callable[[int], None]) -> None:
    """Once its callers have let go of an error it is freed: no cycle leads back to it."""
    freed: list[weakref.ref[Exception]] = []

    class FailureError(Exception):
        def __init__(self) -> None:
            freed.append(weakref.ref(self))

    upstream = Upstream()

    def fail(number: int) -> None:
        upstream.get(number)
        raise FailureError

    guarded = Pipeline("p", SingleFlight())(fail)

    def call(number: int) -> bool:
        try:
            guarded(number)
        except FailureError:
            return True
        return False

    gc.disable()
    try:
        callers = start(pool, upstream, call, waiting, more=3)
        upstream.go.set()
        assert all(caller.result(10) for caller in callers)
        del callers
        pool.shutdown()
        assert [reference() for reference in freed] == [None] * len(freed)
        assert len(freed) == 5  # the error, the shared copy, and three copies of that
    finally:
        gc.enable()


def test_nothing_is_left_under_way() -> None:
    """However a call ended, its key is free again."""
    for outcome in (None, OSError(), KeyboardInterrupt()):
        single = SingleFlight()
        upstream = Upstream()
        upstream.go.set()
        upstream.outcomes = [] if outcome is None else [outcome]
        guarded = Pipeline("p", single)(upstream.get)
        try:
            guarded(1)
        except BaseException as error:  # noqa: BLE001 - the outcome is the test's own
            assert error is outcome  # noqa: PT017 - see above
        assert guarded(1) == [2]


def test_generators_are_refused() -> None:
    """A generator function has no one result: wrapping it is refused."""

    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(ConfigurationError, match="it has to own the call"):
        Pipeline("p", SingleFlight())(items)


def test_bad_options_are_named() -> None:
    """A bad option is refused at construction."""
    mistakes: list[dict[str, Any]] = [{"key": 3}, {"key": "x"}, {"max_wait": 0}, {"max_wait": "a while"}]
    for options in mistakes:
        with pytest.raises(ConfigurationError, match=f"{next(iter(options))}="):
            SingleFlight(**options)


def test_describe_and_repr() -> None:
    """It describes itself as plain data, and counts calls and the callers they served."""
    single = SingleFlight(name="s")
    assert single.describe() == {"kind": "single_flight", "name": "s", "options": {"max_wait": None}, "sources": {}}
    assert repr(single) == "<SingleFlight 's' 0 calls, 0 shared>"
