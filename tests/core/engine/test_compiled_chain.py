"""What a compiled chain consists of: features that are off leave nothing in it, and a success enters few frames."""

import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import resilience
from resilience import (
    Bulkhead,
    Cache,
    CircuitBreaker,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Retry,
    RetryBudget,
    Timeout,
    idempotent,
)
from resilience.breaker._circuit import Circuit
from resilience.breaker._states import Closed
from resilience.policy import PolicyBase

OURS = str(Path(resilience.__file__).parent)
Make = Callable[[], tuple[Any, ...]]


def plain() -> int:
    return 3


async def awaited() -> int:
    return 3


@contextmanager
def frames() -> Iterator[list[str]]:
    """Note the Python functions of ours that the block enters, in this thread, and no finalizer of earlier objects."""
    entered: list[str] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            entered.append(frame.f_code.co_qualname)

    gc.disable()
    sys.setprofile(note)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        gc.enable()


async def success(*policies: Any) -> tuple[list[str], list[str]]:
    """Return the frames of a success, blocking and awaited, through a chain that has been called before."""
    chain = Pipeline("p", *policies)
    blocking, awaiting = chain(plain), chain(awaited)
    for _ in range(2):
        assert blocking() == await awaiting() == 3
    with frames() as of_blocking:
        blocking()
    with frames() as of_awaiting:
        await awaiting()
    return of_blocking, of_awaiting


def cell(compiled: Callable[..., Any], name: str) -> Any:
    """Return the value of a free variable of a compiled chain."""
    return inspect.getclosurevars(compiled).nonlocals[name]


EACH: dict[str, tuple[Make, int]] = {
    "nothing": (lambda: (PolicyBase("nothing"),), 1),
    "retry": (lambda: (Retry(),), 1),
    "retry with a timeout": (lambda: (Retry(timeout=5),), 1),
    "breaker": (lambda: (CircuitBreaker(),), 2),
    "breaker by rate": (lambda: (CircuitBreaker(failure_rate_threshold=0.5),), 2),
    "breaker by count": (lambda: (CircuitBreaker(failure_count_threshold=5),), 2),
    "breaker over a time": (lambda: (CircuitBreaker(failure_rate_threshold=0.5, sliding_window="60s"),), 3),
    "breaker in shadow": (lambda: (CircuitBreaker(shadow=True),), 2),
    "breaker disabled": (lambda: (CircuitBreaker(mode="disabled"),), 2),
    "breaker with every open time": (
        lambda: (CircuitBreaker(reset_timeout_growth=2, ramp=30, half_open_lease=5, retry_after=lambda _error: 1),),
        2,
    ),
    "rate limit": (lambda: (RateLimit("1000/second"),), 3),
    "bulkhead": (lambda: (Bulkhead(3),), 3),
}


@pytest.mark.parametrize(("make", "expected"), EACH.values(), ids=EACH)
async def test_a_success_enters_few_frames(make: Make, expected: int) -> None:
    """A success enters a frame of the driver for each policy and those of its steps, none for what is off."""
    blocking, awaiting = await success(*make())
    assert len(blocking) == len(awaiting) == expected, (blocking, awaiting)


OWNERS: dict[str, tuple[Make, int, int]] = {
    "fallback": (lambda: (Fallback(1),), 2, 1),
    "timeout by the deadline alone": (lambda: (Timeout(None),), 3, 2),
    "timeout": (lambda: (Timeout(60),), 10, 5),
    "cache": (lambda: (Cache(),), 2, 1),
}


@pytest.mark.parametrize(("make", "blocking", "awaiting"), OWNERS.values(), ids=OWNERS)
async def test_policies_that_own_the_call_enter_few_frames(make: Make, blocking: int, awaiting: int) -> None:
    """A policy that owns the call adds the frames stated here; the blocking driver's own is there once, outermost."""
    of_blocking, of_awaiting = await success(*make())
    assert (len(of_blocking), len(of_awaiting)) == (blocking, awaiting), (of_blocking, of_awaiting)


async def test_a_chain_costs_what_its_policies_cost() -> None:
    """Composing adds nothing: the frames of a chain are those of its policies, and no more."""
    parts = [EACH[name] for name in ("retry", "breaker by rate", "rate limit", "bulkhead")]
    blocking, awaiting = await success(*(policy for make, _ in parts for policy in make()))
    assert len(blocking) == len(awaiting) == sum(expected for _, expected in parts) == 9


def test_every_guard_is_the_same_code() -> None:
    """A policy with features on differs in what its closure holds, never in code that asks which are on."""
    makes = [make for make, _ in EACH.values()]
    makes += [lambda: (Retry(budget=RetryBudget(), on_result=lambda _result: False),)]
    makes += [lambda: (CircuitBreaker(slow_call_rate_threshold=0.5, record_result=lambda _result: False),)]
    for function in (plain, awaited):
        assert len({Pipeline("p", *make())(function).__code__ for make in makes}) == 1


def test_steps_not_needed_are_not_in_the_closure() -> None:
    """Steps that a policy leaves as they are, or does not need as it was told, are not compiled in."""
    for function in (plain, awaited):
        steps = {name: cell(Pipeline("p", PolicyBase("p"))(function), name) for name in ("admit", "on_success")}
        assert steps == {"admit": None, "on_success": None}
        assert cell(Pipeline("p", Retry())(function), "admit") is None
        assert cell(Pipeline("p", Retry())(function), "on_success") is None
        assert cell(Pipeline("p", Retry(timeout=5))(function), "admit") is not None
        assert cell(Pipeline("p", Retry(on_result=bool))(function), "on_success") is not None
        assert cell(Pipeline("p", RateLimit("1/second"))(function), "on_success") is None
        assert cell(Pipeline("p", RateLimit("1/second", drain_on=OSError))(function), "on_success") is not None


def test_a_breaker_with_features_off_has_its_plain_steps() -> None:
    """What judges results, times calls or asks a storage runs only if it was asked for."""
    breaker = CircuitBreaker(failure_rate_threshold=0.5)
    compiled = Pipeline("p", breaker)(plain)
    assert cell(compiled, "admit").__func__ is Circuit.admit
    assert cell(compiled, "on_success").__func__ is CircuitBreaker.on_success
    assert type(breaker._circuit.fast_permit) is Closed  # so that not even `admit` is called
    assert not breaker._checks_successes
    assert CircuitBreaker(record_result=lambda _result: False)._checks_successes
    assert CircuitBreaker(slow_call_rate_threshold=0.5)._circuit.fast_permit is None


@pytest.mark.parametrize("function", [plain, awaited], ids=["blocking", "awaiting"])
def test_stand_ins_are_delivered_only_where_there_can_be_any(function: Callable[..., Any]) -> None:
    """A chain whose fallback is outermost, or that has none, has no wrapper that would deliver a stand-in."""

    def outermost(*policies: Any) -> str:
        return str(Pipeline("p", *policies)(function).__code__.co_qualname)

    assert outermost(Retry()) == outermost(Retry(), CircuitBreaker()) == "_guard.<locals>.call"
    assert "_delivering" not in outermost(Fallback(1), Retry())
    assert outermost(Retry(), Fallback(1)) == "_delivering.<locals>.call"


async def test_what_does_not_serve_a_function_is_not_in_its_chain() -> None:
    """A policy that does not serve a function costs its calls nothing: it is left out when the chain is compiled."""

    def plain_again() -> int:
        return 3

    hedge, picky = Hedge(60.0), Retry(idempotent_only=True)
    assert await success(hedge, CircuitBreaker(), picky) == await success(CircuitBreaker())
    chain = Pipeline("p", hedge, CircuitBreaker(), picky)
    marked = chain(idempotent(plain_again))
    with frames() as entered:
        assert marked() == 3
    assert any("hedge" in name.lower() for name in entered)


def test_a_chain_in_which_all_serve_does_not_ask() -> None:
    """Only a policy that was told to choose its functions has anything to be asked."""
    assert not Pipeline("p", Retry(), CircuitBreaker(), Bulkhead(), RateLimit("1/second"))._selects
    assert Pipeline("p", Retry(idempotent_only=True))._selects


async def test_only_a_keyed_policy_looks_at_arguments() -> None:
    """A policy that is the same for every call is compiled in; one per key is looked up at each call, and once."""
    blocking, awaiting = await success(CircuitBreaker())
    assert not any("by_key" in name for name in blocking + awaiting)
    blocking, awaiting = await success(Keyed(lambda _key: CircuitBreaker(), key=lambda: "a"))
    assert blocking.count("by_key.<locals>.call") == awaiting.count("by_key.<locals>.call") == 1


async def test_a_limit_that_may_wait_asks_only_then() -> None:
    """Admission that may wait has its own step; where nothing may, the driver never looks for a wait."""
    assert cell(Pipeline("p", RateLimit("1/second"))(plain), "admit").__name__ == "_admit_at_once"
    assert "admission" not in cell(Pipeline("p", RateLimit("1/second"))(plain), "admit").__qualname__
    assert "admission" in cell(Pipeline("p", RateLimit("1/second", max_wait=1))(plain), "admit").__qualname__
    blocking, _ = await success(Bulkhead(3))
    assert not any("Queue" in name for name in blocking)
