"""pybreaker's documented behaviour, on the original and on ours: making calls, opening and closing."""

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pybreaker
import pytest
from both_breakers import DownError, Log, World, fail, failing, is_refused

from resilience import CircuitBreaker

# Construction


def test_defaults(make: World) -> None:
    """The defaults: five failures, a minute, one success, nothing excluded, no listeners, closed."""
    breaker = make()
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (5, 60, 1)
    assert (breaker.excluded_exceptions, breaker.listeners) == ((), ())
    assert (breaker.current_state, breaker.fail_counter, breaker.success_counter) == (pybreaker.STATE_CLOSED, 0, 0)


def test_all_parameters_by_position(make: World) -> None:
    """The parameters keep their order."""
    listener, storage = Log(), pybreaker.CircuitMemoryStorage(pybreaker.STATE_OPEN)
    breaker = make(2, 30, 3, [KeyError], [listener], storage, "database", True)
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (2, 30, 3)
    assert breaker.excluded_exceptions == (KeyError,)
    assert breaker.listeners == (listener,)
    assert (breaker.current_state, breaker.name) == ("open", "database")
    assert breaker.open() is True


def test_all_parameters_by_name(make: World) -> None:
    """The parameters keep their names."""
    breaker = make(
        fail_max=2,
        reset_timeout=30,
        success_threshold=3,
        exclude=[KeyError],
        listeners=[Log()],
        state_storage=pybreaker.CircuitMemoryStorage("closed"),
        name="database",
        throw_new_error_on_trip=False,
    )
    assert (breaker.fail_max, breaker.name, len(breaker.listeners)) == (2, "database", 1)
    assert breaker.open() is False


@pytest.mark.parametrize("none", [None, [], ()])
def test_no_exclusions_and_no_listeners(make: World, none: Any) -> None:
    """No exclusions and no listeners may be written as None or as an empty collection."""
    breaker = make(exclude=none, listeners=none)
    assert (breaker.excluded_exceptions, breaker.listeners) == ((), ())


def test_name_can_be_changed(make: World) -> None:
    """The name can be read and set, and listeners find it at the breaker they are handed."""
    seen = []

    class Named(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            seen.append(f"{cb.name} is {new_state.name}")

    breaker = make(name="database", listeners=[Named()])
    breaker.open()
    breaker.name = "ledger"
    breaker.close()
    assert seen == ["database is open", "ledger is closed"]


# Calls


def test_call_passes_arguments_and_result(make: World) -> None:
    """`call` hands arguments in and the result out."""
    assert make().call(int, "ff", base=16) == 255


def test_call_passes_the_error(make: World) -> None:
    """A failed call raises the error of the function."""
    with pytest.raises(KeyError, match="down"):
        make().call(fail, KeyError)


@pytest.mark.parametrize("with_parentheses", [False, True])
def test_decorator(make: World, *, with_parentheses: bool) -> None:
    """`@breaker` and `@breaker()` guard a function that stays callable under its own name."""
    breaker = make(1)

    def update(customer: str, *, name: str) -> str:
        """Update."""
        if not name:
            fail()
        return f"{customer} {name}"

    guarded = breaker()(update) if with_parentheses else breaker(update)
    assert guarded("c-1", name="Ada") == "c-1 Ada"
    assert (guarded.__name__, guarded.__doc__, guarded.__wrapped__) == ("update", "Update.", update)
    with pytest.raises((DownError, pybreaker.CircuitBreakerError)):
        guarded("c-1", name="")
    with pytest.raises(pybreaker.CircuitBreakerError):
        guarded("c-1", name="Ada")


def test_decorated_method(make: World) -> None:
    """A decorated method gets its object."""
    breaker = make()

    class Ledger:
        @breaker  # type: ignore[untyped-decorator]  # either breaker
        def total(self, more: int) -> tuple[object, int]:
            return self, more

    ledger = Ledger()
    assert ledger.total(3) == (ledger, 3)


def test_calling_is_a_context_manager(make: World) -> None:
    """`with breaker.calling()` counts an error that leaves the block, and does not enter the block while open."""
    breaker = make(2, throw_new_error_on_trip=False)
    with breaker.calling():
        pass
    for expected in (1, 2):
        with pytest.raises(DownError), breaker.calling():
            fail()
        assert breaker.fail_counter == expected
    with pytest.raises(pybreaker.CircuitBreakerError), breaker.calling():
        pytest.fail("the block must not run")


def test_calling_can_decorate(make: World) -> None:
    """`@breaker.calling()` guards each call of a function."""
    breaker = make(1)

    @breaker.calling()  # type: ignore[untyped-decorator]  # either breaker
    def ask() -> str:
        return "answer"

    assert (ask(), ask()) == ("answer", "answer")
    breaker.open()
    with pytest.raises(pybreaker.CircuitBreakerError):
        ask()


async def test_calling_around_awaits(make: World) -> None:
    """The block may await."""
    breaker = make(1)

    async def ask() -> None:
        with breaker.calling():
            await asyncio.sleep(0)
            fail()

    with pytest.raises((DownError, pybreaker.CircuitBreakerError)):
        await ask()
    assert breaker.current_state == "open"


def test_nested_calls(make: World) -> None:
    """A guarded function may call through the same breaker."""
    breaker = make()
    assert breaker.call(breaker.call, int, "7") == 7


# Generators


def items(last: int) -> Generator[int, int, None]:
    received = yield 1
    yield received + last
    if last < 0:
        fail()


@pytest.mark.parametrize("way", ["call", "decorator", "partial"])
def test_generator_functions_are_guarded(make: World, way: str) -> None:
    """A generator hands items both ways, and its failure counts although it came late."""
    breaker = make(throw_new_error_on_trip=False)

    def begin(last: int) -> Any:
        if way == "call":
            return breaker.call(items, last)
        return breaker(items)(last) if way == "decorator" else breaker.call(functools.partial(items, last))

    generator = begin(10)
    assert (next(generator), generator.send(5), list(generator)) == (1, 15, [])
    generator = begin(-1)
    assert (next(generator), generator.send(5)) == (1, 4)
    assert breaker.fail_counter == 0
    with pytest.raises(DownError):
        next(generator)
    assert breaker.fail_counter == 1


def test_generators_open_the_circuit_and_are_refused(make: World) -> None:
    """Enough failing generators open the circuit; then no more items come."""
    breaker = make(1, throw_new_error_on_trip=True)

    def broken() -> Generator[int, None, None]:
        yield 1
        fail()

    guarded = breaker(broken)
    with pytest.raises(pybreaker.CircuitBreakerError):
        list(guarded())
    assert breaker.current_state == "open"
    with pytest.raises(pybreaker.CircuitBreakerError):
        list(guarded())


# Opening and closing


def test_life_of_a_circuit(make: World) -> None:
    """Closed, open at the fifth failure, half-open at the first call after a minute, closed by its success."""
    breaker = make()
    for expected in (1, 2, 3, 4):
        failing(breaker, 1)
        assert (breaker.current_state, breaker.fail_counter) == ("closed", expected)
    failing(breaker, 1)
    assert (breaker.current_state, breaker.fail_counter) == ("open", 5)
    make.advance(59.9)
    assert is_refused(breaker)
    make.advance(0.1)
    assert breaker.current_state == "open"  # until the next call
    assert breaker.call(int) == 0
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)


def test_a_success_starts_the_count_again(make: World) -> None:
    """Only failures in a row count."""
    breaker = make(3)
    for _ in range(5):
        failing(breaker, 2)
        breaker.call(int)
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)


def test_a_failed_trial_opens_for_another_timeout(make: World) -> None:
    """If the first call after the timeout fails, the circuit is open for as long again."""
    breaker = make(3, 60)
    failing(breaker, 3)
    make.advance(60)
    failing(breaker, 1)
    assert (breaker.current_state, breaker.fail_counter) == ("open", 4)
    make.advance(59)
    assert is_refused(breaker)
    make.advance(1)
    assert not is_refused(breaker)
    assert breaker.current_state == "closed"


def test_nothing_runs_while_open(make: World) -> None:
    """An open circuit never calls the function."""
    breaker = make()
    breaker.open()
    with pytest.raises(pybreaker.CircuitBreakerError):
        breaker.call(pytest.fail, "the function must not run")


def test_success_threshold(make: World) -> None:
    """With a threshold of three, the third success in a row closes a half-open circuit."""
    breaker = make(1, 60, 3)
    failing(breaker, 1)
    make.advance(60)
    for expected in (1, 2):
        breaker.call(int)
        assert (breaker.current_state, breaker.success_counter, breaker.fail_counter) == ("half-open", expected, 0)
    breaker.call(int)
    assert (breaker.current_state, breaker.success_counter) == ("closed", 0)


def test_success_threshold_starts_again_after_a_failure(make: World) -> None:
    """A failure among the trial calls opens the circuit and forgets the successes."""
    breaker = make(3, 60, 3)
    failing(breaker, 3)
    make.advance(60)
    breaker.call(int)
    breaker.call(int)
    failing(breaker, 1)
    assert (breaker.current_state, breaker.success_counter, breaker.fail_counter) == ("open", 0, 1)
    make.advance(60)
    breaker.call(int)
    assert (breaker.current_state, breaker.success_counter) == ("half-open", 1)


def test_by_hand(make: World) -> None:
    """`open`, `half_open` and `close` set the state that callers and `current_state` see."""
    breaker = make(3, 60, 2)
    failing(breaker, 1)
    breaker.open()
    assert (breaker.current_state, breaker.fail_counter) == ("open", 1)
    assert is_refused(breaker)
    breaker.half_open()
    assert (breaker.current_state, breaker.success_counter) == ("half-open", 0)
    breaker.call(int)
    assert (breaker.current_state, breaker.success_counter, breaker.fail_counter) == ("half-open", 1, 0)
    breaker.half_open()
    assert breaker.success_counter == 0
    breaker.close()
    assert (breaker.current_state, breaker.fail_counter, breaker.success_counter) == ("closed", 0, 0)
    failing(breaker, 2)
    breaker.close()
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)


def test_opening_again_by_hand_begins_the_timeout_anew(make: World) -> None:
    """`open` on an open circuit keeps it open for a whole timeout from then on."""
    breaker = make(1, 60)
    breaker.open()
    make.advance(50)
    breaker.open()
    make.advance(50)
    assert is_refused(breaker)


def test_fail_max_can_be_changed(make: World) -> None:
    """A lower limit applies from the next failure on, and the counts stay."""
    breaker = make(10)
    failing(breaker, 3)
    breaker.fail_max = 2
    assert (breaker.fail_max, breaker.current_state) == (2, "closed")
    failing(breaker, 1)
    assert breaker.current_state == "open"


def test_reset_timeout_can_be_changed(make: World) -> None:
    """A new timeout holds at once, also for a circuit that is open."""
    breaker = make(1, 60)
    failing(breaker, 1)
    make.advance(10)
    assert is_refused(breaker)
    breaker.reset_timeout = 10
    assert breaker.reset_timeout == 10
    assert not is_refused(breaker)


def test_success_threshold_can_be_changed(make: World) -> None:
    """A new threshold holds from the next success on."""
    breaker = make(1, 60, 5)
    breaker.half_open()
    breaker.call(int)
    breaker.success_threshold = 2
    assert breaker.success_threshold == 2
    breaker.call(int)
    assert breaker.current_state == "closed"


def test_success_threshold_can_be_raised(make: World) -> None:
    """A higher threshold holds for a phase that has begun."""
    breaker = make(1, 60, 1)
    breaker.half_open()
    breaker.success_threshold = 2
    breaker.call(int)
    assert breaker.current_state == "half-open"
    breaker.call(int)
    assert breaker.current_state == "closed"


# Errors


def test_new_error_on_trip(make: World) -> None:
    """With `throw_new_error_on_trip` the call that opens the circuit gets the breaker's error, a failed trial too."""
    breaker = make(2, 60, throw_new_error_on_trip=True)
    with pytest.raises(DownError):
        breaker.call(fail)
    with pytest.raises(pybreaker.CircuitBreakerError) as caught:
        breaker.call(fail)
    assert isinstance(caught.value.__context__, DownError)
    make.advance(60)
    with pytest.raises(pybreaker.CircuitBreakerError):
        breaker.call(fail)
    assert breaker.current_state == "open"


def test_own_error_on_trip(make: World) -> None:
    """Without it, every call that ran gets its own error."""
    breaker = make(2, 60, throw_new_error_on_trip=False)
    for _ in range(2):
        with pytest.raises(DownError):
            breaker.call(fail)
    with pytest.raises(pybreaker.CircuitBreakerError):
        breaker.call(fail)
    make.advance(60)
    with pytest.raises(DownError):
        breaker.call(fail)


def test_new_error_on_trip_in_a_block(make: World) -> None:
    """The same holds for blocks."""
    for is_new, expected in ((True, pybreaker.CircuitBreakerError), (False, DownError)):
        with pytest.raises(expected), make(1, throw_new_error_on_trip=is_new).calling():
            fail()


def test_one_class_of_refusals(make: World) -> None:
    """A refusal is an Exception that `except CircuitBreakerError` catches, and nothing else of pybreaker's."""
    breaker = make()
    breaker.open()
    with pytest.raises(pybreaker.CircuitBreakerError) as caught:
        breaker.call(int)
    assert isinstance(caught.value, Exception)


# Threads


def test_threads_count_together(make: World) -> None:
    """Failures of many threads are all counted, and the circuit opens at exactly the limit."""
    breaker = make(400, throw_new_error_on_trip=False)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: failing(breaker, 49), range(8)))
    assert (breaker.fail_counter, breaker.current_state) == (392, "closed")
    failing(breaker, 8)
    assert breaker.current_state == "open"


def test_threads_open_it_once(make: World) -> None:
    """However many threads fail at once, listeners hear of one opening, and nothing runs after it."""
    log, ran = Log(), []
    breaker = make(3, listeners=[log])
    barrier = threading.Barrier(8)

    def work() -> None:
        ran.append(1)
        fail()

    def call(_: int) -> None:
        barrier.wait(5)
        for _ in range(5):
            with pytest.raises((DownError, pybreaker.CircuitBreakerError)):
                breaker.call(work)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    assert log.heard.count("closed > open") == 1
    before = len(ran)
    assert is_refused(breaker)
    assert 3 <= len(ran) == before


# asyncio (pybreaker needs tornado)


async def test_call_async() -> None:
    """`call_async` returns the coroutine's result, counts its error, and refuses while open, before anything runs."""
    breaker, ran = CircuitBreaker(2), []

    async def update(customer: str, *, broken: bool = False) -> str:
        ran.append(customer)
        await asyncio.sleep(0)
        if broken:
            fail()
        return customer

    assert await breaker.call_async(update, "c-1") == "c-1"
    for _ in range(2):
        with pytest.raises(DownError):
            await breaker.call_async(update, "c-1", broken=True)
    with pytest.raises(pybreaker.CircuitBreakerError):
        await breaker.call_async(update, "c-2")
    assert "c-2" not in ran


@pytest.mark.parametrize("decorate", [lambda b: b, lambda b: b(), lambda b: b(__pybreaker_call_async=True)])
async def test_decorated_coroutine_functions(decorate: Callable[[Any], Any]) -> None:
    """All three forms of the decorator guard coroutine functions, and listeners hear of their calls."""
    log = Log()
    breaker = CircuitBreaker(1, listeners=[log])

    async def update(customer: str) -> str:
        await asyncio.sleep(0)
        if not customer:
            fail()
        return customer

    guarded = decorate(breaker)(update)
    assert await guarded("c-1") == "c-1"
    with pytest.raises(DownError):
        await guarded("")
    assert log.heard == [
        ("before", ("c-1",), {}),
        "success",
        ("before", ("",), {}),
        "failure DownError",
        "closed > open",
    ]


async def test_decorated_async_generator_functions() -> None:
    """Async generators are guarded to their end."""
    breaker = CircuitBreaker(1)

    @breaker
    async def stream() -> AsyncGenerator[int, None]:
        yield 1
        fail()

    with pytest.raises(DownError):
        _ = [item async for item in stream()]
    assert breaker.current_state == "open"


async def test_tasks_do_not_wait_for_each_other() -> None:
    """Tasks run side by side through one breaker."""
    breaker, together = CircuitBreaker(), asyncio.Barrier(5)
    async with asyncio.timeout(5):
        await asyncio.gather(*(breaker.call_async(together.wait) for _ in range(5)))
    assert breaker.fail_counter == 0
