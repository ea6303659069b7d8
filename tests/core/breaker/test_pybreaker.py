"""pybreaker's documented behaviour, on our subclass."""

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
import pytest

from resilience import CircuitBreaker, CircuitOpenError, Pipeline
from resilience.testing import ManualClock


def fail() -> None:
    raise ValueError("down")


class Hooks(pybreaker.CircuitBreakerListener):
    def __init__(self) -> None:
        self.log: list[Any] = []

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        self.log.append(("before_call", args, kwargs))

    def success(self, cb: Any) -> None:
        self.log.append("success")

    def failure(self, cb: Any, exc: BaseException) -> None:
        self.log.append(("failure", str(exc)))

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self.log.append((old_state.name, new_state.name))


def test_is_one() -> None:
    """Ours is a `pybreaker.CircuitBreaker`, with its defaults and its state objects."""
    breaker = CircuitBreaker()
    assert isinstance(breaker, pybreaker.CircuitBreaker)
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (5, 60, 1)
    assert isinstance(breaker.state, pybreaker.CircuitClosedState)
    assert breaker.current_state == pybreaker.STATE_CLOSED


def test_opens_after_fail_max_consecutive_failures() -> None:
    """Five consecutive failures open it; a success in between starts the count again."""
    breaker = CircuitBreaker()
    for expected in (1, 2, 3, 4):
        with pytest.raises(ValueError, match="down"):
            breaker.call(fail)
        assert breaker.fail_counter == expected
    breaker.call(int)
    assert breaker.fail_counter == 0
    for _ in range(5):
        with pytest.raises(ValueError, match="down"):
            breaker.call(fail)
    assert breaker.current_state == "open"
    with pytest.raises(pybreaker.CircuitBreakerError):
        breaker.call(int)


def test_all_four_hooks() -> None:
    """The four listener hooks are called in pybreaker's order, with its arguments."""
    hooks, clock = Hooks(), ManualClock()
    breaker = CircuitBreaker(1, 10, listeners=[hooks], clock=clock)
    breaker.call(int, "3", base=10)
    with pytest.raises(ValueError, match="down"):
        breaker.call(fail)
    with pytest.raises(CircuitOpenError):
        breaker.call(int)
    clock.advance(10)
    breaker.call(int)
    assert hooks.log == [
        ("before_call", ("3",), {"base": 10}),
        "success",
        ("before_call", (), {}),
        ("failure", "down"),
        ("closed", "open"),
        ("open", "half-open"),
        ("before_call", (), {}),
        ("half-open", "closed"),
        "success",
    ]


def test_decorated_function_announces_its_calls() -> None:
    """`before_call` is heard for decorated functions too."""
    hooks = Hooks()

    @CircuitBreaker(listeners=[hooks])
    def add(left: int, right: int) -> int:
        return left + right

    assert add(1, right=2) == 3
    assert hooks.log == [("before_call", (1,), {"right": 2}), "success"]
    assert add.__name__ == "add"


def test_hook_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A hook's error is logged and never reaches the caller."""

    class Broken(Hooks):
        def success(self, cb: Any) -> None:
            raise RuntimeError("hook bug")

    assert CircuitBreaker(listeners=[Broken()]).call(int) == 0
    assert "hook bug" in caplog.text


def test_listener_management() -> None:
    """Listeners can be listed, added and removed."""
    first, second = Hooks(), Hooks()
    breaker = CircuitBreaker(listeners=[first])
    breaker.add_listeners(second)
    assert breaker.listeners == (first, second)
    breaker.remove_listener(first)
    breaker.call(int)
    assert (first.log, second.log[-1]) == ([], "success")


def test_memory_storage_is_followed() -> None:
    """Breakers that share a storage count together, and follow a state set from outside."""
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    left, right = CircuitBreaker(2, state_storage=storage), CircuitBreaker(2, state_storage=storage)
    for breaker in (left, right):
        with pytest.raises(ValueError, match="down"):
            breaker.call(fail)
    assert storage.state == "open"
    for breaker in (left, right):
        with pytest.raises(CircuitOpenError):
            breaker.call(int)
    storage.state = pybreaker.STATE_HALF_OPEN
    left.call(int)
    assert (left.current_state, right.current_state, storage.state) == ("closed", "closed", "closed")
    right.call(int)
    assert storage.counter == 0


def test_memory_storage_may_start_open() -> None:
    """A storage that says open, and since when, keeps the circuit open for the rest of the reset timeout."""
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_OPEN)
    assert CircuitBreaker(1, state_storage=storage).call(int) == 0  # without an opening time the next call may try
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_OPEN)
    storage.opened_at = datetime.now(UTC) - timedelta(seconds=30)
    breaker = CircuitBreaker(1, 60, state_storage=storage)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(int)
    assert caught.value.retry_after == pytest.approx(30, abs=1)


def test_storage_hears_of_our_transitions() -> None:
    """State, opening time and counters are written to the storage."""
    clock = ManualClock()
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    breaker = CircuitBreaker(1, 10, 2, state_storage=storage, clock=clock)
    with pytest.raises(ValueError, match="down"):
        breaker.call(fail)
    assert storage.opened_at is not None
    assert breaker.fail_counter == 1
    clock.advance(10)
    breaker.call(int)
    assert (storage.state, storage.success_counter) == ("half-open", 1)
    breaker.call(int)
    assert (storage.state, storage.success_counter, storage.counter) == ("closed", 0, 0)
    breaker.open()
    assert storage.state == "open"
    breaker.half_open()
    breaker.close()
    assert storage.state == "closed"


def test_calling_guards_a_block() -> None:
    """`with breaker.calling()` counts the outcome of the block."""
    breaker = CircuitBreaker(1)
    with breaker.calling():
        pass
    with pytest.raises(ValueError, match="down"), breaker.calling():
        fail()
    with pytest.raises(CircuitOpenError), breaker.calling():
        pytest.fail("the block must not run")


def test_call_guards_generator_functions() -> None:
    """`call` with a generator function returns a guarded generator."""
    breaker = CircuitBreaker(1)

    def items(last: int) -> Generator[int, int, None]:
        received = yield 1
        yield received + last

    generator = breaker.call(items, 10)
    assert (next(generator), generator.send(5)) == (1, 15)


def test_call_async_is_a_plain_coroutine_function() -> None:
    """`call_async` works with asyncio and is recognised as a coroutine function."""
    breaker = CircuitBreaker(1)

    async def failing() -> None:
        raise ValueError("down")

    async def main() -> None:
        assert await breaker.call_async(asyncio.sleep, 0, "done") == "done"
        with pytest.raises(ValueError, match="down"):
            await breaker.call_async(failing)

    assert inspect.iscoroutinefunction(breaker.call_async)
    asyncio.run(main())
    assert breaker.current_state == "open"


async def test_decorator_works_on_async_def() -> None:
    """Decorating `async def` counts its failures, which pybreaker never sees."""
    breaker = CircuitBreaker(2)

    @breaker
    async def failing() -> None:
        raise ValueError("down")

    for _ in range(2):
        with pytest.raises(ValueError, match="down"):
            await failing()
    assert breaker.current_state == "open"


async def test_decorator_forms() -> None:
    """`@breaker`, `@breaker()` and pybreaker's keyword for functions that return an awaitable all work."""
    breaker = CircuitBreaker()

    def plain() -> int:
        return 1

    def deferred() -> Any:
        return asyncio.sleep(0, 2)

    assert breaker()(plain)() == 1
    assert await breaker(__pybreaker_call_async=True)(deferred)() == 2


async def test_listeners_keep_the_kind_of_a_function() -> None:
    """With a listener, decorated functions of every kind keep their kind and are judged to their end."""
    hooks = Hooks()
    breaker = CircuitBreaker(listeners=[hooks])

    class Service:
        @breaker
        async def later(self) -> int:
            return 1

        @breaker
        def items(self) -> Generator[int, None, None]:
            yield 2
            fail()

        @breaker
        async def stream(self) -> AsyncGenerator[int, None]:
            yield 3
            fail()

        @breaker
        @classmethod
        def made(cls) -> str:
            return cls.__name__

        @breaker
        @staticmethod
        def four() -> int:
            return 4

    service = Service()
    assert inspect.iscoroutinefunction(service.later)
    assert inspect.isgeneratorfunction(service.items)
    assert inspect.isasyncgenfunction(service.stream)
    assert (await service.later(), service.made(), service.four()) == (1, "Service", 4)
    with pytest.raises(ValueError, match="down"):
        list(service.items())
    with pytest.raises(ValueError, match="down"):
        _ = [item async for item in service.stream()]
    assert [entry for entry in hooks.log if entry[0] != "before_call"] == ["success"] * 3 + [("failure", "down")] * 2
    assert breaker.fail_counter == 2


@pytest.mark.parametrize("keyword", ["func", "hook", "breaker", "call", "fn"])
async def test_keywords_of_the_function_are_its_own(keyword: str) -> None:
    """No name of a parameter of ours gets in the way of the guarded function's."""
    breaker = CircuitBreaker(listeners=[Hooks()])

    def given(**keywords: int) -> dict[str, int]:
        return keywords

    async def later(**keywords: int) -> dict[str, int]:
        return keywords

    assert breaker(given)(**{keyword: 1}) == {keyword: 1}
    if keyword != "func":  # pybreaker's own parameter of these two
        assert breaker.call(given, **{keyword: 1}) == {keyword: 1}
    assert await breaker.call_async(later, **{keyword: 1}) == {keyword: 1}


def test_a_listener_taken_away_is_replaced_by_one() -> None:
    """A listener added after the last one was taken away hears each change once."""
    hooks = Hooks()
    breaker = CircuitBreaker(listeners=[hooks])
    breaker.remove_listener(hooks)
    breaker.open()
    assert hooks.log == []
    breaker.add_listener(hooks)
    breaker.close()
    assert hooks.log == [("open", "closed")]


def test_excluded_exception_management() -> None:
    """Excluded exceptions can be listed, added and removed."""
    breaker = CircuitBreaker(exclude=[KeyError])
    breaker.add_excluded_exceptions(ValueError)
    assert breaker.excluded_exceptions == (KeyError, ValueError)
    with pytest.raises(ValueError, match="down"):
        breaker.call(fail)
    assert breaker.fail_counter == 0
    breaker.remove_excluded_exception(ValueError)
    assert breaker.is_system_error(ValueError())


def test_manual_changes() -> None:
    """`open` refuses at once and says whether a trip raises a new error; `half_open` and `close` undo it."""
    breaker = CircuitBreaker()
    assert breaker.open() is False
    with pytest.raises(CircuitOpenError):
        breaker.call(int)
    breaker.half_open()
    breaker.call(int)
    assert breaker.current_state == "closed"
    breaker.open()
    breaker.close()
    assert breaker.call(int) == 0


def test_storage_with_naive_times() -> None:
    """A storage that keeps UTC without saying so, as older pybreakers did, is understood."""
    storage = pybreaker.CircuitMemoryStorage("open")
    storage.opened_at = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=50)
    breaker = CircuitBreaker(reset_timeout=60, state_storage=storage)
    assert breaker.retry_after == pytest.approx(10, abs=5)


async def test_functions_decorated_before_there_was_a_listener() -> None:
    """A listener that is added later gets the calls of functions of every kind that were decorated before."""
    breaker = CircuitBreaker()

    class Service:
        @breaker
        def now(self) -> int:
            return 1

        @breaker
        async def later(self) -> int:
            return 2

        @breaker
        def items(self) -> Generator[int, None, None]:
            yield 3

        @breaker
        async def stream(self) -> AsyncGenerator[int, None]:
            yield 4

        @breaker
        @staticmethod
        def made() -> int:
            return 5

        @breaker
        def deferred(self) -> Any:
            return asyncio.sleep(0, 6)

    service, hooks = Service(), Hooks()
    assert await service.deferred() == 6  # from here on the engine knows that it returns an awaitable
    breaker.add_listener(hooks)
    seen = [service.now(), await service.later(), *service.items(), *[item async for item in service.stream()]]
    assert [*seen, service.made(), await service.deferred()] == [1, 2, 3, 4, 5, 6]
    assert [entry for entry in hooks.log if entry != "success"] == [
        *[("before_call", (service,), {})] * 4,
        ("before_call", (), {}),
        ("before_call", (service,), {}),
    ]


async def test_listener_added_before_a_function_returns_an_awaitable() -> None:
    """`before_call` gets each call of a plain function that first returned an awaitable after it was added."""
    breaker, hooks = CircuitBreaker(), Hooks()
    deferred: Callable[[], Any] = breaker(lambda: asyncio.sleep(0, 1))
    breaker.add_listener(hooks)
    assert [await deferred() for _ in range(3)] == [1] * 3
    assert hooks.log == [("before_call", (), {}), "success"] * 3


def test_an_object_with_all_hooks_is_a_listener() -> None:
    """A listener may have pybreaker's four hooks without being descended from its class."""

    class Alike:
        before_call = Hooks.before_call
        success = Hooks.success
        failure = Hooks.failure
        state_change = Hooks.state_change

        def __init__(self) -> None:
            self.log: list[Any] = []

    alike = Alike()
    CircuitBreaker(listeners=[alike]).call(int)  # type: ignore[list-item]  # no descendant
    assert alike.log == [("before_call", (), {}), "success"]


def test_partial_of_a_generator_function() -> None:
    """`call` looks through a partial: the generator is guarded to its end."""
    breaker = CircuitBreaker()

    def items(first: int) -> Generator[int, None, None]:
        yield first
        fail()

    with pytest.raises(ValueError, match="down"):
        list(breaker.call(functools.partial(items, 1)))
    assert breaker.fail_counter == 1


def test_trials_count_together_in_a_shared_storage() -> None:
    """Trial calls of breakers that share a storage add up, in successes and in failures."""
    storage = pybreaker.CircuitMemoryStorage("half-open")
    left, right = (CircuitBreaker(3, success_threshold=2, state_storage=storage) for _ in range(2))
    left.call(int)
    assert (left.success_counter, right.success_counter) == (1, 1)
    right.call(int)
    assert (left.current_state, right.current_state) == ("closed", "closed")
    left.half_open()
    with pytest.raises(ValueError, match="down"):
        right.call(fail)
    assert (storage.state, left.fail_counter) == ("open", 1)


def test_one_trial_for_all_that_share_a_storage() -> None:
    """If one breaker tried in vain, the others that share its storage stay open as well."""
    storage = pybreaker.CircuitMemoryStorage("closed")
    clock = ManualClock()
    left, right = (CircuitBreaker(1, 10, state_storage=storage, clock=clock) for _ in range(2))
    with pytest.raises(ValueError, match="down"):
        left.call(fail)
    with pytest.raises(CircuitOpenError):
        right.call(int)
    clock.advance(10)
    with pytest.raises(ValueError, match="down"):
        left.call(fail)
    with pytest.raises(CircuitOpenError):
        right.call(int)
    clock.advance(10)
    assert right.call(int) == 0


def test_closing_by_hand_resets_the_stored_count() -> None:
    """`close` sets the stored count to 0, even if the circuit was closed already."""
    storage = pybreaker.CircuitMemoryStorage("closed")
    breaker = CircuitBreaker(state_storage=storage)
    with pytest.raises(ValueError, match="down"):
        breaker.call(fail)
    breaker.close()
    assert storage.counter == 0


def test_hooks_inside_a_pipeline() -> None:
    """Inside a pipeline the outcome hooks are called; `before_call` is not: a policy never sees the function."""
    hooks = Hooks()
    pipeline = Pipeline("payments", CircuitBreaker(1, listeners=[hooks]))
    pipeline.call(int)
    with pytest.raises(ValueError, match="down"):
        pipeline.call(fail)
    assert hooks.log == ["success", ("failure", "down"), ("closed", "open")]
