"""Leases without Redis: the machine, and the law that instances keep together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lease_ledger import LeaseLedger

from resilience.ratelimit import Rate
from resilience.ratelimit._machine import Quota
from resilience.ratelimit.on_redis.leases._codec import LeaseAnswer
from resilience.ratelimit.on_redis.leases._machine import KEPT, LIFETIME, Demand, LeaseRule, TokenLease
from resilience.ratelimit.on_redis.leases._table import LeaseTable, Renewing
from resilience.testing import ManualClock

_QUOTA = Quota("q", Rate(10, 1), 30)
_INSTANCES = 3


class _Instance:
    """An instance that spends from one bucket by leases, as `LeasedBuckets` does."""

    def __init__(self, ledger: LeaseLedger, clock: ManualClock, most: int = 20, instances: int = 1) -> None:
        self._ledger = ledger
        self._clock = clock
        self.table = LeaseTable(LeaseRule(_QUOTA, most), lambda: instances, clock)
        self.calls = 0

    @property
    def lease(self) -> TokenLease:
        lease = self.table.lease_of("k")
        assert lease is not None
        return lease

    @property
    def at_hand(self) -> int:
        return len(self.lease.tokens) if self._clock() < self.lease.ends_at else 0

    @property
    def leased(self) -> int:
        """Tokens that the server has leased to this instance and that are not spent: lost answers are among them."""
        record = self._ledger.records.get(self.table.instance)
        if record is None:
            return 0
        return len(self.lease.tokens) + (record.granted if record.number != self.lease.number else 0)

    def renew(self, least: int = 0, fate: str = "answered") -> None:
        renewal = self.table.begin(self.lease, least, self._clock())
        if renewal is not None:
            self.send(Renewing("k", renewal), fate)

    def send(self, renewing: Renewing, fate: str = "answered") -> None:
        self.calls += 1
        if fate != "not sent":
            answer = LeaseAnswer(*self._ledger.call(self.table.instance, renewing.renewal, self.released))
            if fate == "answered":
                self.table.settle(renewing.renewal, answer)
        renewing.renewal.end()

    def released(self, holder: bytes, tokens: int) -> None:
        """Learn that the server has taken a lease back."""

    def spend(self, tokens: int) -> int:
        """Spend up to `tokens`, one after the other; ask for more as a caller does."""
        spent = 0
        for _ in range(tokens):
            now = self._clock()
            lease = self.lease
            if not lease.spend(1, now):
                lease.ask(1)
                if now >= lease.ask_at:
                    self.renew(1)
                if not lease.spend(1, self._clock()):
                    continue
            spent += 1
        return spent

    def tick(self, fate: str = "answered") -> None:
        """Make a round of the fleet."""
        for renewing in self.table.idle(500):
            self.send(renewing, fate)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ledger(clock: ManualClock) -> LeaseLedger:
    return LeaseLedger(_QUOTA, clock)


_ACTIONS = st.sampled_from(["spend", "spend", "spend", "renew", "not sent", "no answer", "tick", "lost tick", "crash"])
_STEPS = st.lists(
    st.tuples(_ACTIONS, st.integers(0, _INSTANCES - 1), st.integers(1, 25), st.sampled_from([0.0, 0.1, 0.4, 1.1, 3.2])),
    min_size=5,
    max_size=60,
)


class _Watched(_Instance):
    """An instance whose unreported tokens are counted, and those of them that the server has taken back."""

    unreported = 0
    forgiven = 0

    def __init__(self, ledger: LeaseLedger, clock: ManualClock, peers: dict[bytes, _Watched]) -> None:
        super().__init__(ledger, clock)
        self._peers = peers
        peers[self.table.instance] = self

    def send(self, renewing: Renewing, fate: str = "answered") -> None:
        reported = self.unreported
        super().send(renewing, fate)
        if fate != "not sent":
            self.unreported -= reported

    def released(self, holder: bytes, tokens: int) -> None:
        peer = self._peers[holder]
        peer.forgiven += peer.unreported
        assert peer.unreported <= tokens
        peer.unreported = 0

    def spend(self, tokens: int) -> int:
        spent = 0
        for _ in range(tokens):
            if super().spend(1):
                self.unreported += 1
                spent += 1
        return spent


@given(_STEPS)
def test_instances_spend_no_more_than_the_bucket_and_the_leases(steps: list[tuple[str, int, int, float]]) -> None:
    """Over any time t: spent <= rate x t + burst + tokens leased at its begin + spent tokens that were taken back."""
    clock, peers = ManualClock(), dict[bytes, _Watched]()
    ledger = LeaseLedger(_QUOTA, clock)
    instances = [_Watched(ledger, clock, peers) for _ in range(_INSTANCES)]
    spent, seen = 0, [(clock(), 0, 0, 0)]
    for action, who, amount, pause in steps:
        instance = instances[who]
        if action == "spend":
            spent += instance.spend(amount)
        elif action == "crash":
            instances[who] = _Watched(ledger, clock, peers)
        elif action in ("tick", "lost tick"):
            instance.tick("answered" if action == "tick" else "no answer")
        else:
            instance.renew(amount, {"renew": "answered"}.get(action, action))
        clock.advance(pause)
        forgiven = sum(each.forgiven for each in peers.values())
        for since, spent_before, leased, forgiven_before in seen:
            bound = (clock() - since) * 10 + _QUOTA.burst + leased + (forgiven - forgiven_before)
            assert spent - spent_before <= bound + 1e-6
        seen.append((clock(), spent, sum(each.leased for each in peers.values()), forgiven))


_IN_TOUCH = st.lists(
    st.tuples(
        st.sampled_from(["spend", "spend", "spend", "renew", "not sent", "no answer"]),
        st.integers(0, _INSTANCES - 1),
        st.integers(1, 25),
        st.sampled_from([0, 0, 1, 4, 11, 32]),
    ),
    min_size=5,
    max_size=60,
)


@given(_IN_TOUCH)
def test_instances_that_make_their_rounds_lose_and_gain_nothing(steps: list[tuple[str, int, int, int]]) -> None:
    """If rounds reach Redis: spent <= rate x t + burst + tokens leased at its begin; and at rest no lease is left."""
    clock = ManualClock()
    ledger = LeaseLedger(_QUOTA, clock)
    instances = [_Instance(ledger, clock) for _ in range(_INSTANCES)]
    spent, tenths = 0, 0
    seen = [(0, 0, 0)]

    def wait(pause: int) -> None:
        nonlocal tenths
        for _ in range(pause):
            clock.advance(0.1)
            tenths += 1
            if tenths % 8 == 0:
                for each in instances:
                    each.tick()

    for action, who, amount, pause in steps:
        if action == "spend":
            spent += instances[who].spend(amount)
        else:
            instances[who].renew(amount, {"renew": "answered"}.get(action, action))
        wait(pause)
        for since, spent_before, leased in seen:
            assert spent - spent_before <= tenths - since + _QUOTA.burst + leased + 1e-6
        seen.append((tenths, spent, sum(each.leased for each in instances)))
    wait(80)
    newcomer = _Instance(ledger, clock)
    newcomer.renew(20)  # finds the leases whose answers were lost
    assert (newcomer.at_hand, list(ledger.records)) == (20, [newcomer.table.instance])
    assert ledger.missing == pytest.approx(20)
    assert [each.at_hand for each in instances] == [0] * _INSTANCES


def test_a_lease_that_is_not_spent_returns_in_the_rounds(clock: ManualClock, ledger: LeaseLedger) -> None:
    """An instance that spends nothing any more gives its tokens back, and then the bucket has them all."""
    instance = _Instance(ledger, clock)
    assert instance.spend(15) == 15
    assert ledger.missing == pytest.approx(15 + instance.at_hand)
    assert instance.at_hand > 0
    for _ in range(3):
        clock.advance(1)
        instance.tick()
    assert (instance.at_hand, ledger.missing, ledger.records) == (0, 0, {})


def test_the_lease_of_a_dead_instance_returns_by_its_end(clock: ManualClock, ledger: LeaseLedger) -> None:
    """What a dead instance has leased is in the bucket again `KEPT` after its last call, found by the next call."""
    dead, alive = _Instance(ledger, clock), _Instance(ledger, clock)
    dead.renew(20)
    alive.renew(10)
    assert ledger.missing == pytest.approx(30)
    assert alive.spend(10) == 10
    clock.advance(KEPT - 0.5)
    alive.renew(20)
    assert alive.at_hand == 20  # 25 have come back by themselves
    assert ledger.missing == pytest.approx(30 - 25 + 20)
    clock.advance(0.5)
    alive.renew(21)
    assert ledger.missing == pytest.approx(25 - 5 + 1 - 20)  # 20 more than the rate gives


def test_a_lease_ends_on_the_clock_of_the_instance(clock: ManualClock, ledger: LeaseLedger) -> None:
    """An instance spends a lease for `LIFETIME`, and the server takes it back later than that."""
    instance = _Instance(ledger, clock)
    instance.renew(5)
    clock.advance(LIFETIME - 0.01)
    assert instance.lease.spend(1, clock())
    clock.advance(0.01)
    assert not instance.lease.spend(1, clock())
    assert LIFETIME + 1 <= KEPT


def test_an_answer_that_is_lost_loses_no_token(clock: ManualClock, ledger: LeaseLedger) -> None:
    """The call after a lost answer returns what the server had granted in it."""
    instance = _Instance(ledger, clock)
    instance.renew(10)
    assert instance.lease.spend(4, clock())
    instance.renew(20, "no answer")
    assert ledger.missing == pytest.approx(10 + 14)
    assert instance.lease.spend(1, clock())
    instance.renew(20)
    assert instance.at_hand == 20
    assert ledger.missing == pytest.approx(5 + 20)


def test_an_instance_that_reports_late_pays_again(clock: ManualClock, ledger: LeaseLedger) -> None:
    """Tokens that were taken back as unspent, and had been spent, are paid by the next report."""
    late, other = _Instance(ledger, clock), _Instance(ledger, clock)
    late.renew(20)
    assert late.lease.spend(20, clock())
    other.renew(10)
    clock.advance(KEPT)
    other.renew(11)  # takes the lease back
    assert ledger.missing == pytest.approx(1)
    late.tick()
    assert ledger.missing == pytest.approx(21)


def test_a_call_that_was_held_up_changes_nothing(clock: ManualClock, ledger: LeaseLedger) -> None:
    """The server decides each number once: a call that arrives after a later one grants nothing."""
    instance = _Instance(ledger, clock)
    instance.renew(5)
    old = instance.table.begin(instance.lease, 20, clock())
    assert old is not None
    clock.advance(LIFETIME + 0.1)
    instance.renew(8)
    assert instance.at_hand == 8
    assert ledger.call(instance.table.instance, old)[0] == 0
    instance.table.settle(old, LeaseAnswer(15, 1.0))  # and its answer is of no effect
    assert instance.at_hand == 8


def test_a_refusal_holds_until_tokens_come_back(clock: ManualClock, ledger: LeaseLedger) -> None:
    """A flood on an empty bucket asks the server a few times a second, and admits the rate all the same."""
    instance = _Instance(ledger, clock)
    instance.spend(500)
    before, spent = instance.calls, 0
    for _ in range(1000):
        clock.advance(0.01)
        spent += instance.spend(10)
    assert instance.calls - before <= 10 * 8
    assert 93 <= spent <= 101


def test_demand_of_a_steady_rate_is_that_rate() -> None:
    """The demand comes to the tokens that are asked for in a horizon, however often they are counted."""
    for pause in (0.125, 0.5, 2.0):
        demand = Demand(0.0, 0.0)
        for count in range(1, 161):
            demand = demand.after(int(40 * pause), count * pause)
        assert demand.level == pytest.approx(40, rel=1e-3)
    assert Demand(5.0, 1.0).after(3, 1.0).after(2, 0.5) == Demand(10.0, 1.0)


@pytest.mark.parametrize(
    ("level", "most", "instances", "size"),
    [(1.9, 50, 1, 0), (30, 50, 1, 30), (90, 50, 1, 50), (900, 500, 1, 100), (90, 50, 10, 20), (90, 50, 200, 0)],
)
def test_size_of_a_lease(level: float, most: int, instances: int, size: int) -> None:
    """A lease covers the demand of a second, within the option, the burst, and twice the share of the instance."""
    assert LeaseRule(Quota("q", Rate(100, 1), 100), most).size(level, instances) == size


def test_a_lease_grows_and_shrinks_with_the_demand(clock: ManualClock) -> None:
    """The lease follows the rate of the calls within seconds, up to the option."""
    quota = Quota("q", Rate(1000, 1), 1000)
    ledger = LeaseLedger(quota, clock)
    table = LeaseTable(LeaseRule(quota, 50), lambda: 1, clock)
    lease = table.lease_of("k")
    assert lease is not None

    def play(calls: int, seconds: int) -> int:
        asked = 0
        for _ in range(calls * seconds):
            clock.advance(1 / calls)
            if not lease.spend(1, clock()):
                lease.ask(1)
                renewal = table.begin(lease, 1, clock())
                assert renewal is not None
                table.settle(renewal, LeaseAnswer(*ledger.call(table.instance, renewal)))
                asked += 1
                assert lease.spend(1, clock())
        return asked

    play(200, 3)
    assert play(200, 5) <= 200 * 5 / 25
    play(10, 5)
    assert table.size(lease, clock()) == pytest.approx(10, abs=2)
    assert play(10, 10) <= 20


def test_keys_are_bounded(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more keys than the table holds, the oldest one goes, and its lease goes back in the next round."""
    monkeypatch.setattr("resilience.ratelimit.on_redis.leases._table.MAX_KEYS", 3)
    ledger = LeaseLedger(_QUOTA, clock)
    table = LeaseTable(LeaseRule(_QUOTA, 20), lambda: 1, clock)
    first = table.lease_of("k")
    assert first is not None
    renewal = table.begin(first, 20, clock())
    assert renewal is not None
    table.settle(renewal, LeaseAnswer(*ledger.call(table.instance, renewal)))
    for key in "abcdefgh":
        assert table.lease_of(key) is not None
    assert len(table.leases) == 3
    (returning,) = table.idle(500)
    ledger.call(table.instance, returning.renewal)
    assert (returning.key, ledger.missing, ledger.records) == ("k", 0, {})
    table.settle(returning.renewal, LeaseAnswer(0, 0.0))
    assert table.lease_of("k") is first  # known under our name until the server has answered
    for key in "abcdefgh":
        table.lease_of(key)
    assert table.lease_of("k") is not first


def test_quiet_keys_are_forgotten(clock: ManualClock, ledger: LeaseLedger) -> None:
    """A key without calls leaves the table within seconds."""
    instance = _Instance(ledger, clock)
    instance.spend(20)
    for _ in range(8):
        clock.advance(1)
        instance.tick()
    assert instance.table.leases == {}
