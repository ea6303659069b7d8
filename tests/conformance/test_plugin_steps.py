"""The example of a third party that uses the optional steps, run by the suite that we ship for plugins."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import example_modules
import pytest

from resilience import Keyed, Pipeline
from resilience.testing import ManualClock, PolicyConformance

plugin = example_modules.load("plugin_steps")


class TestTurns(PolicyConformance):
    def make_policy(self) -> Any:
        return plugin.Turns()


class TestTurnsThatWait(PolicyConformance):
    def make_policy(self) -> Any:
        return plugin.Turns(max_wait=5)


class TestTurnsWithDelay(PolicyConformance):
    def make_policy(self) -> Any:
        return plugin.Turns(delay=0.001)


class TestTurnsWithFastPermit(PolicyConformance):
    def make_policy(self) -> Any:
        return plugin.Turns(fast="fast")


def plain(value: int) -> int | None:
    return CALLS.pop(0)(value)


async def awaited(value: int) -> int | None:
    return CALLS.pop(0)(value)


CALLS: list[Callable[[int], int | None]] = []


def fail(_value: int) -> int:
    raise OSError("down")


def same(value: int) -> int:
    return value


def empty(_value: int) -> None:
    return None


async def called(guarded: Callable[..., Any], *args: Any) -> Any:
    result = guarded(*args)
    return await result if inspect.isawaitable(result) else result


@pytest.mark.parametrize("function", [plain, awaited])
async def test_a_plugin_can_retry_errors_and_results(function: Callable[..., Any]) -> None:
    """A policy of a third party retries an error and a result, in both colours, and gives its place back once."""
    turns = plugin.Turns(attempts=2, empty_is_failure=True)
    guarded = Pipeline("p", turns)(function)
    for first in (fail, empty):
        CALLS[:] = [first, same]
        assert await called(guarded, 3) == 3
        assert turns._places._value == 1


def test_a_plugin_does_not_restart_a_generator_with_items() -> None:
    """After its first item a generator is not started again, and the place is free."""
    turns = plugin.Turns(attempts=2)

    def items() -> Iterator[int]:
        yield 1
        raise OSError("down")

    generator = Pipeline("p", turns)(items)()
    assert next(generator) == 1
    with pytest.raises(OSError, match="down"):
        next(generator)
    assert turns._places._value == 1


def test_a_plugin_chooses_functions_and_knows_its_neighbours() -> None:
    """`applies_to` leaves functions out, `bind` shows the neighbours, `choose_steps` leaves steps out."""
    turns, clock = plugin.Turns(only="same", delay=3), ManualClock()
    pipeline = Pipeline("p", turns, plugin.Turns(name="other"), sleeper=clock)
    CALLS[:] = [same]
    assert (pipeline(plain)(3), clock.slept) == (3, [])
    assert (pipeline(same)(3), clock.slept) == (3, [3])
    assert turns.snapshot() == {"neighbours": ["other"], "fast": False}


@pytest.mark.parametrize("function", [plain, awaited])
@pytest.mark.parametrize("is_keyed", [False, True])
async def test_a_plugin_can_stand_in_for_an_outcome(function: Callable[..., Any], *, is_keyed: bool) -> None:
    """A policy that owns the call answers for it; an outer policy scores the error; `call` brings the function."""
    made = Keyed(lambda _key: plugin.LastAnswer(), key=lambda value: value) if is_keyed else plugin.LastAnswer()
    outer = plugin.Turns(attempts=2)
    for pipeline in (Pipeline("p", outer, made), Pipeline("q", plugin.LastAnswer(name="alone"))):
        for guarded in (pipeline(function), lambda value, call=pipeline.call: call(function, value)):
            CALLS[:] = [same, fail, fail]
            assert [await called(guarded, 3), await called(guarded, 3)] == [3, 3]
            CALLS[:] = [fail, fail]
            with pytest.raises(OSError, match="down"):
                await called(guarded, 4)


async def test_a_plugin_that_owns_the_call_can_guard_a_block() -> None:
    """A policy with a `scope` guards an `async with` block."""
    async with Pipeline("p", plugin.LastAnswer()).guard():
        pass
