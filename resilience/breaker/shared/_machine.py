"""One instance's view of a shared breaker. Pure: it changes the circuit of this process by the record of the fleet.

Record. The state of the breaker in the fleet is one record on Redis, which only the script `record.lua` changes. Each
change of its state has a number, its epoch. An instance that knows epoch 7 ignores a message about epoch 6, so lost,
late and repeated messages do no harm. Times in a record are durations, measured by the server: each instance counts
them on its own monotonic clock (L7).

Votes. A circuit trips by its own rules and refuses calls at once. While the record is closed, an instance that has
tripped casts a vote. When the votes reach the quorum, the script opens the record, and every instance opens. A vote
ends with its lease: when the circuit has closed again, or when the instance has died.

Trials. When the open time of the record is up, an instance asks for slots of the half-open state. A slot is a lease
with a fencing token, a number that is never used twice. The result of a trial counts only with the token of a slot that
the instance still has. So at most `permits` trials run in the fleet, however many instances are in it. The script
counts the results, and closes or opens the record.

Without Redis. The circuit decides alone: it makes its own trials. When Redis is back, the record is the truth again. If
this circuit has closed meanwhile, the record closes. If Redis has lost the record, the instance with the highest epoch
restores it.

Overrides. An operator's override is a part of the record, with a number of its own. This class only reports it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, TypedDict

from resilience.breaker._leased import WAITS, LeasedTrials
from resilience.breaker._machine import CircuitMachine
from resilience.breaker._states import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    Closed,
    HalfOpen,
    Open,
    Permit,
    Ramp,
    Refusal,
    StateChange,
)
from resilience.fleet._machine import HeldCount

__all__ = ("NO_RECORD", "Ask", "FleetRecord", "Override", "SharedMachine", "votes_needed")

LEASE: Final = 5.0
"""Seconds after which the votes and slots of an instance that is gone have ended."""
LIFETIME: Final = 86_400.0
"""Seconds for which Redis keeps a record that no instance asks for."""
_LONGEST_REASON: Final = 200
_PAUSE: Final = 0.1
"""Seconds between two questions for a slot."""
_PATIENCE: Final = 1.0
_LONGEST_PATIENCE: Final = 60.0
"""Seconds for which a slot waits for a call of this instance while another one wants it: the first time, and at most.

Doubled each time that it was in vain, until the fleet closes: instances with few calls must not take the slot from each
other for ever, and one with few calls must not keep it for long from one with many.
"""


class Override(NamedTuple):
    """What an operator has ordered for all instances: a mode ("" for none), for how many more seconds, and why."""

    version: int = 0
    word: str = ""
    left: float = 0.0
    reason: str = ""
    author: str = ""


class FleetRecord(NamedTuple):
    """The state of a breaker in the fleet. `left` is the rest of its open time in seconds."""

    epoch: int = 0
    state: str = CLOSED
    left: float = 0.0
    reason: str = ""
    successes: int = 0
    failures: int = 0
    openings: int = 0
    votes: int = 0
    trials: int = 0
    override: Override = Override()
    instances: int = 0
    """The live instances that have this breaker."""
    is_new: bool = False
    """Whether Redis had no record: it may have lost all its data."""
    is_wanted: bool = False
    """Whether an instance has lately asked for a slot in vain."""


NO_RECORD: Final = FleetRecord()


class Ask(TypedDict):
    """What an instance says to the script in one round, and asks for. Durations are milliseconds."""

    epoch: int
    state: str
    left: int
    reason: str
    openings: int
    version: int
    word: str
    word_left: int
    why: str
    author: str
    vote: int
    """The open time that this instance proposes; 0 if it does not vote."""
    unvote: bool
    """Whether to take back the vote of this instance."""
    needed: int
    rule: str
    close: bool
    """Whether the circuit has closed although the record is not closed."""
    want: int
    permits: int
    required: int
    allowed: int
    reopen: int
    limit: int
    ok: list[str]
    failed: list[str]
    keep: list[str]
    drop: list[str]
    lease: int
    ttl: int
    leave: bool
    """Whether the instance leaves: it is in the count no more."""


def votes_needed(quorum: float, instances: int) -> int:
    """Return the votes that open the fleet. `quorum`: a number of instances (int), or a share of them (float)."""
    if isinstance(quorum, int):
        return quorum
    return max(1, math.ceil(quorum * instances - 1e-9))


class SharedMachine:
    """Keeps a circuit in step with the record. The caller holds the lock of the circuit.

    Args:
        circuit: The machine of the circuit in this process.
    """

    def __init__(self, circuit: CircuitMachine) -> None:
        self.circuit = circuit
        self.record = NO_RECORD
        self.is_away = False
        """Whether Redis did not answer in the last round."""
        self.is_connected = False
        """Whether Redis has ever answered: before that the number of instances is unknown."""
        self.instances = HeldCount()
        """The live instances that have this breaker."""
        self.rule = ""
        """The rule by which the circuit has last changed its state: the reason of a vote."""
        self._ends = -math.inf  # of the override
        self._until = -math.inf  # the end of the open time of the record
        self._wanted = 0
        self._next_want = -math.inf
        self._is_voting = False
        self._has_voted = False  # until Redis knows that the vote has ended
        self._results: tuple[list[str], list[str]] = ([], [])  # until Redis has them
        self._dropped: list[str] = []
        self._patience = _PATIENCE
        self._trials: LeasedTrials | None = None
        self._asked_at = -math.inf
        self._seen: tuple[object, int, int] = (circuit.epoch, 0, 0)

    @property
    def governs(self) -> bool:
        """Whether the fleet decides about trials, and not this circuit alone."""
        return self.record.state != CLOSED and not self.is_away

    def admit(self, now: float, patience: float) -> tuple[Permit | Refusal, StateChange | None]:
        """Decide about one call, as the circuit does, but make no trial without a slot."""
        circuit, epoch = self.circuit, self.circuit.epoch
        if self.governs and isinstance(epoch, Open) and not (epoch.is_by_hand and now < epoch.until):
            if now < epoch.until:
                return Refusal(epoch.until - now), None
            self._wanted += 1
            return Refusal(None, WAITS), None
        answer, change = circuit.admit(now, patience)
        if isinstance(answer, Refusal) and self._leased is not None:
            self._wanted += 1
        return answer, change

    def has_news(self, now: float) -> bool:
        """Return whether to make a round now. It returns True once for each reason."""
        if (seen := self._state_seen()) != self._seen:
            self._seen = seen
            return True
        if self._wanted and now >= self._next_want:
            self._next_want = now + _PAUSE
            return True
        return False

    def _state_seen(self) -> tuple[object, int, int]:
        epoch, trials = self.circuit.epoch, self._leased
        return (epoch, 0, 0) if trials is None else (epoch, trials.successes, trials.trial_failures)

    @property
    def _leased(self) -> LeasedTrials | None:
        epoch = self.circuit.epoch
        return epoch if isinstance(epoch, LeasedTrials) and epoch.has_leases else None

    def ask(self, now: float, needed: int) -> Ask:
        """Return the question of a round. `needed`: the votes that open the fleet, 0 if that is not known."""
        circuit, record, override = self.circuit, self.record, self.record.override
        epoch, plan = circuit.epoch, circuit.plan
        self._collect(now)
        self._asked_at = now
        self._is_voting = self._votes() and needed > 0 and self.is_connected
        self._has_voted |= self._is_voting
        left = epoch.until - now if isinstance(epoch, Open) else 0.0
        reopen = plan.open_time.seconds(circuit.openings + 1, 0.0, float) if left <= 0 else left
        trials = self._leased
        return {
            "epoch": record.epoch,
            "state": record.state,
            "left": _ms(max(0.0, self._until - now)),
            "reason": record.reason,
            "openings": circuit.openings,
            "version": override.version,
            "word": override.word,
            "word_left": _ms(max(0.0, self._ends - now)) if override.word else 0,
            "why": override.reason,
            "author": override.author,
            "vote": max(1, _ms(reopen)) if self._is_voting else 0,
            "unvote": self._has_voted and not self._is_voting,
            "needed": needed,
            "rule": self.rule[:_LONGEST_REASON],
            "close": isinstance(epoch, Closed | Ramp) and record.state != CLOSED,
            "want": min(self._wanted, plan.trials.permits),
            "permits": plan.trials.permits,
            "required": plan.trials.required_successes,
            "allowed": plan.trials.allowed_failures,
            "reopen": max(1, _ms(reopen)),
            "limit": _ms(plan.half_open_limit),
            "ok": [*self._results[0]],
            "failed": [*self._results[1]],
            "keep": [] if trials is None else [*trials.tokens],
            "drop": [*self._dropped],
            "lease": _ms(LEASE),
            "ttl": _ms(LIFETIME),
            "leave": False,
        }

    def leave(self, now: float) -> Ask:
        """Return the last question, in which this instance gives everything back, and decide alone from now on."""
        tokens = [] if self._leased is None else [*self._leased.tokens]
        asked = self.ask(now, 0)
        asked["want"], asked["keep"], asked["leave"] = 0, [], True
        asked["drop"] += tokens
        self.unreachable(now)
        return asked

    def answer(self, asked: Ask, record: FleetRecord, tokens: Sequence[str], now: float) -> StateChange | None:
        """Take the reply to `asked`: the record, and the slots that this instance got."""
        if self.is_away:
            self.instances.restart(now)
        self.is_away, self.is_connected = False, True
        self.instances.take(now, record.instances)
        self._has_voted &= asked["vote"] > 0 or not asked["unvote"]
        self._results = self._results[0][len(asked["ok"]) :], self._results[1][len(asked["failed"]) :]
        self._dropped = self._dropped[len(asked["drop"]) :]
        self._wanted = 0
        change = self.learn(record, now)
        if tokens and record.epoch == self.record.epoch and self._can_try(now):
            change = self._follow(record, now)  # its trials were cut off, or those of the process that forked it
        trials = self._leased
        if trials is not None and record.epoch == self.record.epoch and now < self._asked_at + LEASE:
            trials.leased_until = self._asked_at + LEASE  # counted from before the server did
            if tokens:
                trials.grant(tokens, now)
                self._next_want = -math.inf
        else:
            self._dropped += tokens
        return change

    def learn(self, record: FleetRecord, now: float) -> StateChange | None:
        """Take a record, of a reply or of a message. An old one changes nothing."""
        before = self.record
        if record.override.version > before.override.version:
            self._ends = now + record.override.left if record.override.word else -math.inf
        else:
            record = record._replace(override=before.override)
        if record.epoch < before.epoch:
            self.record = before._replace(override=record.override)
            return None
        self.record = record
        until = now + record.left
        if record.epoch == before.epoch:
            epoch = self.circuit.epoch
            if record.state == OPEN:
                self._until = min(self._until, until)  # the less of it was spent on the way, the earlier
                if isinstance(epoch, Open) and not epoch.is_by_hand:
                    epoch.until = min(epoch.until, self._until)
            return None
        self._until = until
        self._wanted, self._next_want = 0, -math.inf
        if record.state == CLOSED:
            self._patience = _PATIENCE
        change = self._follow(record, now)
        self._seen = self._state_seen()
        return change

    def _can_try(self, now: float) -> bool:
        epoch = self.circuit.epoch
        return isinstance(epoch, Open) and now >= epoch.until

    def author(self, now: float) -> str | None:
        """Return who has ordered the override in force; None without one."""
        return self.record.override.author if now < self._ends else None

    def unreachable(self, now: float) -> None:
        """Decide alone from now on: Redis does not answer."""
        self.is_away = True
        self._is_voting = False
        if (trials := self._leased) is not None:
            trials.end_leases(self.circuit.plan.trials, now + self.circuit.plan.half_open_limit)
        self._trials = None
        self._results, self._dropped, self._wanted = ([], []), [], 0

    def forget(self, now: float) -> None:
        """Become another instance, without votes and slots: the process has been forked."""
        if (trials := self._leased) is not None:
            self.circuit.open(now, "forked", seconds=0.0)  # the slots are the parent's
            trials.tokens.clear()
        self._trials = None
        self._results, self._dropped, self._wanted = ([], []), [], 0
        self._is_voting = self._has_voted = False
        self.is_connected = False  # the new instance has counted no other
        self.instances = HeldCount()
        if self.record.state != CLOSED and isinstance(self.circuit.epoch, Closed | Ramp):
            # The fork came between the record and its effect. A closed circuit would close the fleet.
            self.circuit.open(now, self.record.reason, seconds=max(0.0, self._until - now))

    def _follow(self, record: FleetRecord, now: float) -> StateChange | None:
        circuit, epoch = self.circuit, self.circuit.epoch
        circuit.openings = max(circuit.openings, record.openings)
        if isinstance(epoch, Open) and epoch.is_by_hand and now < epoch.until:
            return None
        if record.state == OPEN:
            if isinstance(epoch, Open) and epoch.cut_offs is None:
                epoch.until = self._until
                return None
            return circuit.open(now, record.reason, seconds=record.left)
        if record.state == HALF_OPEN:
            trials = LeasedTrials(circuit.plan.trials, circuit.counts(now).failures, circuit.new_running(now))
            self._trials = trials
            return circuit.enter(trials, record.reason, circuit.counts(now))
        if isinstance(epoch, Closed | Ramp):
            return None
        return circuit.end_trials(record.reason, circuit.counts(now), now)

    def _votes(self) -> bool:
        epoch = self.circuit.epoch
        if self.record.state != CLOSED:
            return False
        if isinstance(epoch, Open):  # not if only impatient callers are refused, or by hand
            return epoch.cut_offs is None and not epoch.is_by_hand
        return self._is_voting and isinstance(epoch, HalfOpen)

    def _collect(self, now: float) -> None:
        """Take results and unused slots from the trials of this instance."""
        present = self._leased
        for trials in {self._trials, present} - {None}:
            assert trials is not None  # noqa: S101 - for the type checker
            ok, failed = trials.take_results()
            self._results = [*self._results[0], *ok], [*self._results[1], *failed]
            if ok or failed:
                self._patience = _PATIENCE
            if trials is present:
                self._dropped += self._unused(trials, now)
            else:
                self._dropped += trials.tokens
                trials.tokens.clear()
        self._trials = present

    def _unused(self, trials: LeasedTrials, now: float) -> list[str]:
        """Take the slots that are to go back: no call has used them for a while, and another instance wants one."""
        unused = trials.take_unused(now, self._patience if self.record.is_wanted else math.inf)
        if unused:
            self._patience = min(_LONGEST_PATIENCE, 2 * self._patience)
        return unused


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)
