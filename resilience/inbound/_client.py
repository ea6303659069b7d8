"""Where a request comes from. A header can say anything, so it counts only as far as our own proxies wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from resilience.errors import ConfigurationError, Problem

__all__ = ("FORWARDED_FOR", "TrustedProxies", "address_group", "plain_address")

FORWARDED_FOR = "x-forwarded-for"

_MOST_HOPS = 32
_LONGEST_ADDRESS = 64
_LONGEST_REMEMBERED = 256
_IPV6_CUSTOMER = 64
"""Bits of an IPv6 address that name a customer: within a /64 anybody takes as many addresses as they like."""


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in `text`, with or without port and brackets; None where there is none."""
    # What is remembered is bounded in size too: the text is the client's to choose.
    return None if len(text) > _LONGEST_ADDRESS else _remembered(text)


@lru_cache(maxsize=4096)
def _remembered(text: str) -> IPv4Address | IPv6Address | None:
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


def plain_address(text: str) -> str:
    """Return an address in its one canonical spelling; "" where `text` is none. ::ffff:10.0.0.1 is 10.0.0.1."""
    return "" if len(text) > _LONGEST_ADDRESS else _spelled(text)


@lru_cache(maxsize=4096)
def _spelled(text: str) -> str:
    address = _remembered(text)
    return "" if address is None else str(address)


@lru_cache(maxsize=4096)
def address_group(client: str) -> str:
    """Return what a rate limit should count: an IPv4 address itself, of an IPv6 address its /64."""
    address = _parsed(client)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _IPV6_CUSTOMER), strict=False))
    return client


class TrustedProxies:
    """The networks whose word about their own peer we take. Raises `ConfigurationError` for what is no network."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        problems = []
        self._networks = []
        for text in networks:
            try:
                self._networks.append(ip_network(text, strict=False))
            except ValueError:
                expected = "an address or network such as 10.0.0.0/8"
                problems.append(Problem("trusted_proxies", text, expected))
        if problems:
            raise ConfigurationError(problems)
        self._walked = lru_cache(maxsize=4096)(self._walk)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client_of(self, peer: str, forwarded_for: str | None) -> str:
        """Return the nearest address that is not one of ours; `peer` where no trusted proxy speaks.

        The header is read from the right, where our own proxies append. An entry that is no address ends the walk:
        whatever stands left of it was not written by a proxy of ours.
        """
        if not forwarded_for or not self._networks:
            return "" if len(peer) > _LONGEST_ADDRESS else _spelled(peer)  # plain_address, on every request
        if len(forwarded_for) > _LONGEST_REMEMBERED:
            return self._walk(peer, forwarded_for)
        return self._walked(peer, forwarded_for)

    def trusts(self, peer: str) -> bool:
        """Whether `peer` is one of ours."""
        address = _parsed(peer)
        return address is not None and self._trusts(address)

    def _walk(self, peer: str, forwarded_for: str) -> str:
        client = _parsed(peer)
        if client is None:
            return ""
        hops = reversed(forwarded_for.rsplit(",", _MOST_HOPS)[-_MOST_HOPS:])
        while self._trusts(client) and (hop := _parsed(next(hops, ""))) is not None:
            client = hop
        return str(client)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)
