"""Faults of a real Redis under a load of callers, and the figures that say what the callers noticed.

`FAULTS` is the catalogue: for each fault its name, the code that makes it, and the texts of docs/failure-modes.md.
`measured` runs a load through a proxy to a server, makes the fault, ends it, and waits until Redis decides again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from redis_process import RedisProcess
from tcp_proxy import TcpProxy

from resilience.breaker import CircuitBreaker
from resilience.events import Event
from resilience.fleet import Fleet, FleetCall
from resilience.ratelimit import Decision, RedisStore, TokenBucket
from resilience.redis import LuaScript, RedisConnection

__all__ = ("BURST", "FAULTS", "RATE", "BreakerLoad", "Fault", "Figures", "Load", "measured", "most_beyond")

RATE, BURST, CALLERS = 200, 20, 4
PAUSE = 0.002
"""Seconds between two calls of a caller: four callers want ten times the rate."""
PATIENCE = 15.0
"""Seconds after which a Redis that works again must be in use. The longest pause of the watch is 2 s."""


@dataclass(frozen=True)
class Figures:
    """What the callers of one load noticed of a fault.

    Attributes:
        calls: The number of decisions.
        lost: Calls that raised an error.
        delay: The longest decision, in seconds.
        over: Tokens admitted beyond rate x time + burst, in the worst period.
        recovery: Seconds from the end of the fault to the first decision of Redis.
        outages: The number of outages that were reported.
        codes: The codes of Redis in these reports.
    """

    calls: int
    lost: int
    delay: float
    over: int
    recovery: float
    outages: int
    codes: frozenset[object] = frozenset()


@dataclass
class Load:
    """Callers of one bucket, of one colour, and their calls."""

    url: str
    timeout: float
    is_awaiting: bool
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    outage: str = "local"
    calls: list[tuple[float, float, Decision | None]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        options: dict[str, Any] = {"timeout": self.timeout, "outage": self.outage}
        self.connection = RedisConnection.from_url(self.url, **options)
        self.store = RedisStore(self.connection)
        self.store.events.subscribe(self.events.append)
        name = "awaiting" if self.is_awaiting else "blocking"
        self.bucket = TokenBucket(f"{RATE}/second", BURST, self.store, name=name)
        self._stop = threading.Event()
        work = [self._run_loop] if self.is_awaiting else [self._call_blocking] * CALLERS
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self.connection.close()

    def _note(self, since: float, decision: Decision | None) -> None:
        self.calls.append((since, time.monotonic(), decision))

    def _call_blocking(self) -> None:
        while not self._stop.is_set():
            since, decision = time.monotonic(), None
            with contextlib.suppress(Exception):
                decision = self.bucket.acquire("k")
            self._note(since, decision)
            time.sleep(PAUSE)

    async def _call_awaiting(self) -> None:
        while not self._stop.is_set():
            since, decision = time.monotonic(), None
            with contextlib.suppress(Exception):
                decision = await self.bucket.aacquire("k")
            self._note(since, decision)
            await asyncio.sleep(PAUSE)

    def _run_loop(self) -> None:
        async def all_callers() -> None:
            await asyncio.gather(*[self._call_awaiting() for _ in range(CALLERS)])
            await self.connection.aclose()

        with asyncio.Runner(loop_factory=self.factory) as runner:
            runner.run(all_callers())

    def decided_by_redis_since(self, moment: float) -> float | None:
        """Return when Redis made a decision that was asked for after `moment`, or None if it has made none."""
        for since, at, decision in reversed(self.calls):
            if since < moment:
                break
            if decision is not None and decision.made_at == 0.0:
                earlier = [t for s, t, d in self.calls if s >= moment and d is not None and d.made_at == 0.0]
                return min(earlier, default=at)
        return None

    def wait_for_redis(self, moment: float) -> float:
        """Wait until Redis has made a decision that was asked for after `moment`; returns when."""
        deadline = time.monotonic() + PATIENCE
        while (at := self.decided_by_redis_since(moment)) is None:
            assert time.monotonic() < deadline, "Redis is not in use again"
            time.sleep(0.005)
        return at

    def figures(self, ended: float, recovered: float) -> Figures:
        """Return what the callers noticed, from the first call to the last."""
        calls = list(self.calls)
        return Figures(
            calls=len(calls),
            lost=sum(1 for _, _, decision in calls if decision is None),
            delay=max(at - since for since, at, _ in calls),
            over=most_beyond([(since, at) for since, at, decision in calls if decision]),
            recovery=max(0.0, recovered - ended),
            outages=sum(event.kind == "ratelimit.outage" for event in self.events),
            codes=frozenset(event.facts["code"] for event in self.events if "code" in event.facts),
        )


def most_beyond(admitted: Sequence[tuple[float, float]]) -> int:
    """Return the tokens beyond rate x time + burst in the worst period: from before its first call to after its last.

    Args:
        admitted: The moments before and after each decision that admitted a call.
    """
    most, begin = 0.0, float("-inf")
    for number, (since, at) in enumerate(sorted(admitted, key=lambda moments: moments[1])):
        begin = max(begin, RATE * since - number)
        most = max(most, number + 1 - RATE * at + begin - BURST)
    return int(most)


class Rounds:
    """Notes when the fleet has made a round. A partner of the fleet."""

    def __init__(self) -> None:
        self.made: list[float] = []
        self._call = FleetCall(LuaScript("return 1"), (b"{resilience:fleet:faults}",), ())

    def calls(self) -> list[FleetCall]:
        return [self._call]

    def answered(self, replies: Sequence[object], /) -> None:
        if replies and not isinstance(replies[0], Exception):
            self.made.append(time.monotonic())

    def unreachable(self) -> None: ...

    def leaving(self) -> list[FleetCall]:
        return []

    def heard(self, message: bytes, /) -> None: ...


class BreakerLoad:
    """Threads that call a function through a shared circuit."""

    def __init__(self, url: str, timeout: float) -> None:
        self.connection = RedisConnection.from_url(url, timeout=timeout)
        self.breaker = CircuitBreaker(name="faults", shared=self.connection)
        self.fleet, self.rounds = Fleet.of(self.connection), Rounds()
        self.fleet.join(self.rounds)
        self.calls: list[tuple[float, bool]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(CALLERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self.fleet.close()
        self.connection.close()

    def _call(self) -> None:
        while not self._stop.is_set():
            since, is_made = time.monotonic(), False
            with contextlib.suppress(Exception):
                is_made = self.breaker.call(int) == 0
            self.calls.append((time.monotonic() - since, is_made))
            time.sleep(PAUSE)

    def wait_for_redis(self, moment: float) -> float:
        """Wait for a round of the fleet after `moment`; returns when."""
        deadline = time.monotonic() + PATIENCE
        while not self.rounds.made or self.rounds.made[-1] <= moment:
            assert time.monotonic() < deadline, "the fleet does not make rounds again"
            time.sleep(0.005)
        return min(at for at in self.rounds.made if at > moment)

    def figures(self, ended: float, recovered: float) -> Figures:
        """Return what the callers noticed, from the first call to the last."""
        lost, delay = sum(not is_made for _, is_made in self.calls), max(seconds for seconds, _ in self.calls)
        return Figures(len(self.calls), lost, delay, over=0, recovery=max(0.0, recovered - ended), outages=0)


@dataclass(frozen=True)
class Fault:
    """A fault that begins and ends.

    Attributes:
        name: The word for it in commands and tests.
        title: The row of the page.
        seen: What a caller sees of it.
        setting: The setting that changes that.
        make: Begins the fault, and ends it on exit.
        seconds: How long it lasts.
        fills: How many full buckets it can give away: the one that Redis has after an outage, or after a loss of data.
        is_outage: Whether limiters report an outage.
        code: The code of Redis in the event of that outage, None if Redis gives none.
    """

    name: str
    title: str
    seen: str
    setting: str
    make: Callable[[RedisProcess, TcpProxy], AbstractContextManager[None]]
    seconds: float = 0.3
    fills: int = 1
    is_outage: bool = True
    code: str | None = None


OUTAGE = "one wait of at most the bound, then decisions of the outage mode"


@contextlib.contextmanager
def _killed(server: RedisProcess, _proxy: TcpProxy) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextlib.contextmanager
def _stopped(server: RedisProcess, _proxy: TcpProxy) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextlib.contextmanager
def _full_queue(_server: RedisProcess, proxy: TcpProxy) -> Iterator[None]:
    with proxy.full_queue():
        yield


@contextlib.contextmanager
def _far(_server: RedisProcess, proxy: TcpProxy) -> Iterator[None]:
    proxy.latency = 0.2
    try:
        yield
    finally:
        proxy.latency = 0.0


def _spoilt(spoil: Callable[[bytes], tuple[bytes, bool]]) -> Callable[..., AbstractContextManager[None]]:
    @contextlib.contextmanager
    def make(_server: RedisProcess, proxy: TcpProxy) -> Iterator[None]:
        proxy.spoil = spoil
        try:
            yield
        finally:
            proxy.spoil = None

    return make


_number = itertools.count(1)


def _one_in_five(data: bytes) -> tuple[bytes, bool]:
    return (b"", False) if next(_number) % 5 == 0 else (data, False)


def _commanded(
    begin: Callable[[Any], object], end: Callable[[Any], object] = lambda _client: None
) -> Callable[..., AbstractContextManager[None]]:
    @contextlib.contextmanager
    def make(server: RedisProcess, _proxy: TcpProxy) -> Iterator[None]:
        with contextlib.closing(server.client()) as client:
            client.ping()
            begin(client)
            try:
                yield
            finally:
                end(client)

    return make


def _refuse_password(client: Any) -> None:
    client.config_set("requirepass", "another")
    client.client_kill_filter(_type="normal", skipme=True)


FAULTS: tuple[Fault, ...] = (
    Fault("killed", "it is killed and comes back empty", OUTAGE, "`REDIS__OUTAGE`", _killed),
    Fault("stopped", "it stands still for 3 s (SIGSTOP)", OUTAGE, "`REDIS__TIMEOUT`", _stopped, seconds=3.0),
    Fault(
        "accept-queue",
        "its accept queue is full, so connecting gets no answer",
        OUTAGE,
        "`REDIS__CONNECT_TIMEOUT`",
        _full_queue,
    ),
    Fault("far", "each reply is 200 ms late", OUTAGE, "`REDIS__TIMEOUT` longer than a round trip", _far),
    Fault(
        "dropped",
        "one reply in five is lost",
        "a wait of at most the bound for each lost reply, and a short outage",
        "`REDIS__TIMEOUT`",
        _spoilt(_one_in_five),
        seconds=1.0,
    ),
    Fault(
        "cut",
        "connections end in the middle of a reply",
        "an outage without a wait",
        "`REDIS__OUTAGE`",
        _spoilt(lambda data: (data[: len(data) // 2], True)),
    ),
    Fault(
        "garbage",
        "replies are garbage",
        "an outage without a wait",
        "`REDIS__OUTAGE`",
        _spoilt(lambda _data: (b"\x00?<html>\r\n", False)),
    ),
    Fault(
        "script-flush",
        "it forgets its scripts (`SCRIPT FLUSH`)",
        "nothing: the limiter sends the script again",
        "-",
        _commanded(lambda client: client.script_flush()),
        fills=0,
        is_outage=False,
    ),
    Fault(
        "flushall",
        "it loses its data (`FLUSHALL`)",
        "full buckets",
        "-",
        _commanded(lambda client: client.flushall()),
        is_outage=False,
    ),
    Fault(
        "full",
        "its memory is full (`maxmemory`, noeviction)",
        "an outage without a wait; the event has the code `OOM`",
        "`maxmemory-policy volatile-ttl` on the server",
        _commanded(lambda client: client.config_set("maxmemory", 1), lambda client: client.config_set("maxmemory", 0)),
        code="OOM",
    ),
    Fault(
        "replica",
        "it is demoted to a read-only replica",
        "an outage without a wait; the event has the code `READONLY`",
        "a name or Sentinel that follows the primary",
        _commanded(lambda client: client.replicaof("127.0.0.1", "1"), lambda client: client.replicaof("NO", "ONE")),
        code="READONLY",
    ),
    Fault(
        "password",
        "it refuses the password",
        "one wait of at most the bound, then an outage; the event has the code `NOAUTH`",
        "`REDIS__URL`",
        _commanded(_refuse_password, lambda client: client.config_set("requirepass", "")),
        code="NOAUTH",
    ),
)


def measured(
    fault: Fault,
    server: RedisProcess,
    *,
    timeout: float = 0.05,
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> dict[str, Figures]:
    """Return the figures of three loads that meet the fault together: threads and tasks of a limiter, and a breaker.

    Args:
        fault: The fault to make.
        server: A server of our own, which is running.
        timeout: The bound of the limiters, in seconds.
        factory: Makes the event loop of the tasks.
    """
    with TcpProxy(server.port, backlog=8) as proxy:
        loads: dict[str, Load | BreakerLoad] = {
            "blocking": Load(proxy.url, timeout, is_awaiting=False),
            "awaiting": Load(proxy.url, timeout, is_awaiting=True, factory=factory),
            "breaker": BreakerLoad(proxy.url, timeout),
        }
        for load in loads.values():
            load.start()
        try:
            for load in loads.values():
                load.wait_for_redis(0.0)
            time.sleep(0.1)
            with fault.make(server, proxy):
                time.sleep(fault.seconds)
            ended = time.monotonic()
            recovered = {colour: load.wait_for_redis(ended) for colour, load in loads.items()}
            time.sleep(0.05)
        finally:
            for load in loads.values():
                load.stop()
        return {colour: load.figures(ended, recovered[colour]) for colour, load in loads.items()}
