import asyncio
from typing import Any

import pytest

from resilience import ConfigurationError, Fallback, Pipeline
from resilience.testing import RecordingListener


def fail() -> str:
    raise ValueError("down")


async def afail() -> str:
    raise ValueError("down")


async def test_value_and_function_in_both_colours() -> None:
    """The value, or what the function makes of the error, stands in for the error."""

    async def later(error: Exception) -> str:
        return f"later {error}"

    for fallback, expected in ((Fallback("spare"), "spare"), (Fallback(function=lambda e: f"now {e}"), "now down")):
        assert Pipeline("p", fallback).call(fail) == expected
        assert await Pipeline("p", fallback).acall(afail) == expected
    assert await Pipeline("p", Fallback(function=later)).acall(afail) == "later down"


def test_success_and_other_errors_pass_through() -> None:
    """A result is untouched, and so is an error outside `on`; None is a value like any other."""
    pipeline = Pipeline("p", Fallback(None, on=(KeyError, OSError)))
    assert pipeline.call(lambda: 3) == 3
    with pytest.raises(ValueError, match="down"):
        pipeline.call(fail)
    assert pipeline.call(dict[str, int]().__getitem__, "x") is None


async def test_cancellation_passes_through() -> None:
    """A cancelled call is cancelled, not replaced."""
    task = asyncio.ensure_future(Pipeline("p", Fallback(1)).acall(asyncio.sleep, 10))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_failing_function_keeps_the_original_error() -> None:
    """When the fallback fails too its error is raised, with the first one as context."""

    def broken(_: Exception) -> str:
        raise RuntimeError("also down")

    with pytest.raises(RuntimeError, match="also down") as caught:
        Pipeline("p", Fallback(function=broken)).call(fail)
    assert isinstance(caught.value.__context__, ValueError)


def test_coroutine_function_cannot_stand_in_for_a_blocking_call() -> None:
    """A coroutine function as fallback of a blocking call is refused when the call is wrapped."""

    async def later(_: Exception) -> str:
        return "later"

    with pytest.raises(ConfigurationError, match="cannot stand in for a blocking call"):
        Pipeline("p", Fallback(function=later))(fail)


def test_use_is_evented() -> None:
    """Each use is an event that carries the error."""
    listener = RecordingListener()
    Pipeline("p", Fallback(0, name="spare"), listeners=[listener]).call(fail)
    assert [(event.kind, event.policy, str(event.facts["error"])) for event in listener.events] == [
        ("fallback.used", "spare", "down")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of value and function"),
        ({"value": 1, "function": str}, "exactly one of value and function"),
        ({"function": 3}, "function=3"),
        ({"value": 1, "on": BaseException}, "on="),
        ({"value": 1, "on": ()}, "on="),
        ({"value": 1, "on": "ValueError"}, "on='ValueError'"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    """A bad option is refused at construction."""
    with pytest.raises(ConfigurationError, match=message):
        Fallback(**options)


def test_repr() -> None:
    """A fallback says where its value comes from."""
    assert repr(Fallback(1, name="f")) == "<Fallback 'f' value=1>"
    assert "function=" in repr(Fallback(function=str))
