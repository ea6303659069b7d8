"""The state of all parts of a toolkit as plain data of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from resilience.errors import one_line

if TYPE_CHECKING:
    from resilience.budget import RetryBudget
    from resilience.toolkit._parts import NamedParts

__all__ = ("MAX_KEYS", "MAX_PARTS", "parts_snapshot", "redis_snapshot")

Figures: TypeAlias = "dict[str, Any]"
"""A snapshot."""
MAX_PARTS = 200
"""Pipelines, limiters, pools, budgets and checks that are shown, of each."""
MAX_KEYS = 100
"""Keys of a policy that are shown. Those whose state is not the usual one come first."""
_QUIET_STATES = frozenset({None, "closed"})


def parts_snapshot(parts: NamedParts, budgets: list[RetryBudget]) -> Figures:
    """Return the state of the parts that were built. Builds nothing, asks nothing, and runs no check.

    Args:
        parts: The parts of the toolkit.
        budgets: The retry budgets that are configured.
    """
    pipelines = [_bounded(pipeline.snapshot()) for pipeline in islice(parts.of("pipeline"), MAX_PARTS)]
    limiters = [{"name": each.name, **each.snapshot()} for each in islice(parts.of("limiter"), MAX_PARTS)]
    found: Figures = {
        "pipelines": pipelines,
        "limiters": limiters,
        "pools": [{"name": each.name, **each.snapshot()} for each in islice(parts.of("pool"), MAX_PARTS)],
        "budgets": [budget.snapshot() for budget in islice(budgets, MAX_PARTS)],
        "checks": [check for health in parts.of("health") for check in health.snapshot()][:MAX_PARTS],
        "lifecycle": next(({"state": each.state, "in_flight": each.in_flight} for each in parts.of("lifecycle")), None),
    }
    return cast("Figures", _plain(found))


def redis_snapshot(parts: NamedParts) -> Figures:
    """Return whether Redis is down, and the fleet if this instance takes part in it. Builds nothing."""
    store, connection = next(iter(parts.of("store")), None), next(iter(parts.of("redis")), None)
    found: Figures = {"is_down": store is not None and store.outage.is_down}
    if connection is not None:
        from resilience.fleet import Fleet  # noqa: PLC0415 - imported by services with a URL

        fleet = Fleet.known(connection)
        if fleet is not None and fleet.is_open:
            found |= fleet.snapshot()
    return cast("Figures", _plain(found))


def _bounded(pipeline: Figures) -> Figures:
    """Return the snapshot of a pipeline with at most `MAX_KEYS` keys for each policy."""
    return {
        **pipeline,
        **{
            group: [_with_few_keys(policy) for policy in pipeline[group]]
            for group in ("policies", "clients")
            if group in pipeline
        },
    }


def _with_few_keys(policy: Figures) -> Figures:
    each = policy.get("each")
    if not isinstance(each, Mapping) or len(each) <= MAX_KEYS:
        return policy
    known = cast("dict[str, Figures]", each)
    latest_first = list(reversed(known))  # the keys are in the order of their last use
    chosen = sorted(latest_first, key=lambda key: known[key].get("state") in _QUIET_STATES)[:MAX_KEYS]  # stable
    return {**policy, "each": {key: known[key] for key in chosen}, "left_out": len(known) - MAX_KEYS}


def _plain(value: object) -> object:
    """Return a value as JSON can hold it, with texts on one line."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return {one_line(key): _plain(each) for key, each in entries}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("list[object]", value)]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if abs(value) != float("inf") and value == value else None  # noqa: PLR0124 - NaN
    return one_line(value)
