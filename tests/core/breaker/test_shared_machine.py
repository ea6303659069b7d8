"""A shared breaker under any interleaving of calls, rounds, messages, deaths and losses: real script, manual time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_process import RedisProcess

from resilience.breaker import shared
from resilience.breaker._machine import CircuitMachine
from resilience.breaker._options import BreakerOptions
from resilience.breaker._rules import OutcomeRules
from resilience.breaker._states import CLOSED, HALF_OPEN, OPEN, Permit, Refusal, Trial
from resilience.breaker.shared._machine import LEASE, FleetRecord, SharedMachine, votes_needed
from resilience.breaker.shared._wire import keys_of, question, read_record, read_reply

pytestmark = [pytest.mark.redis, pytest.mark.once]

KEYS: Final = keys_of("test", "payments")
CLOCK: Final = "{test:fleet:breaker:payments}:clock"
OPTIONS: Final = BreakerOptions(fail_max=2, reset_timeout=10.0, success_threshold=2, reset_timeout_jitter=0)
SCRIPT: Final = Path(shared.__file__).with_name("record.lua").read_text()


def never(_rules: object) -> None:
    raise AssertionError("a rule that looks at no window judges no success")


class Server:
    """The script on a real server, with a clock of the test in place of TIME."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        text = SCRIPT.replace("redis.call('TIME')", f"redis.call('MGET', '{CLOCK}', 'none')")
        text = text.replace("time[1] * 1000 + math.floor(time[2] / 1000)", "tonumber(time[1])")
        self.run = client.register_script(text)
        self.begin()

    def begin(self) -> None:
        self.client.delete(*KEYS)
        self.now = 1_800_000_000.0
        self.messages: list[FleetRecord] = []
        self.last = FleetRecord()

    def lose(self) -> None:
        self.client.delete(*KEYS)

    def ask(self, ask: Any, **more: object) -> tuple[FleetRecord, list[str]]:
        self.client.set(CLOCK, int(self.now * 1000))
        record, tokens = read_reply(self.run(KEYS, [question(ask, **more)]))
        if (record.epoch, record.override.version) != (self.last.epoch, self.last.override.version):
            self.messages.append(record)
        self.last = record
        return record, tokens

    @property
    def taken(self) -> int:
        return int(self.client.zcount(KEYS[2], f"({int(self.now * 1000)}", "+inf"))


class Instance:
    """One instance: a circuit, its view of the fleet, and a monotonic clock that began anywhere."""

    def __init__(self, server: Server, name: str, offset: float, quorum: float = 0.5) -> None:
        self.server, self.name, self.offset, self.quorum = server, name, offset, quorum

        def rules(now: float) -> OutcomeRules:
            return OPTIONS.trip_rules(now, lambda: self.now, never)

        self.circuit = CircuitMachine(rules, OPTIONS.plan, now=self.now)
        self.view = SharedMachine(self.circuit)
        self.running: list[Permit] = []
        self.epochs: list[int] = [0]

    @property
    def now(self) -> float:
        return self.server.now + self.offset

    def call(self) -> Permit | Refusal:
        answer, _ = self.view.admit(self.now, float("inf"))
        if not isinstance(answer, Refusal):
            self.running.append(answer)
        return answer

    def end(self, *, is_good: bool) -> None:
        if not self.running:
            return
        permit = self.running.pop(0)
        if not is_good:
            self.circuit.record_failure(permit, self.now)
        elif isinstance(permit, Trial):
            self.circuit.record_success(permit, self.now)
        else:
            permit.record_success()

    def round(self, instances: int, *, is_sent: bool = True, is_answered: bool = True) -> None:
        asked = self.view.ask(self.now, votes_needed(self.quorum, instances))
        reply = self.server.ask(asked, me=self.name) if is_sent else None
        if reply is None or not is_answered:
            self.view.unreachable(self.now)
        else:
            self.view.answer(asked, *reply, self.now)
        self.note()

    def hear(self, record: FleetRecord) -> None:
        self.view.learn(record, self.now)
        self.note()

    def note(self) -> None:
        self.epochs.append(self.view.record.epoch)
        assert self.epochs[-2] <= self.epochs[-1], "an older epoch was accepted"

    @property
    def trials(self) -> int:
        leased = self.view._leased
        return 0 if leased is None or self.now >= leased.leased_until else len(leased.in_flight)

    def trip(self) -> None:
        for _ in range(2):
            self.call()
            self.end(is_good=False)


@pytest.fixture(scope="module")
def server(redis_process: RedisProcess) -> Iterator[Server]:
    redis_process.ready()  # an earlier test may have killed it
    client = redis_process.client()
    yield Server(client)
    client.delete(*KEYS, CLOCK)
    client.close()


def fleet_of(server: Server, size: int, quorum: float = 0.5) -> list[Instance]:
    server.begin()
    fleet = [Instance(server, f"i{number}", 1000.0 * number, quorum) for number in range(size)]
    for each in fleet:
        each.round(size)
    return fleet


def states(fleet: list[Instance]) -> set[str]:
    return {each.circuit.epoch.state for each in fleet}


def beat(fleet: list[Instance]) -> None:
    for each in fleet:
        each.round(len(fleet))


@pytest.mark.parametrize(
    ("quorum", "instances", "needed"),
    [(0.5, 4, 2), (0.5, 5, 3), (0.5, 1, 1), (0.1, 3, 1), (1.0, 3, 3), (1, 9, 1), (3, 2, 3), (0.3, 10, 3)],
)
def test_votes_needed(quorum: float, instances: int, needed: int) -> None:
    """A float is a share of the live instances, rounded up; a whole number is a number of instances."""
    assert votes_needed(quorum, instances) == needed


def test_one_bad_instance_cannot_open_the_fleet(server: Server) -> None:
    """One of four instances that trips refuses its own calls alone; with a second one the fleet opens."""
    fleet = fleet_of(server, 4)
    fleet[0].trip()
    beat(fleet)
    beat(fleet)
    assert [each.circuit.epoch.state for each in fleet] == [OPEN, CLOSED, CLOSED, CLOSED]
    fleet[1].trip()
    beat(fleet)
    beat(fleet)
    assert states(fleet) == {OPEN}
    assert server.last.reason == "2 instances have tripped: "


def test_a_vote_ends_with_its_instance(server: Server) -> None:
    """The vote of an instance that has died counts until its lease ends, and not for longer."""
    fleet = fleet_of(server, 4)
    fleet[0].trip()
    fleet[0].round(4)
    server.now += LEASE + 0.1
    fleet[1].trip()
    beat(fleet[1:])
    assert [each.circuit.epoch.state for each in fleet[1:]] == [OPEN, CLOSED, CLOSED]


def test_an_instance_that_counts_no_others_does_not_vote(server: Server) -> None:
    """Before Redis has answered, the number of instances is unknown, and a vote could be a false quorum."""
    server.begin()
    alone = Instance(server, "new", 0.0)
    alone.trip()
    alone.round(1)
    assert server.last.state == CLOSED
    alone.round(4)
    assert (server.last.state, server.last.votes) == (CLOSED, 1)


def test_a_forked_child_does_not_vote_alone(server: Server) -> None:
    """A child has counted no other instance, so its first round carries no vote."""
    fleet = fleet_of(server, 4)
    child = fleet[0]
    child.view.forget(child.now)
    child.trip()
    child.round(1)
    assert server.last.state == CLOSED


def test_an_instance_opened_by_hand_is_no_vote(server: Server) -> None:
    """An operator who opens one instance opens that one alone, for as long as asked, whatever the fleet does."""
    fleet = fleet_of(server, 2, 1)
    fleet[0].circuit.open(fleet[0].now, "by hand", seconds=60.0, is_by_hand=True)
    beat(fleet)
    assert (server.last.state, server.last.votes) == (CLOSED, 0)
    fleet[1].trip()
    beat(fleet)
    beat(fleet)
    assert fleet[0].circuit.retry_after(fleet[0].now) == pytest.approx(60.0)


def test_closing_by_hand_closes_the_fleet(server: Server) -> None:
    """`close()` on one instance of an open fleet closes it in all instances."""
    fleet = fleet_of(server, 3, 1)
    fleet[0].trip()
    beat(fleet)
    assert states(fleet) == {OPEN}
    fleet[2].circuit.close("closed by hand", fleet[2].now)
    beat(fleet)
    beat(fleet)
    assert states(fleet) == {CLOSED}


def test_open_time_is_that_of_the_server(server: Server) -> None:
    """Each instance counts the rest of the open time on its own clock."""
    fleet = fleet_of(server, 2)
    fleet[0].trip()
    fleet[0].round(2)
    server.now += 4
    fleet[1].round(2)
    assert fleet[1].circuit.retry_after(fleet[1].now) == pytest.approx(6.0, abs=0.01)


def test_trials_need_slots(server: Server) -> None:
    """Of many instances as many trials run as the options allow, and the others refuse until the fleet has closed."""
    fleet = fleet_of(server, 4)
    fleet[0].trip()
    fleet[1].trip()
    beat(fleet)
    beat(fleet)
    server.now += 10.1
    assert all(isinstance(each.call(), Refusal) for each in fleet)  # nobody has a slot yet
    beat(fleet)
    answers = [fleet[0].call(), fleet[1].call(), fleet[2].call(), fleet[3].call()]
    assert sum(isinstance(answer, Trial) for answer in answers) == 2
    for each in fleet:
        each.end(is_good=True)
    beat(fleet)
    beat(fleet)
    assert states(fleet) == {CLOSED}
    assert server.last.reason == "trial calls succeeded"


def test_a_late_result_changes_nothing(server: Server) -> None:
    """A trial whose lease has ended does not count, even if its instance reports it."""
    fleet = fleet_of(server, 2)
    fleet[0].trip()
    beat(fleet)
    server.now += 10.1
    fleet[0].call()
    fleet[0].round(2)
    assert isinstance(fleet[0].call(), Trial)
    server.now += LEASE + 0.1  # the process stands still
    fleet[0].end(is_good=False)
    fleet[1].call()
    fleet[1].call()
    fleet[1].round(2)
    fleet[1].call()
    fleet[1].round(2)
    fleet[0].round(2)
    assert (server.last.state, server.last.failures) != (OPEN, 1)
    assert server.last.epoch == 2


def test_a_failed_trial_opens_the_fleet_again(server: Server) -> None:
    """One failed trial of one instance opens all for another open time."""
    fleet = fleet_of(server, 3, 1)
    fleet[0].trip()
    beat(fleet)
    server.now += 10.1
    fleet[2].call()
    beat(fleet)
    assert isinstance(fleet[2].call(), Trial)
    fleet[2].end(is_good=False)
    fleet[2].round(3)
    beat(fleet)
    assert states(fleet) == {OPEN}
    assert fleet[1].circuit.retry_after(fleet[1].now) == pytest.approx(10.0, abs=0.01)


def test_lost_data_is_restored(server: Server) -> None:
    """After a FLUSHALL the instance with the highest epoch restores the record, and a new instance reads it."""
    fleet = fleet_of(server, 2)
    fleet[0].trip()
    beat(fleet)
    beat(fleet)
    server.lose()
    server.now += 3
    beat(fleet)
    new = Instance(server, "new", 5.0)
    new.round(3)
    assert (server.last.epoch, server.last.state) == (1, OPEN)
    assert new.circuit.epoch.state == OPEN
    assert new.circuit.retry_after(new.now) == pytest.approx(7.0, abs=0.01)


def test_without_redis_each_circuit_decides_alone(server: Server) -> None:
    """An instance that does not reach Redis makes its own trials; when it is back, it closes the fleet."""
    fleet = fleet_of(server, 2)
    fleet[0].trip()
    beat(fleet)
    beat(fleet)
    fleet[0].round(2, is_sent=False)
    server.now += 10.1
    assert isinstance(fleet[0].call(), Trial)
    assert isinstance(fleet[0].call(), Trial)
    fleet[0].end(is_good=True)
    fleet[0].end(is_good=True)
    assert fleet[0].circuit.epoch.state == CLOSED
    beat(fleet)
    beat(fleet)
    assert states(fleet) == {CLOSED}


def test_an_unused_slot_goes_to_another_instance(server: Server) -> None:
    """A slot that no call uses for a second is given back, if another instance has asked in vain."""
    fleet = fleet_of(server, 2, 1)
    fleet[0].trip()
    beat(fleet)
    server.now += 10.1
    fleet[0].call()
    fleet[0].call()
    fleet[0].round(2)
    server.now += 1.1
    fleet[0].round(2)
    fleet[0].round(2)
    assert server.taken == 2
    fleet[1].call()
    fleet[1].round(2)
    fleet[0].round(2)  # learns it
    fleet[0].round(2)
    fleet[1].call()
    fleet[1].round(2)
    assert isinstance(fleet[1].call(), Trial)


def test_overrides_survive_a_loss_of_data(server: Server) -> None:
    """The newest override wins, and an instance restores it with the time that is left."""
    fleet = fleet_of(server, 2)
    order = {"word": "forced_open", "left": 60_000, "why": "drill", "author": "ann", "kept": 100, "kept_for": 1000}
    asked = fleet[0].view.ask(fleet[0].now, 0)
    server.ask(asked | {"epoch": 0, "version": 0, "close": False}, me="", set=order)
    beat(fleet)
    server.lose()
    server.now += 10
    beat(fleet)
    found = server.last.override
    assert (found.word, found.left, found.reason, found.author) == ("forced_open", 50.0, "drill", "ann")


STEPS: Final = (
    "call",
    "good",
    "bad",
    "bad",
    "round",
    "round",
    "round",
    "lost",
    "unanswered",
    "hear",
    "time",
    "wait",
    "die",
)
MOVES: Final = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3), st.integers(0, 5)), max_size=60)
BORN: Final = itertools.count(4)


def move(server: Server, fleet: list[Instance], step: str, index: int, extra: int) -> None:
    each = fleet[index]
    if step == "call":
        each.call()
    elif step in ("good", "bad"):
        each.end(is_good=step == "good")
    elif step == "hear" and server.messages:
        each.hear(server.messages[-1 - extra % len(server.messages)])
    elif step in ("time", "wait"):
        server.now += 0.4 * extra if step == "time" else 5.0
    elif step == "die":
        fleet[index] = Instance(server, f"i{next(BORN)}", 7.0)
    elif step in ("round", "lost", "unanswered"):
        each.round(4, is_sent=step != "lost", is_answered=step != "unanswered")


@given(moves=MOVES, losses=st.sets(st.integers(0, 59), max_size=2))
@settings(max_examples=60)
def test_any_interleaving_converges(server: Server, moves: list[tuple[str, int, int]], losses: set[int]) -> None:
    """No older epoch is accepted, the slots are never exceeded, and when all is quiet all instances agree."""
    fleet = fleet_of(server, 4)
    for number, (step, index, extra) in enumerate(moves):
        if number in losses:
            server.lose()
        move(server, fleet, step, index, extra)
        assert server.taken <= 2
        if not losses:
            assert sum(each.trials for each in fleet) <= 2
    for _ in range(40):  # all is well again: calls succeed, no message is lost
        server.now += 1
        for each in fleet:
            each.call()
            while each.running:
                each.end(is_good=True)
        beat(fleet)
    assert states(fleet) == {CLOSED}
    assert {each.view.record.epoch for each in fleet} == {server.last.epoch}
    assert not any(each.view.governs for each in fleet)


def test_messages_are_read_or_refused() -> None:
    """A message that is no record raises `ValueError`, whatever it holds."""
    for text in (b"", b"{}", b"[]", b"1", b"null", b'{"version": 1}', b"\xff", b"nonsense"):
        with pytest.raises(ValueError):
            read_record(text)
    good = (
        '{"version":1,"word":"","word_left":0,"why":"a\\nb","author":"","epoch":1,"state":"open","left":5,"reason":""'
    )
    good += ',"ok":0,"failed":0,"openings":1,"votes":0,"trials":0,"instances":1,"is_new":false,"is_wanted":false}'
    assert read_record(good).override.reason == r"a\nb"
    for old, new in (
        ('"open"', '"opem"'),
        (":5", ":NaN"),
        (":5", ":-1"),
        (":5", ":1e300"),
        ('"word":""', '"word":"off"'),
    ):
        with pytest.raises(ValueError):
            read_record(good.replace(old, new, 1))
    for reply in (None, [], 3, ["{}"], b"{}"):
        with pytest.raises(ValueError):
            read_reply(reply)


@pytest.mark.parametrize("state", [OPEN, HALF_OPEN])
def test_a_clock_that_goes_back_holds_nothing_up(server: Server, state: str) -> None:
    """After a failover to a server whose clock is an hour behind, the fleet closes as soon as it would have.

    The vote and the slots of an instance that died before it end as well.
    """
    fleet = fleet_of(server, 3, 1)
    fleet[0].trip()
    beat(fleet)
    if state == HALF_OPEN:
        server.now += 10.1
        for _ in range(2):
            fleet[0].call()
        fleet[0].round(3)
        assert server.taken == 2
    alive = fleet[1:]
    server.now -= 3600
    for each in fleet:
        each.offset += 3600
    for _ in range(20):
        server.now += 1
        for each in alive:
            each.call()
            each.end(is_good=True)
        beat(alive)
    assert server.last.state == CLOSED
    assert states(alive) == {CLOSED}


def test_an_override_ends_on_a_clock_that_goes_back(server: Server) -> None:
    """A new instance keeps an override of a minute for a minute, although the server's clock has gone back an hour."""
    (each,) = fleet_of(server, 1)
    order = {"word": "forced_open", "left": 60_000, "why": "drill", "author": "ann", "kept": 100, "kept_for": 1000}
    server.ask(each.view.ask(each.now, 0), me="", set=order)
    server.now -= 3600
    new = Instance(server, "new", 0.0)
    new.round(2)
    assert new.view.record.override.left == pytest.approx(60.0)


def test_votes_of_dead_instances_end_on_a_clock_that_goes_back(server: Server) -> None:
    """A vote from before the clock went back is no vote any more."""
    fleet = fleet_of(server, 4)
    fleet[0].trip()
    fleet[0].round(4)
    server.now -= 3600
    for each in fleet:
        each.offset += 3600
    fleet[1].trip()
    beat(fleet[1:])
    assert (server.last.state, server.last.votes) == (CLOSED, 1)


def test_a_child_of_a_half_open_circuit_makes_trials(server: Server) -> None:
    """A child that was forked while its parent had slots asks for slots of its own, and uses them."""
    (parent,) = fleet_of(server, 1, 1)
    parent.trip()
    parent.round(1)
    server.now += 10.1
    parent.call()
    parent.round(1)
    parent.view.forget(parent.now)  # as in the child
    parent.name = "child"
    server.now += LEASE + 0.1
    parent.call()
    parent.round(2)
    assert isinstance(parent.call(), Trial)


def test_a_failed_trial_whose_lease_has_ended_is_tried_again(server: Server) -> None:
    """The failure does not count in the fleet, and the instance that has opened by it makes further trials."""
    (alone,) = fleet_of(server, 1, 1)
    alone.trip()
    alone.round(1)
    server.now += 10.1
    alone.call()
    alone.round(1)
    assert isinstance(alone.call(), Trial)
    server.now += LEASE + 0.1  # the process stands still
    alone.end(is_good=False)
    alone.round(1)
    assert (server.last.state, alone.circuit.epoch.state) == (HALF_OPEN, OPEN)
    server.now += 10.1
    alone.call()
    alone.round(1)
    assert isinstance(alone.call(), Trial)


def test_a_fork_between_a_record_and_its_effect_closes_nothing(server: Server) -> None:
    """A child that has the record, but not yet the open circuit, opens; it does not close the fleet."""
    fleet = fleet_of(server, 2, 1)
    fleet[0].trip()
    fleet[0].round(2)
    child = fleet[1]
    child.view.record = server.last  # the first step of `learn`
    child.view._until = child.now + server.last.left
    child.view.forget(child.now)
    child.round(2)
    assert (server.last.state, child.circuit.epoch.state) == (OPEN, OPEN)


def test_a_vote_is_taken_back(server: Server) -> None:
    """A circuit that has closed again takes back its vote in its next round, also if Redis was away meanwhile."""
    fleet = fleet_of(server, 4)
    fleet[0].trip()
    fleet[0].round(4)
    assert server.last.votes == 1
    fleet[0].circuit.close("closed by hand", fleet[0].now)
    fleet[0].round(4, is_sent=False)
    fleet[0].round(4)
    assert server.last.votes == 0


def test_an_instance_that_leaves_gives_everything_back(server: Server) -> None:
    """Its vote, its slots and its place in the count end at once, and its circuit decides alone from then on."""
    fleet = fleet_of(server, 3, 2)
    fleet[0].trip()
    fleet[0].round(3)
    assert (server.last.votes, server.last.instances) == (1, 3)
    server.ask(fleet[0].view.leave(fleet[0].now), me=fleet[0].name)
    assert (server.last.votes, server.last.instances) == (0, 2)
    fleet[1].trip()
    fleet[2].trip()
    beat(fleet[1:])
    beat(fleet[1:])
    server.now += 10.1
    fleet[1].call()
    fleet[1].round(2)
    assert server.taken == 1
    server.ask(fleet[1].view.leave(fleet[1].now), me=fleet[1].name)
    assert server.taken == 0
    assert isinstance(fleet[1].call(), Trial)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("pause", [3, 20])
def test_a_dependency_with_few_calls_is_found_again(server: Server, size: int, pause: int) -> None:
    """A fleet whose instances call in turn, each once in `pause` seconds or less, still makes its trials and closes.

    The call that asks for a slot is refused, so the slot has to wait for the next call.
    """
    fleet = fleet_of(server, size, 1)
    fleet[0].trip()
    beat(fleet)
    beat(fleet)
    server.now += 10.1
    for second in range(40 * pause):
        server.now += 1
        beat(fleet)
        if second % pause == 0:
            each = fleet[second // pause % size]
            each.call()
            each.end(is_good=True)
            each.round(size)  # a nudge
    assert states(fleet) == {CLOSED}


def test_patience_for_few_calls_ends_with_the_outage(server: Server) -> None:
    """Each slot that goes back unused waits longer the next time; once the fleet has closed, it is a second again."""
    fleet = fleet_of(server, 2, 1)

    def open_the_fleet() -> None:
        fleet[0].trip()
        beat(fleet)
        beat(fleet)
        server.now += 10.1
        fleet[0].call()
        fleet[0].call()
        fleet[0].round(2)

    def beats_until(other: Instance) -> int:
        """Return how many beats pass until `other`, which asks in vain, has both slots."""
        for beats in range(200):
            if other.view._leased is not None and other.view._leased.tokens:
                return beats
            server.now += 0.9
            other.call()
            other.call()
            beat(fleet)
        raise AssertionError("it never got a slot")

    open_the_fleet()
    waits = [beats_until(fleet[number % 2]) for number in (1, 2, 3, 4, 5, 6)]
    assert waits[0] < 5 < waits[5]
    fleet[0].circuit.close("closed by hand", fleet[0].now)
    beat(fleet)
    beat(fleet)
    assert states(fleet) == {CLOSED}
    open_the_fleet()
    assert beats_until(fleet[1]) <= waits[0] + 1
