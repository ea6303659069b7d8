"""The intended differences from pybreaker: a test for each row of docs/howto/moving-from-pybreaker.md.

Every test shows both: what `Theirs` does, and what `Ours` does.
"""

import abc
import asyncio
import gc
import inspect
import os
import signal
import threading
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from typing import Any

import pybreaker
import pytest
from both_breakers import DownError, Log, fail, failing, is_refused, moved_by_hand

from resilience import CircuitBreaker, CircuitOpenError, ConfigurationError
from resilience.testing import ManualClock

Theirs: Any = pybreaker.CircuitBreaker
Ours: Any = CircuitBreaker


class FinalError(BaseException):
    pass


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """Return the result of `function`, or the class of its error."""
    try:
        return function(*args)
    except BaseException as error:  # noqa: BLE001 - interrupts are compared, too
        return type(error)


def items() -> Generator[int, None, str]:
    try:
        yield 1
        yield 2
    except KeyError:
        yield 3
    return "done"


# Calls


def test_lock() -> None:
    """pybreaker runs one call at a time; ours runs them side by side."""

    def met(breaker: Any) -> bool:
        both = threading.Barrier(2)
        others = threading.Thread(target=lambda: outcome(breaker.call, both.wait, 0.2))
        others.start()
        answer = outcome(breaker.call, both.wait, 0.2)
        others.join()
        return answer is not threading.BrokenBarrierError

    assert (met(Theirs()), met(Ours())) == (False, True)


def test_operator_waits() -> None:
    """pybreaker's `open()` waits for the call in progress; ours opens at once."""

    def opens(breaker: Any) -> bool:
        release, begun = threading.Event(), threading.Semaphore(0)

        def hang() -> None:
            begun.release()
            release.wait(5)

        call, operator = threading.Thread(target=breaker.call, args=(hang,)), threading.Thread(target=breaker.open)
        call.start()
        begun.acquire(timeout=5)
        operator.start()
        operator.join(0.2)
        has_opened = not operator.is_alive()
        release.set()
        call.join()
        operator.join()
        return has_opened

    assert (opens(Theirs()), opens(Ours())) == (False, True)


async def test_async_functions() -> None:
    """pybreaker counts every call of a coroutine function as a success; ours counts how it ends."""
    theirs, ours = Theirs(2), Ours(2)

    async def failing_later() -> None:
        await asyncio.sleep(0)
        fail()

    for breaker in (theirs, ours):
        guarded = breaker(failing_later)
        for _ in range(2):
            with pytest.raises(DownError):
                await guarded()
    assert (theirs.fail_counter, ours.fail_counter) == (0, 2)
    assert (theirs.current_state, ours.current_state) == ("closed", "open")


async def test_call_async(monkeypatch: pytest.MonkeyPatch) -> None:
    """pybreaker needs tornado for `call_async` and its keyword; ours works with asyncio alone."""
    monkeypatch.setattr(pybreaker, "HAS_TORNADO_SUPPORT", False)
    monkeypatch.delattr(pybreaker, "gen", raising=False)
    with pytest.raises(NameError):
        Theirs().call_async(asyncio.sleep, 0, "slept")
    with pytest.raises(ImportError):
        Theirs()(__pybreaker_call_async=True)
    assert await Ours().call_async(asyncio.sleep, 0, "slept") == "slept"
    assert await Ours()(__pybreaker_call_async=True)(asyncio.sleep)(0, "slept") == "slept"


async def test_awaitables() -> None:
    """A plain function that returns an awaitable is a success for pybreaker; ours counts the awaited outcome."""
    theirs, ours = Theirs(), Ours()

    async def failing_later() -> None:
        fail()

    for breaker in (theirs, ours):
        with pytest.raises(DownError):
            await breaker.call(lambda: failing_later())  # noqa: PLW0108 - a plain function is the point
    assert (theirs.fail_counter, ours.fail_counter) == (0, 1)


def test_kinds_of_function() -> None:
    """pybreaker turns every function into a plain function; with ours a function keeps its kind."""

    async def later() -> None: ...

    def kinds(breaker: Any) -> tuple[bool, bool]:
        return inspect.iscoroutinefunction(breaker(later)), inspect.isgeneratorfunction(breaker(items))

    assert (kinds(Theirs()), kinds(Ours())) == ((False, False), (True, True))


def test_class_and_static_methods() -> None:
    """pybreaker's decorator has to stand under `@classmethod` and `@staticmethod`; ours may stand above."""

    def made(breaker: Any) -> Any:
        class Ledger:
            @breaker  # type: ignore[untyped-decorator]  # either breaker
            @classmethod
            def name(cls) -> str:
                return cls.__name__

            @breaker  # type: ignore[untyped-decorator]  # either breaker
            @staticmethod
            def zero() -> int:
                return 0

        return outcome(lambda: Ledger().name()), outcome(lambda: Ledger().zero())

    assert (made(Theirs()), made(Ours())) == ((TypeError, TypeError), ("Ledger", 0))


# Errors


def test_error_of_the_tripping_call() -> None:
    """By default the call that opens pybreaker's circuit gets its error; with ours it gets its own."""
    assert outcome(Theirs(1).call, fail) is pybreaker.CircuitBreakerError
    assert outcome(Ours(1).call, fail) is DownError
    assert (Theirs().open(), Ours().open()) == (True, False)
    with pytest.raises(pybreaker.CircuitBreakerError) as theirs:
        Theirs(1, throw_new_error_on_trip=True).call(fail)
    with pytest.raises(CircuitOpenError) as ours:
        Ours(1, throw_new_error_on_trip=True).call(fail)
    assert theirs.value.__cause__ is None
    assert isinstance(ours.value.__cause__, DownError)


def test_attributes_of_a_refusal() -> None:
    """pybreaker's refusal is a fixed text; ours knows which circuit is open and for how long."""
    theirs, ours = Theirs(name="ledger"), Ours(name="ledger", clock=ManualClock())
    theirs.open()
    ours.open()
    with pytest.raises(pybreaker.CircuitBreakerError, match="Timeout not elapsed yet") as plain:
        theirs.call(int)
    assert not hasattr(plain.value, "retry_after")
    with pytest.raises(pybreaker.CircuitBreakerError, match="circuit 'ledger' is open") as ours_says:
        ours.call(int)
    refusal: Any = ours_says.value
    assert (type(refusal), refusal.policy, refusal.retry_after) == (CircuitOpenError, "ledger", 60)


def test_refusals_of_inner_breakers() -> None:
    """A breaker around another counts its refusals with pybreaker, and not with ours."""

    def counted(made: Any) -> int:
        inner, outer = made(), made()
        inner.open()
        with pytest.raises(pybreaker.CircuitBreakerError):
            outer.call(inner.call, int)
        return int(outer.fail_counter)

    assert (counted(Theirs), counted(Ours)) == (1, 0)


def test_excluded_errors_are_neutral() -> None:
    """An excluded error is a success to pybreaker, which resets the count and closes; to ours it is nothing."""

    def after(made: Any) -> tuple[int, str, bool]:
        log = Log()
        breaker = made(5, exclude=[KeyError], listeners=[log])
        failing(breaker, 1)
        failing(breaker, 1, KeyError)
        count = breaker.fail_counter
        breaker.half_open()
        failing(breaker, 1, KeyError)
        return count, breaker.current_state, "success" in log.heard

    assert after(Theirs) == (0, "closed", True)
    assert after(Ours) == (1, "half-open", False)


class AbstractError(abc.ABC, Exception):
    pass


def test_excluded_classes_with_a_metaclass() -> None:
    """Excluding a class with a metaclass excludes everything with pybreaker, and that class with ours."""

    def counts(made: Any) -> int:
        breaker = made(5, exclude=[AbstractError])
        failing(breaker, 1, AbstractError)
        failing(breaker, 3)
        return int(breaker.fail_counter)

    assert (counts(Theirs), counts(Ours)) == (0, 3)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit, FinalError])
def test_interrupts(error: type[BaseException]) -> None:
    """An interrupt or a cancellation is a failure to pybreaker and nothing to ours."""
    theirs, ours = Theirs(), Ours()
    assert (outcome(theirs.call, fail, error), outcome(ours.call, fail, error)) == (error, error)
    assert (theirs.fail_counter, ours.fail_counter) == (1, 0)


def test_late_results() -> None:
    """A call that began before the circuit opened and fails later opens pybreaker's once more, and not ours."""

    def told(made: Any) -> tuple[int, int]:
        log = Log()
        breaker = made(1, listeners=[log])
        early, late = breaker.calling(), breaker.calling()
        for block in (early, late):
            block.__enter__()
        for block in (early, late):
            outcome(block.__exit__, DownError, DownError(), None)
        return sum(entry in ("closed > open", "open > open") for entry in log.heard), breaker.fail_counter

    assert (told(Theirs), told(Ours)) == ((2, 2), (1, 1))


def test_stop_iteration_in_a_block() -> None:
    """A StopIteration that leaves a block is swallowed by pybreaker; with ours it leaves the block and counts."""

    def block(breaker: Any) -> Any:
        def run() -> None:
            with breaker.calling():
                raise StopIteration

        return outcome(run), breaker.fail_counter

    assert (block(Theirs()), block(Ours())) == ((None, 0), (StopIteration, 1))


# Half-open and time


def test_number_of_trials() -> None:
    """pybreaker admits all trials at once; ours admits exactly the configured number."""

    def admitted(breaker: Any) -> int:
        breaker.half_open()
        blocks = [breaker.calling() for _ in range(5)]
        inside = [block for block in blocks if outcome(block.__enter__) is None]
        for block in inside:
            block.__exit__(None, None, None)
        return len(inside)

    assert (admitted(Theirs()), admitted(Ours())) == (5, 1)
    assert (admitted(Theirs(success_threshold=2)), admitted(Ours(success_threshold=2))) == (5, 2)
    assert admitted(Ours(half_open_max_calls=3)) == 3


def test_lease_of_a_trial() -> None:
    """A trial that hangs blocks no other call with pybreaker; with ours other calls wait until its lease ends."""
    clock = ManualClock()
    theirs, ours = Theirs(success_threshold=2), Ours(1, 60, half_open_lease=10, clock=clock)
    for breaker in (theirs, ours):
        breaker.half_open()
    hung = [breaker.calling() for breaker in (theirs, ours)]
    for block in hung:
        block.__enter__()
    assert (is_refused(theirs), is_refused(ours)) == (False, True)
    clock.advance(10)
    assert not is_refused(ours)
    for block in hung:
        block.__exit__(None, None, None)


def test_length_of_half_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """pybreaker stays half-open without a limit; ours opens again after half_open_max_duration without a decision."""
    wall, clock = moved_by_hand(monkeypatch), ManualClock()
    theirs = Theirs(success_threshold=2)
    ours = Ours(success_threshold=2, half_open_max_duration=600, clock=clock)
    for breaker in (theirs, ours):
        breaker.half_open()
        breaker.call(int)
    wall.ahead += timedelta(seconds=600)
    clock.advance(600)
    assert (is_refused(theirs), is_refused(ours)) == (False, True)
    assert (theirs.current_state, ours.current_state) == ("closed", "open")


def test_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """pybreaker is open for exactly the timeout; ours leaves out up to a tenth, unless the jitter is 0."""
    wall, clock = moved_by_hand(monkeypatch), ManualClock()
    theirs = Theirs(1, 100)
    ours = Ours(1, 100, clock=clock, randomness=lambda: 0.5)
    exact = Ours(1, 100, reset_timeout_jitter=0, clock=clock, randomness=lambda: 0.5)
    for breaker in (theirs, ours, exact):
        failing(breaker, 1)
    assert (ours.retry_after, exact.retry_after) == (95, 100)
    clock.advance(95)
    wall.ahead += timedelta(seconds=95)
    assert (is_refused(theirs), is_refused(ours), is_refused(exact)) == (True, False, True)


def test_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the wall clock opens or holds pybreaker's circuit; ours goes by a monotonic clock."""
    wall, clock = moved_by_hand(monkeypatch), ManualClock()
    theirs, ours = Theirs(1, 60), Ours(1, 60, reset_timeout_jitter=0, clock=clock)
    for breaker in (theirs, ours):
        failing(breaker, 1)
    wall.ahead = timedelta(hours=1)
    assert (is_refused(theirs), is_refused(ours)) == (False, True)
    theirs.open()
    wall.ahead = timedelta(hours=-1)
    clock.advance(60)
    assert (is_refused(theirs), is_refused(ours)) == (True, False)


# Generators


def test_returned_generators() -> None:
    """pybreaker guards any generator a function returns; ours guards those of generator functions."""

    def failing_late() -> Generator[int, None, None]:
        yield 1
        fail()

    def counts(breaker: Any) -> int:
        assert outcome(list, breaker.call(lambda: failing_late())) is DownError  # noqa: PLW0108 - the point
        return int(breaker.fail_counter)

    assert (counts(Theirs()), counts(Ours())) == (1, 0)


def test_when_a_generator_is_refused() -> None:
    """pybreaker asks when the generator is made; ours when its first item is asked for."""

    def refused_at(made: Any) -> tuple[bool, bool]:
        log = Log()
        breaker = made(listeners=[log])
        generator = breaker.call(items)
        is_announced = bool(log.heard)
        list(generator)
        breaker.open()
        return is_announced, outcome(breaker.call, items) is pybreaker.CircuitBreakerError

    assert (refused_at(Theirs), refused_at(Ours)) == ((True, True), (False, False))
    breaker = Ours()
    breaker.open()
    assert outcome(next, breaker.call(items)) is CircuitOpenError


def test_generators_left_early() -> None:
    """Leaving a loop early is a failure to pybreaker and nothing to ours."""

    def counts(breaker: Any) -> int:
        for _ in (generator := breaker.call(items)):
            break
        generator.close()
        return int(breaker.fail_counter)

    assert (counts(Theirs()), counts(Ours())) == (1, 0)


def test_generators_keep_values_and_throws() -> None:
    """pybreaker drops the return value of a generator and errors thrown into it; ours passes on both."""

    def value(breaker: Any) -> Any:
        seen = []

        def outer() -> Generator[int, None, None]:
            seen.append((yield from breaker.call(items)))

        list(outer())
        return seen[0]

    def thrown(breaker: Any) -> Any:
        generator = breaker.call(items)
        next(generator)
        return outcome(generator.throw, KeyError("caught inside"))

    assert (value(Theirs()), value(Ours())) == (None, "done")
    assert (thrown(Theirs()), thrown(Ours())) == (StopIteration, 3)


# Listeners


def test_errors_of_listeners(caplog: pytest.LogCaptureFixture) -> None:
    """A listener's error reaches pybreaker's caller, and prevents the call in `before_call`; ours logs it."""

    class Vetoing(Log):
        def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("not now")

    class Broken(Log):
        def success(self, cb: Any) -> None:
            raise RuntimeError("a bug")

    for listener in (Vetoing(), Broken()):
        assert outcome(Theirs(listeners=[listener]).call, int) is RuntimeError
        assert outcome(Ours(listeners=[listener]).call, int) == 0
    assert "not now" in caplog.text
    assert "a bug" in caplog.text


def test_state_in_listeners() -> None:
    """pybreaker calls listeners in the middle of a change and under its lock; ours calls them after the change."""

    def seen(made: Any) -> tuple[list[str], str]:
        states = []

        class Curious(Log):
            def failure(self, cb: Any, exc: BaseException) -> None:
                states.append(cb.current_state)

            def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
                states.append(f"{old_state.name} > {new_state.name}")
                if new_state.name == "open":
                    cb.half_open()

        breaker = made(1, listeners=[Curious()])
        failing(breaker, 1)
        return states, breaker.current_state

    assert seen(Theirs) == (["closed", "closed > open", "closed > half-open"], "open")
    assert seen(Ours) == (["open", "closed > open", "open > half-open"], "half-open")


def test_changes_that_change_nothing() -> None:
    """pybreaker reports a change even if the state stays the same; ours reports only real changes."""

    def told(made: Any) -> list[str]:
        log = Log()
        breaker = made(listeners=[log])
        for change in (breaker.close, breaker.open, breaker.open):
            change()
        return log.heard

    assert told(Theirs) == ["closed > closed", "closed > open", "open > open"]
    assert told(Ours) == ["closed > open"]


def test_removing_listeners() -> None:
    """`remove_listener` takes away one entry or fails with pybreaker; with ours it is not there afterwards."""

    def left(made: Any) -> tuple[int, Any]:
        log = Log()
        breaker = made(listeners=[log, log])
        breaker.remove_listener(log)
        return len(breaker.listeners), outcome(breaker.remove_listener, Log())

    assert (left(Theirs), left(Ours)) == ((1, ValueError), (0, None))


# Configuration and state


def test_fail_max_none() -> None:
    """`fail_max=None` breaks pybreaker at the first failure; with ours it is 5, or no rule beside another."""
    assert outcome(Theirs(None).call, fail) is TypeError
    assert Ours(None).fail_max == 5
    rated = Ours(None, failure_rate_threshold=0.5)
    failing(rated, 10)
    assert (rated.fail_max, rated.current_state) == (0, "closed")


@pytest.mark.parametrize(
    "bad",
    [
        {"fail_max": 0},
        {"fail_max": "3"},
        {"fail_max": 2.5},
        {"reset_timeout": 0},
        {"reset_timeout": -1},
        {"reset_timeout": float("inf")},
        {"success_threshold": 0},
        {"name": ""},
        {"name": 3},
        {"exclude": ["ValueError"]},
        {"exclude": [int]},
        {"listeners": [3]},
        {"throw_new_error_on_trip": None},
    ],
    ids=str,
)
def test_values_are_checked(bad: dict[str, Any]) -> None:
    """pybreaker takes any value; ours refuses, at once, one that makes no sense."""
    assert isinstance(Theirs(**bad), Theirs)
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        Ours(**bad)


def test_setters_are_checked() -> None:
    """pybreaker can be set to anything; ours refuses the same values as at construction."""
    theirs, ours = Theirs(), Ours()
    for attribute in ("fail_max", "reset_timeout", "success_threshold"):
        setattr(theirs, attribute, 0)
        with pytest.raises(ConfigurationError):
            setattr(ours, attribute, 0)
    assert (theirs.fail_max, ours.fail_max) == (0, 5)
    assert inspect.isfunction(Theirs()(3))
    with pytest.raises(ConfigurationError):
        Ours()(3)


def test_name_is_always_there() -> None:
    """pybreaker without a name is None; ours is called `breaker`, or after the first pipeline it joins."""
    assert (Theirs().name, Ours().name) == (None, "breaker")


def test_setting_the_state() -> None:
    """With pybreaker a state that is set lasts until the next call; with ours it does the same as the methods."""
    theirs, ours = Theirs(), Ours()
    for breaker in (theirs, ours):
        breaker.state = "open"
    assert (theirs.current_state, ours.current_state) == ("closed", "open")
    assert (is_refused(theirs), is_refused(ours)) == (False, True)
    assert (outcome(setattr, theirs, "state", "ajar"), outcome(setattr, ours, "state", "ajar")) == (
        ValueError,
        ConfigurationError,
    )


def test_state_objects_are_labels() -> None:
    """pybreaker's state objects run calls and are one per state; ours have a class and a name, made when asked for."""
    theirs, ours = Theirs(), Ours()
    assert type(theirs.state) is type(ours.state) is pybreaker.CircuitClosedState
    assert (theirs.state is theirs.state, ours.state is ours.state) == (True, False)
    assert (outcome(theirs.state.call, int), outcome(ours.state.call, int)) == (0, AttributeError)


def test_looking_at_the_state() -> None:
    """pybreaker follows its storage and calls listeners when `state` is read; ours does so at the next call."""

    def told(made: Any) -> tuple[list[Any], list[Any]]:
        log, storage = Log(), pybreaker.CircuitMemoryStorage("closed")
        breaker = made(listeners=[log], state_storage=storage)
        storage.opened_at = datetime.now().astimezone()
        storage.state = "open"
        assert breaker.state.name == "open"
        at_a_look = list(log.heard)
        is_refused(breaker)
        return at_a_look, log.heard

    assert told(Theirs) == (["closed > open"], ["closed > open"])
    assert told(Ours) == ([], ["closed > open"])


def test_successes_in_a_shared_storage() -> None:
    """A breaker that notices a shared half-open state resets pybreaker's count of successes; ours adds up."""

    def state(made: Any) -> str:
        storage = pybreaker.CircuitMemoryStorage("closed")
        left, right = (made(success_threshold=2, state_storage=storage) for _ in range(2))
        left.half_open()
        left.call(int)
        right.call(int)
        return storage.state

    assert (state(Theirs), state(Ours)) == ("half-open", "closed")


def test_storages_that_are_false() -> None:
    """pybreaker ignores a storage that is false, such as one with a length of 0; ours uses it."""

    class Sized(pybreaker.CircuitMemoryStorage):
        def __len__(self) -> int:
            return 0

    assert Theirs(state_storage=Sized("open")).current_state == "closed"
    assert Ours(state_storage=Sized("open")).current_state == "open"


def test_overridden_methods() -> None:
    """pybreaker opens, closes and calls through its own methods, so that overriding them sees all; ours does not."""

    def seen(made: Any) -> list[str]:
        names: list[str] = []

        class Overriding(made):  # type: ignore[misc]  # either class
            def call(self, func: Any, *args: Any, **kwargs: Any) -> Any:
                names.append("call")
                return super().call(func, *args, **kwargs)

            def open(self) -> Any:
                names.append("open")
                return super().open()

            def is_system_error(self, exception: Any) -> bool:
                names.append("is_system_error")
                return bool(super().is_system_error(exception))

        breaker = Overriding(1)
        outcome(breaker(fail))
        return names

    assert seen(Theirs) == ["call", "is_system_error", "open"]
    assert seen(Ours) == ["is_system_error"]


def test_private_names() -> None:
    """pybreaker's private attributes are not all there in ours, and no storage unless one was given."""
    theirs, ours = Theirs(), Ours()
    private = ("_state", "_state_storage", "_listeners", "_fail_max")
    assert [hasattr(theirs, name) for name in private] == [True] * 4
    assert [hasattr(ours, name) for name in private] == [False] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_fork() -> None:
    """A process forked during a call inherits pybreaker's lock, held for good; ours can be used at once."""

    def works_in_a_child(breaker: Any) -> bool:
        begun, release = threading.Event(), threading.Event()

        def hang() -> None:
            begun.set()
            release.wait(5)

        caller = threading.Thread(target=breaker.call, args=(hang,))
        caller.start()
        begun.wait(5)
        pid = os.fork()
        if pid == 0:
            gc.disable()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            breaker.open()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        release.set()
        caller.join()
        return os.waitstatus_to_exitcode(status) == 0

    assert (works_in_a_child(Theirs()), works_in_a_child(Ours())) == (False, True)
