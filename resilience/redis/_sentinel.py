"""Connections that follow the master of a service: each asks the Sentinels for its address when it connects.

Sentinel promotes a replica when the master is gone, and closes the connections of clients to a master that it demotes.
So a client that asks anew whenever it connects follows the master. An outage makes it connect anew as well
(`_bounded.py`). A Sentinel that was cut off may still name the old master: a server that says it is no master
is left at once.

Protocol: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from resilience.redis._errors import MALFORMED, is_of_redis
from resilience.redis._exchange import Reply, aexchange, exchange, packed
from resilience.redis._url import Endpoint

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection as _AsyncBase
    from redis.connection import AbstractConnection as _Base
else:
    _Base = _AsyncBase = object

__all__ = ("MasterSource", "Sentinels", "following", "following_async")

_ROLE: Final = packed(b"ROLE")
_LONGEST_HOST: Final = 253  # of a name in the DNS
_LARGEST_PORT: Final = 65535


class MasterSource(Protocol):
    """Names the server to which a new connection leads."""

    def master(self, within: float | None, /) -> Endpoint:
        """Return the address, blocking. Raises an error of redis-py if there is none.

        Args:
            within: The time for each step, in seconds; None for the default.
        """
        ...

    async def amaster(self, within: float | None, /) -> Endpoint:
        """Return the address, suspending this task. Otherwise like `master`."""
        ...


class Sentinels:
    """The Sentinels of one service. The one that answered last is asked first. No lock: each step is one assignment.

    Args:
        endpoints: Their addresses, at least one.
        service: The name of the master.
        settings: The keyword arguments of a connection to a Sentinel, and its class as `connection_class`.
        timeout: The time in which all of them are asked, in seconds, if the caller names none.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], service: str, settings: Mapping[str, Any], timeout: float
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._service = service
        self._settings = dict(settings)
        self._kind: Callable[..., Any] = self._settings.pop("connection_class")
        self._timeout = timeout
        self._question = packed(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service.encode())

    def master(self, within: float | None) -> Endpoint:
        """Return the address of the master, blocking.

        Args:
            within: The time for each step (connecting, the answer), shared by the Sentinels; None for the default.

        Raises:
            ConnectionError: Of redis-py: no Sentinel answers and knows the master.
        """
        failures: list[str] = []
        for endpoint in self._endpoints:
            connection = self._connection(endpoint, within)
            try:
                connection.connect()
                return self._named(endpoint, exchange(connection, (self._question,))[0])
            except Exception as error:  # noqa: BLE001 - raised again if it is not about Redis
                _note(failures, endpoint, error)
            finally:
                connection.disconnect()
        raise self._unknown(failures)

    async def amaster(self, within: float | None) -> Endpoint:
        """Return the address of the master, suspending this task. Otherwise like `master`."""
        failures: list[str] = []
        for endpoint in self._endpoints:
            connection = self._connection(endpoint, within)
            try:
                await connection.connect()
                return self._named(endpoint, (await aexchange(connection, (self._question,)))[0])
            except Exception as error:  # noqa: BLE001 - raised again if it is not about Redis
                _note(failures, endpoint, error)
            finally:
                await connection.disconnect(nowait=True)
        raise self._unknown(failures)

    def _connection(self, endpoint: Endpoint, within: float | None) -> Any:
        share = (within or self._timeout) / len(self._endpoints)
        bounds = {"socket_timeout": share, "socket_connect_timeout": share}
        return self._kind(**self._settings | bounds | {"host": endpoint.host, "port": endpoint.port})

    def _named(self, endpoint: Endpoint, reply: Reply) -> Endpoint:
        """Return the address in the reply of a Sentinel, which is asked first from now on."""
        if isinstance(reply, Exception):
            raise reply
        if not isinstance(reply, list):
            from redis.exceptions import ConnectionError as NotConnected  # noqa: PLC0415 - an extra

            raise NotConnected(f"does not know a master {self._service!r}")
        host, port = (_text(each) for each in cast("list[object]", reply))
        found = Endpoint(host, int(port))
        if not 0 < len(found.host) <= _LONGEST_HOST or not 0 < found.port <= _LARGEST_PORT:
            raise ValueError("names an address that cannot be used")
        self._endpoints = (endpoint, *(each for each in self._endpoints if each != endpoint))
        return found

    def _unknown(self, failures: Sequence[str]) -> Exception:
        from redis.exceptions import ConnectionError as NotConnected  # noqa: PLC0415 - an extra

        return NotConnected(f"no Sentinel names the master {self._service!r}: {'; '.join(failures)}")


def _note(failures: list[str], endpoint: Endpoint, error: Exception) -> None:
    """Record why a Sentinel did not help. Any other error than Redis's goes on: it is a time limit of the caller."""
    if not is_of_redis(error) and not isinstance(error, MALFORMED):
        raise error
    failures.append(f"{endpoint} {str(error) or type(error).__name__}")


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _check_role(endpoint: Endpoint, reply: Reply) -> None:
    """Raise an error of redis-py if the server says that it is no master. An ACL may forbid the question."""
    if not isinstance(reply, list) or not reply or _text(reply[0]) == "master":
        return
    from redis.exceptions import ConnectionError as NotConnected  # noqa: PLC0415 - an extra

    raise NotConnected(f"{endpoint} is named as the master, but it is a {_text(reply[0])}")


class FollowingConnection(_Base):
    """The part that is added to a blocking class of connections."""

    def __init__(self, *args: Any, source: MasterSource, **settings: Any) -> None:
        self._source = source
        super().__init__(*args, **settings)

    def _connect(self) -> Any:  # a socket; redis-py's stubs say that the abstract method returns None
        self.host, self.port = self._source.master(self.socket_connect_timeout)
        connect: Callable[[], Any] = super()._connect  # type: ignore[safe-super]  # abstract in the base alone
        return connect()

    def connect(self) -> None:
        """Connect to the master if there is no connection."""
        before: object = self._sock
        super().connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if self._sock is not before:
            try:
                _check_role(Endpoint(self.host, self.port), exchange(self, (_ROLE,))[0])
            except BaseException:
                self.disconnect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                raise


class FollowingAsyncConnection(_AsyncBase):
    """The part that is added to an awaiting class of connections."""

    def __init__(self, *args: Any, source: MasterSource, **settings: Any) -> None:
        self._source = source
        super().__init__(*args, **settings)

    async def _connect(self) -> None:
        self.host, self.port = await self._source.amaster(self.socket_connect_timeout)
        connect: Callable[[], Awaitable[None]] = super()._connect  # type: ignore[safe-super]  # abstract in the base alone
        await connect()

    async def connect(self) -> None:
        """Connect to the master if there is no connection."""
        before = self._writer
        await super().connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if self._writer is not before:
            try:
                _check_role(Endpoint(self.host, self.port), (await aexchange(self, (_ROLE,)))[0])
            except BaseException:
                await self.disconnect(nowait=True)
                raise


def following(kind: type[Any]) -> type[Any]:
    """Return the blocking class `kind` whose connections lead to the master that its `source` names."""
    return type(f"Following{kind.__name__}", (FollowingConnection, kind), {})


def following_async(kind: type[Any]) -> type[Any]:
    """Return the awaiting class `kind` whose connections lead to the master that its `source` names."""
    return type(f"Following{kind.__name__}", (FollowingAsyncConnection, kind), {})
