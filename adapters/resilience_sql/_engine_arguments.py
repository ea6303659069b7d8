"""The arguments of an engine pool: those of `QueuePool`, and the options of our pools beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilience.errors import ConfigurationError, Problem
from resilience.options import Refused, Whole
from resilience.pool import PoolOptions

__all__ = ("options_of_engine",)

_THEIRS = {"connection_timeout": "pool_timeout", "max_lifetime": "pool_recycle"}
"""The arguments of `create_engine` by our options. The others have the same name in both."""
_NEVER = -1


def options_of_engine(
    *, pool_size: int, max_overflow: int, recycle: object, use_lifo: bool | None, pre_ping: bool, **options: Any
) -> PoolOptions:
    """Return the options of the pool below an engine pool.

    Raises:
        ConfigurationError: One or more arguments have the wrong type or value. Each has the name that `create_engine`
            gives it.
    """
    problems = [*_of_size(pool_size, max_overflow), *_of_lifo(use_lifo)]
    if options["keepalive_time"] is not None and not pre_ping:
        problems.append(Problem("keepalive_time", options["keepalive_time"], "None, or pool_pre_ping=True beside it"))
    options["maximum_pool_size"] = 100_000 if problems else pool_size + max_overflow
    options["max_lifetime"] = None if recycle == _NEVER else recycle
    try:
        made = PoolOptions(**options)
    except ConfigurationError as error:
        raise ConfigurationError([*problems, *map(_renamed, error.problems)]) from None
    if problems:
        raise ConfigurationError(problems)
    return made


def _of_size(pool_size: object, max_overflow: object) -> list[Problem]:
    """Return what is wrong with the sizes. `QueuePool` has no limit with 0 and -1; this pool always has one."""
    rules: Mapping[str, tuple[object, Whole, str]] = {
        "pool_size": (pool_size, Whole(1, 100_000), "there is no pool without a limit"),
        "max_overflow": (max_overflow, Whole(0, 100_000), "there is no pool without a limit"),
    }
    problems = []
    for name, (value, rule, hint) in rules.items():
        try:
            rule.check(value)
        except Refused:
            problems.append(Problem(name, value, rule.expected, hint))
    return problems


def _of_lifo(use_lifo: object) -> list[Problem]:
    if use_lifo is None or use_lifo is True:
        return []
    return [Problem("pool_use_lifo", use_lifo, "True: the connection that came back last is lent first, always")]


def _renamed(problem: Problem) -> Problem:
    name = _THEIRS.get(problem.option, problem.option)
    return Problem(name, problem.value, problem.expected, problem.hint)
