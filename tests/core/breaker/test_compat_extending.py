"""pybreaker's documented behaviour, on the original and on ours: exclusions, listeners, storages, subclasses."""

import functools
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
import pytest
from both_breakers import DownError, Log, World, fail, failing, is_refused


class UnpaidError(Exception):
    pass


class OverdueError(UnpaidError):
    pass


# Excluded exceptions


def http_error_below_500(error: BaseException) -> bool:
    return isinstance(error, LookupError) and error.args == (404,)


@pytest.mark.parametrize(
    "exclude",
    [[UnpaidError], [UnpaidError, KeyError], [lambda error: isinstance(error, UnpaidError)], (KeyError, UnpaidError)],
)
@pytest.mark.parametrize("error", [UnpaidError, OverdueError])
def test_excluded_exceptions_are_no_failures(make: World, exclude: Any, error: type[Exception]) -> None:
    """An error that a class, a base class or a predicate excludes reaches the caller and never counts."""
    breaker = make(1, exclude=exclude)
    for _ in range(3):
        with pytest.raises(error):
            breaker.call(fail, error)
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)
    failing(breaker, 1)
    assert breaker.current_state == "open"


def test_predicates_and_classes_mix(make: World) -> None:
    """Each condition is asked until one of them excludes the error."""
    breaker = make(5, exclude=[KeyError, http_error_below_500])

    def missing(code: int) -> None:
        raise LookupError(code)

    for code in (404, 503):
        with pytest.raises(LookupError):
            breaker.call(missing, code)
    assert breaker.fail_counter == 1


def test_exclusions_can_be_managed(make: World) -> None:
    """Exclusions can be added, one or several, and removed; one that is not there cannot be."""
    breaker = make(exclude=[KeyError])
    breaker.add_excluded_exception(UnpaidError)
    breaker.add_excluded_exceptions(OSError, http_error_below_500)
    assert breaker.excluded_exceptions == (KeyError, UnpaidError, OSError, http_error_below_500)
    assert not breaker.is_system_error(OverdueError())
    breaker.remove_excluded_exception(UnpaidError)
    assert breaker.excluded_exceptions == (KeyError, OSError, http_error_below_500)
    assert breaker.is_system_error(OverdueError())
    with pytest.raises(ValueError, match="not in list"):
        breaker.remove_excluded_exception(UnpaidError)


# Listeners


def test_all_hooks_in_their_order(make: World) -> None:
    """The four hooks are called in pybreaker's order, with the arguments of the call."""
    log = Log()
    breaker = make(1, 10, listeners=[log])
    breaker.call(int, "3", base=10)
    failing(breaker, 1)
    assert is_refused(breaker)
    make.advance(10)
    breaker.call(int)
    assert log.heard == [
        ("before", ("3",), {"base": 10}),
        "success",
        ("before", (DownError,), {}),
        "failure DownError",
        "closed > open",
        "open > half-open",
        ("before", (), {}),
        "half-open > closed",
        "success",
    ]


def test_a_failed_trial_calls_the_hooks(make: World) -> None:
    """A trial that fails is a failure, then a change back to open."""
    log = Log()
    breaker = make(1, listeners=[log])
    breaker.half_open()
    failing(breaker, 1)
    assert log.heard[-2:] == ["failure DownError", "half-open > open"]


def test_hooks_get_breaker_function_and_error(make: World) -> None:
    """Each hook gets the breaker; the rest is the function, the error, and state objects with names."""
    seen: list[Any] = []

    class Exact(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
            seen.append((cb, func))

        def failure(self, cb: Any, exc: BaseException) -> None:
            seen.append((cb, exc))

        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            seen.append((cb, type(old_state), type(new_state)))

        def success(self, cb: Any) -> None:
            seen.append(cb)

    breaker, error = make(1, listeners=[Exact()], throw_new_error_on_trip=False), DownError()

    def broken() -> None:
        raise error

    with pytest.raises(DownError):
        breaker(broken)()
    breaker.close()
    breaker.call(int)
    closed, opened = pybreaker.CircuitClosedState, pybreaker.CircuitOpenState
    assert seen == [
        (breaker, broken),
        (breaker, error),
        (breaker, closed, opened),
        (breaker, opened, closed),
        (breaker, int),
        breaker,
    ]


def test_manual_changes_call_the_hooks(make: World) -> None:
    """Manual changes call the listeners."""
    log = Log()
    breaker = make(listeners=[log])
    breaker.open()
    breaker.half_open()
    breaker.close()
    assert log.heard == ["closed > open", "open > half-open", "half-open > closed"]


def test_several_listeners_in_their_order(make: World) -> None:
    """Every listener gets every hook, in the order in which the listeners were added."""
    heard: list[Any] = []
    breaker = make(listeners=[Log("a:", heard), Log("b:", heard)])
    breaker.add_listener(Log("c:", heard))
    breaker.call(int)
    before: list[Any] = [(f"{name}:before", (), {}) for name in "abc"]
    assert heard == [*before, "a:success", "b:success", "c:success"]


def test_listeners_can_be_managed(make: World) -> None:
    """Listeners can be added, one or several, listed and removed."""
    first, second, third = Log(), Log(), Log()
    breaker = make(listeners=[first])
    breaker.add_listeners(second, third)
    assert breaker.listeners == (first, second, third)
    breaker.remove_listener(second)
    assert breaker.listeners == (first, third)
    breaker.call(int)
    assert (second.heard, first.heard) == ([], third.heard)


def nothing() -> Generator[None, None, None]:
    yield


@pytest.mark.parametrize("way", ["call", "decorated", "decorated before", "block", "generator"])
def test_hooks_are_called_for_every_way_to_call(make: World, way: str) -> None:
    """Each way to call announces the call and reports its success, also to a listener that was added later."""
    log, breaker = Log(), make()
    early = breaker(int)
    breaker.add_listener(log)
    if way == "block":
        with breaker.calling():
            pass
    elif way == "generator":
        list(breaker(nothing)())
    else:
        {"call": functools.partial(breaker.call, int), "decorated": breaker(int), "decorated before": early}[way]()
    assert log.heard == [("before", (), {}), "success"]


def test_a_listener_may_remove_itself_in_a_hook(make: World) -> None:
    """A listener may take itself away in a hook."""

    class Once(Log):
        def success(self, cb: Any) -> None:
            super().success(cb)
            cb.remove_listener(self)

    log = Once()
    breaker = make(listeners=[log])
    breaker.call(int)
    breaker.call(int)
    assert log.heard == [("before", (), {}), "success"]


def test_listeners_that_hear_nothing(make: World) -> None:
    """A listener need not override any hook."""
    breaker = make(1, listeners=[pybreaker.CircuitBreakerListener()])
    breaker.call(int)
    failing(breaker, 1)
    assert is_refused(breaker)


# Storage in memory


def test_storage_says_where_to_begin(make: World) -> None:
    """A breaker begins with the state and the counts of its storage."""
    storage = pybreaker.CircuitMemoryStorage("half-open")
    assert make(state_storage=storage).current_state == "half-open"
    storage = pybreaker.CircuitMemoryStorage("closed")
    storage.increment_counter()
    breaker = make(2, state_storage=storage)
    assert breaker.fail_counter == 1
    failing(breaker, 1)
    assert breaker.current_state == "open"


def test_storage_open_without_an_opening_time(make: World) -> None:
    """A storage that says open, but not since when, lets the next call try."""
    breaker = make(state_storage=pybreaker.CircuitMemoryStorage("open"))
    assert not is_refused(breaker)
    assert breaker.current_state == "closed"


def test_storage_open_since_a_while(make: World) -> None:
    """A storage that says since when it is open has the rest of the timeout waited for."""
    storage = pybreaker.CircuitMemoryStorage("open")
    storage.opened_at = datetime.now(UTC) - timedelta(seconds=30)
    breaker = make(1, 60, state_storage=storage)
    make.advance(28)
    assert is_refused(breaker)
    make.advance(3)
    assert not is_refused(breaker)


def test_storage_holds_all_there_is(make: World) -> None:
    """State, counters and opening time are in the storage as the circuit lives."""
    storage = pybreaker.CircuitMemoryStorage("closed")
    breaker = make(2, 10, 2, state_storage=storage)
    seen = []

    def look() -> None:
        assert (breaker.current_state, breaker.fail_counter) == (storage.state, storage.counter)
        assert breaker.success_counter == storage.success_counter
        seen.append((storage.state, storage.counter, storage.success_counter, storage.opened_at is not None))

    for act in (
        functools.partial(failing, breaker, 1),
        functools.partial(failing, breaker, 1),
        functools.partial(make.advance, 10),
        functools.partial(breaker.call, int),
        functools.partial(failing, breaker, 1),
        functools.partial(make.advance, 10),
        functools.partial(failing, breaker, 1),
        breaker.half_open,
        functools.partial(breaker.call, int),
        functools.partial(breaker.call, int),
        functools.partial(failing, breaker, 1),
        breaker.close,
    ):
        act()
        look()
    assert seen == [
        ("closed", 1, 0, False),
        ("open", 2, 0, True),
        ("open", 2, 0, True),
        ("half-open", 0, 1, True),
        ("open", 1, 0, True),
        ("open", 1, 0, True),
        ("open", 2, 0, True),
        ("half-open", 2, 0, True),
        ("half-open", 0, 1, True),
        ("closed", 0, 0, True),
        ("closed", 1, 0, True),
        ("closed", 0, 0, True),
    ]


def test_storage_can_be_written_by_others(make: World) -> None:
    """The next call follows a state that another program wrote, and calls the listeners."""
    storage, log = pybreaker.CircuitMemoryStorage("closed"), Log()
    breaker = make(state_storage=storage, listeners=[log])
    storage.opened_at = datetime.now(UTC)
    storage.state = "open"
    assert breaker.current_state == "open"
    assert is_refused(breaker)
    storage.state = "closed"
    assert not is_refused(breaker)
    assert log.heard == ["closed > open", "open > closed", ("before", (), {}), "success"]


def test_two_breakers_share_a_storage(make: World) -> None:
    """Breakers that share a storage count together, open together, try once and stay open together."""
    storage = pybreaker.CircuitMemoryStorage("closed")
    left, right = make(2, 10, state_storage=storage), make(2, 10, state_storage=storage)
    failing(left, 1)
    failing(right, 1)
    assert is_refused(left)
    assert is_refused(right)
    make.advance(10)
    failing(left, 1)
    assert is_refused(right)
    make.advance(10)
    right.call(int)
    assert (left.current_state, right.current_state, storage.counter) == ("closed", "closed", 0)
    assert not is_refused(left)


class Shelf(pybreaker.CircuitBreakerStorage):
    """A user's own storage: a dictionary that could be a database."""

    def __init__(self, rows: dict[str, Any]) -> None:
        super().__init__("shelf")
        self._rows = rows

    @property
    def state(self) -> str:
        return str(self._rows.get("state", "closed"))

    @state.setter
    def state(self, state: str) -> None:
        self._rows["state"] = state

    def increment_counter(self) -> None:
        self._rows["failures"] = self.counter + 1

    def reset_counter(self) -> None:
        self._rows["failures"] = 0

    def increment_success_counter(self) -> None:
        self._rows["successes"] = self.success_counter + 1

    def reset_success_counter(self) -> None:
        self._rows["successes"] = 0

    @property
    def counter(self) -> int:
        return int(self._rows.get("failures", 0))

    @property
    def success_counter(self) -> int:
        return int(self._rows.get("successes", 0))

    @property
    def opened_at(self) -> datetime | None:
        return self._rows.get("opened_at")

    @opened_at.setter
    def opened_at(self, datetime: Any) -> None:  # its parent has this name
        self._rows["opened_at"] = datetime


def test_storage_of_the_users_own(make: World) -> None:
    """A subclass of `CircuitBreakerStorage` keeps the whole state; another breaker continues from it."""
    rows: dict[str, Any] = {}
    breaker = make(1, 10, 2, state_storage=Shelf(rows))
    failing(breaker, 1)
    assert (rows["state"], rows["failures"], rows["opened_at"].tzinfo) == ("open", 1, UTC)
    make.advance(10)
    breaker.call(int)
    assert (rows["state"], rows["successes"]) == ("half-open", 1)
    successor = make(1, 10, 2, state_storage=Shelf(rows))
    successor.call(int)
    assert rows["state"] in {"closed", "half-open"}
    successor.call(int)
    assert (rows["state"], rows["failures"], rows["successes"]) == ("closed", 0, 0)


# Subclassing


def test_own_idea_of_a_system_error(make: World) -> None:
    """A subclass can decide which errors are failures."""
    base: Any = make.made

    class OnlyTimeouts(base):  # type: ignore[misc]  # either class
        def is_system_error(self, exception: BaseException) -> bool:
            return isinstance(exception, TimeoutError) and super().is_system_error(exception)

    breaker = OnlyTimeouts(1)
    failing(breaker, 3)
    assert breaker.current_state == "closed"
    failing(breaker, 1, TimeoutError)
    assert breaker.current_state == "open"


def test_own_constructor(make: World) -> None:
    """A subclass may have parameters of its own and hand on the rest."""
    base: Any = make.made

    class ForDatabase(base):  # type: ignore[misc]  # either class
        def __init__(self, dsn: str, **keywords: Any) -> None:
            self.dsn = dsn
            super().__init__(2, 30, exclude=[KeyError], name=dsn, **keywords)

    breaker = ForDatabase("orders", success_threshold=2)
    assert (breaker.dsn, breaker.name, breaker.fail_max, breaker.success_threshold) == ("orders", "orders", 2, 2)
    failing(breaker, 1, KeyError)
    assert breaker.fail_counter == 0
