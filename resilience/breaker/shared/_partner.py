"""The circuit of one process as a partner of the fleet: it asks and learns in the rounds, never in a call."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from resilience._support.fork import renew_after_fork
from resilience.breaker._plan import Mode
from resilience.breaker._states import CLOSED, HALF_OPEN, OPEN, Permit, Refusal, StateChange
from resilience.breaker.shared._directory import registration
from resilience.breaker.shared._machine import Ask, FleetRecord, SharedMachine, votes_needed
from resilience.breaker.shared._wire import SCRIPT, channel_of, keys_of, question, read_record, read_reply
from resilience.fleet import Fleet, FleetCall

if TYPE_CHECKING:
    from resilience.breaker._circuit import Circuit
    from resilience.redis import RedisConnection
    from resilience.redis._exchange import Reply

__all__ = ("SharedCircuit", "fleet_name")

_REGISTERED: Final = 10.0
"""Seconds after which the name of the breaker is written to the directory again."""
_KIND: Final = ".breaker"


def fleet_name(policy: str, key: str | None) -> str:
    """Return the name that instances and operators use: of a pipeline, followed by the key of a keyed breaker."""
    name = policy.removesuffix(_KIND) or policy
    name = name if not key else f"{name}/{key}"
    return name.encode("utf-8", "backslashreplace").decode()  # a key is any text, and Redis takes bytes


class SharedCircuit:
    """Keeps one circuit in step with the fleet. It joins at the first call of the breaker, which does not wait for it.

    The circuit calls `admit` and `look` under its lock. The fleet calls the other methods in its threads.

    Args:
        circuit: The circuit, which refers to this object; it is kept by a weak reference.
        connection: The Redis that the instances share.
        quorum: How many instances (int), or which share of the live ones (float), open the fleet.
    """

    def __init__(self, circuit: Circuit, connection: RedisConnection, quorum: float) -> None:
        self._circuit = weakref.ref(circuit)
        self._connection, self._quorum = connection, quorum
        self.machine = SharedMachine(circuit.machine)
        self.name = ""
        self._fleet: Fleet | None = None
        self._asked: Ask | None = None
        self._override = 0
        self._registered = float("-inf")
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Be a new instance: votes and slots stay with the parent."""
        circuit = self._circuit()
        if circuit is not None:
            self.machine.forget(circuit.now())
            circuit.after_fork()  # again, if it was before: the state may be another one now

    @property
    def is_joined(self) -> bool:
        """Whether this instance follows the record."""
        return self._fleet is not None

    def join(self, name: str, key: str | None) -> None:
        """Follow the record of this name from now on. Never blocks for Redis."""
        self.name = fleet_name(name, key)
        fleet = self._fleet = Fleet.of(self._connection)
        self._keys, self._channel = keys_of(self._connection.options.prefix, self.name), channel_of(self.name)
        fleet.join(self, self._channel)

    def admit(self, now: float, patience: float) -> tuple[Permit | Refusal, StateChange | None]:
        """Decide about one call. Called under the lock of the circuit."""
        if self._fleet is not None and not self._fleet.is_open and not self.machine.is_away:
            self.machine.unreachable(now)  # closed, or a child got no thread: no round would bring a slot
        answer = self.machine.admit(now, patience)
        self.look(now)
        return answer

    def look(self, now: float, change: StateChange | None = None) -> None:
        """Make a round soon if the fleet should learn of a change. Called under the lock of the circuit."""
        if change is not None:
            self.machine.rule = change.reason
        if self.machine.has_news(now) and self._fleet is not None:
            self._fleet.nudge()

    @property
    def figures(self) -> dict[str, Any]:
        """The figures of a snapshot: what this instance knows of the fleet."""
        machine, circuit = self.machine, self._circuit()
        record, instances = machine.record, machine.instances.value
        return {
            "name": self.name,
            "state": record.state,
            "epoch": record.epoch,
            "votes": record.votes,
            "votes_needed": votes_needed(self._quorum, instances),
            "instances": instances,
            "is_away": machine.is_away,
            "author": None if circuit is None else machine.author(circuit.now()),
        }

    def levels(self, now: float) -> Mapping[str, float]:
        """Return whether the fleet holds this circuit open or half-open, whether an override is in force, and so on."""
        machine, fleet = self.machine, self._fleet
        if fleet is None:
            return {}
        is_alone = machine.is_away or not fleet.is_open
        state = CLOSED if is_alone else machine.record.state
        found = {"open": state == OPEN, "half-open": state == HALF_OPEN, "alone": is_alone}
        found["override"] = machine.author(now) is not None
        return {f"fleet {name}": int(is_so) for name, is_so in found.items()}

    # The partner of the fleet

    def calls(self) -> Sequence[FleetCall]:
        """Return the question of this round."""
        circuit, fleet = self._circuit(), self._fleet
        if circuit is None or fleet is None:
            return ()
        with circuit.lock:
            now = circuit.now()
            asked = self._asked = self.machine.ask(now, votes_needed(self._quorum, self.machine.instances.value))
        argument = question(asked, me=fleet.instance, channel=fleet.channel(self._channel))
        found = [FleetCall(SCRIPT, self._keys, (argument,))]
        if now >= self._registered + _REGISTERED:
            found.append(registration(self._connection.options.prefix, self.name))
        return found

    def answered(self, replies: Sequence[Reply], /) -> None:
        """Take the record, and the slots of this instance."""
        asked = self._asked
        if not replies or asked is None:
            return
        try:
            record, tokens = read_reply(replies[0])
        except ValueError:  # an error of the server: its memory is full, or an ACL forbids a command
            self.unreachable()
            return
        self._learn(functools.partial(self.machine.answer, asked, record, tokens))
        if record.is_new:  # so the directory may be gone as well
            self._registered = float("-inf")
        elif len(replies) > 1 and not isinstance(replies[1], Exception) and (circuit := self._circuit()) is not None:
            self._registered = circuit.now()

    def unreachable(self) -> None:
        """Let the circuit decide alone."""
        circuit = self._circuit()
        self._registered = float("-inf")  # Redis may come back without its data
        if circuit is not None:
            with circuit.lock:
                self.machine.unreachable(circuit.now())

    def leaving(self) -> Sequence[FleetCall]:
        """Take back the vote, and give back the slots."""
        circuit, fleet = self._circuit(), self._fleet
        if circuit is None or fleet is None:
            return ()
        with circuit.lock:
            asked = self.machine.leave(circuit.now())
        return [FleetCall(SCRIPT, self._keys, (question(asked, me=fleet.instance),))]

    def heard(self, message: bytes, /) -> None:
        """Take the record of a message."""
        try:
            record = read_record(message)
        except ValueError:
            return
        self._learn(functools.partial(self.machine.learn, record))

    def _learn(self, step: Callable[[float], StateChange | None]) -> None:
        circuit = self._circuit()
        if circuit is None:
            return

        def follow(now: float) -> StateChange | None:
            before = self.machine.record
            change = step(now)
            self._report(circuit, before, self.machine.record, now)
            self._override_mode(circuit, now)
            return change

        circuit.change(follow)

    def _report(self, circuit: Circuit, before: FleetRecord, after: FleetRecord, now: float) -> None:
        if before.state == after.state or not {before.state, after.state} & {OPEN, CLOSED}:
            return
        kind = {OPEN: "breaker.fleet_opened", CLOSED: "breaker.fleet_closed"}.get(after.state)
        if kind is None:
            return
        facts: dict[str, object] = {"reason": after.reason, "epoch": after.epoch}
        facts |= {"instances": self.machine.instances.value, "retry_after": after.left or None}
        circuit.events.record(kind, circuit.name, now, "error" if after.state == OPEN else "info", **facts)

    def _override_mode(self, circuit: Circuit, now: float) -> None:
        """Enter the mode that an operator has ordered, or leave it. Called under the lock of the circuit."""
        override = self.machine.record.override
        if override.version == self._override:
            return
        self._override = override.version
        if override.word and override.left > 0:
            reason = f"{override.reason} (by {override.author})"
            circuit.enter_mode(Mode(override.word, now + override.left, reason), now)
        else:
            circuit.enter_mode(Mode.configured(circuit.options.first_mode), now)
