import asyncio
import contextlib
import dataclasses
import io
import math
import os
import re
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from demo_process import PATIENCE, PID, alive, demo, gone, read_until
from rich.console import Console

import resilience_demo as the_demo
from resilience import PluginError
from resilience_demo import _needs, chain
from resilience_demo._children_aio import BrokenStageError, Children
from resilience_demo._tasks_aio import all_of
from resilience_demo.chain import SHORT, ChainLines, play
from resilience_demo.chain._audit import audit, noted
from resilience_demo.chain._crossing_aio import sightings
from resilience_demo.chain._customers_aio import Customers
from resilience_demo.chain._readiness_aio import NO_ANSWER, readiness
from resilience_demo.chain._record import ChainRecord, Order
from resilience_demo.chain._script import ChainScript, environment
from resilience_demo.chain._service_aio import Service
from resilience_demo.chain._stage import Audit, ChainStage, Crossing, Drain, JournalOutage, Outage, Sighting
from resilience_demo.chain._verdict import judge

BUSY = ChainScript(rate=40, steady=1, away=0.5, rest=0.2)
"""A rate at which some calls are in flight to any instance at any time."""


# As a whole


@pytest.mark.servers
@pytest.mark.realtime
def test_the_chain_loses_no_order(tmp_path: Path) -> None:
    """`demo --all --fast` kills an instance and the journal, drains another, loses no order and prints its figures."""
    with demo("--all", "--fast", without=("RESILIENCE_", "COVERAGE_"), TMPDIR=str(tmp_path)) as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert said.isascii()
    assert len(re.findall(r"^PASS  [a-z ]+: .*\d", said, re.MULTILINE)) == 12
    assert (found := re.search(r"no order lost: (\d+) sent, (\d+) sold, 0 lost", said))
    assert found[1] == found[2]
    assert int(found[1]) > 50
    for line in (
        "kill -9 stock-1",
        "stock-1 books again",
        "orders are noted again",
        "service: warehouse-1 gets no more connections",
    ):
        assert line in said
    assert not alive([int(pid) for pid in PID.findall(said)])
    assert list(tmp_path.glob("resilience-demo-*")) == []


@pytest.mark.servers
@pytest.mark.realtime
@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "orders a second"), (signal.SIGTERM, "kill -9"), (signal.SIGINT, "SIGTERM to")],
)
def test_a_stopped_chain_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    """SIGINT or SIGTERM at any moment ends every server and then the demo. The status is 128 plus the signal."""
    with demo("--all", "--fast", TMPDIR=str(tmp_path)) as process:
        pids = read_until(process, moment)
        assert alive(pids)
        process.send_signal(number)
        process.send_signal(number)
        said, _ = process.communicate(timeout=15)
        assert process.returncode == 128 + number, said
        assert said.splitlines()[-1] == "stopped"
        assert not alive(pids)
    assert list(tmp_path.glob("resilience-demo-*")) == []


@pytest.mark.servers
@pytest.mark.realtime
def test_a_killed_chain_leaves_nothing_behind() -> None:
    """`kill -9` of the demo also ends its servers and their workers."""
    with demo("--all", "--fast") as process:
        pids = read_until(process, "orders a second")
        assert alive(pids)
        process.kill()
        process.wait(10)
        assert gone(pids, within=15)


@pytest.mark.servers
@pytest.mark.realtime
def test_without_retries_orders_are_lost_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without retries the kill loses orders. The demo prints the broken promises, and the status is 1."""
    for pipeline in ("SHOP_STOCK", "WAREHOUSE"):
        monkeypatch.setenv(f"RESILIENCE_PIPELINE__{pipeline}__RETRY__ENABLED", "no")
    out = io.StringIO()
    assert play(BUSY, ChainLines(Console(file=out))) == 1
    said = out.getvalue()
    assert re.search(r"^FAIL  kill loses no order: \d+ orders .* [1-9]\d* lost; 0 attempts", said, re.MULTILINE), said
    assert (found := re.search(r"^FAIL  no order lost: (\d+) sent, (\d+) sold, (\d+) lost", said, re.MULTILINE))
    assert int(found[1]) == int(found[2]) + int(found[3])


@pytest.mark.servers
def test_a_server_that_does_not_start_ends_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a server fails, the demo prints the end of its log, stops the other servers and ends with status 1."""
    (tmp_path / "flask_shop.py").write_text("raise RuntimeError('no string for parcels')")
    real = _needs.example
    monkeypatch.setattr(_needs, "example", lambda name: tmp_path / name if name == "flask_shop.py" else real(name))
    groups: list[int] = []
    end = Children.__aexit__

    async def noting(children: Children, *raised: object) -> None:
        groups.extend(child.process.pid for child in children.running)
        await end(children, *raised)

    monkeypatch.setattr(Children, "__aexit__", noting)
    out = io.StringIO()
    assert play(SHORT, ChainLines(Console(file=out))) == 1
    assert "FAIL  warehouse-" in out.getvalue()
    assert "no string for parcels" in out.getvalue()
    assert len(groups) >= 3
    assert not alive(groups)


# Requirements


def test_missing_extras_of_the_chain_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of `demo --all` names its missing packages and the command that installs them."""
    assert {"flask", "grpc", "gunicorn"} <= set(_needs.CHAIN)
    _needs.check(_needs.CHAIN)
    monkeypatch.setattr(_needs, "CHAIN", ("json", "no_such_flask", "no_such_grpc"))
    with pytest.raises(PluginError, match=r'no_such_flask, no_such_grpc: pip install "resilience-plugins\[demo\]"'):
        the_demo.main(["--all"])


@pytest.mark.parametrize(("arguments", "script"), [(["--all", "--fast"], "SHORT"), (["--all"], "FULL")])
def test_fast_and_all_go_together(monkeypatch: pytest.MonkeyPatch, arguments: list[str], script: str) -> None:
    """`--fast` selects the short script of `--all`, and `main` returns the status of `play`."""
    played: list[object] = []

    def note(script: ChainScript, view: ChainLines) -> int:
        played.append(script)
        return 7

    monkeypatch.setattr(chain, "play", note)
    assert the_demo.main(arguments) == 7
    assert played == [getattr(chain, script)]


def test_only_settings_of_pipelines_are_passed_on() -> None:
    """A server gets the user's settings of pipelines, and no other setting of the toolkit or of gunicorn."""
    tried = "RESILIENCE_PIPELINE__SHOP_STOCK__RETRY__ATTEMPTS"
    around = {"PATH": "/bin", "RESILIENCE_REDIS__URL": "redis://production", "GUNICORN_CMD_ARGS": "-w 9", tried: "1"}
    assert environment(around, HOSTNAME="stock-1") == {
        "PATH": "/bin",
        "RESILIENCE_SERVER__DEADLINE": "10s",
        "HOSTNAME": "stock-1",
        tried: "1",
    }


# Servers


async def test_an_end_that_is_part_of_the_play_is_no_accident() -> None:
    """`watch` ignores the end of a server that may end, and raises at the end of any other."""
    sleeping = (sys.executable, "-c", "import time; time.sleep(60)")
    async with Children() as children:
        victim, other = [await children._start(name, sleeping) for name in ("victim", "other")]
        watching = asyncio.create_task(children.watch())
        victim.may_end = True
        await victim.kill()
        await asyncio.sleep(0.2)
        assert not watching.done()
        other.process.kill()
        with pytest.raises(BrokenStageError, match="other ended with status -9"):
            await asyncio.wait_for(watching, 10)


async def test_a_program_that_takes_no_connection_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` raises if a program does not listen in time, and the program is ended."""
    monkeypatch.setattr("resilience_demo._children_aio.START", 0.5)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        async with Children() as children:
            sleeping = (sys.executable, "-c", "import time; time.sleep(60)")
            with pytest.raises(BrokenStageError, match="sleeper does not answer"):
                await children.run("sleeper", held.getsockname()[1], *sleeping, environ=dict(os.environ))
            groups = [child.process.pid for child in children.running]
            assert alive(groups)
    assert not alive(groups)


async def test_a_log_can_be_read_while_it_is_written() -> None:
    """A read of a server's log does not move the offset at which the server writes."""
    talking = "import sys\nfor line in sys.stdin: print(line, end='', file=sys.stderr, flush=True)"
    async with Children() as children:
        child = await children._start("talker", (sys.executable, "-c", talking))
        assert child.process.stdin is not None
        for number in range(3):
            child.process.stdin.write(f"{number}\n".encode())
            while child.log_text.count("\n") <= number:
                await asyncio.sleep(0.01)
        assert child.log_text == "0\n1\n2\n"
    assert child.log_text == ""


async def test_nothing_of_all_is_left_over() -> None:
    """If a coroutine raises, `all_of` raises only after the others have been cancelled."""
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError

    with pytest.raises(OSError):
        await all_of(wait(), fail(), wait())
    assert ended == ["cancelled"] * 2


# The service


class Instance:
    """A minimal server. It answers probes with its status, and other requests with its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.silences = 0
        self.served = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            request = await reader.readuntil(b"\r\n\r\n")
            is_probe = request.startswith(b"GET /readyz")
            self.served += not is_probe
            if is_probe and self.silences:
                self.silences -= 1
                return
            body = self.name.encode()
            head = f"HTTP/1.1 {self.status if is_probe else 200} OK\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()


class Front:
    """Two instances, the service in front of them, and the changes of readiness that it reported."""

    def __init__(self, service: Service, instances: list[Instance], news: list[tuple[str, bool]]) -> None:
        self.service, self.instances, self.news = service, instances, news

    async def ask(self, number: int) -> list[str]:
        """Return the name of the answering instance for each new connection, or an empty name without an answer."""
        answers = []
        for _ in range(number):
            async with httpx2.AsyncClient(trust_env=False) as http:
                try:
                    answers.append((await http.get(f"http://127.0.0.1:{self.service.port}/")).text)
                except httpx2.TransportError:
                    answers.append("")
        return answers

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.01)


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """Yield a service in front of two ready instances."""
    instances = [Instance("one"), Instance("two")]
    news: list[tuple[str, bool]] = []
    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        for instance in instances:
            server = await asyncio.start_server(instance.serve, "127.0.0.1", 0)
            stack.callback(server.close)
            ports[instance.name] = server.sockets[0].getsockname()[1]
        on_change: Callable[[str, bool], object] = lambda name, is_ready: news.append((name, is_ready))  # noqa: E731
        service = await stack.enter_async_context(Service(ports, on_change))
        front = Front(service, instances, news)
        await front.until(lambda: service.is_complete)
        yield front


async def test_the_service_connects_to_ready_instances_in_turn(front: Front) -> None:
    """New connections go to the ready instances in turn. If none is ready, the service closes them."""
    assert sorted(await front.ask(6)) == ["one"] * 3 + ["two"] * 3
    front.instances[0].status = 503
    await front.until(lambda: ("one", False) in front.news)
    assert await front.ask(3) == ["two"] * 3
    front.instances[1].status = 503
    await front.until(lambda: ("two", False) in front.news)
    assert await front.ask(2) == ["", ""]
    front.instances[0].status = 200
    await front.until(lambda: front.news[-1] == ("one", True))
    assert await front.ask(2) == ["one", "one"]


async def test_one_missed_answer_is_not_the_end(front: Front) -> None:
    """An instance becomes unready after three consecutive probes without an answer."""
    front.instances[0].silences = 2
    await front.until(lambda: not front.instances[0].silences)
    await asyncio.sleep(0.3)
    assert sorted(front.news) == [("one", True), ("two", True)]
    front.instances[0].silences = 1000
    await front.until(lambda: ("one", False) in front.news)
    assert 1000 - front.instances[0].silences >= 3
    assert await front.ask(2) == ["two", "two"]


async def test_the_service_repeats_nothing(front: Front) -> None:
    """The service sends each request to one instance only, also if the instance gives no usable answer."""
    for instance in front.instances:
        instance.name = ""
    assert await front.ask(4) == [""] * 4
    assert sum(instance.served for instance in front.instances) == 4


@pytest.mark.parametrize(
    ("said", "status"),
    [(b"", NO_ANSWER), (b"hello\r\n", NO_ANSWER), (b"HTTP/1.1 many OK\r\n", NO_ANSWER), (b"HTTP/1.1 503 No\r\n", 503)],
)
async def test_a_malformed_answer_counts_as_none(said: bytes, status: int) -> None:
    """`readiness` returns `NO_ANSWER` if the server closes at once, does not speak HTTP, or does not listen."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            writer.write(said)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await readiness(port) == status
    server.close()
    assert await readiness(port) == NO_ANSWER


async def test_a_probe_has_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """`readiness` returns `NO_ANSWER` after its timeout if the server accepts and does not answer."""
    monkeypatch.setattr("resilience_demo.chain._readiness_aio._TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert await asyncio.wait_for(readiness(silent.getsockname()[1]), 5) == NO_ANSWER


# The customers


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        (httpx2.Response(200, json={"packed_by": "w", "booked_by": "s"}), (200, "", "w", "s")),
        (httpx2.Response(503, json={"code": "UNAVAILABLE"}), (503, "UNAVAILABLE", "", "")),
        (httpx2.ReadError("gone"), (0, "ReadError", "", "")),
    ],
)
async def test_every_order_is_sent_once_and_counted(answer: Any, order: tuple[int, str, str, str]) -> None:
    """Each order is sent once and recorded once, with a success, an error or no answer."""
    sent: list[httpx2.Request] = []

    def shop(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        if isinstance(answer, Exception):
            raise answer
        return httpx2.Response(answer.status_code, content=answer.content, headers=answer.headers)

    record = ChainRecord()
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(shop), base_url="http://shop") as http:
        customers = Customers(record, http, lambda: 1.0)
        flowing = asyncio.create_task(customers.flow(rate=1000))
        while len(record.orders) < 3:
            await asyncio.sleep(0.001)
        await customers.leave()
        flowing.cancel()
    assert record.sent == len(record.orders) == len(sent) == len({request.url for request in sent})
    assert set(record.orders) == {Order(1.0, 1.0, *order)}
    assert (record.sold == record.sent) == (order[0] == 200)
    assert len(record.lost) == record.sent - record.sold


# The verdict


def played(change: Callable[[ChainStage], object] = lambda stage: None) -> ChainStage:
    """Return the stage of a demo that kept all promises, changed by `change`: an order every 0.1 s for 6 s."""
    stage = ChainStage(SHORT)
    ids = ("STOCK_C001", "demo-1", "t1")
    stage.crossing = Crossing("demo-1", "t1", 5.0)
    stage.crossing.sightings = [
        Sighting("stock", "its log", *ids, 4.8),
        Sighting("warehouse", "its log", *ids, 4.9),
        Sighting("shop", "HTTP 409", *ids),
    ]
    stage.outage = Outage("stock-1", killed=1.0, started=2.0, booked=2.5, repeated=3)
    stage.journal_outage = JournalOutage(killed=2.6, started=2.8, noted=2.9, repeated=2)
    stage.noted = {"shop": 60, "stock": 60, "warehouse": 60}
    stage.drain = Drain("warehouse-1", signalled=3.0, unready=3.05, accepted=9, ended=4.5, status=0)
    stage.record.orders = [
        Order(at / 10, at / 10 + 0.2, 200, "", f"warehouse-{at % 2 + 1}", "stock-2") for at in range(60)
    ]
    stage.record.sent = 60
    stage.before, stage.after = Audit(8, 992, 0), Audit(68, 932, 2)
    change(stage)
    return stage


def lose(stage: ChainStage, at: int) -> None:
    stage.record.orders[at] = stage.record.orders[at]._replace(status=503, code="UNAVAILABLE")


def crossing(stage: ChainStage) -> Crossing:
    assert stage.crossing is not None
    return stage.crossing


def seen_as(place: int, **change: Any) -> Callable[[ChainStage], object]:
    def apply(stage: ChainStage) -> None:
        crossing(stage).sightings[place] = crossing(stage).sightings[place]._replace(**change)

    return apply


def outage(**change: Any) -> Callable[[ChainStage], object]:
    def apply(stage: ChainStage) -> None:
        assert stage.outage is not None
        stage.outage = dataclasses.replace(stage.outage, **change)

    return apply


def no_journal(**change: Any) -> Callable[[ChainStage], object]:
    def apply(stage: ChainStage) -> None:
        assert stage.journal_outage is not None
        stage.journal_outage = dataclasses.replace(stage.journal_outage, **change)

    return apply


def drain(**change: Any) -> Callable[[ChainStage], object]:
    def apply(stage: ChainStage) -> None:
        assert stage.drain is not None
        stage.drain = dataclasses.replace(stage.drain, **change)

    return apply


def books(**change: Any) -> Callable[[ChainStage], object]:
    return lambda stage: setattr(stage, "after", stage.after._replace(**change))


def test_all_promises_of_the_chain_kept() -> None:
    """Each kept promise has its measured figure."""
    criteria = judge(played())
    assert [criterion.is_met for criterion in criteria] == [True] * 12
    assert [(criterion.name, criterion.measured) for criterion in criteria] == [
        ("one error crosses all", "STOCK_C001, 1 request id and trace, told by 3 of 3 services"),
        ("one deadline for all", "5,000 ms given, 4,800 ms left at the stock, 4,900 ms left at the warehouse"),
        ("kill loses no order", "13 orders while stock-1 was gone, 0 lost; 3 attempts repeated"),
        ("killed instance books again", "1.50 s after the kill"),
        (
            "orders wait for the journal",
            "6 orders while it was gone, 0 lost; the longest took 200 ms, 2 attempts repeated",
        ),
        ("pools connect again", "0.10 s after its restart"),
        ("each parcel noted by all", "60 sold; noted: shop 60, stock 60, warehouse 60"),
        (
            "drain loses no order",
            "18 orders while warehouse-1 drained, 0 lost; 9 of them packed by it, 0 attempts repeated",
        ),
        ("unready before it closes", "503 after 50 ms, then 9 more connections answered"),
        ("ends by itself", "with status 0, 1.50 s after SIGTERM"),
        ("no order lost", "60 sent, 60 sold, 0 lost"),
        ("no parcel booked twice", "60 parcels booked, 60 things taken from the shelf; 2 asked for more than once"),
    ]


@pytest.mark.parametrize(
    ("change", "name", "measured"),
    [
        (seen_as(0, code="OTHER"), "one error crosses all", "OTHER and STOCK_C001"),
        (seen_as(1, request_id="other"), "one error crosses all", "2 request id"),
        (seen_as(2, trace_id=""), "one error crosses all", "2 request id"),
        (lambda stage: crossing(stage).sightings.pop(1), "one error crosses all", "told by 2 of 3"),
        (lambda stage: setattr(crossing(stage), "request_id", "sent"), "one error crosses all", "1 request id"),
        (seen_as(0, left=9.9), "one deadline for all", "9,900 ms left at the stock"),
        (lambda stage: crossing(stage).sightings.clear(), "one deadline for all", "nobody knows"),
        (lambda stage: lose(stage, 15), "kill loses no order", ", 1 lost"),
        (outage(killed=1.99, started=2.0), "kill loses no order", "3 orders"),
        (outage(booked=math.inf), "killed instance books again", "never"),
        (lambda stage: lose(stage, 27), "orders wait for the journal", ", 1 lost"),
        (no_journal(killed=2.89), "orders wait for the journal", "3 orders"),
        (no_journal(noted=math.inf), "pools connect again", "never"),
        (lambda stage: stage.noted.pop("shop"), "each parcel noted by all", "noted: stock 60, warehouse 60"),
        (lambda stage: stage.noted.update(stock=59), "each parcel noted by all", "stock 59"),
        (lambda stage: stage.noted.update(stock=61), "each parcel noted by all", "stock 61"),
        (lambda stage: stage.noted.clear(), "each parcel noted by all", "noted: none"),
        (lambda stage: lose(stage, 35), "drain loses no order", ", 1 lost"),
        (drain(accepted=0), "unready before it closes", "never said 503"),
        (drain(status=-9), "ends by itself", "status -9"),
        (drain(status=None, ended=math.inf), "ends by itself", "has not ended"),
        (lambda stage: lose(stage, 59), "no order lost", "60 sent, 59 sold, 1 lost (UNAVAILABLE)"),
        (lambda stage: setattr(stage.record, "sent", 61), "no order lost", "61 sent, 60 sold, 1 lost"),
        (lambda stage: setattr(stage, "record", ChainRecord()), "no order lost", "0 sent"),
        (books(remaining=931), "no parcel booked twice", "61 things taken"),
        (books(parcels=67, remaining=933), "no parcel booked twice", "59 parcels booked"),
        (books(parcels=69, remaining=931), "no parcel booked twice", "61 parcels booked"),
    ],
)
def test_a_promise_of_the_chain_that_was_broken(
    change: Callable[[ChainStage], object], name: str, measured: str
) -> None:
    """Each promise can fail alone, and its result has the measured figure."""
    failed = {criterion.name: criterion.measured for criterion in judge(played(change)) if not criterion.is_met}
    assert measured in failed[name]


def test_a_log_is_searched_for_one_parcel() -> None:
    """`sightings` reads code, request, trace and remaining time from the log lines of one parcel."""
    log = (
        "[INFO] Booting worker\n"
        "WARNING stock: STOCK_C001 for parcel a-1, request mine, trace t1, 4879 ms left\n"
        "WARNING stock: STOCK_C001 for parcel a-2, request mine, trace t1, 4879 ms left\n"
    )
    assert sightings(log, "a-1") == [Sighting("stock", "its log", "STOCK_C001", "mine", "t1", 4.879)]
    assert sightings(log, "a-3") == []


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Return a ledger with two parcels of tea and one of cake. One parcel of tea was asked for twice."""
    path = tmp_path / "ledger.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE shelves (item, remaining)")
        database.execute("CREATE TABLE parcels (number, item, quantity, booked_by, asked)")
        database.executemany("INSERT INTO shelves VALUES (?, ?)", [("tea", 9), ("cake", 5), ("scone", 0)])
        parcels = [("1", "tea", 1, "a", 1), ("2", "tea", 1, "a", 2), ("3", "cake", 1, "b", 2)]
        database.executemany("INSERT INTO parcels VALUES (?, ?, ?, ?, ?)", parcels)
    return path


def test_the_ledger_is_read_by_item(ledger: Path) -> None:
    """`audit` returns the bookings, the remaining number and the repeated bookings of one item."""
    assert audit(ledger, "tea") == Audit(2, 9, 1)
    assert audit(ledger, "scone") == Audit(0, 0, 0)


def test_the_journal_counts_a_parcel_once(tmp_path: Path) -> None:
    """`noted` counts the parcels of each service; a parcel that was noted twice counts once."""
    path = tmp_path / "journal.txt"
    path.write_text("a-1 stock\na-1 stock\na-1 shop\na-2 stock\n")
    assert noted(path) == {"stock": 2, "shop": 1}


# Output


def lines_of(stage: ChainStage, **console: Any) -> str:
    out = io.StringIO()
    lines = ChainLines(Console(file=out, **console))
    lines.opened(stage)
    lines.crossed(crossing(stage))
    lines.customers(25)
    lines.tick(1.0, stage.record)
    lines.news(1.5, "kill -9 stock-1")
    lines.ended(judge(stage))
    lines.failed("the shop burnt down")
    lines.interrupted()
    return out.getvalue()


def test_the_chain_in_lines_holds_no_markup() -> None:
    """Every line is plain ASCII text, without wrapping: the servers, the events and the promises."""
    stage = played(lambda stage: lose(stage, 15))
    stage.servers = [f"stock-1 on 127.0.0.1:9 (pid 1) {'x' * 100}"]
    said = lines_of(stage)
    assert said.isascii()
    assert f"started  stock-1 on 127.0.0.1:9 (pid 1) {'x' * 100}\n" in said
    assert "  shop       HTTP 409  STOCK_C001  request demo-1         trace t1.." in said
    assert "   1.00 s     59 sold    0 under way    1 lost\n" in said
    assert "   1.50 s  kill -9 stock-1\n" in said
    assert "PASS  ends by itself: with status 0" in said
    assert "FAIL  kill loses no order: 13 orders" in said
    assert said.endswith("FAIL  the shop burnt down\nstopped\n")


def test_a_terminal_shows_colours() -> None:
    """In a terminal, kept promises are green and broken ones red."""
    said = lines_of(played(lambda stage: lose(stage, 15)), force_terminal=True, color_system="standard")
    assert "\x1b[32mPASS  ends by itself" in said
    assert "\x1b[31mFAIL  kill loses no order" in said
