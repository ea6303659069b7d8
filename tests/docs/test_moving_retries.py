"""Retries: docs/howto/moving-from-other-libraries.md on tenacity and stamina is shown, theirs beside ours."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tenacity
from moving_page import check_rows, example, library

from resilience import CircuitBreaker, CircuitOpenError, ConfigurationError, Deadline, Pipeline, Retry
from resilience.testing import ManualClock, no_waits


def test_rows_and_tests_are_the_same() -> None:
    """Each line of the table of differences has an anchor and a test of that name, and the test is here."""
    check_rows("### Retries", __file__)


class TestExamples:
    def test_tenacity(self, caplog: pytest.LogCaptureFixture) -> None:
        """The strategies of the example decide, and its callback logs."""
        caplog.set_level(logging.WARNING, "stock")
        policy = example("before_sleep_log")["stock"].__wrapped__
        assert policy("lamp") == 4

    def test_stamina(self) -> None:
        """The words of the example are stamina's, defaults included."""
        stamina = library("stamina")
        defaults = stamina.retry.__kwdefaults__
        options = example("as_before")["as_before"].options
        for name in ("attempts", "timeout", "wait_initial", "wait_max", "wait_jitter", "wait_exp_base"):
            assert getattr(options, name) == defaults[name], name


class Failing:
    """A function that fails so many times, or always."""

    def __init__(self, times: int = 1000, error: type[Exception] = ConnectionError) -> None:
        self.times, self.error, self.calls = times, error, 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return self.calls


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def piped(clock: ManualClock, **options: Any) -> Pipeline:
    return Pipeline("stock", Retry(clock=clock, **options), sleeper=clock)


def test_defaults_of_tenacity(clock: ManualClock) -> None:
    """Told nothing, theirs goes on without a wait, and ours makes three attempts with two short waits."""
    patient = Failing(times=50)
    assert tenacity.Retrying()(patient) == 51
    ours, failing = piped(clock), Failing()
    with pytest.raises(ConnectionError):
        ours.call(failing)
    assert failing.calls == 3
    first, second = clock.slept
    assert 0 <= first <= 0.1
    assert 0 <= second <= 0.2


def test_defaults_of_stamina() -> None:
    """Told nothing but `on`, theirs makes ten attempts; ours makes three, and needs no `on`."""
    stamina = library("stamina")
    defaults = stamina.retry.__kwdefaults__
    assert (defaults["attempts"], defaults["timeout"], defaults["wait_jitter"]) == (10, 45.0, 1.0)
    with pytest.raises(TypeError):
        stamina.retry()
    options = Retry().options
    assert (options.attempts, options.timeout, options.wait_jitter) == (3, None, "full")


def test_last_error() -> None:
    """Theirs hides the error in another one; ours raises it, with what was tried."""
    with pytest.raises(tenacity.RetryError):
        tenacity.Retrying(stop=tenacity.stop_after_attempt(2))(Failing())
    with no_waits(), pytest.raises(ConnectionError) as caught:
        Pipeline("stock", Retry(stop=tenacity.stop_after_attempt(2))).call(Failing())
    assert "gave up after 2 attempts" in caught.value.__notes__[0]


def test_waits_past_the_end(clock: ManualClock) -> None:
    """Of a second in all theirs waits ten, and tries again; ours waits for nothing."""
    slept: list[float] = []
    theirs = tenacity.Retrying(stop=tenacity.stop_after_delay(1), wait=tenacity.wait_fixed(10), sleep=slept.append)
    with pytest.raises(tenacity.RetryError):
        theirs.copy(stop=tenacity.stop_after_delay(1) | tenacity.stop_after_attempt(2))(Failing())
    assert slept == [10]
    with pytest.raises(ConnectionError):
        piped(clock, wait=tenacity.wait_fixed(10), timeout=1).call(Failing())
    with Deadline.after("1s", clock=clock), pytest.raises(ConnectionError):
        piped(clock, wait=tenacity.wait_fixed(10)).call(Failing())
    assert clock.slept == []


def test_retry_after(clock: ManualClock) -> None:
    """An error that says when to come back makes our wait longer, whatever strategy chose it; theirs stays."""

    class BusyError(Exception):
        retry_after = 7.0

    slept: list[float] = []
    wait, stop = tenacity.wait_fixed(1), tenacity.stop_after_attempt(2)
    with pytest.raises(tenacity.RetryError):
        tenacity.Retrying(wait=wait, stop=stop, sleep=slept.append)(Failing(error=BusyError))
    with pytest.raises(BusyError):
        piped(clock, wait=wait, stop=stop).call(Failing(error=BusyError))
    assert slept == [1]
    assert clock.slept[0] >= 7


def test_refusals(clock: ManualClock) -> None:
    """An open circuit is asked three times by theirs, once by ours, and three times by ours where it is named."""
    breaker = CircuitBreaker()
    breaker.open()
    events: list[str] = []
    breaker.events.subscribe(lambda event: events.append(event.kind))

    def asked(call: Callable[[], Any]) -> int:
        events.clear()
        with pytest.raises((CircuitOpenError, tenacity.RetryError)):
            call()
        return events.count("breaker.rejected")

    theirs = tenacity.Retrying(stop=tenacity.stop_after_attempt(3))
    inner = Pipeline("inner", breaker)
    assert asked(lambda: theirs(inner.call, int)) == 3
    assert asked(lambda: piped(clock).call(inner.call, int)) == 1
    named = Retry(on=CircuitOpenError, clock=clock, wait_initial=0)
    assert asked(lambda: Pipeline("named", named, breaker, sleeper=clock).call(int)) == 3


def test_retry_state(clock: ManualClock) -> None:
    """Their callbacks see function and arguments; ours see neither."""
    seen: list[tuple[Any, Any]] = []
    stop, failing = tenacity.stop_after_attempt(1), Failing()

    def give_up(state: tenacity.RetryCallState) -> None:
        seen.append((state.fn, state.args))

    tenacity.Retrying(stop=stop, retry_error_callback=give_up)(failing)
    piped(clock, stop=stop, retry_error_callback=give_up).call(failing)
    assert seen[0] == (failing, ())
    assert seen[1] == (None, ())


def test_generators(clock: ManualClock) -> None:
    """A generator that fails before its first item is begun again by ours, and fails by theirs."""

    def items(begun: list[int]) -> Iterator[int]:
        begun.append(1)
        if len(begun) < 3:
            raise ConnectionError
        yield len(begun)

    with pytest.raises(ConnectionError):
        list(tenacity.retry(stop=tenacity.stop_after_attempt(5))(items)([]))
    assert list(piped(clock)(items)([])) == [3]


def test_results_that_stay_bad() -> None:
    """Theirs raises RetryError; ours returns the last result, or the one of the callback."""
    stop, retry = tenacity.stop_after_attempt(2), tenacity.retry_if_result(lambda result: result is None)
    nothing: Callable[[], None] = lambda: None  # noqa: E731 - a function without a result
    with pytest.raises(tenacity.RetryError):
        tenacity.Retrying(stop=stop, retry=retry)(nothing)
    with no_waits():
        assert Pipeline("stock", Retry(2, on_result=lambda result: result is None)).call(nothing) is None
        assert Pipeline("stock", Retry(stop=stop, retry=retry)).call(nothing) is None
        last = Retry(stop=stop, retry=retry, retry_error_callback=lambda _state: "sold out")
        assert Pipeline("stock", last).call(nothing) == "sold out"


def test_try_again() -> None:
    """It asks for another attempt, also while an error is handled; a plain `on` has to name it."""
    calls = 0

    def handle() -> None:
        nonlocal calls
        calls += 1
        try:
            dict[str, int]()["lamp"]
        except KeyError:
            raise tenacity.TryAgain  # noqa: B904 - as users write it

    only, stop = tenacity.retry_if_exception_type(ValueError), tenacity.stop_after_attempt(3)
    with pytest.raises(tenacity.RetryError):
        tenacity.Retrying(stop=stop, retry=only)(handle)
    assert calls == 3
    made = []
    for retry in (Retry(3, retry=only), Retry(3, on=ValueError), Retry(3, on=(ValueError, tenacity.TryAgain))):
        calls = 0
        with no_waits(), pytest.raises(tenacity.TryAgain) as caught:
            Pipeline("stock", retry).call(handle)
        assert isinstance(caught.value.__context__, KeyError)
        made.append(calls)
    assert made == [3, 1, 3]


def test_base_exceptions() -> None:
    """Theirs repeats what is no Exception; ours refuses to be made so, and lets it pass."""

    class Stopped(BaseException):
        pass

    stop, retry = tenacity.stop_after_attempt(3), tenacity.retry_if_exception_type(BaseException)
    theirs, ours = (Failing(error=Stopped) for _ in range(2))  # type: ignore[arg-type]  # no Exception
    with pytest.raises(tenacity.RetryError):
        tenacity.Retrying(stop=stop, retry=retry)(theirs)
    with no_waits(), pytest.raises(Stopped):
        Pipeline("stock", Retry(stop=stop, retry=retry)).call(ours)
    assert (theirs.calls, ours.calls) == (3, 1)
    with pytest.raises(ConfigurationError, match="is not an Exception"):
        Retry(on=BaseException)  # type: ignore[arg-type]  # no Exception


def test_attempts_in_tests() -> None:
    """Their number replaces that of each retry, or caps it if asked to; ours always caps."""
    stamina = library("stamina")

    def theirs(limit: int, **testing: Any) -> int:
        failing = Failing()
        with stamina.set_testing(True, **testing), pytest.raises(ConnectionError):
            stamina.retry(on=ConnectionError, attempts=limit)(failing)()
        return failing.calls

    def ours(limit: int, **testing: Any) -> int:
        failing = Failing()
        with no_waits(**testing), pytest.raises(ConnectionError):
            Pipeline("stock", Retry(limit)).call(failing)
        return failing.calls

    assert [theirs(5), theirs(5, attempts=3), theirs(1, attempts=3)] == [1, 3, 3]
    assert [theirs(5, attempts=3, cap=True), theirs(1, attempts=3, cap=True)] == [3, 1]
    assert [ours(5), ours(5, attempts=3), ours(1, attempts=3)] == [5, 3, 1]


def test_callback_texts(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """Their callbacks name the function in their text; with our retry they name the retry."""
    caplog.set_level(logging.WARNING, "stock")
    log, stop = tenacity.before_sleep_log(logging.getLogger("stock"), logging.WARNING), tenacity.stop_after_attempt(3)

    def count() -> None:
        raise ConnectionError("gone")

    with pytest.raises(tenacity.RetryError):
        tenacity.Retrying(stop=stop, before_sleep=log)(count)
    with pytest.raises(ConnectionError):
        piped(clock, attempts=3, before_sleep=log).call(count)
    texts = [record.getMessage() for record in caplog.records if record.name == "stock"]
    assert "count in " in texts[0]
    # tenacity 9.0 says "<unknown>" if there is no function.
    assert texts[-1].startswith(("Retrying <Retry 'stock.retry' attempts=3> in ", "Retrying <unknown> in "))
    assert texts[-1].endswith(" as it raised ConnectionError: gone.")


def test_hooks_around_waits(clock: ManualClock) -> None:
    """Theirs enters what a hook returns; ours ignores what a listener returns."""
    stamina = library("stamina")
    seen: list[str] = []

    @contextlib.contextmanager
    def around(_details: Any) -> Iterator[None]:
        seen.append("wait")
        yield
        seen.append("waited")

    stamina.instrumentation.set_on_retry_hooks([around])
    try:
        stamina.retry(on=ConnectionError, wait_initial=0, wait_jitter=0)(Failing(times=1))()
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)
    assert seen == ["wait", "waited"]
    pipeline = piped(clock)
    pipeline.subscribe(around)
    assert pipeline.call(Failing(times=1)) == 2
    assert seen == ["wait", "waited"]


def test_trio() -> None:
    """Theirs waits on trio; ours says that it needs asyncio, also where the call itself has failed."""
    trio = library("trio")
    failing = Failing(times=1)

    async def ask() -> int:
        return failing()

    async def theirs() -> int:
        wait: Any = tenacity.wait_fixed(0.001)
        result: int = await tenacity.AsyncRetrying(wait=wait)(ask)
        return result

    assert trio.run(theirs) == 2
    failing.calls = 0
    ours = Pipeline("stock", Retry(wait_initial=0.001))
    with pytest.raises(ConfigurationError, match=r"Retry 'stock\.retry' needs asyncio, and .* under trio") as refused:
        trio.run(ours.acall, ask)
    assert isinstance(refused.value.__cause__, ConnectionError)  # the failure of the call itself


def test_logs(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """Theirs logs each retry by itself; ours says nothing, and tells whoever subscribed."""
    stamina = library("stamina")
    theirs = stamina.retry(on=ConnectionError, wait_initial=0, wait_jitter=0, attempts=2)(Failing(times=1))
    caplog.set_level(logging.DEBUG)
    stamina.instrumentation.set_on_retry_hooks([stamina.instrumentation.LoggingOnRetryHook])  # or structlog's, if there
    try:
        assert theirs() == 2
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)
    assert [record.name for record in caplog.records] == ["stamina"]
    caplog.clear()
    pipeline, told = piped(clock), []
    pipeline.subscribe(lambda event: told.append(event.kind))
    assert pipeline.call(Failing(times=1)) == 2
    assert (caplog.records, told) == ([], ["retry.scheduled"])
