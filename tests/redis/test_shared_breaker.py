"""A breaker that instances share through a real Redis: trips, trials, restarts, outages, and overrides by operators."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from breaker_instance import BreakerInstance, eventually, instances
from redis_process import RedisProcess
from shared_breakers import known_instances, sharing, trip

from resilience import CircuitBreaker, CircuitOpenError, Keyed, Pipeline, Resilience
from resilience.__main__ import main
from resilience.breaker.shared import FleetBreakers
from resilience.errors import ConfigurationError, ResilienceError
from resilience.events import Event
from resilience.fleet import Fleet
from resilience.redis import RedisConnection

pytestmark = pytest.mark.redis


def commands(server: RedisProcess) -> int:
    """Return how many scripts the server has run."""
    with contextlib.closing(server.client()) as client:
        found: Any = client.info("commandstats")
    return sum(found.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


def test_a_call_makes_no_round_trip(redis_server: RedisProcess) -> None:
    """While closed and while open, ten thousand calls add no command on the server to the one round a second."""
    with sharing(redis_server.url) as (breaker,):
        for state in ("closed", "open"):
            if state == "open":
                trip(breaker)
                eventually(lambda: breaker.snapshot()["fleet"]["state"] == "open")
            before, start = commands(redis_server), time.monotonic()
            for _ in range(10_000):
                with contextlib.suppress(CircuitOpenError):
                    breaker.call(str)
            rounds = time.monotonic() - start + 3
            assert commands(redis_server) - before <= 3 * rounds  # heartbeat, record, directory
            assert breaker.current_state == state


def test_closed_calls_use_the_fast_permit(redis_server: RedisProcess) -> None:
    """After the first call a shared breaker admits calls exactly as any other: by the permit that needs no question."""
    with sharing(redis_server.url) as (breaker,):
        assert breaker._circuit.fast_permit is breaker._circuit.machine.epoch


def test_the_first_call_of_a_timed_breaker_joins(redis_server: RedisProcess) -> None:
    """A breaker that times its calls joins the fleet at its first call, too."""
    with sharing(redis_server.url, slow_call_rate_threshold=0.5) as (breaker,):
        assert breaker.snapshot()["fleet"]["name"] == "payments"


@pytest.mark.parametrize("server", ["redis_server", "oldest_redis_server"])
def test_two_of_four_open_the_fleet(server: str, request: pytest.FixtureRequest) -> None:
    """With the quorum 0.5 one of four instances opens itself alone, and two open all of them, with their rule."""
    with sharing(request.getfixturevalue(server).url, 4) as breakers:
        trip(breakers[0])
        eventually(lambda: breakers[0].snapshot()["fleet"]["votes"] == 1)
        assert [each.current_state for each in breakers] == ["open", "closed", "closed", "closed"]
        trip(breakers[1])
        eventually(lambda: all(each.current_state == "open" for each in breakers))
        with pytest.raises(CircuitOpenError, match="2 instances have tripped: consecutive failures"):
            breakers[3].call(str)


def test_a_user_without_channels_learns_in_the_rounds(redis_server: RedisProcess) -> None:
    """Redis gives a new user no channel: a trip then reaches the others by their rounds, one a second."""
    with contextlib.closing(redis_server.client()) as client:
        user = ("on", ">pw", "~*", "+@all", "resetchannels")
        client.execute_command("ACL", "SETUSER", "app", *user)  # type: ignore[no-untyped-call]  # redis-py leaves it
        try:
            where = urlsplit(redis_server.url)
            with sharing(f"redis://app:pw@{where.hostname}:{redis_server.port}{where.path}", 2) as breakers:
                trip(breakers[0])
                eventually(lambda: breakers[1].current_state == "open")
        finally:
            client.execute_command("ACL", "DELUSER", "app")  # type: ignore[no-untyped-call]  # redis-py leaves it


def test_a_dead_dependency_is_found_within_a_second(redis_server: RedisProcess) -> None:
    """At 500 calls a second over four instances, a dependency that dies opens the fleet within 500 calls.

    Before that, four times the load with 5 % of errors opens nothing and casts no vote.
    """
    options = {"fail_max": None, "failure_rate_threshold": 0.5, "sliding_window": 100}
    with sharing(redis_server.url, 4, **options) as breakers:
        for number in range(8_000):
            with contextlib.suppress(ConnectionError), breakers[number % 4].calling():
                if number % 80 < 4:  # each instance in turn
                    raise ConnectionError
        assert [each.snapshot()["openings"] for each in breakers] == [0] * 4
        calls = 0
        while not all(each.current_state == "open" for each in breakers):
            with contextlib.suppress(ConnectionError, CircuitOpenError), breakers[calls % 4].calling():
                raise ConnectionError
            calls += 1
            time.sleep(0.002)
        assert calls < 500
        eventually(lambda: all(each.snapshot()["fleet"]["state"] == "open" for each in breakers))


def test_clients_of_a_toolkit_share_the_circuit_of_a_host(redis_server: RedisProcess) -> None:
    """A variable for all pipelines shares the circuits of HTTP and gRPC clients, by host."""
    environ = {"RESILIENCE_REDIS__URL": redis_server.url, "RESILIENCE_PIPELINE__DEFAULT__BREAKER__SHARED": "true"}
    with Resilience.from_env(environ) as toolkit:
        toolkit.client_pipeline("api", "a.example").call(str)
        operator = FleetBreakers(RedisConnection.from_url(redis_server.url, timeout=2))
        eventually(lambda: [each.name for each in operator.states()] == ["api/a.example"])
        assert toolkit.redis is not None
        Fleet.of(toolkit.redis).close()


def test_without_redis_a_shared_breaker_is_a_local_one(own_redis_server: RedisProcess) -> None:
    """When Redis is gone, no call waits or fails for it, and the circuit opens and closes by itself."""
    with sharing(own_redis_server.url, reset_timeout=0.2, reset_timeout_jitter=0) as (breaker,):
        own_redis_server.kill()
        eventually(lambda: breaker.snapshot()["fleet"]["is_away"])
        start = time.monotonic()
        trip(breaker)
        with pytest.raises(CircuitOpenError):
            breaker.call(str)
        assert time.monotonic() - start < 1

        def has_closed() -> bool:
            with contextlib.suppress(CircuitOpenError):
                breaker.call(str)
            return breaker.current_state == "closed"

        eventually(has_closed)


def test_lost_data_is_seeded_again(redis_server: RedisProcess) -> None:
    """After FLUSHALL the instances restore the open state, and a new instance reads it shortly after its first call."""
    with sharing(redis_server.url) as (breaker,):
        trip(breaker)
        eventually(lambda: breaker.snapshot()["fleet"]["state"] == "open")
        with contextlib.closing(redis_server.client()) as client:
            client.flushall()
            eventually(lambda: client.exists("{resilience:fleet:breaker:payments}:record"))
        with sharing(redis_server.url) as (new,):
            eventually(lambda: new.current_state == "open")


def test_every_key_has_a_ttl(redis_server: RedisProcess) -> None:
    """All keys of a shared breaker end by themselves, and are in one slot of a cluster, apart from the directory."""
    with sharing(redis_server.url, 2, quorum=2) as breakers, contextlib.closing(redis_server.client()) as client:
        trip(breakers[0])
        eventually(lambda: breakers[0].snapshot()["fleet"]["votes"] == 1)
        trip(breakers[1])
        eventually(lambda: breakers[0].snapshot()["fleet"]["state"] == "open")
        order = {"expires": "1m", "reason": "drill", "author": "ann"}
        FleetBreakers(RedisConnection.from_url(redis_server.url, timeout=2)).disable("payments", **order)
        keys = list(client.scan_iter("*fleet*"))
        assert len(keys) >= 4
        assert all(client.pttl(key) > 0 for key in keys)


def test_an_override_reaches_all_and_ends(redis_server: RedisProcess) -> None:
    """An override by the API reaches all instances, carries reason and author, and a reset ends it."""
    with sharing(redis_server.url, 2) as breakers:
        operator = FleetBreakers(RedisConnection.from_url(redis_server.url, timeout=2))
        eventually(lambda: [each.name for each in operator.states()] == ["payments"])
        (state,) = operator.force_open("payments", expires="1m", reason="drill", author="ann")
        assert (state.mode, state.mode_reason, state.author) == ("forced_open", "drill", "ann")
        eventually(lambda: all(each.mode == "forced_open" for each in breakers))
        with pytest.raises(CircuitOpenError, match=r"held open \(drill \(by ann\)\)"):
            breakers[1].call(str)
        operator.reset("payments.breaker", reason="done", author="bob")
        eventually(lambda: all(each.mode == "automatic" for each in breakers))
        modes: list[list[object]] = [[], []]

        def note(heard: list[object], event: Event) -> None:
            heard.append(event.facts.get("after"))

        for breaker, heard in zip(breakers, modes, strict=True):
            breaker.events.subscribe(functools.partial(note, heard))
        operator.metrics_only("payments", expires=0.3, reason="look", author="bob")
        eventually(lambda: all("metrics_only" in heard for heard in modes))
        eventually(lambda: all(each.mode == "automatic" for each in breakers))
        assert [(each.action, each.author) for each in operator.history()] == [
            ("metrics-only", "bob"),
            ("reset", "bob"),
            ("force-open", "ann"),
        ]


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"expires": 0}, "expires"),
        ({"expires": None}, "expires"),
        ({"reason": ""}, "reason"),
        ({"reason": "two\nlines"}, "reason"),
        ({"reason": "x" * 201}, "reason"),
        ({"author": "\x1b[31m"}, "author"),
        ({"author": " "}, "author"),
        ({"name": "paymens"}, "name"),
    ],
)
def test_wrong_overrides_are_refused(redis_server: RedisProcess, changes: dict[str, Any], option: str) -> None:
    """An override without an end, a reason or an author, or with text that could forge a log line, is refused."""
    operator = FleetBreakers(RedisConnection.from_url(redis_server.url, timeout=2))
    given: dict[str, Any] = {"name": "payments", "expires": 60, "reason": "drill", "author": "ann"} | changes
    with pytest.raises(ConfigurationError, match=option):
        operator.force_open(given.pop("name"), **given)


def test_an_operator_learns_that_redis_is_gone(own_redis_server: RedisProcess) -> None:
    """Without Redis an operator gets one clear error."""
    own_redis_server.kill()
    with pytest.raises(ResilienceError, match="Redis cannot be used"):
        FleetBreakers(RedisConnection.from_url(own_redis_server.url)).states()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quorum": 0.5}, "quorum.*None unless the circuit is shared"),
        ({"shared": True}, "shared.*a RedisConnection"),
        ({"shared": "redis://secret@host"}, "shared.*str"),
    ],
)
def test_wrong_ways_to_share(options: dict[str, Any], message: str) -> None:
    """A quorum without sharing, and sharing without a connection, are refused by name."""
    with pytest.raises(ConfigurationError, match=message) as raised:
        CircuitBreaker(**options)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("quorum", [0, -1, 1.5, 0.0, float("nan"), 10_001, True, "half"])
def test_wrong_quorums_are_refused(quorum: object) -> None:
    """A quorum is a share above 0 up to 1, or a whole number of instances."""
    connection = RedisConnection.from_url("redis://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r"quorum.*a share above"):
        CircuitBreaker(shared=connection, quorum=quorum)  # type: ignore[arg-type]  # on purpose


def test_settings_share_a_breaker(redis_server: RedisProcess) -> None:
    """One variable shares a breaker; sharing without a Redis is refused at the start, by the name of the variable."""
    shared = {"RESILIENCE_PIPELINE__PAYMENTS__BREAKER__SHARED": "true"}
    with pytest.raises(ConfigurationError, match=r"PAYMENTS__BREAKER__SHARED.*RESILIENCE_REDIS__URL is set"):
        Resilience.from_env(shared)
    with pytest.raises(ConfigurationError, match=r"PAYMENTS__BREAKER__QUORUM.*a share"):
        Resilience.from_env({**shared, "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__QUORUM": "1.5"})
    url = {"RESILIENCE_REDIS__URL": redis_server.url, "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__QUORUM": "1"}
    with Resilience.from_env({**shared, **url}) as toolkit:
        pipeline = toolkit.pipeline("payments")
        pipeline.call(str)
        (found,) = pipeline.snapshot()["policies"]
        assert found["fleet"]["name"] == "payments"
        assert toolkit.redis is not None
        Fleet.of(toolkit.redis).close()


def test_the_command_lists_and_overrides(
    redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`breakers` lists, overrides, keeps a history, and refuses an override without an end or a reason."""
    monkeypatch.setenv("RESILIENCE_REDIS__URL", redis_server.url)
    with sharing(redis_server.url) as (breaker,):
        eventually(lambda: main(["breakers", "list"]) == 0 and "payments  closed" in capsys.readouterr().out)
        assert main(["breakers", "force-open", "payments", "--reason", "drill"]) == 1
        assert "force-open needs --for" in capsys.readouterr().err
        assert main(["breakers", "disable", "payments", "--for", "1m"]) == 1
        assert "disable needs --reason" in capsys.readouterr().err
        assert main(["breakers", "disable", "payments", "--for", "soon", "--reason", "drill"]) == 1
        assert "--for='soon': expected a duration" in capsys.readouterr().err
        order = ["--for", "1m", "--reason", "drill", "--author", "ann"]
        assert main(["breakers", "force-open", "payments", *order]) == 0
        eventually(lambda: breaker.mode == "forced_open")
        assert "forced_open for 60 s by ann: drill" in capsys.readouterr().out
        assert main(["breakers", "list", "--json"]) == 0
        (state,) = json.loads(capsys.readouterr().out)
        assert (state["name"], state["mode"], state["author"]) == ("payments", "forced_open", "ann")
        assert main(["breakers", "reset", "payments", "--reason", "done"]) == 0
        capsys.readouterr()
        assert main(["breakers", "history"]) == 0
        assert "force-open payments for 60 s by ann: drill" in capsys.readouterr().out
    monkeypatch.delenv("RESILIENCE_REDIS__URL")
    assert main(["breakers", "list"]) == 1
    assert "RESILIENCE_REDIS__URL is not set" in capsys.readouterr().err


def test_hosts_have_circuits_of_their_own(redis_server: RedisProcess) -> None:
    """Breakers of each key are shared under `<name>/<key>`, and an override of the name reaches all of them."""
    connection = RedisConnection.from_url(redis_server.url)
    hosts = Keyed(lambda _: CircuitBreaker(3, shared=connection, quorum=1), key=lambda host: host)
    api = Pipeline("api", hosts)
    for host in ("a.example", "b.{example}"):
        api.call(str, host)
    operator = FleetBreakers(RedisConnection.from_url(redis_server.url, timeout=2))
    eventually(lambda: [each.name for each in operator.states()] == ["api/a.example", "api/b.{example}"])
    assert len(operator.disable("api", expires=60, reason="drill", author="ann")) == 2
    eventually(lambda: all(figures["mode"] == "disabled" for figures in hosts.snapshot()["each"].values()))
    Fleet.of(connection).close()
    connection.close()


def test_a_forked_child_is_an_instance_of_its_own(redis_server: RedisProcess) -> None:
    """A child that was forked counts as one more instance, and follows the fleet."""
    with sharing(redis_server.url) as (breaker,):
        read, write = os.pipe()
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                breaker.call(str)
                eventually(lambda: breaker.current_state == "open")
                os.write(write, b"open")
            os._exit(0)
        try:
            eventually(lambda: known_instances(breaker) == 2)
            trip(breaker)
            os.close(write)
            with os.fdopen(read, "rb") as answer:
                assert answer.read() == b"open"
        finally:
            os.waitpid(child, 0)


@pytest.mark.servers
class TestProcesses:
    """Instances are processes."""

    def test_a_trip_reaches_all(self, redis_server: RedisProcess) -> None:
        """Two bad instances of four open the other two; the slowest of them learns it in 100 ms on an idle machine."""
        with instances(redis_server.url, 4) as fleet:
            fleet[0].do("fail 10")
            eventually(lambda: fleet[0].time_of("breaker.opened"))
            assert fleet[2].state["state"] == "closed"
            fleet[1].do("fail 10")
            eventually(lambda: all(each.time_of("breaker.fleet_opened") for each in fleet))
            tripped = fleet[1].time_of("breaker.opened") or 0
            delay = max((each.time_of("breaker.fleet_opened") or 0) - tripped for each in fleet)
            assert delay < 3

    def test_a_killed_voter(self, redis_server: RedisProcess) -> None:
        """The vote of a killed instance ends, so a later bad instance is alone again."""
        with instances(redis_server.url, 4, "2") as fleet:
            fleet[0].do("fail 10")
            eventually(lambda: fleet[0].state["fleet"]["votes"] == 1)
            fleet[0].kill()
            eventually(lambda: votes(redis_server) == 0, 20)
            fleet[1].do("fail 10")
            eventually(lambda: fleet[1].state["fleet"]["votes"] == 1)
            assert fleet[2].state["state"] == "closed"

    def test_trials_and_a_restart(self, redis_server: RedisProcess) -> None:
        """A new instance finds the circuit open; trials of several instances close it for all."""
        with instances(redis_server.url, 3, "1", "1s") as fleet:
            fleet[0].do("fail 10")
            eventually(lambda: all(each.state["state"] == "open" for each in fleet))
            with contextlib.ExitStack() as stack:
                new = BreakerInstance(redis_server.url, "1", "1s")
                stack.callback(new.kill)
                new.do("call")
                eventually(lambda: new.time_of("breaker.opened"))
                members = [*fleet, new]

                def have_closed() -> bool:
                    for each in members:
                        each.ask("call")
                    return all(each.state["state"] == "closed" for each in members)

                eventually(have_closed, 20)

    def test_an_override_reaches_processes(self, redis_server: RedisProcess) -> None:
        """`force-open` reaches every process by a message, in less than a beat."""
        with instances(redis_server.url, 3) as fleet:
            operator = FleetBreakers(RedisConnection.from_url(redis_server.url, timeout=2))
            start = time.time()
            operator.force_open("payments", expires="1m", reason="drill", author="ann")
            eventually(lambda: all(each.time_of("breaker.mode_changed") for each in fleet))
            delay = max((each.time_of("breaker.mode_changed") or 0) - start for each in fleet)
            assert delay < 3
            assert fleet[0].ask("call")["outcome"] == "CircuitOpenError"


def votes(server: RedisProcess) -> int:
    with contextlib.closing(server.client()) as client:
        return int(client.zcount("{resilience:fleet:breaker:payments}:votes", f"({int(time.time() * 1000)}", "+inf"))


def test_the_script_has_its_file() -> None:
    """The script is installed with the package."""
    from resilience.breaker import shared  # noqa: PLC0415 - for its place

    assert Path(shared.__file__).with_name("record.lua").is_file()
