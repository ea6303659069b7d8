"""`breakers`: the shared circuit breakers, and overrides of them for all instances."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from resilience.cli.answer import CommandOutput, Paint
from resilience.config import ConfigurationWarning, load
from resilience.errors import ConfigurationError, Problem, one_line

if TYPE_CHECKING:
    import argparse

    from resilience.breaker.shared import FleetBreakers, FleetChange, FleetState

__all__ = ("configure", "run")

_PATIENCE: Final = 2.0
"""Seconds that an operator waits for each reply: more than a call of a service does."""
_ARGUMENTS: Final = {"expires": "--for", "reason": "--reason", "author": "--author"}
_OVERRIDES: Final = {
    "force-open": "refuse every call in all instances",
    "disable": "let every call pass in all instances, and count none",
    "metrics-only": "let every call pass in all instances, and report those that would be refused",
    "reset": "end the override: the circuits go on by their rules",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    listing = actions.add_parser("list", help="print the state and the override of each shared breaker")
    listing.add_argument("--json", action="store_true", help="print JSON; durations in seconds")
    history = actions.add_parser("history", help="print the last 100 changes by operators, newest first")
    history.add_argument("name", nargs="?", help="the name of a pipeline, or of its breaker; default: all")
    history.add_argument("--json", action="store_true", help="print JSON; durations in seconds")
    for action, about in _OVERRIDES.items():
        order = actions.add_parser(action, help=about, description=f"{about[:1].upper()}{about[1:]}.")
        order.add_argument("name", help="the name of a pipeline, or of its breaker; includes those of its hosts")
        if action != "reset":
            order.add_argument("--for", dest="expires", metavar="TIME", help="how long it lasts, like 10m (required)")
        order.add_argument("--reason", metavar="TEXT", help="why, for logs and the history (required)")
        order.add_argument("--author", metavar="NAME", help="who orders it; default: the user of this system")


def run(arguments: argparse.Namespace, paint: Paint) -> CommandOutput:
    """Run one action. Raises `ConfigurationError` if no Redis is configured, or if an argument is missing or wrong."""
    with _opened() as breakers:
        if arguments.action == "list":
            return _list(breakers.states(), paint, is_json=arguments.json)
        if arguments.action == "history":
            return _history(breakers.history(arguments.name), is_json=arguments.json)
        states = _override(breakers, arguments)
    return CommandOutput("".join(f"{line}\n" for state in states for line in _lines(state, paint)))


@contextlib.contextmanager
def _opened() -> Iterator[FleetBreakers]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigurationWarning)
        options = load().redis
    if options.url is None:
        raise ConfigurationError("RESILIENCE_REDIS__URL is not set: shared breakers have their state on a Redis")
    from resilience.breaker.shared import FleetBreakers as Breakers  # noqa: PLC0415 - needs the extra `redis`
    from resilience.redis import RedisConnection  # noqa: PLC0415 - needs the extra `redis`

    connection = RedisConnection(dataclasses.replace(options, timeout=max(options.timeout, _PATIENCE)))
    with contextlib.closing(connection):
        yield Breakers(connection)


def _override(breakers: FleetBreakers, arguments: argparse.Namespace) -> list[FleetState]:
    given = {"reason": arguments.reason, "author": arguments.author or _user()}
    if arguments.action != "reset":
        given["expires"] = arguments.expires
    if missing := [_ARGUMENTS[name] for name, value in given.items() if not value]:
        raise ConfigurationError(f"{arguments.action} needs {' and '.join(missing)}")
    orders: dict[str, Callable[..., list[FleetState]]] = {
        "force-open": breakers.force_open,
        "disable": breakers.disable,
        "metrics-only": breakers.metrics_only,
        "reset": breakers.reset,
    }
    try:
        return orders[arguments.action](arguments.name, **given)
    except ConfigurationError as error:
        found = [
            Problem(_ARGUMENTS.get(each.option, each.option), each.value, each.expected) for each in error.problems
        ]
        raise ConfigurationError(found) from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no variable names the user, and the system does not know the id
        return ""


def _list(states: list[FleetState], paint: Paint, *, is_json: bool) -> CommandOutput:
    if is_json:
        return _json(states)
    lines = [line for state in states for line in _lines(state, paint)]
    return CommandOutput("\n".join(lines or ["No instance has a shared breaker."]) + "\n")


def _lines(state: FleetState, paint: Paint) -> Iterator[str]:
    text = state.state if state.retry_after is None else f"{state.state} for {state.retry_after:.3g} s"
    why = f": {one_line(state.reason)}" if state.state != "closed" and state.reason else ""
    votes = f"  {state.votes} votes" if state.votes else ""
    shown = f"{text}{why}{votes}"
    yield f"{one_line(state.name)}  {shown if state.state == 'closed' else paint.bad(shown)}"
    if state.mode is not None and state.expires is not None:
        order = f"{state.mode} for {state.expires:.3g} s by {one_line(state.author)}: {one_line(state.mode_reason)}"
        yield f"    {paint.bad(order)}"


def _history(changes: list[FleetChange], *, is_json: bool) -> CommandOutput:
    if is_json:
        return _json(changes)
    lines = [" ".join(_change(change)) for change in changes]
    return CommandOutput("\n".join(lines or ["No operator has changed a breaker."]) + "\n")


def _change(change: FleetChange) -> Iterator[str]:
    yield f"{change.at:%Y-%m-%d %H:%M:%S}Z"
    yield f"{change.action} {one_line(change.name)}"
    if change.duration is not None:
        yield f"for {change.duration:g} s"
    yield f"by {one_line(change.author)}: {one_line(change.reason)}"


def _json(rows: list[Any]) -> CommandOutput:
    return CommandOutput(json.dumps([row._asdict() for row in rows], indent=2, default=str) + "\n")
