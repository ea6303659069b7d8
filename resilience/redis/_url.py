"""The URL of a Redis: one server, the Sentinels that know the master of a service, or nodes of a cluster.

    redis://user:password@host:6379/0                   one server
    redis+sentinel://host:26379,host:26379/service/0    Sentinels, the name of the master, and its database
    redis+cluster://host:6379,host:6379                 some nodes of a cluster, which name the others

`rediss` in place of `redis` means TLS; `valkey` and `valkeys` mean the same as `redis` and `rediss`. User, password and
the parameters after `?` are those of each server: redis-py reads them.
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from resilience._support.redaction import Secret
from resilience._support.rules import Refused

__all__ = ("Endpoint", "RedisPlace", "Topology", "place_of")

_SCHEME = re.compile(r"(redis|rediss|valkey|valkeys)(\+sentinel|\+cluster)?|unix")
_DATABASE = re.compile(r"/?[0-9]*")
_NATIVE: Final = {"valkey": "redis", "valkeys": "rediss"}
_SENTINEL_PORT = 26379
_NODE_PORT = 6379
_SCHEMES: Final = "the scheme is redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster, rediss+cluster or unix"


class Topology(enum.Enum):
    """How the servers behind one URL belong together."""

    SINGLE = "one server"
    SENTINEL = "a master that Sentinel knows"
    CLUSTER = "masters that share the keys by hash slots"


class Endpoint(NamedTuple):
    """The address of one server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RedisPlace(NamedTuple):
    """The servers that a URL names.

    Attributes:
        topology: How the servers belong together.
        endpoints: The Sentinels, or some nodes of the cluster, at least one; empty for one server.
        service: The name of the master for Sentinel; empty otherwise.
        url: The URL of one server, for redis-py: its first host is not that of the master if others name it.
    """

    topology: Topology
    endpoints: tuple[Endpoint, ...]
    service: str
    url: str

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.url.startswith("rediss://")


def place_of(url: str) -> RedisPlace:
    """Return the place that `url` names. Raises `Refused`, whose text gives the reason and no part of the URL."""
    scheme, _, rest = url.partition("://")
    known = _SCHEME.fullmatch(scheme)
    if known is None:
        raise Refused(_SCHEMES)
    native = _NATIVE.get(known[1], known[1]) or "unix"
    if known[2] is None:
        return _single(native, rest)
    credentials, hosts, path, query = _parts(rest)
    is_cluster = known[2] == "+cluster"
    port = _NODE_PORT if is_cluster else _SENTINEL_PORT
    endpoints = tuple(dict.fromkeys(_endpoint(each, port) for each in hosts.split(",")))
    service, database = _cluster_path(path) if is_cluster else _sentinel_path(path)
    first = f"{native}://{credentials}{endpoints[0]}/{database}{query}"
    topology = Topology.CLUSTER if is_cluster else Topology.SENTINEL
    return RedisPlace(topology, endpoints, service, Secret(first))


def _single(scheme: str, rest: str) -> RedisPlace:
    url = Secret(f"{scheme}://{rest}")
    try:
        where = urlsplit(url)
        _ = where.port  # reading the port checks it
    except ValueError:  # its text may contain the password, so none of it is passed on
        hint = (
            "several hosts are Sentinels (redis+sentinel://host1,host2/service) or a cluster (redis+cluster://host1,host2)"
            if "," in rest
            else "the port is no number"
        )
        raise Refused(hint) from None
    if scheme == "unix":
        if not where.path:
            raise Refused("a socket needs its path, as in unix:///run/redis.sock")
    elif not _DATABASE.fullmatch(where.path):
        raise Refused("the path is the number of a database")
    return RedisPlace(Topology.SINGLE, (), "", url)


def _parts(rest: str) -> tuple[str, str, str, str]:
    """Return the credentials with their `@`, the hosts, the path without its `/`, and the parameters with their `?`."""
    before, question, query = rest.partition("?")
    authority, _, path = before.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    return credentials + at, hosts, path, question + query


def _endpoint(text: str, port: int) -> Endpoint:
    try:
        where = urlsplit(f"//{text.strip()}")
        found = Endpoint(where.hostname or "", port if where.port is None else where.port)
    except ValueError:
        raise Refused("a host has a port that is no number; hosts are separated by commas") from None
    if not found.host or not found.port:
        raise Refused("a host or its port is missing; hosts are separated by commas")
    return found


def _sentinel_path(path: str) -> tuple[str, str]:
    service, _, database = path.partition("/")
    if not service:
        raise Refused("the name of the service is missing, as in redis+sentinel://host:26379/service/0")
    if not _DATABASE.fullmatch(database):
        raise Refused("after the name of the service comes the number of a database")
    return unquote(service), database or "0"


def _cluster_path(path: str) -> tuple[str, str]:
    if path not in ("", "0"):
        raise Refused("a cluster has the database 0 only: redis+cluster://host1,host2")
    return "", "0"
