"""Servers that answer, and cannot serve limiters: replicas, full ones, ones that forbid it, nodes of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError
from redis_process import RedisProcess, find_binary, find_oldest_binary, free_port
from tcp_proxy import TcpProxy

from resilience import Resilience
from resilience import __main__ as command_line
from resilience.events import Event
from resilience.ratelimit import Decision, RedisStore, TokenBucket
from resilience.ratelimit.on_redis._buckets import TOKEN_BUCKET
from resilience.redis import LuaScript, OutageGuard, RedisConnection
from resilience.redis._bounded import Generations
from resilience.redis._errors import code_of, explain, is_about_one_key
from resilience.redis._script import _DIAGNOSIS

pytestmark = [pytest.mark.redis, pytest.mark.realtime]
TIMEOUT = 0.5
both_ages = pytest.mark.parametrize("age", ["current", "oldest"])
RECOVERY = 10.0  # a trial is due within 0.4 s at most; the rest is for a machine that stands still


class Limiter:
    """A limiter that refuses every call while its server is down, asked in one colour."""

    def __init__(self, url: str, *, is_awaiting: bool, rate: str = "1000000/minute") -> None:
        self.connection = RedisConnection.from_url(url, timeout=TIMEOUT, outage="deny")
        self.store = RedisStore(self.connection)
        self.events: list[Event] = []
        self.store.events.subscribe(self.events.append)
        self.bucket = TokenBucket(rate, store=self.store)
        self._runner = asyncio.Runner() if is_awaiting else None

    def acquire(self, key: str = "k") -> Decision:
        if self._runner is None:
            return self.bucket.acquire(key)
        return self._runner.run(self.bucket.aacquire(key))

    def wait_until_allowed(self) -> None:
        deadline = time.monotonic() + RECOVERY
        while not self.acquire():
            assert time.monotonic() < deadline, "not recovered"
            time.sleep(0.02)
        while self.kinds[-1:] == ["ratelimit.outage"]:  # the event comes a moment after the change
            assert time.monotonic() < deadline
            time.sleep(0.005)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def close(self) -> None:
        if self._runner is not None:
            self._runner.run(self.connection.aclose())
            self._runner.close()
        self.connection.close()


@contextlib.contextmanager
def admin(server: RedisProcess) -> Iterator[Any]:
    with contextlib.closing(server.client()) as client:
        yield client


def serve_all_slots(server: RedisProcess) -> None:
    with admin(server) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
        deadline = time.monotonic() + 10
        while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.05)


MakeLimiter = Callable[..., Limiter]


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def make_limiter(request: pytest.FixtureRequest) -> Iterator[MakeLimiter]:
    with contextlib.ExitStack() as stack:

        def make(url: str, **options: Any) -> Limiter:
            made = Limiter(url, is_awaiting=request.param, **options)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., RedisProcess]]:
    with contextlib.ExitStack() as stack:

        def start(*options: str, age: str = "current") -> RedisProcess:
            binary = find_oldest_binary() if age == "oldest" else find_binary()
            if binary is None:
                pytest.skip("no Redis or Valkey server to start")
            directory = tmp_path / str(len(list(tmp_path.iterdir())))
            directory.mkdir()
            server = RedisProcess(binary, directory, options=options)
            stack.callback(server.kill)
            server.start()
            return server

        yield start


StartServer = Callable[..., RedisProcess]


@pytest.fixture(scope="module")
def _cluster_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    binary = find_binary()
    if binary is None:
        pytest.skip("no Redis or Valkey server to start")
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server = RedisProcess(binary, tmp_path_factory.mktemp("cluster"), options=options)
    server.start()
    serve_all_slots(server)
    yield server
    server.kill()


@pytest.fixture
def cluster_node(_cluster_process: RedisProcess) -> RedisProcess:
    """Provide an empty node with all slots: one process for all tests, because it serves none in its first 2 s."""
    _cluster_process.ready()
    return _cluster_process


def test_failover_by_name(make_limiter: MakeLimiter, start_server: StartServer) -> None:
    """After a failover by name the demoted server, which still answers, is left, and the new primary is found."""
    old, new = start_server(), start_server()
    with TcpProxy(old.port) as proxy:
        limiter = make_limiter(proxy.url)
        assert limiter.acquire()
        with admin(old) as client:
            client.replicaof("127.0.0.1", str(new.port))
        proxy.target = new.port
        limiter.wait_until_allowed()
        assert limiter.kinds == ["ratelimit.outage", "ratelimit.recovered"]
        assert limiter.events[0].facts["code"] == "READONLY"
        with admin(new) as client:
            assert client.info("commandstats")["cmdstat_eval"]["calls"] == 1  # it did not know the script


def test_failover_by_name_with_many_connections(start_server: StartServer) -> None:
    """No connection of a pool stays with the demoted server: one outage, however many connections there were."""
    old, new = start_server(), start_server()
    with TcpProxy(old.port) as proxy:
        limiter = Limiter(proxy.url, is_awaiting=False)
        refused: list[Decision] = []

        def call_together(number: int) -> None:
            start = threading.Barrier(8)

            def work() -> None:
                start.wait()
                refused.extend(each for each in (limiter.acquire() for _ in range(number)) if not each)

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        call_together(30)
        refused.clear()
        with admin(old) as client:
            client.replicaof("127.0.0.1", str(new.port))
        proxy.target = new.port
        limiter.wait_until_allowed()
        limiter.events.clear()
        call_together(100)
        assert (refused, limiter.kinds) == ([], [])
        limiter.close()


@pytest.mark.parametrize(
    "line",
    [
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-MOVED 3999 127.0.0.1:6381\r\n",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"-CLUSTERDOWN Hash slot not served\r\n",
    ],
    ids=lambda line: line.split()[0].decode().removeprefix("-"),
)
def test_answers_that_end_a_connection(make_limiter: MakeLimiter, redis_server: RedisProcess, line: bytes) -> None:
    """Connections that answer only errors of the server are left for new ones, within seconds."""
    with TcpProxy(redis_server.port) as proxy:
        limiter = make_limiter(proxy.url)
        assert limiter.acquire()
        proxy.answer_instead(line)
        limiter.acquire()
        limiter.wait_until_allowed()
        code = line.split()[0].decode().removeprefix("-")
        # redis-py takes the first two for a lost connection, which is replaced within the call.
        assert limiter.kinds == [] if code in {"LOADING", "NOAUTH"} else ["ratelimit.outage", "ratelimit.recovered"]
        assert [event.facts["code"] for event in limiter.events[:1]] == [code][: len(limiter.events)]
        assert all(limiter.acquire() for _ in range(20))


@both_ages
def test_errors_of_the_server_inside_a_script(make_limiter: MakeLimiter, start_server: StartServer, age: str) -> None:
    """The code of an error is found wherever a server puts it, and each of these is an outage until it is mended."""
    server = start_server(age=age)
    limiter = make_limiter(server.url)
    with admin(server) as client:
        for code, spoil, mend in (
            ("OOM", ("maxmemory", "1"), ("maxmemory", "0")),
            ("NOREPLICAS", ("min-replicas-to-write", "1"), ("min-replicas-to-write", "0")),
        ):
            assert limiter.acquire()
            client.config_set(*spoil)
            assert not limiter.acquire()
            client.config_set(*mend)
            limiter.wait_until_allowed()
            assert [event.facts.get("code") for event in limiter.events] == [code, None]
            limiter.events.clear()


@both_ages
@pytest.mark.parametrize("missing", ["-evalsha -eval", "-get", "-set", "-time"])
def test_missing_rights_never_lift_a_limit(
    make_limiter: MakeLimiter, start_server: StartServer, missing: str, age: str
) -> None:
    """A user without one of the rights that limiters need causes an outage: no bucket reads as full for it."""
    server = start_server(age=age)
    with admin(server) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", *missing.split())
    limiter = make_limiter(server.url.replace("redis://", "redis://app:pw@"), rate="3/hour")
    assert not any(limiter.acquire() for _ in range(10))
    assert limiter.kinds == ["ratelimit.outage"]
    assert limiter.events[0].facts["code"] == "NOPERM"


def test_rights_that_are_enough(make_limiter: MakeLimiter, start_server: StartServer) -> None:
    """The rights that the documentation names are enough."""
    server = start_server()
    rights = "+eval +evalsha +time +get +set +del ~{resilience:*"
    with admin(server) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">pw", *rights.split())
    limiter = make_limiter(f"redis://app:pw@127.0.0.1:{server.port}", rate="3/hour")
    assert [bool(limiter.acquire()) for _ in range(5)] == [True] * 3 + [False] * 2
    limiter.bucket.reset("k")
    assert limiter.acquire()
    assert limiter.kinds == []


def test_password_set_while_running(make_limiter: MakeLimiter, start_server: StartServer) -> None:
    """A server that comes back with a password is an outage; without it, it is found again."""
    server = start_server()
    limiter = make_limiter(server.url)
    assert limiter.acquire()
    with admin(server) as client:
        client.config_set("requirepass", "secret")
        client.client_kill_filter(_type="normal", skipme=True)
        assert not limiter.acquire()
        assert limiter.events[0].facts["code"] == "NOAUTH"
        client.config_set("requirepass", "")
    limiter.wait_until_allowed()


def test_a_key_of_another_program(make_limiter: MakeLimiter, redis_server: RedisProcess) -> None:
    """A key that another program wrote is no outage: the bucket starts full, and other keys are not affected."""
    limiter = make_limiter(redis_server.url, rate="3/hour")
    assert limiter.acquire("mine")
    with admin(redis_server) as client:
        (name,) = client.keys("*mine*")
        client.delete(name)
        client.hset(name, "another", "program's")
    assert [limiter.acquire("mine").remaining for _ in range(3)] == [2, 1, 0]
    assert limiter.acquire("other").remaining == 2
    assert limiter.kinds == []


@both_ages
def test_errors_of_one_key(start_server: StartServer, caplog: pytest.LogCaptureFixture, age: str) -> None:
    """An error of one key leaves the guard up: the server has answered. It is logged once."""
    connection = RedisConnection.from_url(start_server(age=age).url, timeout=TIMEOUT)
    events = Limiter(connection.options.url or "", is_awaiting=False).store.events
    guard = OutageGuard("ratelimit", events, lambda: True)
    connection.sync.hset("k", "a", "1")
    failures = []
    for text in ("return redis.call('GET', KEYS[1])", "return nil + 1"):
        for _ in range(3):
            with guard.attempt() as attempt:
                assert attempt.may_try
                try:
                    LuaScript(text).run(connection.pool, (b"k",), ())
                except redis.ResponseError as error:
                    failures.append(code_of(error))
                    raise
    assert failures == ["WRONGTYPE"] * 3 + ["SCRIPT"] * 3
    assert not guard.is_down
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "Redis answered WRONGTYPE for a key; the decision was made without it",
        "Redis answered SCRIPT for a key; the decision was made without it",
    ]
    connection.close()


def test_node_of_a_cluster(
    make_limiter: MakeLimiter, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The first connection recognises a node of a cluster, before a key meets the wrong node, and logs it once."""
    server = start_server("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    serve_all_slots(server)
    with admin(server) as client:
        limiter = make_limiter(server.url)
        assert limiter.acquire()
        client.execute_command("CLUSTER", "DELSLOTS", *range(16_384))
        assert not limiter.acquire()
    assert limiter.events[0].facts["code"] == "CLUSTERDOWN"
    told = [record.getMessage() for record in caplog.records if "Redis Cluster" in record.getMessage()]
    assert len(told) == 1
    assert "redis+cluster://host:6379" in told[0]


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
async def test_keys_of_different_hash_slots(
    cluster_node: RedisProcess, monkeypatch: pytest.MonkeyPatch, *, is_known: bool
) -> None:
    """Callers of different keys share a round trip on a node that has all slots, also behind a proxy that hides it."""
    if not is_known:
        monkeypatch.setattr(Generations, "note_server", lambda *_: None)
    limiter = Limiter(cluster_node.url, is_awaiting=False, rate="10/hour")
    decisions = await asyncio.gather(*[limiter.bucket.aacquire(str(number % 20)) for number in range(60)])
    assert sorted(each.remaining for each in decisions if each) == sorted([7, 8, 9] * 20)
    assert limiter.kinds == []
    with admin(cluster_node) as client:
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] >= 20
    await limiter.connection.aclose()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (redis.ConnectionError("Error 111 connecting to cache:6379. Connection refused."), None),
        (redis.TimeoutError("Timeout reading from cache:6379"), None),
        (KeyError("ABC"), None),
        (redis.ResponseError("unknown command 'EVALSHA'"), None),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF"),
    ],
)
def test_codes(error: Exception, code: str | None) -> None:
    """Only an error reply has a code, and an error without a code is about the server."""
    assert code_of(error) == code
    assert not is_about_one_key(error)


def test_explanations() -> None:
    """An explanation names the cause, and the remedy if it is known."""
    assert explain(redis.TimeoutError("Timeout"), "p") == "it does not answer: Timeout"
    assert "~{shop:*" in explain(NoPermissionError("no"), "shop")
    assert explain(redis.ResponseError("BUSY a script is running"), "p") == "it answers BUSY"


def test_the_diagnosis_runs_what_limiters_run() -> None:
    """The script of the diagnosis calls the commands of the limiter's script."""
    called = [
        re.findall(r"redis\.p?call\('([A-Z]+)'", text)
        for text in (_DIAGNOSIS.text, TOKEN_BUCKET.read_text(encoding="utf-8"))
    ]
    assert called[0] == called[1] == ["TIME", "GET", "SET"]


@pytest.fixture
def diagnosed(start_server: StartServer) -> Iterator[tuple[RedisProcess, RedisConnection]]:
    server = start_server()
    with contextlib.closing(RedisConnection.from_url(server.url, timeout=TIMEOUT)) as connection:
        assert connection.diagnose() is None
        yield server, connection


def test_diagnosis_of_a_replica(diagnosed: tuple[RedisProcess, RedisConnection]) -> None:
    """A read-only replica is found, and so is its promotion."""
    server, connection = diagnosed
    with admin(server) as client:
        client.replicaof("127.0.0.1", "1")
        assert "name the primary" in (connection.diagnose() or "")
        client.replicaof("NO", "ONE")
    assert connection.diagnose() is None


def test_diagnosis_of_a_full_server(diagnosed: tuple[RedisProcess, RedisConnection]) -> None:
    """A server that is full and evicts nothing is found."""
    server, connection = diagnosed
    with admin(server) as client:
        client.config_set("maxmemory", 1)
    assert (connection.diagnose() or "").startswith("OOM: its memory is full")


@pytest.mark.parametrize("missing", ["-evalsha -eval", "-get", "-set", "-time"])
def test_diagnosis_of_missing_rights(diagnosed: tuple[RedisProcess, RedisConnection], missing: str) -> None:
    """The diagnosis needs each right that limiters need, and names the rights to grant."""
    server, _ = diagnosed
    with admin(server) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", *missing.split())
    url = server.url.replace("redis://", "redis://app:pw@")
    with contextlib.closing(RedisConnection.from_url(url, timeout=TIMEOUT)) as connection:
        assert (connection.diagnose() or "").startswith("NOPERM: its ACL forbids what limiters need: +eval +evalsha")


def test_diagnosis_of_a_node_of_a_cluster(cluster_node: RedisProcess) -> None:
    """A node of a cluster is found even if it serves the key of the diagnosis."""
    with contextlib.closing(RedisConnection.from_url(cluster_node.url, timeout=TIMEOUT)) as connection:
        assert "node of a Redis Cluster" in (connection.diagnose() or "")
        assert connection.is_cluster_node


def test_diagnosis_leaves_stale_connections(redis_server: RedisProcess) -> None:
    """A check that finds a server of no use connects anew next time, without any limiter's help."""
    with (
        TcpProxy(redis_server.port) as proxy,
        contextlib.closing(RedisConnection.from_url(proxy.url, timeout=TIMEOUT)) as connection,
    ):
        assert connection.diagnose() is None
        proxy.answer_instead(b"-READONLY You can't write against a read only replica.\r\n")
        assert (connection.diagnose() or "").startswith("READONLY")
        assert connection.diagnose() is None


def test_health_and_doctor_tell(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The toolkit's health check warns, and `doctor` fails, on a server that answers PING and takes no writes."""
    server = start_server()
    with admin(server) as client:
        client.replicaof("127.0.0.1", "1")
    environ = {"RESILIENCE_REDIS__URL": server.url, "RESILIENCE_REDIS__TIMEOUT": "500ms"}
    with Resilience.from_env(environ | {"RESILIENCE_HEALTH__DETAILS": "true"}) as toolkit:
        (entry,) = [entry for entry in toolkit.health.report("ready").entries if entry.name == "redis"]
        assert (entry.status, entry.reason.partition(":")[0]) == ("warn", "READONLY")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert command_line.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  redis server" in out
    assert "cannot serve limiters: READONLY: it is a read-only replica" in out.replace("\n", " ")
