"""Groups of real servers as processes on loopback: a cluster of masters, and a master that Sentinel watches."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from redis_process import RedisProcess, free_port

__all__ = ("RedisCluster", "SentinelGroup", "running", "wait_until")

SLOTS = 16_384
LIMIT = 20.0


def wait_until(is_so: Callable[[], object], limit: float = LIMIT) -> float:
    """Wait until `is_so()` is true, and return how many seconds that took; an error of Redis means "not yet"."""
    since = time.monotonic()
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if is_so():
                return time.monotonic() - since
        if time.monotonic() - since > limit:
            raise TimeoutError(f"not within {limit:g} s")
        time.sleep(0.02)


class _Servers:
    """Processes that end together."""

    def __init__(self, binary: str, directory: Path) -> None:
        self._binary = binary
        self._directory = directory
        self.servers: list[RedisProcess] = []

    def add(self, *options: str) -> RedisProcess:
        """Start one more server."""
        home = self._directory / str(len(self.servers))
        home.mkdir()
        server = RedisProcess(self._binary, home, options=options)
        self.servers.append(server)
        server.start()
        return server

    def ready(self) -> None:
        """Be empty, with statistics at zero."""
        for server in self.servers:
            with contextlib.closing(server.client()) as client, contextlib.suppress(redis.ReadOnlyError):
                client.config_resetstat()
                client.flushall()

    def close(self) -> None:
        """End all processes."""
        for server in self.servers:
            server.kill()


class RedisCluster(_Servers):
    """Masters without replicas, each with its share of the slots.

    Args:
        binary: The server to start; one of 7.0 or later.
        directory: Where the processes keep their files.
        masters: The number of masters.
    """

    def __init__(self, binary: str, directory: Path, masters: int = 3) -> None:
        super().__init__(binary, directory)
        self._masters = masters

    @property
    def url(self) -> str:
        """The URL that names two of the masters."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])

    def start(self) -> None:
        """Start the masters, introduce them to one another, and wait until each knows that all slots are served."""
        self._buses = buses = [free_port() for _ in range(self._masters)]
        for number, bus in enumerate(buses):
            self._add_node(bus)
            first, last = SLOTS * number // self._masters, SLOTS * (number + 1) // self._masters - 1
            self.run(number, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self.run(number, "CLUSTER", "ADDSLOTSRANGE", first, last)
        for server, bus in zip(self.servers[1:], buses[1:], strict=True):
            self.run(0, "CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        self.wait_until_ok()

    def _add_node(self, bus: int) -> RedisProcess:
        timing = ("--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0")
        mode = ("--cluster-enabled", "yes", "--cluster-allow-replica-migration", "no")
        return self.add(*mode, "--cluster-port", str(bus), *timing)

    def add_replica(self, number: int) -> RedisProcess:
        """Start a replica of the master `number`, and wait until it is in step with it."""
        replica = self._add_node(free_port())
        self.run(-1, "CLUSTER", "MEET", "127.0.0.1", self.servers[number].port, self._buses[number])
        wait_until(lambda: self.run(-1, "CLUSTER", "REPLICATE", self.run(number, "CLUSTER", "MYID")))
        with contextlib.closing(replica.client()) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up")
        return replica

    def wait_until_ok(self) -> None:
        """Wait until every node says that the cluster serves all slots and knows every other node."""
        for number in range(len(self.servers)):
            wait_until(functools.partial(self._is_ok, number))

    def _is_ok(self, number: int) -> bool:
        facts: dict[str, str] = self.run(number, "CLUSTER INFO")
        return facts["cluster_state"] == "ok" and int(facts["cluster_known_nodes"]) == len(self.servers)

    def run(self, number: int, *command: object) -> Any:
        """Return the reply of the master `number` to `command`."""
        with contextlib.closing(self.servers[number].client()) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    def owner_of(self, key: str | bytes) -> int:
        """Return the number of the master that serves `key`, as the first master sees it."""
        slot = self.run(0, "CLUSTER KEYSLOT", key)
        for row in self.raw_slots():
            if row[0] <= slot <= row[1]:
                return next(n for n, server in enumerate(self.servers) if server.port == row[2][1])
        raise LookupError(key)

    def raw_slots(self, number: int = 0) -> list[Any]:
        """Return the reply to CLUSTER SLOTS of one master."""
        with contextlib.closing(self.servers[number].client()) as client:
            client.response_callbacks.clear()
            rows: list[Any] = client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]  # see above
            return rows


class SentinelGroup(_Servers):
    """A master, a replica, and Sentinels that promote the replica when the master is gone for 0.5 s.

    Args:
        binary: The server to start.
        directory: Where the processes keep their files.
        service: The name of the master for Sentinel.
        sentinels: The number of Sentinels; a majority of them must agree.
        password: The password that the Sentinels want; empty for none.
    """

    def __init__(
        self, binary: str, directory: Path, *, service: str = "payments", sentinels: int = 1, password: str = ""
    ) -> None:
        super().__init__(binary, directory)
        self.service = service
        self._password = password
        self.ports = [free_port() for _ in range(sentinels)]
        self._sentinels: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """The URL that names the Sentinels and the service."""
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in self.ports) + f"/{self.service}/0"

    def start(self) -> None:
        """Start all processes, and wait until each Sentinel knows the replica."""
        master = self.add("--repl-diskless-sync-delay", "0")
        replica = self.add("--replicaof", f"127.0.0.1 {master.port}", "--repl-diskless-sync-delay", "0")
        with contextlib.closing(replica.client()) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up")
        for port in self.ports:
            self._sentinels.append(self._start_sentinel(port, master.port))
        for port in self.ports:
            wait_until(functools.partial(self._knows_replica, port))

    def _start_sentinel(self, port: int, master: int) -> subprocess.Popen[bytes]:
        home = self._directory / f"sentinel-{port}"
        home.mkdir()
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {home}",
            f"logfile {home / 'sentinel.log'}",
            f"sentinel monitor {self.service} 127.0.0.1 {master} {len(self.ports) // 2 + 1}",
            f"sentinel down-after-milliseconds {self.service} 500",
            f"sentinel failover-timeout {self.service} 3000",
            *([f"requirepass {self._password}"] if self._password else []),
        ]
        (home / "sentinel.conf").write_text("\n".join(lines) + "\n")
        return subprocess.Popen([self._binary, str(home / "sentinel.conf"), "--sentinel"])

    def _knows_replica(self, port: int) -> bool:
        with contextlib.closing(self._client(port)) as client:
            known: Any = client.sentinel_master(self.service)
            return bool(known["num-slaves"] >= 1 and known["num-other-sentinels"] == len(self.ports) - 1)

    def _client(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, socket_timeout=5, decode_responses=True, password=self._password or None)

    def run(self, *command: object) -> Any:
        """Return the reply of the first Sentinel to `command`."""
        with contextlib.closing(self._client(self.ports[0])) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    def master(self) -> RedisProcess:
        """Return the server that the first Sentinel names."""
        with contextlib.closing(self._client(self.ports[0])) as client:
            address: Any = client.sentinel_get_master_addr_by_name(self.service)
        port = address[1]
        return next(server for server in self.servers if server.port == int(port))

    def fail_over(self) -> None:
        """Let Sentinel promote the replica, and demote the master, which goes on answering as a replica.

        Sentinel itself demotes a master that lives after eight seconds, with the same two commands.
        """
        before = self.master()
        wait_until(lambda: self.run("SENTINEL", "FAILOVER", self.service))
        wait_until(lambda: self.master() is not before)
        with contextlib.closing(before.client()) as client:
            wait_until(lambda: self._is_demoted(client))
            client.client_kill_filter(_type="normal", skipme=True)

    def _is_demoted(self, client: redis.Redis) -> bool:
        """Whether a server is in step with the master; until then, name the master to it."""
        facts: Any = client.info("replication")
        if facts["role"] == "master":
            client.replicaof("127.0.0.1", str(self.master().port))
        return bool(facts.get("master_link_status") == "up")

    def close(self) -> None:
        """End all processes."""
        for each in self._sentinels:
            each.kill()
            each.wait(10)
        super().close()


@contextlib.contextmanager
def running(group: RedisCluster | SentinelGroup) -> Iterator[None]:
    """Start a group, and end all its processes, whatever happens."""
    try:
        group.start()
        yield
    finally:
        group.close()
