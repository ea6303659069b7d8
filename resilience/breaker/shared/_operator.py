"""Shared breakers as an operator sees them: their states, overrides for all instances, and the last changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from resilience.breaker._plan import DISABLED, FORCED_OPEN, METRICS_ONLY
from resilience.breaker.shared._directory import registration
from resilience.breaker.shared._machine import LEASE, LIFETIME, FleetRecord
from resilience.breaker.shared._partner import fleet_name
from resilience.breaker.shared._wire import SCRIPT, channel_of, keys_of, question, read_reply, text_of
from resilience.errors import ConfigurationError, Problem, ResilienceError, one_line
from resilience.fleet import FleetCall
from resilience.fleet._wire import channel_of as full_channel
from resilience.options import Refused, Text, checked, seconds
from resilience.redis._errors import explain

if TYPE_CHECKING:
    from resilience.redis import RedisConnection

__all__ = ("FleetBreakers", "FleetChange", "FleetState")

T = TypeVar("T")

_KEPT: Final = 100
"""Changes of each breaker that are kept."""
_KEPT_FOR: Final = 30 * 86_400_000
_NEVER: Final = 1 << 30
_NOTHING: Final = {
    "epoch": 0,
    "state": "closed",
    "left": 0,
    "reason": "",
    "openings": 0,
    "rule": "",
    "close": False,
    "me": "",
    "version": 0,
    "word": "",
    "word_left": 0,
    "why": "",
    "author": "",
    "vote": 0,
    "unvote": False,
    "needed": _NEVER,
    "want": 0,
    "permits": 0,
    "required": _NEVER,
    "allowed": _NEVER,
    "reopen": 0,
    "limit": 0,
    "ok": [],
    "failed": [],
    "keep": [],
    "drop": [],
    "lease": int(LEASE * 1000),
    "ttl": int(LIFETIME * 1000),
    "leave": False,
}
"""The question of a reader that is no instance."""
_ACTIONS: Final[dict[str, str]] = {
    FORCED_OPEN: "force-open",
    DISABLED: "disable",
    METRICS_ONLY: "metrics-only",
    "": "reset",
}


class _LineRule(Text):
    """One line of printable text that is not blank: it appears in logs, errors and terminals."""

    def check(self, value: object, /) -> str:
        """Return the text without the blanks around it."""
        text = super().check(value).strip()
        if not text or not text.isprintable():
            raise Refused
        return text


_REASON: Final = _LineRule("one line of printable text", longest=200)
_AUTHOR: Final = _LineRule("one line of printable text", longest=64)
_NAME: Final = Text("the name of a shared breaker", longest=400)


class FleetState(NamedTuple):
    """The state of a shared breaker. Durations are seconds; None if they do not apply."""

    name: str
    state: str
    reason: str
    retry_after: float | None
    votes: int
    trials: int
    mode: str | None
    expires: float | None
    mode_reason: str | None
    author: str | None


class FleetChange(NamedTuple):
    """A change by an operator, at the time of the server."""

    at: datetime
    name: str
    action: str
    duration: float | None
    reason: str
    author: str


class FleetBreakers:
    """The shared breakers of all instances that use one Redis.

    An override reaches every instance within milliseconds, by a message; or within a second, if the message is lost.
    It ends by itself. The circuits keep their own state meanwhile. Each method blocks for a few round trips, each
    within the timeout of the connection.

    Args:
        connection: The Redis that the instances share, with their prefix.

    Example:
        >>> from resilience.breaker.shared import FleetBreakers
        >>> from resilience.redis import RedisConnection
        >>> breakers = FleetBreakers(RedisConnection.from_url("redis://localhost:6379/0"))
        >>> breakers
        <FleetBreakers of <RedisConnection redis://localhost/0>>
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._prefix = connection.options.prefix

    def states(self) -> list[FleetState]:
        """Return the state of each shared breaker, by name. A breaker is known for a day after its last instance.

        Raises:
            ResilienceError: Redis does not answer.
        """
        return [_state(name, self._ask(name)) for name in self._names()]

    def force_open(self, name: str, *, expires: float | str | timedelta, reason: str, author: str) -> list[FleetState]:
        """Refuse every call of a breaker in all instances.

        Args:
            name: The name of the breaker or of its pipeline. It includes the breakers of each host of this pipeline,
                which are named `<pipeline>/<host>`.
            expires: How long it lasts, in seconds, at most a year.
            reason: A line of up to 200 characters for events, errors and the history.
            author: Who orders it, up to 64 characters.

        Returns:
            The state of each breaker of this name.

        Raises:
            ConfigurationError: An argument is wrong, or no instance has such a breaker.
            ResilienceError: Redis does not answer.
        """
        return self._override(name, FORCED_OPEN, seconds(expires, "expires", above=True), reason, author)

    def disable(self, name: str, *, expires: float | str | timedelta, reason: str, author: str) -> list[FleetState]:
        """Let every call pass in all instances, and count none. See `force_open`."""
        return self._override(name, DISABLED, seconds(expires, "expires", above=True), reason, author)

    def metrics_only(
        self, name: str, *, expires: float | str | timedelta, reason: str, author: str
    ) -> list[FleetState]:
        """Let every call pass in all instances, and only report those that would be refused. See `force_open`."""
        return self._override(name, METRICS_ONLY, seconds(expires, "expires", above=True), reason, author)

    def reset(self, name: str, *, reason: str, author: str) -> list[FleetState]:
        """End the override in all instances. The circuits go on by their rules. See `force_open`."""
        return self._override(name, "", 0.0, reason, author)

    def history(self, name: str | None = None) -> list[FleetChange]:
        """Return the last 100 changes by operators, newest first; with `name`, those of one breaker.

        Raises:
            ConfigurationError: No instance has such a breaker.
            ResilienceError: Redis does not answer.
        """
        names = self._names() if name is None else self._named(name)
        found = [change for each in names for change in self._changes(each)]
        return sorted(found, key=lambda change: change.at, reverse=True)[:_KEPT]

    def _override(self, name: str, word: str, left: float, reason: str, author: str) -> list[FleetState]:
        order = {
            "word": word,
            "left": max(1, int(left * 1000)) if word else 0,
            "why": checked(reason, "reason", _REASON),
            "author": checked(author, "author", _AUTHOR),
            "kept": _KEPT,
            "kept_for": _KEPT_FOR,
        }
        return [_state(each, self._ask(each, set=order)) for each in self._named(name)]

    def _named(self, name: str) -> list[str]:
        wanted, known = fleet_name(checked(name, "name", _NAME), None), self._names()
        found = [each for each in known if each == wanted or each.startswith(f"{wanted}/")]
        if not found:
            listed = ", ".join(one_line(each, 80) for each in known[:10]) or "none"
            raise ConfigurationError([Problem("name", name, f"the name of a shared breaker in use; known: {listed}")])
        return found

    def _names(self) -> list[str]:
        replies = cast("list[bytes | str]", self._run(registration(self._prefix, "")))
        return sorted(text_of(each) for each in replies)

    def _ask(self, name: str, **more: object) -> FleetRecord:
        argument = question(_NOTHING, channel=full_channel(self._connection, channel_of(name)), **more)
        reply = self._run(FleetCall(SCRIPT, keys_of(self._prefix, name), (argument,)))
        try:
            return read_reply(reply)[0]
        except ValueError:
            raise ResilienceError(f"the record of breaker {one_line(name, 80)!r} cannot be read") from None

    def _changes(self, name: str) -> list[FleetChange]:
        key = keys_of(self._prefix, name)[3]
        rows = self._redis(lambda: self._connection.client_of(key).lrange(cast("Any", key), 0, _KEPT - 1))
        found = (_change(name, row) for row in rows)
        return [change for change in found if change is not None]

    def _run(self, call: FleetCall) -> Any:
        def run() -> Any:
            client = self._connection.client_of(call.keys[0])
            return client.eval(call.script.text, len(call.keys), *call.keys, *call.arguments)

        return self._redis(run)

    def _redis(self, access: Callable[[], T]) -> T:
        from redis.exceptions import RedisError  # noqa: PLC0415 - an extra

        try:
            return access()
        except (RedisError, OSError) as error:
            raise ResilienceError(f"Redis cannot be used: {one_line(explain(error, self._prefix))}") from None

    def __repr__(self) -> str:
        return f"<FleetBreakers of {self._connection!r}>"


def _state(name: str, record: FleetRecord) -> FleetState:
    override, left = record.override, record.left if record.state == "open" else None
    shown = (record.state, record.reason, left, record.votes, record.trials)
    if not override.word:
        return FleetState(name, *shown, None, None, None, None)
    return FleetState(name, *shown, override.word, override.left, override.reason, override.author)


def _change(name: str, text: bytes | str) -> FleetChange | None:
    """Return the change that a row of the history holds; None if another program has written it."""
    try:
        row = json.loads(text)
        at, duration = datetime.fromtimestamp(row["at"] / 1000, UTC), row["left"] / 1000 or None
        action = _ACTIONS.get(str(row["word"]), "unknown")
        return FleetChange(at, name, action, duration, one_line(row["why"]), one_line(row["author"]))
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return None
