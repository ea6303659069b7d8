"""Callers that share a round trip to Redis: what they ask together, and who gets which answer.

Callers that want the same of the same bucket form a line, and the first ones in it get the tokens. A batch holds
different lines. It is bounded: the server answers the commands of a round trip one after the other, and the last
caller waits for all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit._redis import RedisLedger
    from resilience.redis._machine import Permit
    from resilience.redis._script import Question

__all__ = ("LARGEST_BATCH", "Batch", "Waiting")

LARGEST_BATCH = 128
"""Most buckets that one round trip asks for: less than a millisecond of the server's time."""


class Waiting(Protocol):
    """A caller that waits for its decision; None means that it has to decide alone."""

    def done(self) -> bool:
        """Whether the caller has its decision, or has gone away."""
        ...

    def set_result(self, result: Decision | None, /) -> None:
        """Let the caller go on."""
        ...


class Line:
    """Callers that want the same of the same bucket."""

    __slots__ = ("_arguments", "_cost", "_key", "_ledger", "_waiting")

    def __init__(self, ledger: RedisLedger, redis_key: bytes, arguments: tuple[int, ...], cost: int) -> None:
        self._ledger, self._key, self._arguments, self._cost = ledger, redis_key, arguments, cost
        self._waiting: list[Waiting] = []

    def join(self, waiting: Waiting) -> None:
        """Add a caller at the end."""
        self._waiting.append(waiting)

    def question(self) -> Question | None:
        """Return the question of all callers that have not been cancelled meanwhile, or None if all have."""
        self._waiting = [each for each in self._waiting if not each.done()]
        return (self._key, (*self._arguments, len(self._waiting))) if self._waiting else None

    def decisions(self, reply: Any) -> list[Decision]:
        """Return the decisions, in the order of the line."""
        return self._ledger.answers(reply, self._cost, len(self._waiting))

    def settle(self, decisions: Iterable[Decision | None]) -> None:
        """Let the callers go on."""
        for waiting, decision in zip(self._waiting, decisions, strict=False):
            if not waiting.done():
                waiting.set_result(decision)


class Batch:
    """The lines of one round trip, and the permit under which it asks Redis."""

    __slots__ = ("_asked", "_lines", "permit")

    def __init__(self, permit: Permit) -> None:
        self.permit = permit
        self._lines: dict[tuple[bytes, tuple[int, ...]], Line] = {}
        self._asked: list[Line] = []

    @property
    def is_full(self) -> bool:
        """Whether another bucket has to take the next round trip."""
        return len(self._lines) >= LARGEST_BATCH

    def add(self, ledger: RedisLedger, redis_key: bytes, arguments: tuple[int, ...], cost: int, who: Waiting) -> None:
        """Add a caller."""
        line = self._lines.get((redis_key, arguments))
        if line is None:
            line = self._lines[redis_key, arguments] = Line(ledger, redis_key, arguments, cost)
        line.join(who)

    def questions(self) -> list[Question]:
        """Return one question for each line."""
        asked = {line: question for line in self._lines.values() if (question := line.question()) is not None}
        self._asked = list(asked)
        return list(asked.values())

    def answer(self, replies: Sequence[Any]) -> None:
        """Let the callers go on that have a decision; then raise the first error among the replies, if any."""
        errors = []
        for line, reply in zip(self._asked, replies, strict=True):
            if isinstance(reply, Exception):
                errors.append(reply)
            else:
                line.settle(line.decisions(reply))
        if errors:
            raise errors[0]

    def let_go(self) -> None:
        """Let those callers decide alone that have no decision yet."""
        for line in self._lines.values():
            line.settle(itertools.repeat(None))
