"""Whose quota a request is charged to. Keys are bounded, and nothing secret is stored as a key."""

from __future__ import annotations

from hashlib import sha256

from resilience.errors import ConfigurationError, Problem
from resilience.options import Refused, rule_of
from resilience.server._client import address_group
from resilience.server._context import RequestContext
from resilience.server._options import ServerOptions

__all__ = ("KeyRule", "bounded")

_LONGEST = 128
_HEADER = "header:"


def bounded(key: str) -> str:
    """Return a key no longer than 128 characters: a longer one is replaced by its digest."""
    return key if len(key) <= _LONGEST else _digest(key)


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class KeyRule:
    """`ip`, `user` or `header:<name>`. A request without such a user or header is counted by address.

    `header` is the lower-case name to look for, or None. Raises `ConfigurationError` for any other rule.
    """

    __slots__ = ("_is_address", "header", "rule")

    def __init__(self, rule: str = "ip") -> None:
        option = rule_of(ServerOptions.fields()["rate_limit_key"])
        try:
            self.rule: str = option.check(rule)
        except Refused:
            raise ConfigurationError([Problem("key", rule, option.expected)]) from None
        self.header = self.rule.removeprefix(_HEADER).lower() if self.rule.startswith(_HEADER) else None
        self._is_address = self.rule == "ip"

    def of(self, context: RequestContext) -> str | None:
        """Return the key of `context`, or None if it is the address and the address cannot be known.

        A header's value is an API key as often as not, so only its digest is kept.
        """
        if self._is_address:
            return _key_of_address(context)
        if self.header is not None:
            value = context.headers.get(self.header)
            if value:
                return f"header:{_digest(value)}"
        elif self.rule == "user" and context.user:
            return bounded(f"user:{context.user}")
        return _key_of_address(context)


def _key_of_address(context: RequestContext) -> str | None:
    """Return a key per client. All clients of one Unix socket have one peer: a key of theirs would be shared by all.

    A peer with a name in place of an address (test clients have one) has a key, shared by every such peer.
    """
    client = context.client
    if client:
        return f"ip:{address_group(client)}"
    return None if context.is_unknown else "ip:"
