"""The text of each event in the log: one line that names the policy, the rule with its counts, and the next trial.

The text holds no message of an error, only its type: the message of a dependency may hold secrets or the data of a
customer. Names and keys are printable and bounded, so that no client can forge a line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from resilience._support.printable import one_line, span

__all__ = (
    "ELSEWHERE",
    "LINES",
    "OF_ONE_CALL",
    "EventLine",
    "Volume",
    "error_name",
    "error_type",
    "event_fields",
    "line_of",
    "named_with_key",
    "opening",
    "plain_facts",
)

Facts: TypeAlias = Mapping[str, Any]
_LONGEST_NAME, _LONGEST_FACT = 100, 200


class Volume(Enum):
    """How many lines an event may have."""

    TRANSITION = "transition"
    """Each change of a state, up to a bound."""
    SAMPLE = "sample"
    """One line for each policy and interval."""
    DETAIL = "detail"
    """None, unless the log has all events."""


class EventLine(NamedTuple):
    """How one kind of event is logged. `text` takes the quoted name of the policy and the facts."""

    volume: Volume
    level: int
    text: Callable[[str, Facts], str]


def error_name(error: object) -> str:
    """Return the type of an error, with its status if a client of ours has made it: "HTTPStatusError 503"."""
    kind = type(error)
    if hasattr(kind, "log_name"):  # asked of the class: an error that has no such attribute may raise when it is asked
        try:
            name = error.log_name  # type: ignore[attr-defined]  # see above
        except Exception:  # noqa: BLE001 - of a foreign class, which happens to use the same word
            return kind.__name__
        if isinstance(name, str):
            return name
    return kind.__name__


def error_type(error: object) -> str:
    """Return the name of an error, given as the error or as its name, fit for a line."""
    return one_line(error if isinstance(error, str) else error_name(error), _LONGEST_NAME)


def named_with_key(name: str, key: str) -> str:
    """Return the quoted name of a policy, followed by its key in brackets if it has one."""
    quoted = f"'{one_line(name, _LONGEST_NAME)}'"
    return f"{quoted} ({one_line(key, _LONGEST_NAME)})" if key else quoted


def plain_facts(facts: Facts) -> dict[str, object]:
    """Return the facts as numbers and short texts, for a log in JSON. Of an error only the type is kept."""
    return {name: _plain(value) for name, value in facts.items()}


def event_fields(kind: str, policy: str, facts: Facts, *, key: str = "", left_out: int = 0) -> dict[str, object]:
    """Return the fields of the log record of an event.

    They have a prefix: a formatter may have fields such as `event` of its own.

    Args:
        kind: The name of the event.
        policy: The name of the policy, check or part.
        facts: The fields of the event.
        key: The key of a keyed policy, or the host of a client.
        left_out: The number of events of this kind that were not logged since the last line.
    """
    shown = plain_facts(facts)
    return {
        "resilience_event": kind,
        "resilience_policy": one_line(policy),
        "resilience_key": one_line(key),
        "resilience_facts": shown,
        "resilience_left_out": left_out,
    }


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return one_line(value, _LONGEST_FACT) if isinstance(value, str) else error_type(value)


def opening(reason: str, failures: int, calls: int, slow: int, last_error: str | None) -> str:
    """Return why a circuit opened: "12 of 20 calls failed (failure rate), last TimeoutError".

    Args:
        reason: The rule that matched, or the text of an operator.
        failures: The failures that the rule saw.
        calls: The calls that the rule saw.
        slow: The slow calls that the rule saw.
        last_error: The type of the last error that counted, None if the last failure was a result.
    """
    last = f", last {error_type(last_error)}" if last_error else ""
    if reason == "slow call rate":
        return f"{slow} of {calls} calls were slow ({reason})"
    if reason in {"failure rate", "failure count", "consecutive failures", "failed while ramping up"}:
        return f"{failures} of {calls} calls failed ({reason}){last}"
    if reason == "trial call failed":
        return f"{reason}{last}"
    return one_line(reason, _LONGEST_FACT)


def _next(facts: Facts, verb: str = "next trial") -> str:
    after = facts.get("retry_after")
    return f"; {verb} in {span(after)}" if isinstance(after, int | float) else ""


def _shadow(facts: Facts) -> str:
    return " (shadow: the call was made)" if facts.get("shadow") else ""


def _opened(who: str, facts: Facts) -> str:
    counts = facts.get("failures", 0), facts.get("calls", 0), facts.get("slow_calls", 0)
    why = opening(str(facts.get("reason")), *counts, facts.get("last_error"))
    verb = "opened again" if facts.get("before") == "half-open" else "opened"
    shadow = " (shadow: calls are made)" if facts.get("shadow") else ""
    return f"circuit {who} {verb}: {why}{_next(facts)}{shadow}"


def _rejected(who: str, facts: Facts) -> str:
    why = one_line(facts.get("why"), _LONGEST_FACT)
    return f"circuit {who} {why}: a call was refused{_next(facts)}{_shadow(facts)}"


def _mode(who: str, facts: Facts) -> str:
    expires = facts.get("expires")
    ends = f", for {span(expires)}" if isinstance(expires, int | float) else ""
    change = " -> ".join(one_line(facts.get(name), _LONGEST_NAME) for name in ("before", "after"))
    return f"circuit {who} changed its mode: {change} ({one_line(facts.get('reason'), _LONGEST_FACT)}){ends}"


_NO_PLACE = {
    "full": "all {} {} are taken",
    "line": "all {} {} are taken and its queue is full",
    "waited": "all {} {} stayed taken for as long as the call could wait",
    "hopeless": "all {} {} are taken for longer than the call could wait",
    "system": "the system starts no thread",
    "late": "half of its {} {} are taken by calls whose callers have left",
}


def _no_place(kind: str, option: str, things: str) -> Callable[[str, Facts], str]:
    def text(who: str, facts: Facts) -> str:
        reason = str(facts.get("reason"))
        why = _NO_PLACE.get(reason, reason).format(facts.get(option), things)
        return f"{kind} {who} refused a call: {why}{_shadow(facts)}"

    return text


def _over_rate(who: str, facts: Facts) -> str:
    rate = facts.get("rate")
    why = f"{one_line(rate, _LONGEST_NAME)} exceeded" if rate else "the rate is exceeded"
    return f"rate limit {who} refused a call: {why}{_next(facts, 'retry')}{_shadow(facts)}"


def _drained(who: str, facts: Facts) -> str:
    return f"rate limit {who} was emptied: the dependency refused a call{_next(facts, 'first call')}"


def _away(_who: str, facts: Facts) -> str:
    code = facts.get("code")
    why = f"{error_type(facts.get('error'))}{f', {one_line(code, _LONGEST_NAME)}' if code else ''}"
    mode = f"; rate limits follow outage={facts.get('outage')}" if "outage" in facts else ""
    return f"{_redis(facts)} is away ({why}){mode}{_next(facts, 'next try')}"


def _back(_who: str, facts: Facts) -> str:
    return f"{_redis(facts)} answers again; rate limits follow it"


def _redis(facts: Facts) -> str:
    """Return the name of the server: on a cluster, each master has its own outages."""
    return f"Redis at {one_line(facts['node'], _LONGEST_NAME)}" if "node" in facts else "Redis"


def _fleet_lost(_who: str, facts: Facts) -> str:
    known = f"{facts.get('instances')} instances were known"
    return f"the fleet has lost Redis ({error_type(facts.get('error'))}); {known}, and nothing is shared"


def _gave_up(who: str, facts: Facts) -> str:
    error = facts.get("error")
    last = "last result not accepted" if error is None else f"last {error_type(error)}"
    attempts, reason = facts.get("attempts"), one_line(facts.get("reason"), _LONGEST_FACT)
    plural = "" if attempts == 1 else "s"
    return f"retry {who} gave up after {attempts} attempt{plural} in {span(facts.get('elapsed', 0))} ({reason}), {last}"


def _took_too_long(kind: str) -> Callable[[str, Facts], str]:
    def text(who: str, facts: Facts) -> str:
        seconds = facts.get("seconds")
        limit = "its deadline" if seconds is None else span(seconds)
        return f"{kind} {who}: a call took longer than {limit}"

    return text


def _not_made(who: str, facts: Facts) -> str:
    reason, remaining, margin = facts.get("reason"), facts.get("remaining"), facts.get("margin")
    if reason != "deadline" or not isinstance(remaining, int | float):
        why = _NO_PLACE.get(str(reason), str(reason)).format(facts.get("max_threads"), "threads")
    elif remaining > 0:
        why = f"{span(remaining)} to the deadline are within the margin of {margin:g} s"
    else:
        why = "its deadline had passed"
    return f"timeout {who} refused a call: {why}"


def _budget(who: str, facts: Facts) -> str:
    used = f"{facts.get('retries')} retries and {facts.get('extras')} hedges beside {facts.get('calls')} calls"
    return f"retry budget {who} is used up: {used}{' (shadow: the attempt was made)' if facts.get('shadow') else ''}"


def _scheduled(who: str, facts: Facts) -> str:
    error = facts.get("error")
    why = "a result that is not accepted" if error is None else error_type(error)
    return f"retry {who} makes attempt {facts.get('attempt', 0) + 1} in {span(facts.get('wait', 0))} after {why}"


def _no_alternative(who: str, facts: Facts) -> str:
    error = facts.get("error")
    why = "a refused result" if error is None else error_type(error)
    return f"fallback {who} has no alternative that answers, after {why}"


def _other(kind: str) -> Callable[[str, Facts], str]:
    def text(who: str, facts: Facts) -> str:
        listed = ", ".join(f"{name}={value}" for name, value in plain_facts(facts).items())
        return f"{one_line(kind, _LONGEST_NAME)} {who}{': ' if listed else ''}{listed}"

    return text


def _fixed(before: str, after: str) -> Callable[[str, Facts], str]:
    return lambda who, _facts: f"{before} {who} {after}"


def _reasoned(before: str, after: str) -> Callable[[str, Facts], str]:
    return lambda who, facts: f"{before} {who} {after}: {one_line(facts.get('reason'), _LONGEST_FACT)}"


def _counts(facts: Facts) -> str:
    names = ("total", "idle", "in_use", "waiting", "creating")
    return ", ".join(f"{name.replace('_', ' ')} {facts.get(name)}" for name in names)


def _held(facts: Facts) -> str:
    return f", in use for {span(facts.get('in_use_for', 0))}"


def _stack(facts: Facts) -> str:
    lines = [line.strip() for line in str(facts.get("stack") or "").splitlines()]
    frames = [line for line in lines if line.startswith("File ")]  # the last one is that of the borrower
    return f", borrowed at {one_line(frames[-1], _LONGEST_FACT)}" if frames else ""


def _no_connect(who: str, facts: Facts) -> str:
    error = error_type(facts.get("error"))
    return f"pool {who} cannot connect: {error}, {facts.get('failures')} in a row{_next(facts, 'next attempt')}"


def _no_connection(who: str, facts: Facts) -> str:
    cause = facts.get("error")
    last = f"; connecting failed with {error_type(cause)}" if cause is not None else ""
    return f"pool {who} had no connection within {span(facts.get('waited', 0))}: {_counts(facts)}{last}"


_T, _S = Volume.TRANSITION, Volume.SAMPLE
_INFO, _WARNING, _ERROR = logging.INFO, logging.WARNING, logging.ERROR
LINES: Mapping[str, EventLine] = {
    "breaker.opened": EventLine(_T, _WARNING, _opened),
    "breaker.fleet_opened": EventLine(_T, _WARNING, _reasoned("circuit", "is open in the fleet")),
    "breaker.fleet_closed": EventLine(_T, _INFO, _reasoned("circuit", "is closed in the fleet")),
    "breaker.half_opened": EventLine(_T, _INFO, _reasoned("circuit", "is half-open and admits trial calls")),
    "breaker.closed": EventLine(_T, _WARNING, _reasoned("circuit", "closed")),  # with "opened", all that WARNING shows
    "breaker.ramped": EventLine(_T, _INFO, _reasoned("circuit", "admits all calls")),
    "breaker.mode_changed": EventLine(_T, _WARNING, _mode),
    "breaker.rejected": EventLine(_S, _WARNING, _rejected),
    "breaker.storage_outage": EventLine(
        _T, _ERROR, lambda who, facts: f"circuit {who} left its storage alone: {error_type(facts.get('error'))}"
    ),
    "breaker.storage_recovered": EventLine(_T, _WARNING, _fixed("circuit", "follows its storage again")),
    "budget.exhausted": EventLine(_S, _WARNING, _budget),
    "bulkhead.rejected": EventLine(_S, _WARNING, _no_place("bulkhead", "max_concurrent_calls", "places")),
    "fallback.exhausted": EventLine(_S, _WARNING, _no_alternative),
    "fleet.found": EventLine(
        _T, _WARNING, lambda _who, facts: f"the fleet has Redis again; {facts.get('instances')} instances are known"
    ),
    "fleet.lost": EventLine(_T, _WARNING, _fleet_lost),
    "pool.connect_failed": EventLine(_S, _WARNING, _no_connect),
    "pool.drained": EventLine(_T, _INFO, _fixed("pool", "replaces its connections")),
    "pool.leak_returned": EventLine(
        _T, _WARNING, lambda who, facts: f"pool {who}: a late lease came back{_held(facts)}"
    ),
    "pool.leak_suspected": EventLine(
        _T, _WARNING, lambda who, facts: f"pool {who}: a lease may be lost{_held(facts)}{_stack(facts)}"
    ),
    "pool.lease_lost": EventLine(
        _T, _ERROR, lambda who, facts: f"pool {who}: a lease was dropped without a release{_stack(facts)}"
    ),
    "pool.refused": EventLine(_S, _WARNING, lambda who, facts: f"pool {who} refused a borrower: {_counts(facts)}"),
    "pool.reopened": EventLine(_T, _INFO, _fixed("pool", "lends again after its close")),
    "pool.resized": EventLine(
        _T, _INFO, lambda who, facts: f"pool {who} changed its size: {facts.get('before')} -> {facts.get('after')}"
    ),
    "pool.resumed": EventLine(_T, _WARNING, _fixed("pool", "lends again")),
    "pool.suspended": EventLine(_T, _WARNING, _fixed("pool", "is suspended: borrowers wait")),
    "pool.timed_out": EventLine(_S, _WARNING, _no_connection),
    "ratelimit.drained": EventLine(_S, _WARNING, _drained),
    "ratelimit.outage": EventLine(_T, _ERROR, _away),
    "ratelimit.recovered": EventLine(_T, _WARNING, _back),
    "ratelimit.rejected": EventLine(_S, _WARNING, _over_rate),
    "retry.exhausted": EventLine(_S, _WARNING, _gave_up),
    "retry.scheduled": EventLine(Volume.DETAIL, _INFO, _scheduled),
    "thread_pool.elapsed": EventLine(_S, _WARNING, _took_too_long("thread pool")),
    "thread_pool.rejected": EventLine(_S, _WARNING, _no_place("thread pool", "max_threads", "threads")),
    "timeout.elapsed": EventLine(_S, _WARNING, _took_too_long("timeout")),
    "timeout.rejected": EventLine(_S, _WARNING, _not_made),
}
ELSEWHERE = frozenset({"health.changed", "lifecycle.hook_failed", "lifecycle.signalled", "lifecycle.waiting"})
"""Events whose lines the health checks and the lifecycle write, because they know more than the facts of the event."""

OF_ONE_CALL = frozenset({"retry.exhausted", "retry.scheduled", "timeout.elapsed", "timeout.rejected"})
"""Events about one call. If a client makes the call, their lines name its host, although the policy has no key."""


def line_of(kind: str) -> EventLine:
    """Return how events of this kind are logged."""
    return LINES.get(kind) or EventLine(Volume.DETAIL, _INFO, _other(kind))
