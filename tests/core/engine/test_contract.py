"""The parts of the contract that few policies use: stand-ins, awaited verdicts, serving, meeting, standing permits."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    ConfigurationError,
    Keyed,
    Pipeline,
    Replace,
    Retry,
    ThreadPoolBulkhead,
    idempotent,
)
from resilience.idempotency import is_idempotent
from resilience.policy import (
    NO_RESULT,
    Decision,
    Named,
    Pending,
    PolicyBase,
    RetryAfter,
    Substitute,
    Verdict,
)


class Watching(PolicyBase):
    """Keeps what it was told."""

    def __init__(self, name: str = "watching") -> None:
        super().__init__(name)
        self.told: list[Any] = []

    def on_success(self, _permit: Any, result: Any, /) -> Verdict:
        self.told.append(("success", result))
        return None

    def on_failure(self, _permit: Any, error: Exception, /) -> Verdict:
        self.told.append(("failure", str(error)))
        return None

    def on_abandon(self, _permit: Any, /) -> None:
        self.told.append("abandoned")


class StandIn(Named):
    """Stands in for every outcome: an error, or a result below 0."""

    kind = "stand-in"

    def around(self, call: Callable[..., Any], /) -> Callable[..., Any]:
        def outermost(*args: Any) -> Any:
            try:
                return call(*args)
            except ValueError:
                return "instead"

        return outermost

    def around_async(self, call: Callable[..., Awaitable[Any]], /) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def outermost(*args: Any) -> Any:
            try:
                return await call(*args)
            except ValueError:
                return "instead"

        return outermost

    def around_nested(self, call: Callable[..., Any], /) -> Callable[..., Any]:
        def inner(*args: Any) -> Any:
            try:
                result = call(*args)
            except ValueError as error:
                raise Substitute("instead", error=error) from error
            if result < 0:
                raise Substitute("positive", result=result)
            return result

        return inner

    def around_nested_async(self, call: Callable[..., Awaitable[Any]], /) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def inner(*args: Any) -> Any:
            try:
                result = await call(*args)
            except ValueError as error:
                raise Substitute("instead", error=error) from error
            if result < 0:
                raise Substitute("positive", result=result)
            return result

        return inner


def number(text: str) -> int:
    return int(text)


async def anumber(text: str) -> int:
    return int(text)


async def called(guarded: Callable[..., Any], *args: Any) -> Any:
    result = guarded(*args)
    return await result if inspect.isawaitable(result) else result


@pytest.mark.parametrize("function", [number, anumber])
async def test_outer_policies_score_what_a_stand_in_stands_for(function: Callable[..., Any]) -> None:
    """Policies outside a stand-in are told the real error or result; the caller gets the stand-in."""
    outer, inner = Watching("outer"), Watching("inner")
    guarded = Pipeline("p", outer, StandIn(), inner)(function)
    assert [await called(guarded, text) for text in ("x", "-1", "2")] == ["instead", "positive", 2]
    error = "invalid literal for int() with base 10: 'x'"
    assert outer.told == [("failure", error), ("success", -1), ("success", 2)]
    assert inner.told == outer.told


@pytest.mark.parametrize("function", [number, anumber])
async def test_outer_retry_goes_on_and_the_last_stand_in_counts(function: Callable[..., Any]) -> None:
    """A retry outside repeats what a stand-in stands for; when it gives up the caller gets the stand-in."""
    watching = Watching()
    guarded = Pipeline("p", Retry(3, on=ValueError, wait_initial=0), StandIn(), watching)(function)
    assert await called(guarded, "x") == "instead"
    assert len(watching.told) == 3


@pytest.mark.parametrize("function", [number, anumber])
async def test_verdict_of_an_outer_policy_beats_a_stand_in(function: Callable[..., Any]) -> None:
    """An outer policy that replaces the outcome has the last word."""

    class Last(PolicyBase):
        def on_failure(self, _permit: Any, _error: Exception, /) -> Verdict:
            return Replace("last")

    assert await called(Pipeline("p", Last("last"), StandIn())(function), "x") == "last"


async def test_stand_in_from_a_thread_is_scored_as_what_it_stands_for() -> None:
    """A stand-in inside a thread pool is none for the policies outside the pool, whoever awaits it."""
    outer = Watching("outer")
    pipeline = Pipeline("p", outer, ThreadPoolBulkhead(1), StandIn())
    assert [await pipeline.acall(number, text) for text in ("x", "2")] == ["instead", 2]
    assert [kind for kind, _ in outer.told] == ["failure", "success"]
    assert pipeline.call(number, "x") == "instead"  # type: ignore[comparison-overlap]  # a stand-in
    alone = Pipeline("q", ThreadPoolBulkhead(1), StandIn())
    assert await alone.acall(number, "x") == "instead"  # type: ignore[comparison-overlap]  # a stand-in


@pytest.mark.parametrize("function", [number, anumber])
async def test_stand_ins_per_key_are_scored_as_what_they_stand_for(function: Callable[..., Any]) -> None:
    """A stand-in that is made per key is none for the policies outside either."""
    outer = Watching("outer")
    guarded = Pipeline("p", outer, Keyed(lambda _key: StandIn(), lambda text: text))(function)
    assert await called(guarded, "x") == "instead"
    assert [kind for kind, _ in outer.told] == ["failure"]


def test_stand_in_of_a_pipeline_inside_another_is_a_result() -> None:
    """A stand-in leaves its own pipeline as an ordinary value: to another one around it, that is what was returned."""
    watching = Watching()
    inner: Callable[[str], Any] = Pipeline("inner", Bulkhead(1), StandIn())(number)
    assert Pipeline("outer", watching)(inner)("x") == "instead"
    assert watching.told == [("success", "instead")]


class Deciding(PolicyBase):
    """Awaits each verdict."""

    awaits = True
    retries = True

    def __init__(self, decide: Callable[[], Awaitable[Decision]]) -> None:
        super().__init__("deciding")
        self.decide, self.abandoned = decide, 0

    def on_success(self, _permit: Any, _result: Any, /) -> Verdict:
        return Pending(self.decide())

    def on_failure(self, _permit: Any, _error: Exception, /) -> Verdict:
        return Pending(self.decide())

    def on_abandon(self, _permit: Any, /) -> None:
        self.abandoned += 1


async def test_verdicts_may_be_awaited() -> None:
    """A pending verdict is awaited and then is what any other is: nothing, a replacement, or another attempt."""
    verdicts: list[Decision] = [None, Replace("other"), RetryAfter(0.0, None), None]

    async def decide() -> Decision:
        await asyncio.sleep(0)
        return verdicts.pop(0)

    guarded = Pipeline("p", Deciding(decide))(anumber)
    assert [await guarded("1"), await guarded("x")] == [1, "other"]
    with pytest.raises(ValueError, match="invalid literal"):
        await guarded("x")
    assert verdicts == []


@pytest.mark.parametrize("text", ["1", "x"])
async def test_decision_that_fails_or_is_cancelled_settles_nothing(text: str) -> None:
    """A decision that raises, or is cancelled, has settled nothing: the permit is given back once (L2)."""

    async def fail() -> Decision:
        raise RuntimeError("no decision")

    async def wait() -> Decision:
        await asyncio.Event().wait()
        return None

    failing, waiting = Deciding(fail), Deciding(wait)
    with pytest.raises(RuntimeError, match="no decision"):
        await Pipeline("p", failing)(anumber)(text)
    task = asyncio.ensure_future(Pipeline("p", waiting)(anumber)(text))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (failing.abandoned, waiting.abandoned) == (1, 1)


async def test_async_generators_await_verdicts() -> None:
    """Around an async generator a pending verdict is awaited as well, at its end and at its failure."""

    async def decide() -> Decision:
        asked.append(1)
        return None

    asked: list[int] = []

    async def items(text: str) -> AsyncGenerator[int]:
        yield int(text)

    guarded: Callable[[str], AsyncGenerator[int]] = Pipeline("p", Deciding(decide))(items)
    assert [item async for item in guarded("1")] == [1]
    with pytest.raises(ValueError, match="invalid"):
        await anext(guarded("x"))
    assert len(asked) == 2


def test_policy_that_awaits_cannot_guard_a_blocking_call() -> None:
    """A policy that awaits its verdicts is refused where nothing awaits: when the function is wrapped."""

    async def decide() -> Decision:
        return None

    def items() -> Any:
        yield 1

    pipeline = Pipeline("p", Deciding(decide))
    for function in (number, items):
        with pytest.raises(ConfigurationError, match="awaits its decisions"):
            pipeline(function)


class Choosy(Watching):
    """Serves marked functions alone."""

    def applies_to(self, function: Any) -> bool:
        return is_idempotent(function)


@idempotent
def marked(text: str) -> int:
    return int(text)


async def test_policy_is_left_out_for_functions_it_does_not_serve() -> None:
    """A policy that does not serve a function is no part of its chain, however the function is called."""
    choosy, other = Choosy("choosy"), Watching("other")
    pipeline = Pipeline("p", choosy, other)
    assert [pipeline(number)("1"), pipeline.call(number, "2"), await pipeline.acall(anumber, "3")] == [1, 2, 3]
    with pipeline.guard():
        pass
    assert choosy.told == []
    assert [pipeline(marked)("4"), pipeline.call(marked, "5"), await pipeline.acall(marked, "6")] == [4, 5, 6]
    assert choosy.told == [("success", 4), ("success", 5), ("success", 6)]
    assert len(other.told) == 7


def test_marks_are_found_and_set_on_every_kind_of_function() -> None:
    """The mark holds for functions, methods, partials, static and class methods, and is not there by default."""

    class Client:
        @idempotent
        def get(self) -> int:
            return 1

        def post(self) -> int:
            return 2

        @idempotent
        @staticmethod
        def static() -> int:
            return 3

    client = Client()
    assert [is_idempotent(each) for each in (client.get, partial(client.get), client.static)] == [True] * 3
    assert not is_idempotent(client.post)
    bound = idempotent(client.post)
    assert is_idempotent(bound)
    assert (bound(), is_idempotent(client.post)) == (2, False)
    assert not is_idempotent(None)
    with pytest.raises(ConfigurationError, match="idempotent"):
        idempotent(5)  # type: ignore[type-var]  # what is refused here


def test_policies_meet_once_their_names_are_settled() -> None:
    """A policy that wants to know its neighbours is shown all of them, named, while the pipeline is composed."""

    class Meeting(PolicyBase):
        def bind(self, policies: tuple[Any, ...]) -> None:
            met.extend(policy.name for policy in policies)

    met: list[str] = []
    Pipeline("p", Meeting(), Bulkhead(1))
    assert met == ["p.policy", "p.bulkhead"]


class Door(PolicyBase):
    """Has a standing permit until it is taken away."""

    def __init__(self) -> None:
        super().__init__("door")
        self.fast_permit: Any = "standing"
        self.seen: list[Any] = []

    def admit(self) -> Any:
        return "asked"

    def on_success(self, permit: Any, _result: Any, /) -> Verdict:
        self.seen.append(permit)
        return None


def _numbers(text: str) -> Iterator[int]:
    yield int(text)


async def _anumbers(text: str) -> AsyncIterator[int]:
    yield int(text)


async def _ended(outcome: Any) -> None:
    """Await a call, or take all items."""
    if hasattr(outcome, "__aiter__"):
        assert [item async for item in outcome] == [1]
    elif hasattr(outcome, "__iter__"):
        assert list(outcome) == [1]
    elif hasattr(outcome, "__await__"):
        await outcome


@pytest.mark.parametrize("function", [number, anumber, _numbers, _anumbers])
async def test_fast_permit_is_used_without_asking(function: Callable[..., Any]) -> None:
    """A call of any colour uses the fast permit; if there is none at that moment, it asks."""
    door = Door()
    guarded = Pipeline("p", door)(function)
    await _ended(guarded("1"))
    door.fast_permit = None
    await _ended(guarded("1"))
    assert door.seen == ["standing", "asked"]


async def test_fast_permit_is_used_by_blocks() -> None:
    """A block uses the fast permit; if there is none at that moment, it asks."""
    door = Door()
    pipeline = Pipeline("p", door)
    for permit in ("standing", None):
        door.fast_permit = permit
        with pipeline.guard():
            pass
        async with pipeline.guard():
            pass
    assert door.seen == ["standing", "standing", "asked", "asked"]


class Final(PolicyBase):
    """Marks the permit of a generator that cannot be started again."""

    def __init__(self) -> None:
        super().__init__("final")
        self.seen: list[Any] = []

    def admit(self) -> str:
        return "first"

    def no_more_attempts(self, permit: str) -> str:
        return f"{permit} and last"

    def on_success(self, permit: Any, _result: Any, /) -> None:
        self.seen.append(permit)

    def on_failure(self, permit: Any, _error: Exception, /) -> None:
        self.seen.append(permit)


@pytest.mark.parametrize("text", ["1", "no number"])
@pytest.mark.parametrize("function", [_numbers, _anumbers])
async def test_no_more_attempts_comes_before_each_outcome(function: Callable[..., Any], text: str) -> None:
    """`no_more_attempts` is called before a success, too, if items are out; not if the generator failed before."""
    final = Final()
    with contextlib.suppress(ValueError):
        await _ended(Pipeline("p", final)(function)(text))
    assert final.seen == ["first and last" if text == "1" else "first"]


async def test_partials_are_guarded_as_what_they_call() -> None:
    """A partial of a generator or coroutine function is guarded to its end, through `call` as by a decorator."""

    def items(text: str) -> Any:
        yield int(text)

    watching = Watching()
    pipeline = Pipeline("p", watching)
    stream = pipeline.call(partial(items, "1"))
    assert watching.told == []
    assert list(stream) == [1]
    assert await pipeline.call(partial(anumber, "2")) == 2
    assert watching.told == [("success", NO_RESULT), ("success", 2)]
