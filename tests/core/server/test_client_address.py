"""Where a request comes from."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import ConfigurationError
from resilience.server._client_address import TrustedProxies, address_group, normalize_address

OURS = TrustedProxies(["10.0.0.0/8", "2001:db8:1::/48"])


def test_peer_is_the_client_without_proxies() -> None:
    """With no trusted proxy configured the header means nothing."""
    assert TrustedProxies().client_of("203.0.113.9", "1.2.3.4") == "203.0.113.9"


def test_untrusted_peer_is_the_client() -> None:
    """A header sent by somebody who is not our proxy means nothing."""
    assert OURS.client_of("203.0.113.9", "1.2.3.4") == "203.0.113.9"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.0.0.7", "203.0.113.9"),
        ("6.6.6.6,203.0.113.9:5555 ,10.0.0.7:80", "203.0.113.9"),
        ("[2001:db8:2::1]:443, 2001:db8:1::5", "2001:db8:2::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, unknown, 10.0.0.7", "10.0.0.7"),
        ("6.6.6.6, , 10.0.0.7", "10.0.0.7"),
        ("10.0.0.8, 10.0.0.7", "10.0.0.8"),
        ("garbage", "10.0.0.1"),
        ("", "10.0.0.1"),
        (None, "10.0.0.1"),
    ],
)
def test_walk_from_the_right(forwarded: str | None, client: str) -> None:
    """The client is the first address from the right that is not ours; what is no address ends the walk."""
    assert OURS.client_of("10.0.0.1", forwarded) == client


def test_walk_is_bounded() -> None:
    """A header of thousands of trusted hops is not followed to its end."""
    assert OURS.client_of("10.0.0.1", ", ".join(["6.6.6.6", *["10.0.0.2"] * 5000])) == "10.0.0.2"


@pytest.mark.parametrize("peer", [None, "", "unix:", "<local>", "localhost", "testclient"])
def test_peer_without_address(peer: str | None) -> None:
    """A peer without an address is no client, and unless it is trusted no header names one."""
    assert OURS.client_of(peer, "6.6.6.6") == ""
    assert not OURS.trusts(peer)


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("unix:, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, unix:", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.0.0.7, unix:", "203.0.113.9"),
        ("6.6.6.6, , 10.0.0.7", "10.0.0.7"),
        ("6.6.6.6, ", ""),
        ("unknown", ""),
        ("unix:", ""),
        ("", ""),
        (None, ""),
    ],
)
@pytest.mark.parametrize("peer", [None, "", "unix:", "<local>", "localhost"])
def test_walk_from_a_unix_socket(peer: str | None, forwarded: str | None, client: str) -> None:
    """The peer of a trusted Unix socket names the client as any trusted proxy does."""
    proxies = TrustedProxies(["unix", "10.0.0.0/8"])
    assert proxies.client_of(peer, forwarded) == client
    assert proxies.trusts(peer)


def test_a_unix_socket_behind_an_address() -> None:
    """Trusting Unix sockets trusts no address, and trusting addresses trusts no Unix socket behind one."""
    assert TrustedProxies(["unix"]).client_of("10.0.0.1", "6.6.6.6") == "10.0.0.1"
    assert OURS.client_of("10.0.0.1", "6.6.6.6, unix:") == "10.0.0.1"


@pytest.mark.parametrize(
    ("network", "peer", "trusted"),
    [
        ("::ffff:10.0.0.0/104", "10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "11.1.2.3", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::/10", "fe80::1%eth0", True),
    ],
)
def test_one_network_in_two_spellings(network: str, peer: str, trusted: bool) -> None:  # noqa: FBT001 - a table's column
    """A network or a peer written as an IPv4-mapped IPv6 address is the IPv4 one; the zone of a peer does not count."""
    assert TrustedProxies([network]).trusts(peer) is trusted


@given(st.text(), st.sampled_from(["10.0.0.1", "203.0.113.9", "2001:db8:1::1"]))
def test_client_is_always_an_address(forwarded: str, peer: str) -> None:
    """Whatever the header holds, the client is an address in canonical spelling."""
    client = OURS.client_of(peer, forwarded)
    assert str(ip_address(client)) == client


def test_forged_entries_never_win() -> None:
    """A caller behind our proxy cannot choose its address, whatever it puts in front."""
    for forged in ("10.0.0.9", "1.1.1.1", "unknown", "10.0.0.9, 10.0.0.9"):
        assert OURS.client_of("10.0.0.1", f"{forged}, 203.0.113.9") == "203.0.113.9"


def test_bad_networks_are_all_named() -> None:
    """What is no network is refused at start, all of it at once."""
    with pytest.raises(ConfigurationError) as caught:
        TrustedProxies(["10.0.0.0/8", "proxy.local", "10.0.0.0/99"])
    assert [problem.value for problem in caught.value.problems] == ["proxy.local", "10.0.0.0/99"]


def test_no_networks_is_false() -> None:
    """An empty set of proxies trusts nobody and says so."""
    assert not TrustedProxies()
    assert OURS


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("x" * 100, ""),
    ],
)
def test_one_spelling(text: str, plain: str) -> None:
    """An address has one spelling here, however it was written."""
    assert normalize_address(text) == plain


def test_ipv6_is_counted_by_customer() -> None:
    """Addresses of one /64 share a quota, since one customer has them all; IPv4 addresses do not."""
    assert address_group("2001:db8::1") == address_group("2001:db8::ffff") == "2001:db8::/64"
    assert address_group("203.0.113.9") != address_group("203.0.113.10")
