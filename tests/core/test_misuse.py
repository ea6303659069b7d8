"""Mistakes that a newcomer makes: each is refused where it is made, with a text that names the line to write."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from typing import Any, cast

import pytest

import resilience
from resilience import (
    Bulkhead,
    Cache,
    CircuitBreaker,
    ConfigurationError,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Resilience,
    Retry,
    RetryBudget,
    SingleFlight,
    ThreadPoolBulkhead,
    Timeout,
    TokenBucket,
)
from resilience.policy import PolicyBase
from resilience.retry import RetryOptions

api: Any = resilience
"""Without types: a type checker finds most of these mistakes by itself."""


def job(*_arguments: object) -> int:
    return 1


async def awaited() -> int:
    return 1


POLICIES: dict[str, Callable[[], Any]] = {
    "Retry": lambda: Retry(attempts=3),
    "Timeout": lambda: Timeout("1s"),
    "RateLimit": lambda: RateLimit("5/minute"),
    "Bulkhead": lambda: Bulkhead(3),
    "ThreadPoolBulkhead": lambda: ThreadPoolBulkhead(3),
    "Fallback": lambda: Fallback(value=1),
    "Hedge": lambda: Hedge("1s"),
    "Cache": lambda: Cache("1m"),
    "SingleFlight": SingleFlight,
    "Keyed": lambda: Keyed(lambda _key: Bulkhead(1), key=job),
}


@pytest.mark.parametrize("kind", POLICIES)
def test_a_policy_is_no_decorator(kind: str) -> None:
    """A policy above a function is refused at once, with the pipeline to write."""
    with pytest.raises(ConfigurationError) as caught:
        POLICIES[kind]()(job)
    assert str(caught.value) == (
        f"{kind} is a policy and cannot guard job by itself: put it into a pipeline and use that as the decorator, "
        f'as in @Pipeline("name", {kind}(...))'
    )


def test_a_breaker_is_a_decorator() -> None:
    """A breaker stays a decorator, as pybreaker's is."""
    breaker = CircuitBreaker(fail_max=1)
    assert breaker(job)() == 1


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    # A pipeline that is made wrongly.
    "list": (
        lambda: api.Pipeline("p", [Retry(), Timeout(1)]),
        "one by one, as in Pipeline('p', Retry(...), Timeout(...))",
    ),
    "policy first": (
        lambda: api.Pipeline(Retry()),
        'the name of the pipeline first (write Pipeline("name", Retry(...)))',
    ),
    "list first": (lambda: api.Pipeline([Retry(), Timeout(1)]), 'write Pipeline("name", Retry(...), Timeout(...))'),
    "function first": (lambda: api.Pipeline(job), 'write @Pipeline("name", ...) above job'),
    "text": (lambda: api.Pipeline("p", "retry"), "a policy is an object, as in Pipeline('p', Retry())"),
    "None": (lambda: api.Pipeline("p", None), "leave it out"),
    "class": (lambda: api.Pipeline("p", Retry), "Retry is a class; give it an instance: write Retry()"),
    "function": (lambda: api.Pipeline("p", job), "to guard job, use the pipeline as its decorator"),
    "pipeline": (lambda: api.Pipeline("p", Pipeline("q", Retry())), "as in Pipeline('p', *other.policies)"),
    "toolkit": (lambda: api.Pipeline("p", Resilience()), "toolkit.pipeline('p') is the pipeline"),
    "bucket": (lambda: api.Pipeline("p", TokenBucket("5/s")), "the policy over a bucket is RateLimit(rate, burst)"),
    "budget": (lambda: api.Pipeline("p", RetryBudget()), "as in Retry(budget=...)"),
    "options": (lambda: api.Pipeline("p", RetryOptions()), "expected a policy"),
    "two names": (lambda: api.Pipeline("p", Retry(), Retry()), "two policies named 'p.retry'"),
    "space": (lambda: api.Pipeline("my payments"), "a name of letters, digits"),
    # A pipeline that is used wrongly.
    "parentheses": (api.Pipeline("p"), "write @pipeline without parentheses"),
    "options of a policy": (lambda: api.Pipeline("p")(attempts=3), "attempts=... belongs to a policy of it"),
    "with": (lambda: api.Pipeline("p").__enter__(), "write `with pipeline.guard():`"),
    "property": (lambda: api.Pipeline("p")(property(job)), "write @property first, and the pipeline below it"),
    "cached": (lambda: api.Pipeline("p")(functools.cached_property(job)), "write @cached_property first"),
    "guarded class": (
        lambda: api.Pipeline("p")(RetryOptions),
        "RetryOptions is a class, and the pipeline 'p' would guard",
    ),
    "guarded policy": (
        lambda: api.Pipeline("p")(CircuitBreaker()),
        "is a policy, not a function: give it to the pipeline",
    ),
    "guarded text": (lambda: api.Pipeline("p")("job"), "a function, method or other callable to guard"),
    "result": (lambda: api.Pipeline("p").call(job()), "write p.call(f, ...) in place of p.call(f(...))"),
    "coroutine": (
        lambda: api.Pipeline("p").call(awaited()),
        "write p.call(awaited, ...) in place of p.call(awaited(...))",
    ),
    "awaited coroutine": (lambda: api.Pipeline("p").acall(awaited()), "write p.acall(awaited, ...)"),
    "wrapped coroutine": (lambda: api.Pipeline("p").wrap_async(awaited()), "write p.wrap_async(awaited, ...)"),
    "no name": (lambda: api.Resilience().pipeline(job), 'write @toolkit.pipeline("name") above it'),
    # Options.
    "on text": (lambda: api.Retry(on="ConnectionError"), "give the class, without quotes: on=ConnectionError"),
    "on list": (lambda: api.Retry(on=[KeyError, OSError]), "give a tuple: on=(KeyError, OSError)"),
    "on object": (lambda: api.Retry(on=KeyError()), "give the class: on=KeyError"),
    "on cancellation": (
        lambda: api.Retry(on=asyncio.CancelledError),
        "not an Exception: a cancellation or an interrupt",
    ),
    "on status": (lambda: api.Retry(on=503), "expected an Exception class, a predicate, or a tuple of them"),
    "error first": (lambda: api.Retry(ConnectionError), "write on=ConnectionError"),
    "bare policy": (lambda: api.Retry(job), "a policy is no decorator"),
    "bare timeout": (lambda: api.Timeout(job), "a policy is no decorator"),
    "attempts text": (lambda: api.Retry(attempts="3"), "attempts='3': expected a whole number"),
    "no attempt": (lambda: api.Retry(attempts=0), "attempts=0: expected a whole number from 1"),
    "no time": (lambda: api.Timeout(0), "seconds=0: expected a duration"),
    "no place": (lambda: api.Bulkhead(0), "max_concurrent_calls=0: expected a whole number from 1"),
    "percent": (lambda: api.CircuitBreaker(failure_rate_threshold=50), "50 % is 0.5"),
    "budget percent": (lambda: api.RetryBudget(ratio=20), "20 % is 0.2"),
    "name first": (lambda: api.CircuitBreaker("payments"), "fail_max='payments': expected a whole number"),
    "swapped": (lambda: api.RateLimit(10, "5/second"), "rate=10: expected a rate"),
    "keyed policy": (lambda: api.Keyed(CircuitBreaker(), job), "write make=lambda key: CircuitBreaker(...)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.filterwarnings("error")
def test_a_mistake_is_refused_with_the_line_to_write(mistake: str) -> None:
    """Each mistake raises `ConfigurationError` at the line that makes it, and the text says what to write."""
    make, text = MISTAKES[mistake]
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        make()


def test_no_call_is_made_with_a_result_in_place_of_a_function() -> None:
    """A retry does not repeat the mistake, and a breaker does not count it."""
    breaker = CircuitBreaker(fail_max=1)
    with pytest.raises(ConfigurationError):
        Pipeline("p", Retry(attempts=3), breaker).call(cast(Any, job()))
    assert breaker.current_state == "closed"


@pytest.mark.parametrize("wrapper", [staticmethod, classmethod])
def test_methods_are_guarded_in_either_order(wrapper: Any) -> None:
    """The pipeline can stand above or below `@staticmethod` and `@classmethod`, and below `@property`."""
    pipeline = Pipeline("p", Retry())
    above: Any = type("Above", (), {"job": pipeline(wrapper(job))})
    below: Any = type("Below", (), {"job": wrapper(pipeline(job)), "value": property(pipeline(job))})
    assert above().job() == below().job() == below().value == 1


OBJECTS: dict[str, Callable[[], Any]] = {
    **POLICIES,
    "CircuitBreaker": CircuitBreaker,
    "TokenBucket": lambda: TokenBucket("5/second"),
    "RetryBudget": RetryBudget,
    "Pipeline": lambda: Pipeline("p"),
    "Resilience": Resilience,
    "options": RetryOptions,
}


@pytest.mark.parametrize("kind", [kind for kind in OBJECTS if kind != "Keyed"])
def test_no_assignment_is_without_effect(kind: str) -> None:
    """An attribute that does not exist cannot be set."""
    thing = OBJECTS[kind]()
    with pytest.raises(AttributeError, match=r"atempts|frozen|cannot assign"):
        thing.atempts = 3


OPTIONS = {
    "Retry": "attempts",
    "Timeout": "seconds",
    "RateLimit": "rate",
    "Bulkhead": "max_concurrent_calls",
    "ThreadPoolBulkhead": "max_threads",
    "Fallback": "on",
    "Hedge": "quantile",
    "Cache": "ttl",
    "SingleFlight": "max_wait",
    "Keyed": "max_keys",
    "CircuitBreaker": "failure_rate_threshold",
    "TokenBucket": "rate",
    "RetryBudget": "ratio",
    "Pipeline": "sleeper",
    "Resilience": "config",
    "options": "attempts",
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_are_fixed(kind: str) -> None:
    """An option cannot be changed by an assignment; the error says where the value belongs."""
    thing = OBJECTS[kind]()
    with pytest.raises(AttributeError) as caught:
        setattr(thing, OPTIONS[kind], 3)
    if kind not in {"Keyed", "Resilience", "options"}:
        assert f"give it when the object is made, as in {kind}({OPTIONS[kind]}=...)" in str(caught.value)


def test_the_error_names_the_method_that_changes_an_object() -> None:
    """A bulkhead can be resized and a bucket has `with_rate`: the error says so."""
    with pytest.raises(AttributeError, match=r"or use its method resize\(limit\)"):
        api.Bulkhead(3).max_concurrent_calls = 9
    with pytest.raises(AttributeError, match=r"or use its method with_rate\(rate\)"):
        api.TokenBucket("5/second").rate = "9/second"
    with pytest.raises(AttributeError, match=r"did you mean CircuitBreaker\(reset_timeout=...\)"):
        api.CircuitBreaker().reset_timout = 9


def test_settable_attributes_stay() -> None:
    """The properties that pybreaker documents as settable, and the name of a policy, can be set."""
    breaker = CircuitBreaker()
    breaker.fail_max, breaker.reset_timeout, breaker.success_threshold, breaker.name = 3, 9, 2, "bank"
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold, breaker.name) == (3, 9, 2, "bank")


def test_a_class_of_the_user_sets_what_it_likes() -> None:
    """A policy of a third party, or a subclass of ours, has attributes of its own."""

    class Mine(PolicyBase):
        def __init__(self) -> None:
            super().__init__("mine")
            self.calls = 0

    class MyRetry(Retry):
        def __init__(self) -> None:
            super().__init__(attempts=2)
            self.label = "mine"

    mine, retry = Mine(), MyRetry()
    mine.calls, retry.label = 1, "ours"
    assert (mine.calls, retry.label) == (1, "ours")
