import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from resilience import Cache, CircuitBreaker, ConfigurationError, Fallback, Pipeline, Retry
from resilience.policy import PolicyBase
from resilience.testing import ManualClock, RecordingListener


def fail(*_: object) -> str:
    raise ValueError("down")


async def afail(*_: object) -> str:
    raise ValueError("down")


async def in_both_colours(make: Callable[[], Fallback], outcome: Callable[[], Any]) -> Any:
    """Return the outcome for the caller (the value, or the error's type and text), if both colours agree."""

    async def awaiting() -> Any:
        return outcome()

    found = []
    for run in (lambda: Pipeline("p", make()).call(outcome), lambda: Pipeline("p", make()).acall(awaiting)):
        try:
            value = run()
            found.append(await value if asyncio.iscoroutine(value) else value)
        except Exception as error:  # noqa: BLE001 - the outcome is what is asked for
            found.append((type(error), str(error), getattr(error, "__notes__", [])))
    assert found[0] == found[1]
    return found[0]


async def test_value_and_function_in_both_colours() -> None:
    """The value, or the result of the function, replaces the error."""

    async def later(error: Exception) -> str:
        return f"later {error}"

    assert await in_both_colours(lambda: Fallback("spare"), fail) == "spare"
    assert await in_both_colours(lambda: Fallback(function=lambda e: f"now {e}"), fail) == "now down"
    assert await Pipeline("p", Fallback(function=later)).acall(afail) == "later down"


async def later(_: Any) -> bool:
    await asyncio.sleep(0)
    return False


@pytest.mark.parametrize("option", ["on", "on_result"])
async def test_an_answer_that_has_to_be_awaited_is_no_yes(option: str) -> None:
    """A plain predicate that hands back a coroutine is an error: nothing is replaced by its word."""
    asks: dict[str, Any] = {option: lambda outcome: later(outcome)}  # noqa: PLW0108 - a plain function is the point
    kind, text, _ = await in_both_colours(lambda: Fallback("spare", **asks), fail if option == "on" else int)
    assert kind is ConfigurationError
    assert "has to answer at once, but it returned an awaitable" in text


def test_what_stands_in_for_a_blocking_call_is_not_awaited() -> None:
    """A plain function that hands back a coroutine is refused: the caller of a blocking call could not use it."""
    pipeline = Pipeline("p", Retry(1), Fallback(function=lambda error: later(error)))  # noqa: PLW0108 - a plain one
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="returned an awaitable; wrap_async says that a call is awaited"):
            pipeline(fail)()
    assert asyncio.run(pipeline.acall(afail)) is False  # type: ignore[comparison-overlap]  # a stand-in


def test_success_and_other_errors_pass_through() -> None:
    """A result is untouched, and so is an error outside `on`; None is a value like any other."""
    pipeline = Pipeline("p", Fallback(None, on=(KeyError, OSError)))
    assert pipeline.call(lambda: 3) == 3
    with pytest.raises(ValueError, match="down"):
        pipeline.call(fail)
    assert pipeline.call(dict[str, int]().__getitem__, "x") is None


async def test_predicates_choose_errors() -> None:
    """A predicate in `on` can read the text of the error."""

    def is_down(error: Exception) -> bool:
        return str(error) == "down"

    assert await in_both_colours(lambda: Fallback(1, on=(KeyError, is_down)), fail) == 1
    assert await in_both_colours(lambda: Fallback(1, on=lambda _e: False), fail) == (ValueError, "down", [])


async def test_results_can_be_turned_down() -> None:
    """A result that `on_result` turns down is replaced, and the function is given it."""

    def make() -> Fallback:
        return Fallback(function=lambda result: result + 1, on_result=lambda result: result < 0)

    assert await in_both_colours(make, lambda: -5) == -4
    assert await in_both_colours(make, lambda: 5) == 5


async def test_a_plain_function_that_returns_an_awaitable_is_judged_by_its_result() -> None:
    """What is still to be awaited is no result yet: `on_result` sees the value, not the coroutine."""
    seen: list[Any] = []

    def turned_down(result: Any) -> bool:
        seen.append(result)
        return True

    async def answer() -> int:
        return 3

    @Pipeline("p", Fallback(7, on_result=turned_down))
    def plain() -> Any:
        return answer()

    assert [await plain(), await plain()] == [7, 7]
    assert seen == [3, 3]


async def test_a_chain_is_tried_in_turn() -> None:
    """The caller gets the first alternative that answers; later alternatives are not called."""
    asked: list[str] = []

    def second(error: Exception) -> str:
        asked.append("second")
        return f"second after {error}"

    def third(_: Exception) -> str:
        asked.append("third")
        return "third"

    assert await in_both_colours(lambda: Fallback(chain=[fail, second, third]), fail) == "second after down"
    assert asked == ["second", "second"]
    assert await in_both_colours(lambda: Fallback(chain=[fail, fail, None]), fail) is None


async def test_the_original_stands_when_every_alternative_fails() -> None:
    """When no alternative answers the call's own outcome stands: its error, with a note for each, or its result."""

    def broken(_: Any) -> str:
        raise RuntimeError("also down")

    kind, text, notes = await in_both_colours(lambda: Fallback(chain=[broken, broken], name="f"), fail)
    assert (kind, text, len(notes)) == (ValueError, "down", 2)
    assert "broken failed too: RuntimeError('also down')" in notes[0]
    assert await in_both_colours(lambda: Fallback(function=broken, on_result=lambda r: r == 1), lambda: 1) == 1


def test_error_raised_again_and_again_does_not_grow() -> None:
    """One error object that ends call after call carries the notes of the last of them alone."""
    error = ValueError("shared")

    def shared() -> None:
        raise error

    def broken(_: Any) -> str:
        raise RuntimeError("also down")

    guarded = Pipeline("p", Fallback(chain=[broken, broken]))(shared)
    for _ in range(3):
        with pytest.raises(ValueError, match="shared"):
            guarded()
    assert len(error.__notes__) == 2


async def test_an_alternative_may_translate_the_error() -> None:
    """An error raised `from` the call's own is an answer: the caller gets it, with the original as its cause."""

    def translate(error: Exception) -> str:
        raise LookupError("no price today") from error

    def make() -> Fallback:
        return Fallback(chain=[translate, 7])

    assert await in_both_colours(make, fail) == (LookupError, "no price today", [])
    with pytest.raises(LookupError) as caught:
        Pipeline("p", make()).call(fail)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_failing_alternative_has_the_original_as_context() -> None:
    """The error of an alternative says during which error it happened."""
    listener = RecordingListener()
    pipeline = Pipeline("p", Fallback(function=lambda _e: dict[str, int]()["x"]), listeners=[listener])
    with pytest.raises(ValueError, match="down") as caught:
        pipeline.call(fail)
    (failure,) = listener.events[0].facts["failures"]
    assert failure.__context__ is caught.value


async def test_pass_call_gives_the_arguments() -> None:
    """With `pass_call` a function gets the call's arguments as well, however the call was made."""

    def local(error: Exception, item: str, *, size: int = 0) -> str:
        return f"{item} {size} {error}"

    async def alocal(error: Exception, item: str, *, size: int = 0) -> str:
        return local(error, item, size=size)

    def price(item: str, *, size: int = 0) -> str:
        raise ValueError(f"no {item}")

    async def aprice(item: str, *, size: int = 0) -> str:
        raise ValueError(f"no {item}")

    blocking = Pipeline("p", Fallback(function=local, pass_call=True))
    awaiting = Pipeline("p", Fallback(function=alocal, pass_call=True))
    expected = "lamp 2 no lamp"
    assert blocking(price)("lamp", size=2) == blocking.call(price, "lamp", size=2) == expected
    assert await awaiting(aprice)("lamp", size=2) == await awaiting.acall(aprice, "lamp", size=2) == expected
    assert await blocking.call(aprice, "lamp", size=2) == expected
    assert Pipeline("p", Outer(), Fallback(function=local, pass_call=True)).call(price, "lamp", size=2) == expected


async def test_cancellation_passes_through() -> None:
    """A cancelled call is cancelled, not replaced."""
    task = asyncio.ensure_future(Pipeline("p", Fallback(1)).acall(asyncio.sleep, 10))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_of_an_alternative_passes_through() -> None:
    """A call cancelled while a fallback function runs is cancelled: the next alternative is not tried."""

    async def slow(_: Exception) -> str:
        await asyncio.sleep(10)
        return "late"

    fallback = Fallback(chain=[slow, "next"])
    task = asyncio.ensure_future(Pipeline("p", fallback).acall(afail))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fallback.snapshot() == {"used": 0, "exhausted": 0}


def test_coroutine_function_cannot_stand_in_for_a_blocking_call() -> None:
    """A coroutine function as fallback of a blocking call is refused when the call is wrapped."""

    async def later(_: Exception) -> str:
        return "later"

    for policies in ((Fallback(chain=[fail, later]),), (Outer(), Fallback(function=later))):
        with pytest.raises(ConfigurationError, match="cannot stand in for a blocking call"):
            Pipeline("p", *policies)(fail)


def test_use_is_evented() -> None:
    """Each use, and each exhausted chain, is an event with the error and the failed alternatives."""
    listener = RecordingListener()
    Pipeline("p", Fallback(chain=[fail, 0], name="spare"), listeners=[listener]).call(fail)
    with pytest.raises(ValueError, match="down"):
        Pipeline("p", Fallback(function=fail, name="spare"), listeners=[listener]).call(fail)
    told = [(event.kind, event.severity, str(event.facts["error"])) for event in listener.events]
    assert told == [("fallback.used", "warning", "down"), ("fallback.exhausted", "error", "down")]
    assert [[str(failure) for failure in event.facts["failures"]] for event in listener.events] == [["down"], ["down"]]


def test_a_turned_down_result_is_evented() -> None:
    """The event of a result that was replaced carries the result."""
    listener = RecordingListener()
    Pipeline("p", Fallback(0, on_result=lambda result: result is None), listeners=[listener]).call(lambda: None)
    assert listener.events[0].facts == {"error": None, "failures": (), "result": None}


class Outer(PolicyBase):
    """Records its calls."""

    kind = "outer"

    def __init__(self) -> None:
        super().__init__("outer")
        self.told: list[object] = []

    def on_success(self, _permit: Any, result: Any, /) -> None:
        self.told.append(result)

    def on_failure(self, _permit: Any, error: Exception, /) -> None:
        self.told.append(str(error))

    def on_abandon(self, _permit: Any, /) -> None:
        self.told.append("abandoned")


async def test_policies_outside_see_what_the_call_came_to() -> None:
    """The caller gets the stand-in; a policy outside settles by the error, or the result that was turned down."""
    for fallback, outcome, seen in (
        (Fallback(0), fail, "down"),
        (Fallback(0, on_result=lambda result: result == 5), lambda: 5, 5),
    ):
        outer = Outer()
        pipeline = Pipeline("p", outer, fallback)

        async def awaiting(outcome: Callable[[], Any] = outcome) -> Any:
            return outcome()

        assert (pipeline.call(outcome), await pipeline.acall(awaiting)) == (0, 0)
        assert outer.told == [seen, seen]


async def test_a_breaker_outside_is_not_fooled() -> None:
    """A breaker outside opens on the dependency's failures and is not closed by stand-ins while half-open."""
    for awaits in (False, True):
        clock = ManualClock()
        breaker = CircuitBreaker(fail_max=2, reset_timeout=30, clock=clock)
        pipeline = Pipeline("p", breaker, Fallback("spare"))

        async def call(pipeline: Pipeline = pipeline, awaits: bool = awaits) -> Any:  # noqa: FBT001 - the loop's own
            return await pipeline.acall(afail) if awaits else pipeline.call(fail)

        assert [await call(), await call()] == ["spare", "spare"]
        assert breaker.current_state == "open"
        clock.advance(60)
        assert await call() == "spare"
        assert breaker.current_state == "open"


async def test_a_retry_outside_goes_on() -> None:
    """A retry outside makes another attempt, and the caller gets the alternative in the end."""
    calls: list[int] = []

    def flaky() -> str:
        calls.append(1)
        if len(calls) % 3:
            raise ValueError("down")
        return "up"

    async def aflaky() -> str:
        return flaky()

    for attempts, expected in ((3, "up"), (2, "spare")):
        for awaits in (False, True):
            calls.clear()
            retry = Retry(attempts=attempts, wait_initial=0, wait_jitter=0)
            pipeline = Pipeline("p", retry, Fallback("spare"))
            assert (await pipeline.acall(aflaky) if awaits else pipeline.call(flaky)) == expected
            assert len(calls) == attempts


async def test_nested_fallbacks() -> None:
    """The innermost stand-in is the answer: one outside neither replaces nor judges it."""
    outer, inner = Fallback("outer", name="outer", on_result=lambda r: r == "inner"), Fallback("inner", name="inner")
    pipeline = Pipeline("p", outer, inner)
    assert (pipeline.call(fail), await pipeline.acall(afail)) == ("inner", "inner")
    assert (outer.used, inner.used) == (0, 2)
    through = Pipeline("p", Fallback("outer", name="outer"), Fallback(function=fail, name="inner"))
    assert (through.call(fail), await through.acall(afail)) == ("outer", "outer")


async def test_failed_alternatives_are_freed() -> None:
    """What failed on the way is freed with the caller's last reference to it: there is no cycle to collect."""
    freed: list[weakref.ref[Exception]] = []

    class FailureError(Exception):
        def __init__(self) -> None:
            freed.append(weakref.ref(self))

    def broken(_: Exception) -> str:
        raise FailureError

    gc.disable()
    try:
        pipeline = Pipeline("p", Fallback(chain=[broken, 1]))
        assert [pipeline.call(fail), await pipeline.acall(afail)] == [1, 1]  # type: ignore[comparison-overlap]  # stand-ins
        assert [reference() for reference in freed] == [None, None]
    finally:
        gc.enable()


async def predicate(_: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of value, function and chain"),
        ({"value": 1, "function": str}, "exactly one of value, function and chain"),
        ({"value": 1, "chain": [str]}, "exactly one of value, function and chain"),
        ({"function": 3}, "function=3"),
        ({"chain": []}, r"chain=\[\]"),
        ({"chain": "spare"}, "chain='spare'"),
        ({"chain": 3}, "chain=3"),
        ({"chain": [1, str]}, "chain=1: expected functions, and a value only at the end"),
        ({"value": 1, "on": BaseException}, "on="),
        ({"value": 1, "on": ()}, "on="),
        ({"value": 1, "on": "ValueError"}, "on='ValueError'"),
        ({"value": 1, "on": predicate}, "on=.*not a coroutine function"),
        ({"value": 1, "on_result": 3}, "on_result=3"),
        ({"value": 1, "on_result": predicate}, "on_result=.*not a coroutine function"),
        ({"value": 1, "pass_call": 1}, "pass_call=1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    """A bad option is refused at construction."""
    with pytest.raises(ConfigurationError, match=message):
        Fallback(**options)


def test_repr() -> None:
    """The representation of a fallback names its alternatives."""
    assert repr(Fallback(1, name="f")) == "<Fallback 'f' value=1>"
    assert repr(Fallback(function=str)) == "<Fallback 'fallback' function=str>"
    assert repr(Fallback(chain=[fail, None], name="f")) == "<Fallback 'f' chain=[fail, None]>"


def test_describe_and_snapshot() -> None:
    """describe() and snapshot() return plain data: the alternatives, the outcomes they replace, and the counts."""

    def is_down(error: Exception) -> bool:
        return str(error) == "down"

    fallback = Fallback(chain=[str, 0], on=(OSError, is_down), name="f")
    assert fallback.describe() == {
        "kind": "fallback",
        "name": "f",
        "options": {
            "alternatives": ["str", "0"],
            "on": ["OSError", is_down.__qualname__],
            "on_result": None,
            "pass_call": False,
        },
        "sources": {},
    }
    spare = Fallback(0)
    Pipeline("p", spare).call(fail)
    assert spare.snapshot() == {"used": 1, "exhausted": 0}


async def test_alternatives_that_cannot_be_shown_hide_no_error() -> None:
    """An alternative or its error that has no text is noted by its type, and the error of the call stands."""

    class Unshown:
        def __repr__(self) -> str:
            raise RuntimeError

    class UnshownError(Unshown, Exception):
        pass

    class Broken(Unshown):
        def __call__(self, _: Exception) -> str:
            raise UnshownError

    kind, text, notes = await in_both_colours(lambda: Fallback(function=Broken(), name="f"), fail)
    assert (kind, text) == (ValueError, "down")
    assert notes == ["f: the alternative <Broken> failed too: <UnshownError>"]


def test_another_pipeline_around_is_a_caller() -> None:
    """To policies of another pipeline a stand-in is a result, as to any caller: they keep it, and count a success."""
    cache, breaker = Cache(), CircuitBreaker(1)
    guarded = Pipeline("outer", cache, breaker)(Pipeline("inner", Fallback("spare"))(fail))
    assert [guarded(), guarded()] == ["spare", "spare"]
    assert (cache.hits, breaker.current_state) == (1, "closed")
