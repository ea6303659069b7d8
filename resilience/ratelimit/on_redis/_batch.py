"""Callers that share one round trip to Redis, without threads or loops.

Callers that want the same payment from the same bucket are one *entry*, and the first ones in it get the tokens. A
*batch* holds the entries of one node. All of its buckets in one hash slot are one script call; a server without cluster
mode has one slot, so a batch is one command. A batch is bounded, because a script keeps the server from all other
commands.

`_batch_threads.py` has the batches of threads and `_batch_aio.py` those of tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from resilience.ratelimit.on_redis._codec import outcomes
from resilience.redis._errors import code_of, is_about_one_key

if TYPE_CHECKING:
    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit.on_redis._codec import BucketCall, BucketCodec
    from resilience.redis import RedisConnection
    from resilience.redis._exchange import Reply
    from resilience.redis._machine import OutagePermit
    from resilience.redis._script import ScriptCall

__all__ = ("MAX_BATCH", "BatchCaller", "ScriptBatch")

MAX_BATCH = 128
"""The largest number of buckets of one round trip: 4 us of the server's time each, half a millisecond together."""


class BatchCaller(Protocol):
    """A caller that waits for its decision. None as a decision means that it has to decide without Redis."""

    def done(self) -> bool:
        """Whether the caller has its decision, or has stopped waiting."""
        ...

    def set_result(self, result: Decision | None, /) -> None:
        """Wake the caller."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """Wake the caller, which raises `error`: the server has named another one."""
        ...


class BatchEntry:
    """Callers that want the same payment from the same bucket."""

    __slots__ = ("_arguments", "_callers", "_codec", "_cost", "key")

    def __init__(self, codec: BucketCodec, call: BucketCall, cost: int) -> None:
        (self.key,), self._arguments = call
        self._codec, self._cost = codec, cost
        self._callers: list[BatchCaller] = []

    def join(self, caller: BatchCaller) -> None:
        """Add a caller at the end."""
        self._callers.append(caller)

    def demand(self) -> tuple[int, ...] | None:
        """Return the arguments of the script for all callers that still wait, or None if no caller does."""
        for each in self._callers:
            if each.done():
                self._callers = [each for each in self._callers if not each.done()]
                break
        return (*self._arguments, len(self._callers)) if self._callers else None

    def answer(self, admitted: int, missing: int) -> None:
        """Wake the callers: the first `admitted` ones have their tokens, and `missing` units are missing then."""
        if len(self._callers) > 1:
            self.settle(self._codec.decode_batch(admitted, missing, self._cost, len(self._callers)))
            return
        caller = self._callers[0]  # the usual case, without lists
        decision = self._codec.decode_one(missing, self._cost, allowed=admitted > 0)
        if not caller.done():
            caller.set_result(decision)

    def redirect(self, error: Exception) -> None:
        """Wake the callers with an error of their own each: a shared one would collect their tracebacks."""
        for caller in self._callers:
            if not caller.done():
                caller.set_exception(type(error)(*error.args))

    def settle(self, decisions: Iterable[Decision | None]) -> None:
        """Wake the callers."""
        for caller, decision in zip(self._callers, decisions, strict=False):
            if not caller.done():
                caller.set_result(decision)


class SharedCall:
    """One script call for the buckets of several entries.

    Entries with the same demand stand together, and the script gets the demand once. The entries of one bucket keep
    their order: the first caller gets its tokens first.
    """

    __slots__ = ("_entries", "script_call")

    def __init__(self, asked: Sequence[tuple[tuple[int, ...], BatchEntry]]) -> None:
        runs: list[tuple[tuple[int, ...], list[BatchEntry]]]
        if len({entry.key for _, entry in asked}) == len(asked):
            together: dict[tuple[int, ...], list[BatchEntry]] = {}
            for demand, entry in asked:
                together.setdefault(demand, []).append(entry)
            runs = list(together.items())
        else:
            runs = [(demand, [entry]) for demand, entry in asked]
        self._entries = [entry for _, entries in runs for entry in entries]
        arguments = [number for demand, entries in runs for number in (*demand, len(entries))]
        self.script_call: ScriptCall = (tuple([entry.key for entry in self._entries]), arguments)

    def answer(self, reply: Reply) -> list[Exception]:
        """Wake the callers that have a decision; returns the errors of the other buckets, or of the whole call."""
        if isinstance(reply, Exception):
            return [reply]
        errors = []
        for entry, outcome in zip(self._entries, outcomes(reply, len(self._entries)), strict=True):
            if isinstance(outcome, Exception):
                errors.append(outcome)
            else:
                entry.answer(*outcome)
        return errors

    def redirect(self, error: Exception) -> None:
        """Wake the callers: they ask the server that `error` names."""
        for entry in self._entries:
            entry.redirect(error)


class ScriptBatch:
    """The entries of one round trip, and the permit under which it asks Redis.

    Args:
        permit: The permit of all callers.
        connection: Names the hash slot of a key: the same for all keys of a server without cluster mode.
    """

    __slots__ = ("_asked", "_connection", "_entries", "permit")

    def __init__(self, permit: OutagePermit, connection: RedisConnection) -> None:
        self.permit = permit
        self._connection = connection
        self._entries: dict[BucketCall, BatchEntry] = {}
        self._asked: list[SharedCall] = []

    @property
    def is_full(self) -> bool:
        """Whether another bucket has to take the next round trip."""
        return len(self._entries) >= MAX_BATCH

    def add(self, codec: BucketCodec, call: BucketCall, cost: int, caller: BatchCaller) -> None:
        """Add a caller.

        Args:
            codec: Decodes the reply for this caller.
            call: The bucket, and the arguments of the script.
            cost: Tokens that the caller wants.
            caller: Woken by `answer` or `settle_rest`.
        """
        entry = self._entries.get(call)
        if entry is None:
            entry = self._entries[call] = BatchEntry(codec, call, cost)
        entry.join(caller)

    def script_calls(self) -> list[ScriptCall]:
        """Return one script call for each hash slot; none if no caller waits any more."""
        slots: dict[Hashable, list[tuple[tuple[int, ...], BatchEntry]]] = {}
        for entry in self._entries.values():
            if (demand := entry.demand()) is not None:
                slots.setdefault(self._connection.slot_of(entry.key), []).append((demand, entry))
        self._asked = [SharedCall(asked) for asked in slots.values()]
        return [shared.script_call for shared in self._asked]

    def is_split(self, replies: Sequence[Reply]) -> bool:
        """Whether to ask once more, in a call for each hash slot: the server has refused keys of several in one."""
        if not any(isinstance(reply, Exception) and code_of(reply) == "CROSSSLOT" for reply in replies):
            return False
        self._connection.split_slots()
        return True

    def answer(self, replies: Sequence[Reply]) -> None:
        """Wake the callers that have a decision; then raise an error of the others, one of the server if possible."""
        errors: list[Exception] = []
        for shared, reply in zip(self._asked, replies, strict=True):
            if isinstance(reply, Exception) and self._connection.is_redirect(reply):
                shared.redirect(reply)
            else:
                errors += shared.answer(reply)
        if errors:
            raise next((error for error in errors if not is_about_one_key(error)), errors[0])

    def settle_rest(self) -> None:
        """Wake the callers that have no decision yet: they decide without Redis."""
        for entry in self._entries.values():
            entry.settle(itertools.repeat(None))
