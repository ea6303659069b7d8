"""Options of the connection to Redis."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Choice, Duration, Options, Text, Whole, option
from resilience.redis._url import place_of

__all__ = ("EXPECTED_URL", "RedisOptions")

EXPECTED_URL = (
    "a Redis URL such as redis://host:6379/0, redis+sentinel://host1,host2/service or redis+cluster://host1,host2 "
    "(percent-encode its password)"
)


class RedisUrl(Text):
    """The rule of a Redis URL: it has readable hosts, ports and a database. redis-py checks the parameters."""

    def __init__(self) -> None:
        super().__init__(EXPECTED_URL, longest=2000)

    def check(self, value: object, /) -> str:
        """Return the URL unchanged."""
        url = super().check(value)
        place_of(url)
        return url


@dataclass(frozen=True, kw_only=True)
class RedisOptions(Options):
    """Where shared state lives, and how limiters decide during an outage.

    Attributes:
        url: `redis://`, `rediss://` (TLS) or `unix://` for one server, `redis+sentinel://` or `rediss+sentinel://` for
            the Sentinels that know the master, `redis+cluster://` or `rediss+cluster://` for some nodes of a cluster.
            None keeps state in this process.
        outage: How limiters decide while Redis is down. `local` limits in each process, by its share of the
            limit (one divided by the live instances); `allow` lets every call through; `deny` refuses every call.
        timeout: The longest time that one decision waits for Redis, in seconds. Default 50 ms, at most 60 s.
        connect_timeout: The longest time for connecting, in the background. Default 2 s, at most 60 s.
        max_connections: The largest number of connections of each client and of each event loop. Limits in threads use
            4 at most. Default 50.
        prefix: The start of every key.
        sentinel_username: The user at the Sentinels. The user and the password in the URL are those of the servers.
        sentinel_password: The password at the Sentinels.
        tls_ca: The PEM file with the certificates of the authorities that have signed the servers', for `rediss://`.
            None for the authorities of the system.
        tls_certificate: The PEM file with the client's certificate, for servers that check the client (mutual TLS).
        tls_key: The PEM file with the private key of `tls_certificate`, without a passphrase. None if it is in
            `tls_certificate`.
    """

    url: str | None = option(
        None,
        RedisUrl(),
        "Redis server, Sentinels (redis+sentinel://) or cluster (redis+cluster://)",
        none="state stays in this process",
        secret=True,
    )
    outage: str = option("local", Choice("local", "allow", "deny"), "how limiters decide while Redis is down")
    timeout: float = option(
        0.05, Duration(above=True, maximum=60, usual=5), "longest time that a decision waits for Redis"
    )
    connect_timeout: float = option(
        2.0,
        Duration(above=True, maximum=60),
        "longest time for connecting, in the background",
    )
    max_connections: int = option(
        50, Whole(1, 10_000), "connections of each client and event loop; limits in threads use 4 at most"
    )
    prefix: str = option(
        "resilience", Text("letters, digits and : . _ -", pattern=r"[A-Za-z0-9:._-]+", longest=64), "start of every key"
    )
    sentinel_username: str | None = option(None, Text("a name"), "user at the Sentinels", none="the default user")
    sentinel_password: str | None = option(
        None, Text("a password"), "password at the Sentinels", none="no password", secret=True
    )
    tls_ca: str | None = option(
        None, Text("a path"), "PEM file of the authorities of the servers (rediss://)", none="those of the system"
    )
    tls_certificate: str | None = option(
        None, Text("a path"), "PEM file of the client's certificate", none="none is shown"
    )
    tls_key: str | None = option(
        None, Text("a path"), "PEM file of the certificate's key", none="it is in tls_certificate"
    )
