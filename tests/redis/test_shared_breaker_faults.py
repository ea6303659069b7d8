"""A shared breaker beside neighbours and garbage, after losses of data, forks and closed connections."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import redis
from breaker_instance import eventually
from redis_process import RedisProcess
from shared_breakers import sharing, trip

from resilience import CircuitBreaker, CircuitOpenError, Keyed, Pipeline, RetryBudget
from resilience.breaker._circuit import Circuit
from resilience.breaker.shared import FleetBreakers
from resilience.errors import ResilienceError
from resilience.fleet import Fleet
from resilience.redis import RedisConnection
from resilience.telemetry import Readings

pytestmark = pytest.mark.redis

RECORD: Final = "{resilience:fleet:breaker:payments}:record"
ORDER: Final[dict[str, Any]] = {"expires": "1m", "reason": "drill", "author": "ann"}


@pytest.fixture
def client(redis_server: RedisProcess) -> Iterator[redis.Redis]:
    with contextlib.closing(redis_server.client()) as found:
        yield found


def operator_of(server: RedisProcess, more: str = "") -> FleetBreakers:
    return FleetBreakers(RedisConnection.from_url(server.url + more, timeout=2))


def passes(breaker: CircuitBreaker) -> bool:
    with contextlib.suppress(CircuitOpenError):
        breaker.call(str)
        return True
    return False


def fleet_state(breaker: CircuitBreaker) -> str:
    found: str = breaker.snapshot()["fleet"]["state"]
    return found


def test_databases_of_one_server_are_apart(redis_server: RedisProcess) -> None:
    """Redis has one set of channels for all databases; a trip in one database changes nothing in another one."""
    where = urlsplit(redis_server.url)
    first, second = (where._replace(path=f"/{number}").geturl() for number in (0, 1))
    with sharing(first, 2, quorum=1) as one, sharing(second) as (other,):
        trip(one[0])
        eventually(lambda: one[1].current_state == "open")
        assert fleet_state(other) == "closed"
        assert passes(other)


def test_a_closed_connection_leaves_the_circuit_to_itself(redis_server: RedisProcess) -> None:
    """A circuit that the fleet has opened makes its own trials once the connection is closed: no round brings slots."""
    connection = RedisConnection.from_url(redis_server.url)
    breaker = CircuitBreaker(3, 0.2, shared=connection, quorum=1, reset_timeout_jitter=0)
    Pipeline("payments", breaker).call(str)
    eventually(lambda: breaker.snapshot()["fleet"]["instances"] and not breaker.snapshot()["fleet"]["is_away"])
    trip(breaker)
    eventually(lambda: fleet_state(breaker) == "open")
    connection.close()
    eventually(lambda: passes(breaker))
    assert breaker.current_state == "closed"


def test_an_override_that_has_ended_has_no_author(redis_server: RedisProcess) -> None:
    """The snapshot names who has ordered the override in force, and nobody once it has ended by itself."""
    with sharing(redis_server.url) as (breaker,):
        operator = operator_of(redis_server)
        eventually(operator.states)
        operator.metrics_only("payments", **{**ORDER, "expires": 0.3})
        shared: Any = breaker._circuit.shared
        eventually(lambda: shared.machine.record.override.author == "ann")
        eventually(lambda: breaker.snapshot()["fleet"]["author"] is None)


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": "x"},
        {"epoch": "1e300", "version": "inf"},
        {"state": "isolated", "word": "off"},
        {"reason": b"\xff\xfe", "author": b"\xff"},
        {"until": "nan", "state": "open", "epoch": 3},
        {"why": "x" * 100_000},
    ],
)
def test_a_record_with_garbage_is_used_again(
    redis_server: RedisProcess, client: redis.Redis, fields: dict[str, Any]
) -> None:
    """Whatever another program writes into the record, instances and operators go on with what they know."""
    with sharing(redis_server.url) as (breaker,):
        operator = operator_of(redis_server)
        eventually(operator.states)
        for field, value in fields.items():
            client.hset(RECORD, field, value)
        trip(breaker)
        eventually(lambda: operator.states()[0].state == "open")
        operator.force_open("payments", **ORDER)
        eventually(lambda: breaker.mode == "forced_open")
        eventually(lambda: breaker.snapshot()["fleet"]["is_away"] is False)


@pytest.mark.parametrize("message", [b"[" * 19_000, b"[" * 1_000_000, b"{", b"\xff"])
def test_a_message_with_garbage_is_ignored(
    redis_server: RedisProcess, client: redis.Redis, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that is no record changes nothing and writes no line into the log; the next one counts."""
    with sharing(redis_server.url) as (breaker,):
        eventually(lambda: client.pubsub_channels("*breaker*"))
        (channel,) = client.pubsub_channels("*breaker*")
        assert client.publish(channel, message) == 1
        operator = operator_of(redis_server)
        eventually(operator.states)
        operator.force_open("payments", **ORDER)
        eventually(lambda: breaker.mode == "forced_open")
    assert [each for each in caplog.records if "fleet" in each.getMessage()] == []


def test_keys_of_any_text_are_shared(redis_server: RedisProcess, caplog: pytest.LogCaptureFixture) -> None:
    """A key that UTF-8 cannot write is shared as well, and keeps no other circuit from its messages."""
    connection = RedisConnection.from_url(redis_server.url)
    hosts = Keyed(lambda _: CircuitBreaker(3, shared=connection, quorum=1), key=lambda host: host)
    api = Pipeline("api", hosts)
    for host in ("a\udc80", "two\nlines", "x" * 300):
        api.call(str, host)
    operator = operator_of(redis_server)
    eventually(lambda: len(operator.states()) == 3)
    operator.disable("api", **ORDER)
    eventually(lambda: all(figures["mode"] == "disabled" for figures in hosts.snapshot()["each"].values()))
    connection.close()
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


def test_operators_find_a_breaker_soon_after_a_loss_of_data(redis_server: RedisProcess, client: redis.Redis) -> None:
    """After FLUSHALL the name is in the directory again with the second round: in an incident an operator needs it."""
    with sharing(redis_server.url):
        operator = operator_of(redis_server)
        eventually(operator.states)
        client.flushall()
        eventually(operator.states, 8)


def test_a_history_with_garbage_is_read(redis_server: RedisProcess, client: redis.Redis) -> None:
    """Rows that are no changes are left out, and no text of a row can forge a line."""
    with sharing(redis_server.url):
        operator = operator_of(redis_server)
        eventually(operator.states)
        operator.force_open("payments", **ORDER)
        forged = json.dumps({"at": 1, "word": "", "left": 0, "why": "a\nb\x1b[31m", "author": 3})
        rows = ("garbage", '{"at": 1e30}', b"\xff", "[" * 5_000, '{"at": 1, "left": "x", "word": "", "why": 1}', forged)
        client.lpush("{resilience:fleet:breaker:payments}:history", *rows)
        assert [(each.author, each.reason) for each in operator.history()] == [("ann", "drill"), ("3", r"a\nb\x1b[31m")]


def test_an_operator_with_decoded_replies(redis_server: RedisProcess) -> None:
    """A client that decodes its replies serves operators and instances as any other."""
    with sharing(f"{redis_server.url}?decode_responses=true") as (breaker,):
        operator = operator_of(redis_server, "?decode_responses=true")
        eventually(operator.states)
        operator.force_open("payments", **ORDER)
        eventually(lambda: breaker.mode == "forced_open")
        assert operator.history()[0].author == "ann"


def test_a_record_of_another_type_is_one_clear_error(redis_server: RedisProcess, client: redis.Redis) -> None:
    """If another program has taken our key, an operator reads which one, and the circuits decide alone."""
    with sharing(redis_server.url) as (breaker,):
        operator = operator_of(redis_server)
        eventually(operator.states)
        client.set(RECORD, "x")
        with pytest.raises(ResilienceError, match="Redis cannot be used"):
            operator.states()
        eventually(lambda: breaker.snapshot()["fleet"]["is_away"])
        trip(breaker)
        assert breaker.current_state == "open"


def test_two_breakers_of_a_name_have_one_vote(redis_server: RedisProcess) -> None:
    """A breaker that is closed does not take back the vote of another one of its name in the same process."""
    with sharing(redis_server.url, 2, quorum=2) as breakers:
        twins = [CircuitBreaker(3, 30, shared=connection_of(each), quorum=2) for each in breakers]
        for twin in twins:
            Pipeline("payments", twin).call(str)
        eventually(lambda: all(twin.snapshot()["fleet"]["instances"] == 2 for twin in twins))
        trip(breakers[0])
        trip(breakers[1])
        eventually(lambda: all(each.current_state == "open" for each in twins))


def connection_of(breaker: CircuitBreaker) -> RedisConnection:
    shared: Any = breaker._circuit.shared
    found: RedisConnection = shared._connection
    return found


def test_a_child_forked_in_the_midst_of_a_trip_refuses(redis_server: RedisProcess) -> None:
    """A child that was forked between a change of the state and its effect on calls has the state."""
    breaker = CircuitBreaker(3, 30)
    fast = Circuit._update_fast_permit
    children: list[int] = []

    def fork(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code is fast.__code__ and not children:
            sys.setprofile(None)
            children.append(os.fork())
            if not children[0]:
                os._exit(0 if not passes(breaker) else 1)

    trip_but_one(breaker)
    sys.setprofile(fork)
    try:
        with contextlib.suppress(ConnectionError), breaker.calling():
            raise ConnectionError
    finally:
        sys.setprofile(None)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def test_a_child_forked_in_the_midst_of_an_opening_by_the_fleet_refuses(redis_server: RedisProcess) -> None:
    """A child that has the open record, but whose circuit has not followed it yet, refuses its first call."""
    with sharing(redis_server.url) as (breaker,):
        shared: Any = breaker._circuit.shared
        closed = shared.machine.record
        with breaker._circuit.lock:
            shared.machine.record = closed._replace(epoch=closed.epoch + 1, state="open", left=30.0)
            shared.machine._until = breaker._circuit.now() + 30
            if not (child := os.fork()):
                os._exit(0 if not passes(breaker) else 1)
            shared.machine.record = closed
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def trip_but_one(breaker: CircuitBreaker) -> None:
    for _ in range(2):
        with contextlib.suppress(ConnectionError), breaker.calling():
            raise ConnectionError


def test_instances_without_the_breaker_are_no_part_of_its_quorum(redis_server: RedisProcess) -> None:
    """Of ten processes of a service, of which two make payments, two are the whole of a share of the live instances."""
    others = [RedisConnection.from_url(redis_server.url) for _ in range(4)]
    workers = [CircuitBreaker(shared=connection) for connection in others]
    for worker in workers:
        Pipeline("reports", worker).call(str)
    try:
        with sharing(redis_server.url, 2, quorum=1.0) as breakers:
            eventually(lambda: Fleet.of(others[0]).instances == 6)
            trip(breakers[0])
            trip(breakers[1])
            eventually(lambda: all(fleet_state(each) == "open" for each in breakers))
    finally:
        for connection in others:
            connection.close()


def test_an_instance_that_closes_takes_its_vote_along(redis_server: RedisProcess) -> None:
    """A service that stops with a circuit open leaves no vote behind: a restart of bad instances opens no fleet."""
    with sharing(redis_server.url, 2, quorum=2) as breakers:
        operator = operator_of(redis_server)
        trip(breakers[0])
        eventually(lambda: operator.states()[0].votes == 1)
        connection_of(breakers[0]).close()
        eventually(lambda: operator.states()[0].votes == 0, 4)  # a vote alone would last for 5 seconds


def test_metrics_say_that_the_fleet_holds_a_circuit(own_redis_server: RedisProcess) -> None:
    """An operator sees whether an instance is open by itself or by the fleet, overridden, or without the fleet."""
    gc.collect()  # the circuits of other tests
    with sharing(own_redis_server.url, 3, reset_timeout=60) as breakers:
        readings = Readings()

        def points() -> dict[str, float]:
            (family,) = (each for each in readings.collect() if each.metric.name == "resilience.breaker.fleet_states")
            return {labels[1]: value for labels, value in family.points if labels[0] == "payments.breaker" and value}

        eventually(lambda: points() == {})
        trip(breakers[0])
        eventually(lambda: breakers[0].snapshot()["fleet"]["votes"] == 1)
        assert points() == {}
        trip(breakers[1])
        eventually(lambda: points() == {"open": 3})
        operator_of(own_redis_server).force_open("payments", **ORDER)
        eventually(lambda: points() == {"open": 3, "override": 3})
        own_redis_server.kill()
        eventually(lambda: points() == {"override": 3, "alone": 3})


def test_the_rights_of_the_page_are_enough(redis_server: RedisProcess, client: redis.Redis) -> None:
    """A user of Redis with the rights that the page names shares breakers and budgets, and orders overrides."""
    page = (Path(__file__).parents[2] / "docs" / "howto" / "shared-breaker.md").read_text(encoding="utf-8")
    (rights,) = re.findall(r"`(\+eval [^`]*)`", page)
    user = ("on", ">pw", *rights.split())
    client.execute_command("ACL", "SETUSER", "app", *user)  # type: ignore[no-untyped-call]  # redis-py leaves it
    where = urlsplit(redis_server.url)
    url = f"redis://app:pw@{where.hostname}:{redis_server.port}{where.path}"
    try:
        with sharing(url, 2, quorum=1) as breakers:
            eventually(lambda: client.pubsub_channels("*breaker*"))
            operator = FleetBreakers(RedisConnection.from_url(url, timeout=2))
            eventually(operator.states)
            operator.disable("payments", **ORDER)
            assert operator.history()[0].author == "ann"
            operator.reset("payments", reason="done", author="ann")
            eventually(lambda: breakers[0].mode == "automatic")
            trip(breakers[0])
            eventually(lambda: breakers[1].current_state == "open")
            budget = RetryBudget("with-rights", shared=connection_of(breakers[0]))
            budget.enter()
            budget.spend(retrying=False)
            eventually(lambda: budget.snapshot()["lease"] is not None)
    finally:
        client.execute_command("ACL", "DELUSER", "app")  # type: ignore[no-untyped-call]  # redis-py leaves it
