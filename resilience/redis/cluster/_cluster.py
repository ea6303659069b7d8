"""The masters of one cluster: the slots of each, kept up to date in the background.

redis-py's `RedisCluster` is not used for scripts: it loads its table in the first call, retries with pauses of its own,
and has a pool that connects in the call. Here each master has the bounded connections of one server
(`RedisConnection`), so a call waits as it does for one server.

The table of slots comes from any node that answers. It is loaded
- when the first call of a process needs it, in the background thread or task that connects
- soon after a node has answered MOVED, at most once in `REFRESH_INTERVAL`
- before each trial whether a master answers again: a replica may have been promoted meanwhile

In between, each MOVED corrects the slot that it names. All loads of a process at one time are one.

A slot without a known master belongs to the *unassigned* shard. So does every slot at the beginning. Its connections
load the table and lead to any master, which answers by itself or with MOVED. So the first call needs no rule of its
own, and if no node can be reached, that is an outage like that of one server.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Final, TypeVar

from resilience._support.executor import Executor, Work
from resilience._support.fork import renew_after_fork
from resilience.redis._errors import is_of_redis
from resilience.redis._url import Endpoint
from resilience.redis.cluster._loader import TableLoader, not_connected
from resilience.redis.cluster._table import SLOTS, Redirection, SlotRange, ranges_of

if TYPE_CHECKING:
    from resilience.redis._script import ScriptCall

__all__ = ("Cluster", "Shard")

C = TypeVar("C", bound="ScriptCall")

REFRESH_INTERVAL: Final = 1.0
"""Seconds between two loads of the table because of MOVED."""
_MOST_TAGS: Final = 1_000_000
"""Keys that are tried to find one in a slot of a certain master: for a master with one slot, 16,384 on average."""

_threads: Final = Executor(None)
"""The threads that load tables: one for each cluster at most, and one for each loop that connects at the time."""


class Shard:
    """One master with its slots. After a failover it is the promoted replica.

    Args:
        endpoint: The address of the master; None for the shard of the slots that no known master serves.
    """

    def __init__(self, endpoint: Endpoint | None) -> None:
        self.endpoint = endpoint
        self.facts: dict[str, object] = {"node": str(endpoint or "any node")}

    def master(self, _within: float | None) -> Endpoint:
        """Return the address of the master."""
        if self.endpoint is None:
            raise RuntimeError("the cluster itself names a master for the slots without one")
        return self.endpoint

    async def amaster(self, within: float | None) -> Endpoint:
        """Return the address of the master."""
        return self.master(within)

    def move_to(self, endpoint: Endpoint) -> None:
        """Lead to another server from now on: it was promoted in place of the one before."""
        self.endpoint = endpoint
        self.facts["node"] = str(endpoint)

    def __repr__(self) -> str:
        return f"<Shard {self.facts['node']}>"


class TableLoad:
    """One load of the table, for which several threads may wait."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: Exception | None = None


class Cluster:
    """The shards of one cluster.

    Args:
        loader: Asks the nodes for the table.
        timeout: The time for one load of the table, in seconds, if the caller names none.
        moved: Called with a shard that is on another server now.
        gone: Called with a shard that the cluster has no more.
    """

    def __init__(
        self,
        loader: TableLoader,
        timeout: float,
        moved: Callable[[Shard], object],
        gone: Callable[[Shard], object],
    ) -> None:
        self._loader, self._timeout = loader, timeout
        self._moved, self._gone = moved, gone
        self.unassigned = Shard(None)
        self._owners = [self.unassigned] * SLOTS
        self._shards: dict[Endpoint, Shard] = {}
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the load that a thread of the parent has under way. The table stands."""
        self._flight: TableLoad | None = None
        self._refreshed_at = float("-inf")
        self._random = random.Random()  # noqa: S311 - spreads the first calls of a fleet
        # Guards the shards and the flight; never held during I/O. Re-entrant, for finalizers that make calls.
        self._lock = threading.RLock()

    # --- what the calls need ---

    def shard_of(self, slot: int) -> Shard:
        """Return the shard that serves `slot`. Takes no lock."""
        return self._owners[slot]

    def shard_with(self, key: bytes) -> Shard:
        """Return the shard that has `key`."""
        from redis.crc import key_slot  # noqa: PLC0415 - an extra

        return self._owners[key_slot(key)]

    def follow(self, redirection: Redirection) -> Shard:
        """Return the shard that a node names, and correct the table. Never blocks."""
        with self._lock:
            shard = self._shard_at(redirection.endpoint)
            if redirection.is_final:
                self._owners[redirection.slot] = shard
        if redirection.is_final:
            self.refresh_soon()
        return shard

    def _shard_at(self, endpoint: Endpoint) -> Shard:
        return self._shards.get(endpoint) or self._shards.setdefault(endpoint, Shard(endpoint))

    @property
    def shards(self) -> list[Shard]:
        """The shards with a master, in the order of their addresses."""
        with self._lock:
            return [shard for _, shard in sorted(self._shards.items())]

    def is_known(self, shard: Shard) -> bool:
        """Whether the cluster still has `shard`."""
        return shard is self.unassigned or (shard.endpoint is not None and self._shards.get(shard.endpoint) is shard)

    @property
    def unassigned_slots(self) -> str:
        """The slots that no known master serves, such as `0-5460`; empty if all are served."""
        unassigned = self.unassigned
        return ranges_of(slot for slot, owner in enumerate(self._owners) if owner is unassigned)

    def slots_of(self, shard: Shard) -> str:
        """Return the slots of `shard` as text, such as `0-5460`."""
        return ranges_of(slot for slot, owner in enumerate(self._owners) if owner is shard)

    def tag_at(self, shard: Shard, key_of: Callable[[str], bytes]) -> str:
        """Return a tag with which a key is one of `shard`.

        Args:
            shard: The shard.
            key_of: Returns the key with a tag.

        Raises:
            ConnectionError: Of redis-py: the shard serves no slot.
        """
        from redis.crc import key_slot  # noqa: PLC0415 - an extra

        owners = self._owners
        if shard in owners:
            for number in range(_MOST_TAGS):
                if owners[key_slot(key_of(str(number)))] is shard:
                    return str(number)
        raise not_connected(f"{shard.facts['node']} serves no slot of the cluster")

    def routed(self, calls: Sequence[C]) -> list[tuple[Shard, list[C]]]:
        """Return the calls by the shard of their keys."""
        found: dict[Shard, list[C]] = {}
        for call in calls:
            found.setdefault(self.shard_with(call[0][0]), []).append(call)
        return list(found.items())

    # --- the source of masters for the slots without one ---

    def master(self, within: float | None) -> Endpoint:
        """Load the table, blocking, and return the address of any master.

        Args:
            within: The time for the load, in seconds; None for the default.

        Raises:
            ConnectionError: Of redis-py: no node answers, or none serves slots.
        """
        self.refresh(within)
        if not (shards := self.shards):
            raise not_connected("no node of the cluster serves slots")
        return self._random.choice(shards).master(within)

    async def amaster(self, within: float | None) -> Endpoint:
        """Load the table in a thread, suspending this task. Otherwise like `master`."""
        import asyncio  # noqa: PLC0415 - a blocking program never pays for the event loop's 40 ms import

        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Endpoint] = loop.create_future()

        def settle(found: Endpoint | Exception) -> None:
            if waiting.done():
                return
            if isinstance(found, Exception):
                waiting.set_exception(found)
            else:
                waiting.set_result(found)

        def ask() -> None:
            try:
                found: Endpoint | Exception = self.master(within)
            except Exception as error:  # noqa: BLE001 - raised in the task
                found = error
            try:
                loop.call_soon_threadsafe(settle, found)
            except RuntimeError:  # the loop was closed meanwhile
                return

        if _threads.submit(Work(ask, Context())) is not None:
            raise not_connected("no thread can be started to ask the cluster for its slots")
        return await waiting

    # --- loading the table ---

    def refresh_soon(self) -> None:
        """Load the table in a background thread, unless that was done a moment ago. Never blocks."""
        now = time.monotonic()
        with self._lock:
            if self._flight is not None or now - self._refreshed_at < REFRESH_INTERVAL:
                return
            self._refreshed_at = now
        _threads.submit(Work(self._refresh_quietly, Context()))  # without a thread, the next MOVED tries again

    def _refresh_quietly(self) -> None:
        try:
            self.refresh(None)
        except Exception as error:
            if not is_of_redis(error):
                raise

    def refresh(self, within: float | None) -> None:
        """Load the table, blocking; joins a load that is under way.

        Args:
            within: The time for the load, in seconds; None for the default.

        Raises:
            ConnectionError: Of redis-py: no node answers with a table.
        """
        with self._lock:
            flight, leads = self._flight, self._flight is None
            if flight is None:
                flight = self._flight = TableLoad()
        if not leads:
            if not flight.ended.wait(within or self._timeout):
                raise not_connected("the slots of the cluster are being loaded")
            if flight.error is not None:
                raise not_connected(str(flight.error))
            return
        try:
            self._install(self._loader.load(list(self._shards), within or self._timeout))
        except Exception as error:
            flight.error = error
            raise
        except BaseException:
            flight.error = not_connected("loading the slots of the cluster was interrupted")
            raise
        finally:
            with self._lock:
                if self._flight is flight:
                    self._flight, self._refreshed_at = None, time.monotonic()
            flight.ended.set()

    def _install(self, table: Sequence[SlotRange]) -> None:
        """Put the table in place. A master that has the slots of one that is gone takes the place of that one."""
        owners = [self.unassigned] * SLOTS
        masters = {each.master for each in table}
        with self._lock:
            gone = {shard for endpoint, shard in self._shards.items() if endpoint not in masters}
            for first, last, master in table:
                shard = self._shards.get(master)
                if shard is None:
                    shard = self._shards[master] = self._promoted(first, last, master, gone)
                owners[first : last + 1] = [shard] * (last + 1 - first)
            self._shards = {endpoint: shard for endpoint, shard in self._shards.items() if shard not in gone}
            self._owners = owners
        for shard in gone:
            self._gone(shard)

    def _promoted(self, first: int, last: int, master: Endpoint, gone: set[Shard]) -> Shard:
        """Return the shard of a master that is new in the table."""
        for shard in dict.fromkeys(self._owners[first : last + 1]):
            if shard in gone and shard.endpoint is not None:
                gone.discard(shard)
                self._shards.pop(shard.endpoint, None)
                shard.move_to(master)
                self._moved(shard)
                return shard
        return Shard(master)
