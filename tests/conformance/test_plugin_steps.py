"""The example of a third party that uses every step, run by the suite that we ship for plugins."""

import dataclasses
import inspect
import re
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import example_modules
import pytest

from resilience import ConfigurationError, Keyed, Pipeline, PolicyBase, RejectedError
from resilience.plugins import KeyedPolicy, Steps
from resilience.testing import ManualClock, PolicyConformance, RecordingListener

plugin = example_modules.load("plugin_steps")


async def log_in() -> None:
    """Repair nothing."""


def places_by_plan() -> Any:
    return plugin.PlacesByPlan(lambda plan: plan, {"free": 1, "paid": 2})


POLICIES: tuple[Callable[[], Any], ...] = (
    plugin.Places,
    lambda: plugin.Places(max_wait=1),
    lambda: plugin.Pace(1),
    plugin.AskAgain,
    lambda: plugin.AskAgain(repair=log_in),
    plugin.LastAnswer,
    plugin.OneThread,
    places_by_plan,
    lambda: plugin.ignoring(places_by_plan(), KeyError),
)
"""One policy of each sort of the example."""


def used(steps: Steps) -> set[str]:
    """Return the fields of a record that are neither at their default nor inherited from our base class."""
    default = Steps(policy=steps.policy)
    values = {each.name: getattr(steps, each.name) for each in dataclasses.fields(Steps)}
    return {
        name
        for name, value in values.items()
        if value is not getattr(default, name)
        and getattr(value, "__func__", value) is not getattr(PolicyBase, name, None)
    }


def test_the_example_uses_every_step() -> None:
    """Each field of `Steps` is set by a policy of the example, by its own code."""
    fields = {each.name for each in dataclasses.fields(Steps)} - {"policy"}
    assert fields - set().union(*(used(Steps.of(make())) for make in POLICIES)) == set()


def test_the_example_uses_every_optional_member() -> None:
    """Each member for which the engine looks is defined by a policy of the example."""
    source = inspect.getsource(sys.modules[Steps.__module__])
    members = set(re.findall(r'(?:get|has)attr\((?:self\.)?policy, "(\w+)"', source))
    assert {"choose_steps", "kind", "is_idle", "awaits", "slot"} <= members
    policies = [Steps.of(make()).policy for make in POLICIES]
    assert [type(each) for each in policies if isinstance(each, KeyedPolicy)] == [plugin.PlacesByPlan] * 2
    assert members - {name for each in policies for name in (*vars(type(each)), *vars(each))} == set()


class TestPlaces(PolicyConformance):
    def make_policy(self) -> Any:
        return plugin.Places()


class TestPlacesThatWait(PolicyConformance):
    def make_policy(self) -> Any:
        return plugin.Places(max_wait=5)


class TestPlacesWithFastPermit(PolicyConformance):
    def make_policy(self) -> Any:
        places = plugin.Places()
        places.fast_permit = "lifted"
        return places


class TestPlacesOfPlan(PolicyConformance):
    def make_policy(self) -> Any:
        return places_by_plan().slot("free").policy


class TestPlacesThatIgnoreErrors(PolicyConformance):
    def make_policy(self) -> Any:
        return plugin.ignoring(plugin.Places(), Exception)


class TestPace(PolicyConformance):
    def make_policy(self) -> Any:
        return plugin.Pace(0.001)


class TestAskAgain(PolicyConformance):
    def make_policy(self) -> Any:
        return plugin.AskAgain(is_ready=lambda _result: True)


def plain(value: int) -> int | None:
    return CALLS.pop(0)(value)


async def awaited(value: int) -> int | None:
    return CALLS.pop(0)(value)


CALLS: list[Callable[[int], int | None]] = []
both_colours = pytest.mark.parametrize("function", [plain, awaited])


def fail(_value: int) -> int:
    raise OSError("down")


def same(value: int) -> int:
    return value


def empty(_value: int) -> None:
    return None


async def called(guarded: Callable[..., Any], *args: Any) -> Any:
    result = guarded(*args)
    return await result if inspect.isawaitable(result) else result


@both_colours
async def test_a_plugin_can_retry_errors_and_results(function: Callable[..., Any]) -> None:
    """A policy of a third party retries an error and a result, in both colours; each attempt gives its place back."""
    places = plugin.Places()
    guarded = Pipeline("p", plugin.AskAgain(is_ready=lambda result: result is not None), places)(function)
    for first in (fail, empty):
        CALLS[:] = [first, same]
        assert await called(guarded, 3) == 3
        assert places.snapshot() == {"running": 0, "is_lifted": False}


def test_a_plugin_does_not_restart_a_generator_with_items() -> None:
    """After its first item a generator is not started again, and the place is free."""
    places = plugin.Places()

    def items() -> Iterator[int]:
        yield 1
        raise OSError("down")

    generator = Pipeline("p", plugin.AskAgain(), places)(items)()
    assert next(generator) == 1
    with pytest.raises(OSError, match="down"):
        next(generator)
    assert places.is_idle


async def test_a_plugin_can_await_a_repair() -> None:
    """The repair is awaited before another attempt. Its error reaches the caller. A blocking call cannot await it."""
    repairs = iter([None, RuntimeError("no login")])

    async def repair() -> None:
        if (error := next(repairs)) is not None:
            raise error

    pipeline = Pipeline("p", plugin.AskAgain(repair=repair))
    guarded = pipeline(awaited)
    CALLS[:] = [fail, same, fail]
    assert await guarded(3) == 3
    with pytest.raises(RuntimeError, match="no login"):
        await guarded(3)
    assert CALLS == []
    with pytest.raises(ConfigurationError, match="awaits its decisions"):
        pipeline(plain)


async def test_a_plugin_does_not_repair_for_a_generator_with_items() -> None:
    """A generator that has yielded items has no other attempt: `no_more_attempts` says so before the outcome."""
    log: list[str] = []

    async def repair() -> None:
        log.append("repair")

    async def items(*, first: int) -> AsyncIterator[int]:
        log.append("call")
        if len(log) > first:
            yield 1
        raise OSError("down")

    guarded = Pipeline("p", plugin.AskAgain(repair=repair))(items)
    for first, expected in ((0, ["call"]), (1, ["call", "repair", "call"])):
        log.clear()
        generator = guarded(first=first)
        assert await anext(generator) == 1
        with pytest.raises(OSError, match="down"):
            await anext(generator)
        assert log == expected


@both_colours
@pytest.mark.parametrize("max_wait", [0, 0.01])
async def test_a_plugin_can_admit_in_three_ways(function: Callable[..., Any], max_wait: float) -> None:
    """A call that finds no place is refused, at once or after a wait; an operator can lift the limit."""
    places, listener = plugin.Places(max_wait=max_wait), RecordingListener()
    pipeline = Pipeline("p", places, listeners=[listener])
    guarded = pipeline(function)
    with pipeline.guard():
        with pytest.raises(RejectedError, match=r"p\.places: all 1 places are taken"):
            await called(guarded, 3)
        assert listener.kinds == ["places.refused"]
        places.fast_permit = "lifted"
        CALLS[:] = [same]
        assert await called(guarded, 3) == 3
        with pipeline.guard():
            assert places.snapshot() == {"running": 1, "is_lifted": True}
        async with pipeline.guard():
            assert not places.is_idle
        places.fast_permit = None
    assert places.is_idle


def test_a_plugin_chooses_its_steps() -> None:
    """`choose_steps` leaves out the steps that the options do not need."""
    for max_wait, waits in ((0, False), (1, True)):
        steps = Steps.of(plugin.Places(max_wait=max_wait))
        assert [steps.admit_blocking is not None, steps.admit_awaiting is not None] == [waits, waits]


@both_colours
async def test_a_plugin_can_make_calls_wait(function: Callable[..., Any]) -> None:
    """The engine sleeps until the turn of a call, and `bind` refuses a place outside of a retry."""
    clock = ManualClock()
    guarded = Pipeline("p", plugin.AskAgain(), plugin.Pace(3, clock=clock), sleeper=clock)(function)
    CALLS[:] = [fail, same, same]
    assert [await called(guarded, 3), await called(guarded, 3), clock.slept] == [3, 3, [3, 3]]
    with pytest.raises(ConfigurationError, match=r"'p\.pace' must stand after 'p\.ask_again'"):
        Pipeline("p", plugin.Pace(3), plugin.AskAgain())


@both_colours
@pytest.mark.parametrize("is_keyed", [False, True])
async def test_a_plugin_can_stand_in_for_an_outcome(function: Callable[..., Any], *, is_keyed: bool) -> None:
    """A policy that owns the call answers for it; an outer policy scores the error; `call` brings the function."""
    made = Keyed(lambda _key: plugin.LastAnswer(), key=lambda value: value) if is_keyed else plugin.LastAnswer()
    for pipeline in (Pipeline("p", plugin.AskAgain(), made), Pipeline("q", plugin.LastAnswer(name="alone"))):
        for guarded in (pipeline(function), lambda value, call=pipeline.call: call(function, value)):
            CALLS[:] = [same, fail, fail]
            assert [await called(guarded, 3), await called(guarded, 3)] == [3, 3]
            CALLS[:] = [fail, fail]
            with pytest.raises(OSError, match="down"):
                await called(guarded, 4)


async def test_a_plugin_keeps_no_awaitable() -> None:
    """A plain function that returns an awaitable is answered for as a coroutine function is."""

    def begin(value: int) -> Awaitable[int | None]:
        return awaited(value)

    guarded = Pipeline("p", plugin.LastAnswer())(begin)
    CALLS[:] = [fail, same, fail]
    with pytest.raises(OSError, match="down"):
        await called(guarded, 3)
    assert [await called(guarded, 3), await called(guarded, 3)] == [3, 3]


async def test_a_plugin_that_owns_the_call_can_guard_a_block() -> None:
    """A policy with a `scope` guards an `async with` block."""
    async with Pipeline("p", plugin.LastAnswer()).guard():
        pass


async def test_a_plugin_can_run_calls_in_a_thread() -> None:
    """Calls of both colours, and the policies inside, run in one thread. A coroutine function stays in its own."""
    label: ContextVar[str] = ContextVar("label")
    label.set("mine")

    def where() -> tuple[str, int]:
        return label.get(), threading.get_ident()

    async def here() -> tuple[str, int]:
        return where()

    pipeline = Pipeline("p", plugin.AskAgain(), plugin.OneThread(), plugin.LastAnswer())
    found = {pipeline.call(where), pipeline(where)(), await pipeline.acall(where), await pipeline.wrap_async(where)()}
    (in_thread,) = found
    assert in_thread[0] == "mine"
    assert in_thread != where()
    assert await pipeline.acall(here) == await pipeline(here)() == where()
    CALLS[:] = [same, fail, fail]
    assert [await pipeline.acall(plain, 3), await pipeline.acall(plain, 3), CALLS] == [3, 3, []]


@both_colours
async def test_a_plugin_can_have_a_policy_for_each_key(function: Callable[..., Any]) -> None:
    """The plan of a call chooses its places; an unknown plan uses the first one's."""
    plans, listener = plugin.PlacesByPlan(lambda _value, plan: plan, {"free": 1, "paid": 2}), RecordingListener()
    pipeline = Pipeline("p", plans, listeners=[listener])

    def nested(plan: str) -> Callable[[int], Any]:
        return lambda value: pipeline.call(lambda value, _plan: same(value), value, plan)

    def by_plan(value: int, _plan: str) -> Any:
        return function(value)

    for plan, inner in (("free", "paid"), ("paid", "paid"), ("paid", "free")):
        CALLS[:] = [nested(inner)]
        assert await called(pipeline.call, by_plan, 3, plan) == 3
    assert listener.kinds == []
    for plan, inner in (("free", "free"), ("free", "unknown"), ("unknown", "free")):
        CALLS[:] = [nested(inner)]
        with pytest.raises(RejectedError, match=r"p\.places_by_plan\.free: all 1 places are taken"):
            await called(pipeline.call, by_plan, 3, plan)
    assert listener.kinds == ["places.refused"] * 3
    assert pipeline.describe()["policies"][0]["options"] == {"free": 1, "paid": 2}
    assert {plan: state["running"] for plan, state in plans.snapshot().items()} == {"free": 0, "paid": 0}


@both_colours
@pytest.mark.parametrize("is_keyed", [False, True])
async def test_a_plugin_can_change_any_policy(function: Callable[..., Any], *, is_keyed: bool) -> None:
    """A changed policy ignores some errors; of one policy for each key, each is changed."""
    made = Keyed(lambda _key: plugin.AskAgain(), key=lambda value: value) if is_keyed else plugin.AskAgain()

    def refuse(_value: int) -> int:
        raise ConnectionRefusedError

    guarded = Pipeline("p", plugin.ignoring(made, ConnectionError))(function)
    CALLS[:] = [refuse, same]
    with pytest.raises(ConnectionRefusedError):
        await called(guarded, 3)
    assert [same] == CALLS
    CALLS[:] = [fail, same]
    assert await called(guarded, 3) == 3
