"""The address of the client. A header can say anything, so it counts only if a trusted proxy has written it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from resilience.errors import ConfigurationError, Problem

__all__ = (
    "EXPECTED_PROXY",
    "FORWARDED_FOR",
    "UNIX",
    "TrustedProxies",
    "address_group",
    "is_unix",
    "network_of",
    "normalize_address",
)

FORWARDED_FOR = "x-forwarded-for"

UNIX = "unix"
"""The word in `trusted_proxies` for every peer that connects over a Unix socket."""
EXPECTED_PROXY = "an address or network such as 10.0.0.0/8, or unix for Unix sockets"

_UNIX_PEERS = frozenset({"", "unix:", "<local>", "localhost"})
"""The names of a Unix socket's peer in gunicorn, in nginx's $remote_addr, in Werkzeug and in waitress."""
_MAPPED = IPv6Network("::ffff:0:0/96")
_IPV4_BITS = 32

_MAX_HOPS = 32
_MAX_ADDRESS = 64
_MAX_CACHED_HEADER = 256
_IPV6_CUSTOMER_BITS = 64
"""Bits of an IPv6 address that name a customer, who can use every address of a /64."""


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in `text`, with or without port and brackets; None if there is none."""
    # The texts in the cache are bounded in size too: a client chooses them.
    return None if len(text) > _MAX_ADDRESS else _cached_parse(text)


@lru_cache(maxsize=4096)
def _cached_parse(text: str) -> IPv4Address | IPv6Address | None:
    text = text.strip()
    if not text:
        return None
    if text[0] == "[":
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def normalize_address(text: str) -> str:
    """Return an address in its canonical spelling, "" if `text` is no address. ::ffff:10.0.0.1 is 10.0.0.1."""
    return "" if len(text) > _MAX_ADDRESS else _cached_spelling(text)


@lru_cache(maxsize=4096)
def _cached_spelling(text: str) -> str:
    address = _cached_parse(text)
    return "" if address is None else str(address)


@lru_cache(maxsize=4096)
def address_group(client: str) -> str:
    """Return the addresses that a rate limit counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    address = _parsed(client)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _IPV6_CUSTOMER_BITS), strict=False))
    return client


def is_unix(peer: str | None) -> bool:
    """Return whether `peer` is the other end of a Unix socket. Servers call such a peer None, "" or a word."""
    return peer is None or peer in _UNIX_PEERS


def network_of(text: str) -> IPv4Network | IPv6Network:
    """Return the network in `text`; ::ffff:10.0.0.0/104 is 10.0.0.0/8. Raises `ValueError` if it is no network."""
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        address = network.network_address.ipv4_mapped
        bits = network.prefixlen - (_MAPPED.max_prefixlen - _IPV4_BITS)
        return IPv4Network((int(address or 0), bits))
    return network


class TrustedProxies:
    """The proxies that may name the client.

    Args:
        proxies: Addresses, networks, and the word `unix` for every peer of a Unix socket.

    Raises:
        ConfigurationError: One of the texts is neither.
    """

    def __init__(self, proxies: Iterable[str] = ()) -> None:
        problems = []
        self._networks = []
        self.trusts_unix = False
        for text in proxies:
            if text == UNIX:
                self.trusts_unix = True
                continue
            try:
                self._networks.append(network_of(text))
            except ValueError:
                problems.append(Problem("trusted_proxies", text, EXPECTED_PROXY))
        if problems:
            raise ConfigurationError(problems)
        self._has_proxies = bool(self._networks) or self.trusts_unix
        self._cached_walk = lru_cache(maxsize=4096)(self._walk)

    def __bool__(self) -> bool:
        return self._has_proxies

    def client_of(self, peer: str | None, forwarded_for: str | None) -> str:
        """Return the nearest address that is not a trusted proxy; "" if there is none.

        The header is read from the right, where each proxy appends the address of its own peer. An entry that is no
        address ends the walk: no trusted proxy wrote the entries to the left of it.
        """
        if not forwarded_for or not self._has_proxies:
            return (
                _cached_spelling(peer) if peer and len(peer) <= _MAX_ADDRESS else ""
            )  # as `normalize_address`; every request comes here
        if len(forwarded_for) > _MAX_CACHED_HEADER:
            return self._walk(peer, forwarded_for)
        return self._cached_walk(peer, forwarded_for)

    def hides_client(self, peer: str | None, forwarded_for: str | None) -> bool:
        """Return whether the client cannot be known, because `peer` is the peer of a Unix socket.

        A header of a trusted proxy names a client, even if there is no address in it.
        """
        return is_unix(peer) and not (self.trusts_unix and forwarded_for)

    def trusts(self, peer: str | None) -> bool:
        """Return whether `peer` is a trusted proxy."""
        if is_unix(peer):
            return self.trusts_unix
        address = _parsed(peer or "")
        return address is not None and self._trusts(address)

    def _walk(self, peer: str | None, forwarded_for: str) -> str:
        client = ""
        hops = reversed(forwarded_for.rsplit(",", _MAX_HOPS)[-_MAX_HOPS:])
        hop: str | None = peer
        while True:
            if is_unix(hop):
                is_trusted = self.trusts_unix
            elif (address := _parsed(hop or "")) is None:
                break
            else:
                client, is_trusted = str(address), self._trusts(address)
            hop = next(hops, None)
            if hop is None or not is_trusted:
                break
            hop = hop.strip() or "-"  # an empty entry is not the peer of a Unix socket
        return client

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)
