"""Texts for values that are no policies, and for values that are no functions: each says which line to write."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from resilience._engine._steps import KeyedPolicy, Steps
from resilience.errors import ConfigurationError, Problem, named
from resilience.policy import AroundPolicy, Policy

__all__ = (
    "POLICIES",
    "check_decorated",
    "check_function",
    "check_name",
    "no_function",
    "no_policy",
    "refused_block",
)

POLICIES = (Policy, AroundPolicy, KeyedPolicy, Steps)
"""The classes and protocols of the elements of a pipeline."""
_MEMBER = "a policy: name, admit, on_success, on_failure, on_abandon (or name, around, around_async)"
_IN_PLACE_OF = {
    "TokenBucket": "the policy over a bucket is RateLimit(rate, burst)",
    "RetryBudget": "a budget belongs to a policy, as in Retry(budget=...)",
    "Resilience": "toolkit.pipeline({name!r}) is the pipeline that a toolkit configures",
    "Pipeline": "give its policies, as in Pipeline({name!r}, *other.policies)",
}
_PROPERTIES = (property, functools.cached_property)


def check_name(name: object) -> None:
    """Refuse a policy or a function in the place of the name of a pipeline."""
    expected = "the name of the pipeline first"
    if isinstance(name, (list, tuple, *POLICIES)):
        members = name if isinstance(name, list | tuple) else (name,)
        raise ConfigurationError([Problem("Pipeline", name, expected, f'write Pipeline("name", {_calls(members)})')])
    if callable(name):
        hint = f'write @Pipeline("name", ...) above {named(name)}'
        raise ConfigurationError([Problem("Pipeline", name, expected, hint)])


def no_policy(name: str, member: object) -> ConfigurationError:
    """Return the error for an element of a pipeline that is no policy."""
    if isinstance(member, type):
        reason = f"{member.__name__} is a class; give it an instance: write {member.__name__}()"
        return ConfigurationError(f"pipeline {name!r}: {reason}")
    return ConfigurationError([Problem(f"Pipeline({name!r})", member, _MEMBER, _instead(name, member))])


def _instead(name: str, member: object) -> str:
    if isinstance(member, list | tuple | set | frozenset):
        return f"give the policies one by one, as in Pipeline({name!r}, {_calls(member)})"
    if isinstance(member, str):
        return f"a policy is an object, as in Pipeline({name!r}, Retry())"
    if member is None:
        return "leave it out"
    if (instead := _IN_PLACE_OF.get(type(member).__name__)) is not None:
        return instead.format(name=name)
    return f"to guard {named(member)}, use the pipeline as its decorator" if inspect.isroutine(member) else ""


def _calls(members: Any) -> str:
    """Return policies as a user writes them, without their options."""
    return ", ".join(f"{type(each).__name__}(...)" for each in members) or "Retry(...)"


def check_function(name: str, fn: object) -> None:
    """Refuse a value that a pipeline cannot guard as a decorator."""
    at = f"the pipeline {name!r}"
    if isinstance(fn, _PROPERTIES):
        kind = type(fn).__name__
        hint = f"write @{kind} first, and the pipeline below it, directly above `def`"
        raise ConfigurationError([Problem(name, fn, "a function, method or other callable to guard", hint)])
    if isinstance(fn, type) and fn.__module__ != "builtins":  # `int` and its like are functions to their users
        reason = f"{fn.__name__} is a class, and {at} would guard its constructor alone"
        remedy = f"put the decorator above its methods, or call pipeline.call({fn.__name__}, ...)"
        raise ConfigurationError(f"{reason}: {remedy}")
    if isinstance(fn, POLICIES):
        reason = "is a policy, not a function"
        raise ConfigurationError(f"{named(fn)} {reason}: give it to the pipeline, as in Pipeline({name!r}, policy)")
    if not callable(fn):
        _close(fn)
        raise ConfigurationError([Problem(name, fn, "a function, method or other callable to guard")])


def check_decorated(name: str, functions: tuple[object, ...], options: dict[str, object]) -> None:
    """Refuse a pipeline that is called without exactly one function."""
    if options:
        given = ", ".join(f"{option}=..." for option in options)
        raise ConfigurationError(f"pipeline {name!r} takes a function alone: {given} belongs to a policy of it")
    if len(functions) != 1:
        given = f"{len(functions)} arguments" if functions else "no argument"
        remedy = "write @pipeline without parentheses, or pipeline.call(function, ...) for one call"
        raise ConfigurationError(f"pipeline {name!r} takes one function to guard, and got {given}: {remedy}")


def refused_block(name: str) -> ConfigurationError:
    """Return the error for `with pipeline:`."""
    return ConfigurationError(
        f"pipeline {name!r} is no block: write `with pipeline.guard():`, with `async` if you await"
    )


def no_function(name: str, method: str, fn: object) -> ConfigurationError:
    """Return the error for a result in the place of the function to call. A coroutine is closed."""
    is_made = inspect.isawaitable(fn) or inspect.isgenerator(fn) or inspect.isasyncgen(fn)
    what = f"{getattr(fn, '__name__', 'f')}(...)" if is_made else "f(...)"
    _close(fn)
    function = what.removesuffix("(...)")
    expected = "the function itself, and its arguments after it"
    hint = f"write {name}.{method}({function}, ...) in place of {name}.{method}({what})"
    return ConfigurationError([Problem(f"{name}.{method}", fn, expected, hint)])


def _close(made: object) -> None:
    """Close a coroutine that is never awaited: it would warn beside the error."""
    if inspect.iscoroutine(made):
        made.close()
