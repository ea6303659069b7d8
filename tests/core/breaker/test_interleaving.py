"""Two threads, stepped through every order in which their accesses to one breaker can follow each other.

Each access of one thread that the other thread can notice is a gate: taking and releasing the lock, reading the fast
permit, the machine, the mode and the clock without it, storing permit and mode, beginning and ending a timed call,
calling a listener. A thread runs from gate to gate, alone. This module decides which thread runs next, and tries every
decision (a search of the tree of schedules, as in stateless model checkers). Nothing sleeps, and nothing is random.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import pytest
from legs import sampled

from resilience import CircuitBreaker, CircuitOpenError
from resilience.breaker import _machine, _policy
from resilience.breaker._circuit import Circuit
from resilience.breaker._states import UNTRACKED, Closed, HalfOpen, Open, Ramp, RunningCalls, TimedCall, Trial
from resilience.events import Event

LOADED = frozenset({"fast_permit", "machine", "mode"})


class Worker:
    """A thread that runs a function from gate to gate, one step per call of `step`."""

    def __init__(self) -> None:
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._task: Callable[[], Any] | None = None
        self.result: Any = None
        self.is_done = True
        self.waits_for_lock = self.holds_lock = False
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._go.acquire()
            if self._task is None:
                return
            try:
                self.result = self._task()
            except BaseException as error:  # noqa: BLE001 - the result of the schedule, checked below
                self.result = error
            self.is_done = True
            self._back.release()

    def begin(self, task: Callable[[], Any]) -> None:
        """Run `task` up to its first gate."""
        self._task, self.is_done = task, False
        self.step()

    def step(self) -> None:
        """Run up to the next gate, or the end."""
        self._go.release()
        self._back.acquire()

    def gate(self) -> None:
        """Stop here; called in the thread itself."""
        self._back.release()
        self._go.acquire()

    def end(self) -> None:
        """End the thread."""
        self._task = None
        self._go.release()


class Stage:
    """The two threads, and the one that is running."""

    def __init__(self, workers: tuple[Worker, Worker], watched: frozenset[str]) -> None:
        self.workers = workers
        self.watched = watched
        self.acting: Worker | None = None

    def gate(self) -> None:
        """Let the other thread go first, perhaps; nothing for the test's own thread."""
        if self.acting is not None:
            self.acting.gate()

    def look(self, name: str) -> None:
        """Stop before a read of an attribute that the other thread may write; not under the lock."""
        if self.acting is not None and not self.acting.holds_lock and name in self.watched:
            self.acting.gate()

    def step(self, worker: Worker) -> None:
        """Let `worker` run up to its next gate."""
        self.acting = worker
        worker.step()
        self.acting = None

    def begin(self, worker: Worker, task: Callable[[], Any]) -> None:
        """Let `worker` run up to its first gate."""
        self.acting = worker
        worker.begin(task)
        self.acting = None


class SteppingLock:
    """A reentrant lock. Taking it is a gate; releasing it is one if the thread has more to do without the lock."""

    def __init__(self, stage: Stage, has_more: Callable[[], bool]) -> None:
        self._stage = stage
        self._has_more = has_more
        self._owner: Worker | None = None
        self._depth = 0

    @property
    def is_free(self) -> bool:
        """Whether a thread that waits for it may go on."""
        return self._owner is None

    def __enter__(self) -> None:
        acting = self._stage.acting
        if acting is not None and self._owner is not acting:
            acting.waits_for_lock = True
            self._stage.gate()
            acting.waits_for_lock = False
            assert self._owner is None
            self._owner = acting
            acting.holds_lock = True
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth and self._owner is not None:
            self._owner.holds_lock = False
            self._owner = None
            if self._has_more():
                self._stage.gate()


class NoLock(SteppingLock):
    """A lock that excludes no thread."""

    @property
    def is_free(self) -> bool:
        return True

    def __enter__(self) -> None:
        self._stage.gate()

    def __exit__(self, *_: object) -> None:
        self._stage.gate()


class Clock:
    """Time that passes only by an operation; reading it is a gate."""

    def __init__(self, stage: Stage) -> None:
        self.now = 0.0
        self._stage = stage

    def __call__(self) -> float:
        self._stage.look("clock")
        return self.now


class SteppedCircuit(Circuit):
    """The circuit of a breaker; each access to a shared attribute is a gate."""

    stage: ClassVar[Stage]

    def __getattribute__(self, name: str) -> Any:
        if name in LOADED:
            SteppedCircuit.stage.look(name)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SteppedCircuit.stage.watched:
            SteppedCircuit.stage.gate()
        super().__setattr__(name, value)


class SteppedCalls(dict[TimedCall, None]):
    """The timed calls that are running, which begin and end without the lock: each step is a gate for either thread."""

    stage: ClassVar[Stage]

    def __setitem__(self, call: TimedCall, value: None) -> None:
        self.stage.gate()
        super().__setitem__(call, value)

    def pop(self, call: TimedCall, default: Any) -> Any:  # type: ignore[override]  # the one form that is used
        self.stage.gate()
        found = super().pop(call, default)
        self.stage.gate()
        return found


class SteppedRunning(RunningCalls):
    """Running calls that begin and end in steps."""

    __slots__ = ()

    def __init__(self, slow_after: float, now: float) -> None:
        super().__init__(slow_after, now)
        self.calls = SteppedCalls()


class World:
    """One breaker, ready for two operations; the permit that thread `n` holds is `permits[n]`."""

    def __init__(self, stage: Stage, scenario: Scenario, lock: type[SteppingLock] = SteppingLock) -> None:
        self.clock = Clock(stage)
        self.events: list[Event] = []
        self._stage = stage
        SteppedCalls.stage = SteppedCircuit.stage = stage
        plain: dict[str, Any] = {"reset_timeout": 10, "reset_timeout_jitter": 0, "half_open_lease": 100}
        self.breaker = made = CircuitBreaker(clock=self.clock, **(plain | scenario.options))
        self.circuit = made._circuit
        counts_after = scenario.prepare is edge
        self.lock = lock(stage, lambda: counts_after or bool(made.events.pending))
        self.circuit.lock = self.lock
        self.reported: list[tuple[Any, str]] = []
        self.permits: list[Any] = scenario.prepare(self)
        self.initial, self.initial_mode = self.circuit.machine.epoch, made.mode
        self.seen: list[Any] = [self.initial]
        made.events.subscribe(self._hear)

    def _hear(self, event: Event) -> None:
        self._stage.gate()
        self.events.append(event)

    def report(self, permit: Any, outcome: str) -> None:
        """Report an outcome, and remember that it was."""
        self.reported.append((permit, outcome))
        if outcome == "success":
            self.breaker.on_success(permit, None)
        elif outcome == "failure":
            self.breaker.on_failure(permit, OSError())
        else:
            self.breaker.on_abandon(permit)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds

    def watch(self) -> None:
        """Remember the epochs there were."""
        epoch = self.circuit.machine.epoch
        if self.seen[-1] is not epoch:
            self.seen.append(epoch)


class Scenario(NamedTuple):
    """A breaker in a certain state; `prepare` leads there and returns a permit for each thread."""

    name: str
    options: dict[str, Any]
    prepare: Callable[[World], list[Any]]


Operation = Callable[[World, int], Any]


def settle(outcome: str) -> Operation:
    def act(world: World, thread: int) -> None:
        world._stage.gate()
        world.report(world.permits[thread], outcome)

    return act


def admit(world: World, _thread: int) -> Any:
    permit = world.circuit.fast_permit  # as the drivers do
    return world.circuit.admit() if permit is None else permit


def passes(world: World, _thread: int) -> None:
    world._stage.gate()
    world.advance(10)


OPERATIONS: dict[str, Operation] = {
    "admit": admit,
    "success": settle("success"),
    "failure": settle("failure"),
    "abandon": settle("abandon"),
    "open": lambda world, _: world.breaker.open(),
    "close": lambda world, _: world.breaker.close(),
    "half_open": lambda world, _: world.breaker.half_open(),
    "force": lambda world, _: world.breaker.set_mode("forced_open"),
    "watch": lambda world, _: world.breaker.set_mode("metrics_only", expires=5),
    "automatic": lambda world, _: world.breaker.set_mode("automatic"),
    "snapshot": lambda world, _: world.breaker.snapshot(),
    "time": passes,
}

MODES = frozenset({"force", "watch", "automatic"})

RATE = {"failure_rate_threshold": 0.5, "sliding_window": 4, "minimum_calls": 2}
TRIALS = {"success_threshold": 2, "half_open_max_calls": 3}


def closed(world: World) -> list[Any]:
    """Make it closed; the next failure opens it."""
    permits = [world.breaker.admit() for _ in range(3)]
    world.report(permits.pop(), "failure")
    return permits


def opened(world: World) -> list[Any]:
    """Make it open; results of the closed circuit are still to come."""
    permits = [world.breaker.admit() for _ in range(2)]
    world.breaker.open()
    return permits


def due(world: World) -> list[Any]:
    """Make it open; the time for trials has come this moment."""
    permits = opened(world)
    world.advance(10)
    return permits


def trying(world: World) -> list[Any]:
    """Make it half-open with two trials on their way and one permit left."""
    world.breaker.half_open()
    return [world.breaker.admit() for _ in range(2)]


def deciding(world: World) -> list[Any]:
    """Make it half-open with all permits out; one more success closes the circuit."""
    permits = [*trying(world), world.breaker.admit()]
    world.report(permits.pop(), "success")
    return permits


def late(world: World) -> list[Any]:
    """Make it half-open; one thread brings the result of a trial, the other one that of the closed circuit before."""
    stale = world.breaker.admit()
    world.breaker.half_open()
    return [world.breaker.admit(), stale]


def edge(world: World) -> list[Any]:
    """Make it closed with a window of time whose next bucket begins this moment."""
    permits = closed(world)
    world.advance(4.0)
    return permits


def ramping(world: World) -> list[Any]:
    """Close it again, half of the calls admitted."""
    world.breaker.half_open()
    for trial in [world.breaker.admit() for _ in range(2)]:
        world.report(trial, "success")
    permits = [world.breaker.admit() for _ in range(2)]
    assert type(world.circuit.machine.epoch) is Ramp
    return permits


def slow(world: World) -> list[Any]:
    """Make it closed with two calls under way that have become slow; the next one to ask finds out."""
    permits = [world.breaker.admit() for _ in range(2)]
    world.advance(3)
    return permits


def expiring(world: World) -> list[Any]:
    """Make it open, only in its events until this moment, and closed to callers so far."""
    permits = opened(world)
    world.breaker.set_mode("metrics_only", expires=5)
    world.advance(5)
    return permits


SCENARIOS = [
    Scenario("closed", RATE | TRIALS, closed),
    Scenario("closed_run", {"fail_max": 2} | TRIALS, closed),
    Scenario("opened", RATE | TRIALS, opened),
    Scenario("due", RATE | TRIALS, due),
    Scenario("trying", RATE | TRIALS, trying),
    Scenario("deciding", RATE | TRIALS, deciding),
    Scenario("late", RATE | TRIALS, late),
    Scenario("edge", RATE | {"sliding_window": 40.0} | TRIALS, edge),
    Scenario("ramping", RATE | {"success_threshold": 2, "ramp": 20, "ramp_initial": 0.5}, ramping),
    Scenario("timed", {"slow_call_rate_threshold": 0.5, "slow_call_duration_threshold": 5} | TRIALS, slow),
    Scenario(
        "slow", {"slow_call_rate_threshold": 0.5, "slow_call_duration_threshold": 2, "minimum_calls": 2} | TRIALS, slow
    ),
    Scenario("expiring", RATE | TRIALS, expiring),
]


class Played(NamedTuple):
    """The outcome of a schedule, and its choices: the thread that ran, and whether the other one could have run."""

    world: World
    results: tuple[Any, Any]
    choices: list[tuple[int, bool]]


def watched_in(scenario: Scenario, names: tuple[str, str]) -> frozenset[str]:
    """Return the attributes that one thread may change while the other one reads them."""
    watched = {"fast_permit", "machine"}
    if scenario.prepare is expiring or not MODES.isdisjoint(names):
        watched.add("mode")
    if "time" in names:
        watched.add("clock")
    return frozenset(watched)


def play(
    workers: tuple[Worker, Worker],
    scenario: Scenario,
    names: tuple[str, str],
    schedule: list[int],
    lock: type[SteppingLock] = SteppingLock,
) -> Played:
    """Play `schedule`, and after its end the first thread wherever it can go."""
    stage = Stage(workers, watched_in(scenario, names))
    world = World(stage, scenario, lock)
    for number, (worker, name) in enumerate(zip(workers, names, strict=True)):
        operation = OPERATIONS[name]
        stage.begin(worker, lambda number=number, operation=operation: operation(world, number))  # type: ignore[misc]  # bound at once
    choices: list[tuple[int, bool]] = []
    while not all(worker.is_done for worker in workers):
        able = [
            number
            for number, worker in enumerate(workers)
            if not worker.is_done and (world.lock.is_free or not worker.waits_for_lock)
        ]
        assert able, "both threads wait for ever"
        wanted = schedule[len(choices)] if len(choices) < len(schedule) else 0
        chosen = wanted if wanted in able else able[0]
        choices.append((chosen, len(able) > 1))
        stage.step(workers[chosen])
        world.watch()
    return Played(world, (workers[0].result, workers[1].result), choices)


def every_schedule(
    workers: tuple[Worker, Worker],
    scenario: Scenario,
    names: tuple[str, str],
    lock: type[SteppingLock] = SteppingLock,
) -> Iterator[Played]:
    """Play all schedules there are: each time the last choice that could have been the second thread is."""
    schedule: list[int] | None = []
    while schedule is not None:
        played = play(workers, scenario, names, schedule, lock)
        yield played
        choices = played.choices
        while choices and not (choices[-1][0] == 0 and choices[-1][1]):
            choices.pop()
        schedule = [*(chosen for chosen, _ in choices[:-1]), 1] if choices else None


# The laws after every schedule


def epoch_of(permit: Any) -> Any:
    return permit.epoch if isinstance(permit, TimedCall | Trial) else permit


def check_permits(world: World, results: tuple[Any, Any]) -> None:
    """Check that no permit is lost or given twice, and none of them is out too many."""
    epoch = world.circuit.machine.epoch
    if not isinstance(epoch, HalfOpen):
        return
    assert epoch.available + len(epoch.in_flight) + epoch.successes + epoch.trial_failures == epoch.rule.permits
    assert len(epoch.in_flight) <= epoch.rule.permits
    settled = [permit for permit, _ in world.reported]
    held = [*world.permits, *results]
    ours = {id(trial) for trial in held if isinstance(trial, Trial) and trial.epoch is epoch}
    ours -= {id(trial) for trial in settled}
    assert {id(trial) for trial in epoch.in_flight} == ours


def check_counts(world: World, results: tuple[Any, Any]) -> None:
    """Check that the epoch there is has counted the results of its own calls, each once, and no others (L3)."""
    if world.circuit.mode is not None and not world.circuit.mode.counts:
        return  # a running call counts if it ended before: the comparison with one after the other checks that
    epoch = world.circuit.machine.epoch
    own = [outcome for permit, outcome in world.reported if epoch_of(permit) is epoch]
    if isinstance(epoch, HalfOpen):
        assert (epoch.successes, epoch.trial_failures) == (own.count("success"), own.count("failure"))
    elif isinstance(epoch, Closed) and epoch.running is None:
        counts = epoch.rule.counts(world.clock.now)
        if world.breaker.options.looks_back:
            assert (counts.calls, counts.failures) == (len(own) - own.count("abandon"), own.count("failure"))
        elif not own.count("success"):
            assert counts.failures == own.count("failure")
    elif isinstance(epoch, Closed):
        settled = {id(permit) for permit, outcome in world.reported if outcome != "abandon"}
        ours = {id(permit): permit for permit in (*world.permits, *results) if epoch_of(permit) is epoch}
        late = {key for key, permit in ours.items() if permit.number is not None}
        assert epoch.rule.counts(world.clock.now).calls == len((settled & ours.keys()) | late)
        assert len(epoch.running or ()) == len(ours.keys() - {id(permit) for permit, _ in world.reported} - late)
    elif isinstance(epoch, Ramp):
        assert epoch.failures == own.count("failure")


def check_events(world: World) -> None:
    """Check that events came in order and lead from the first state to the last one (L6)."""
    sequence = [event.sequence for event in world.events]
    assert sequence == sorted(sequence)
    assert not world.breaker.events.pending
    changes = [event for event in world.events if "before" in event.facts]
    modes = [event.facts for event in changes if event.kind == "breaker.mode_changed"]
    states = [event.facts for event in changes if event.kind != "breaker.mode_changed"]
    epoch, mode = world.circuit.machine.epoch, world.circuit.mode
    for story, first, last in (
        (states, world.initial.state, epoch.state),
        (modes, world.initial_mode, "automatic" if mode is None else mode.word),
    ):
        told = [first, *(end for facts in story for end in (facts["before"], facts["after"])), last]
        assert told[::2] == told[1::2]


def check_door(world: World) -> None:
    """Check that calls pass unseen through the epoch there is, or through none."""
    epoch, mode, door = world.circuit.machine.epoch, world.circuit.mode, world.circuit.fast_permit
    if mode is None:
        assert door is (epoch if type(epoch) is Closed and epoch.running is None else None)
    else:
        assert door is None


def check_answers(world: World, results: tuple[Any, Any]) -> None:
    """Check that each call was admitted to an epoch there was, or refused by one that could."""
    for result in results:
        if isinstance(result, BaseException):
            assert isinstance(result, CircuitOpenError)
            forced = any(event.facts.get("after") == "forced_open" for event in world.events)
            assert forced or any(isinstance(epoch, Open | HalfOpen | Ramp) for epoch in world.seen)
        elif isinstance(result, Closed | TimedCall | Trial | Ramp) and result is not UNTRACKED:
            assert any(epoch_of(result) is epoch for epoch in world.seen)


def told(world: World, result: Any) -> Any:
    """Return the part of a result that a caller can see."""
    if isinstance(result, BaseException):
        return type(result).__name__
    if isinstance(result, Closed | TimedCall | Trial | Ramp):
        return type(result).__name__, epoch_of(result) is world.circuit.machine.epoch, result is UNTRACKED
    return result


def outcome(played: Played) -> Any:
    """Return all that can be observed after a schedule, except the place of a refusal among the transitions."""
    world = played.world
    events = [(event.kind, event.facts) for event in world.events]
    refusals = [event for event in events if event[0] == "breaker.rejected"]
    transitions = [event for event in events if event not in refusals]
    answers = [told(world, result) for result in played.results]
    return answers, world.breaker.snapshot(), world.breaker.mode, transitions, refusals


@pytest.fixture(autouse=True)
def _step_timed_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "RunningCalls", SteppedRunning)
    monkeypatch.setattr(_policy, "Circuit", SteppedCircuit)


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[Worker, Worker]]:
    both = Worker(), Worker()
    yield both
    for worker in both:
        worker.end()


# The gates are attributes and locks of ours: an order means the same on every Python. All run on one, a sample on each.
CALLS = frozenset({"admit", "success", "failure", "abandon"})
CASES = [
    pytest.param(scenario, names, id="-".join((scenario.name, *names)))
    for scenario in SCENARIOS
    for names in itertools.combinations_with_replacement(OPERATIONS, 2)
    if not CALLS.isdisjoint(names) or scenario.prepare in {closed, due, deciding, slow}  # the others add nothing there
]


UNORDERED = {
    ("timed", "success", "snapshot"): "a call that is neither under way nor counted yet: it ended this moment",
    ("slow", "admit", "abandon"): "a call that passes while another one finds out that the circuit has to open",
    ("slow", "admit", "admit"): "a call that passes while another one finds out that the circuit has to open",
}
"""The effects of timed calls, which take no lock, that no order of one thread after the other has."""


@pytest.mark.no_cover  # the same lines again and again, at twice the time
@pytest.mark.parametrize(("scenario", "names"), sampled(CASES, every=17))
def test_every_order_keeps_the_laws(workers: tuple[Worker, Worker], scenario: Scenario, names: tuple[str, str]) -> None:
    """However two threads interleave: permits, counts, events and the door agree, as if one had come first."""
    check_every_order(workers, scenario, names)


def check_every_order(
    workers: tuple[Worker, Worker],
    scenario: Scenario,
    names: tuple[str, str],
    lock: type[SteppingLock] = SteppingLock,
) -> int:
    """Return how many orders there were."""
    number = 0
    one_by_one = [outcome(play(workers, scenario, names, [first] * 99)) for first in (0, 1)]
    for number, played in enumerate(every_schedule(workers, scenario, names, lock), 1):  # noqa: B007 - it is returned
        world, results = played.world, played.results
        check_permits(world, results)
        check_counts(world, results)
        check_events(world)
        check_door(world)
        check_answers(world, results)
        if outcome(played) not in one_by_one:
            assert (scenario.name, *names) in UNORDERED
    return number


@pytest.mark.parametrize("names", [("open", "half_open"), ("force", "automatic"), ("failure", "close")])
def test_a_breaker_whose_lock_excludes_no_thread_fails(workers: tuple[Worker, Worker], names: tuple[str, str]) -> None:
    """The search finds the orders in which a breaker without its lock breaks the laws."""
    with pytest.raises(AssertionError):
        check_every_order(workers, SCENARIOS[0], names, NoLock)


def test_every_order_is_tried(workers: tuple[Worker, Worker]) -> None:
    """A failure that opens the circuit meets a caller before, between and after each of its steps."""
    names = "admit", "failure"
    seen = {type(played.results[0]) for played in every_schedule(workers, SCENARIOS[0], names)}
    assert seen == {Closed, CircuitOpenError}
    assert check_every_order(workers, SCENARIOS[0], names) > 20
