"""Instances that share a Redis count each other, make their calls in rounds, and hear each other."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from weakref import ref

import fleet_instance
import pytest
from fleet_instance import Partner, eventually, instance
from no_threads import out_of_threads
from redis_process import RedisProcess, free_port

from resilience.fleet import Fleet, FleetCall
from resilience.redis import LuaScript, RedisConnection

pytestmark = pytest.mark.redis

ECHO = LuaScript("return {KEYS[1], ARGV[1], ARGV[2]}")


@contextlib.contextmanager
def member(url: str, *calls: FleetCall, channel: str | None = None) -> Iterator[tuple[Fleet, Partner]]:
    """Yield an instance with one partner, after its first answer."""
    fleet, partner = Fleet.of(RedisConnection.from_url(url)), Partner(*calls)
    fleet.join(partner, channel)
    try:
        eventually(lambda: partner.replies)
        yield fleet, partner
    finally:
        fleet.close()


def threads() -> list[threading.Thread]:
    """Return the threads of fleets."""
    return [each for each in threading.enumerate() if each.name.startswith("resilience-fleet")]


def count(server: RedisProcess) -> int:
    """Return how many instances the server knows."""
    with contextlib.closing(server.client()) as client:
        return int(client.zcard("{resilience:fleet}:instances"))


def test_one_fleet_for_a_connection_and_no_thread_without_a_partner(redis_server: RedisProcess) -> None:
    """Asking for the fleet of a connection starts nothing, and gives the same one each time."""
    before = threads()
    connection = RedisConnection.from_url(redis_server.url)
    assert Fleet.of(connection) is Fleet.of(connection)
    assert (Fleet.of(connection).instances, threads()) == (1, before)
    assert Fleet.of(RedisConnection.from_url(redis_server.url)).instance != Fleet.of(connection).instance


def test_instances_count_each_other(redis_server: RedisProcess) -> None:
    """Each of two instances counts both, and the one that closes is gone from the server at once."""
    with member(redis_server.url) as (first, _):
        with member(redis_server.url) as (second, _):
            assert second.instances == 2
            first.nudge()
            eventually(lambda: first.instances == 2)
        assert count(redis_server) == 1
    assert count(redis_server) == 0


def test_calls_of_all_partners_share_a_round_trip(redis_server: RedisProcess) -> None:
    """Each partner gets the replies to its own calls; one EVALSHA each, and a script sent once."""
    calls = [FleetCall(ECHO, (b"{a}%d" % number,), (b"x", number)) for number in range(3)]
    with member(redis_server.url, *calls[:2]) as (fleet, two), contextlib.closing(redis_server.client()) as client:
        one = Partner(calls[2])
        fleet.join(one)
        eventually(lambda: one.replies)
        assert two.replies[-1] == [[b"{a}0", b"x", b"0"], [b"{a}1", b"x", b"1"]]
        assert one.replies[-1] == [[b"{a}2", b"x", b"2"]]
        client.script_flush()
        rounds = len(one.replies)
        fleet.nudge()
        eventually(lambda: len(one.replies) > rounds)
        assert one.replies[-1] == [[b"{a}2", b"x", b"2"]]


def test_an_error_reply_is_of_its_call_alone(redis_server: RedisProcess) -> None:
    """A script that fails for one partner changes nothing for the others."""
    bad = FleetCall(LuaScript("return redis.call('GET')"), (b"k",))
    with member(redis_server.url, bad) as (fleet, partner):
        other = Partner(FleetCall(ECHO, (b"k",), ("x", 1)))
        fleet.join(other)
        eventually(lambda: other.replies)
        assert isinstance(partner.replies[-1][0], Exception)
        assert other.replies[-1] == [[b"k", b"x", b"1"]]
        assert not fleet.is_lost


def test_a_partner_that_raises_ends_nothing(redis_server: RedisProcess, caplog: pytest.LogCaptureFixture) -> None:
    """An error of a partner is logged; the other partners get their rounds."""

    class Broken(Partner):
        def calls(self) -> list[FleetCall]:
            raise ZeroDivisionError

    with member(redis_server.url) as (fleet, partner):
        broken = Broken()
        fleet.join(broken)
        rounds = len(partner.replies)
        eventually(lambda: len(partner.replies) > rounds)
        assert "ZeroDivisionError" in caplog.text


def test_a_message_arrives_within_100_ms(redis_server: RedisProcess) -> None:
    """What one instance publishes, the partners of that channel hear in all instances, and no other partner."""
    with member(redis_server.url, channel="a") as (first, here), member(redis_server.url, channel="a") as (_, there):
        other = Partner()
        first.join(other, "b")

        def arrives() -> float:
            begun, known = time.monotonic(), len(there.messages)
            first.publish("a", b"\x00\xff")
            first.nudge()
            with contextlib.suppress(AssertionError):
                eventually(lambda: len(there.messages) > known, 0.2)
            return time.monotonic() - begun

        eventually(lambda: arrives() < 0.1)
        eventually(lambda: here.messages)
        assert {*here.messages, *there.messages} == {b"\x00\xff"}
        assert other.messages == []


def test_threads_end_with_the_last_partner(redis_server: RedisProcess) -> None:
    """A partner that is dropped leaves, and without a partner the instance leaves and its threads end."""
    before = threads()
    fleet, partner = Fleet.of(RedisConnection.from_url(redis_server.url)), Partner()
    fleet.join(partner)
    eventually(lambda: count(redis_server) == 1)
    del partner
    fleet.nudge()
    eventually(lambda: count(redis_server) == 0)
    eventually(lambda: set(threads()) <= set(before))


def test_a_dropped_connection_takes_its_fleet_along(redis_server: RedisProcess) -> None:
    """No thread keeps a connection or a fleet alive."""
    connection, partner = RedisConnection.from_url(redis_server.url), Partner()
    Fleet.of(connection).join(partner)
    eventually(lambda: partner.replies)
    known = ref(Fleet.of(connection))
    del connection
    # Again and again: a thread holds the fleet while it makes a round.
    eventually(lambda: gc.collect() >= 0 and known() is None)


def test_a_closed_fleet_opens_again(redis_server: RedisProcess) -> None:
    """After `close` a nudge does nothing, and a partner that joins begins again."""
    with member(redis_server.url) as (fleet, partner):
        fleet.close()
        fleet.nudge()
        assert count(redis_server) == 0
        fleet.join(partner)
        eventually(lambda: count(redis_server) == 1)


def test_flushall_is_survived(redis_server: RedisProcess) -> None:
    """The instances come back at their next beat, and no count falls meanwhile."""
    with member(redis_server.url) as (first, _), member(redis_server.url) as (second, _):
        with contextlib.closing(redis_server.client()) as client:
            client.flushall()
        second.nudge()
        eventually(lambda: count(redis_server) >= 1)  # the first one may come back sooner
        assert second.instances == 2
        first.nudge()
        eventually(lambda: count(redis_server) == 2)


def test_a_key_of_another_type_loses_nothing_but_the_count(redis_server: RedisProcess) -> None:
    """If another program wrote our key, the partners still have their rounds."""
    with member(redis_server.url, FleetCall(ECHO, (b"k",), ("x", 1))) as (fleet, partner):
        with contextlib.closing(redis_server.client()) as client:
            client.set("{resilience:fleet}:instances", "mine")
        rounds = len(partner.replies)
        fleet.nudge()
        eventually(lambda: len(partner.replies) > rounds)
        assert (fleet.instances, fleet.is_lost) == (1, False)


def test_no_server(redis_server: RedisProcess) -> None:
    """Where nothing listens, each round fails, `instances` stays, and close does not wait for it."""
    fleet, partner = Fleet.of(RedisConnection.from_url(f"redis://127.0.0.1:{free_port()}/0")), Partner()
    fleet.join(partner)
    eventually(lambda: partner.failures >= 2)
    assert (fleet.instances, fleet.is_lost, partner.replies) == (1, True, [])
    begun = time.monotonic()
    fleet.close()
    assert time.monotonic() - begun < 5


def test_a_paused_server_is_lost_and_found(own_redis_server: RedisProcess) -> None:
    """A server that hangs fails the rounds; the count stands, and the same instance goes on afterwards."""
    with member(own_redis_server.url) as (fleet, partner):
        own_redis_server.pause()
        try:
            fleet.nudge()
            eventually(lambda: partner.failures)
            assert fleet.is_lost
        finally:
            own_redis_server.resume()
        rounds = len(partner.replies)
        eventually(lambda: len(partner.replies) > rounds)
        assert not fleet.is_lost


def test_many_threads_nudge(redis_server: RedisProcess) -> None:
    """Nudges of many threads share rounds: at most one in a gap, however many there are."""
    with member(redis_server.url) as (fleet, partner):
        begun, rounds = time.monotonic(), len(partner.replies)

        def nudge() -> None:
            for _ in range(2000):
                fleet.nudge()

        nudging = [threading.Thread(target=nudge) for _ in range(8)]
        for each in nudging:
            each.start()
        for each in nudging:
            each.join()
        eventually(lambda: len(partner.replies) > rounds)
        assert len(partner.replies) - rounds <= (time.monotonic() - begun) / 0.01 + 2


@pytest.mark.realtime
def test_a_killed_process_is_noticed_after_its_lifetime(redis_server: RedisProcess) -> None:
    """An instance that dies by kill -9 is counted for its lifetime, and then no more."""
    with member(redis_server.url) as (fleet, _):
        with instance(redis_server.url, lifetime=1.5) as process:
            fleet.nudge()
            eventually(lambda: fleet.instances == 2)
            process.kill()
        eventually(lambda: fleet.instances == 1, 20)


@pytest.mark.realtime
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_is_another_instance(redis_server: RedisProcess) -> None:
    """A child has an id and connections of its own; both processes are counted, and the parent goes on."""
    with member(redis_server.url, channel="a") as (fleet, partner):
        mine, (reading, writing) = fleet.instance, os.pipe()
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                eventually(lambda: fleet.instances == 2, 30)
                os.write(writing, fleet.instance.encode())
                fleet.close()
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            other = pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        assert len(other) == len(mine)
        assert other != mine
        rounds = len(partner.replies)
        fleet.nudge()
        eventually(lambda: len(partner.replies) > rounds)


def test_a_system_out_of_threads_shares_nothing(redis_server: RedisProcess, caplog: pytest.LogCaptureFixture) -> None:
    """A fleet that gets no thread says so once, and the next partner that joins tries again."""
    fleet, partner = Fleet.of(RedisConnection.from_url(redis_server.url)), Partner()
    with out_of_threads():
        fleet.join(partner)
        assert (fleet.is_open, fleet.instances) == (False, 1)
    assert "the fleet has no thread" in caplog.text
    fleet.join(partner)
    eventually(lambda: partner.replies)
    fleet.close()


@pytest.mark.servers
def test_the_threads_of_gevent(redis_server: RedisProcess) -> None:
    """With patched threads and sockets, an instance is counted, hears a message, and leaves."""
    program = (
        "from gevent import monkey; monkey.patch_all(); import sys, fleet_instance; fleet_instance.talk(sys.argv[1])"
    )
    command = [sys.executable, "-c", program, redis_server.url]
    paths = os.pathsep.join([str(Path(fleet_instance.__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("heard\n", "")
    assert count(redis_server) == 0


def test_the_numbers_of_a_program_are_its_own(redis_server: RedisProcess) -> None:
    """The jitter of the rounds takes no number from the module `random`, which the program may have seeded."""
    random.seed(3)
    before = random.getstate()
    with member(redis_server.url) as (fleet, partner):
        rounds = len(partner.replies)
        fleet.nudge()
        eventually(lambda: len(partner.replies) > rounds)
    assert random.getstate() == before
