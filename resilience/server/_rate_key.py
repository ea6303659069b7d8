"""The key that a request is charged under: bounded in length, and never a secret."""

from __future__ import annotations

from hashlib import sha256
from typing import TypeVar

from resilience.errors import ConfigurationError, Problem
from resilience.options import Refused, is_plain_callable, rule_of
from resilience.server._client_address import address_group
from resilience.server._context import RequestContext
from resilience.server._options import ServerOptions

__all__ = ("KeyRule", "bounded", "checked_key", "key_text")

F = TypeVar("F")
_MAX_LENGTH = 128
_HEADER = "header:"


def checked_key(key: F) -> F:
    """Return the key function of a user, or None; refuse a coroutine function, whose coroutines would all differ."""
    if key is not None and not is_plain_callable(key):
        raise ConfigurationError([Problem("key", key, "a function that returns a key (not a coroutine function)")])
    return key


def bounded(key: str) -> str:
    """Return a key of at most 128 characters: a longer one is replaced by its digest."""
    return key if len(key) <= _MAX_LENGTH else _digest(key)


def key_text(found: object) -> str | None:
    """Return the key that a function of the user has returned, as text; None for None and for "".

    None must not become a key: all clients for which the function finds nothing would share one bucket.
    """
    return None if found is None else str(found) or None


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class KeyRule:
    """One of the rules `ip`, `user` and `header:<name>`. A request without a user or header is counted by address.

    Raises:
        ConfigurationError: `rule` is no such rule.
    """

    __slots__ = ("_is_address", "header", "rule")

    def __init__(self, rule: str = "ip") -> None:
        option = rule_of(ServerOptions.fields()["rate_limit_key"])
        try:
            self.rule: str = option.check(rule)
        except Refused:
            raise ConfigurationError([Problem("key", rule, option.expected)]) from None
        self.header = self.rule.removeprefix(_HEADER).lower() if self.rule.startswith(_HEADER) else None
        """The lower-case name of the header to look for, or None."""
        self._is_address = self.rule == "ip"

    def of(self, context: RequestContext) -> str | None:
        """Return the key of `context`, or None if it is the address and the address cannot be known.

        The value of a header is often an API key, so only its digest is kept.
        """
        if self._is_address:
            return _address_key(context)
        if self.header is not None:
            value = context.headers.get(self.header)
            if value:
                return f"header:{_digest(value)}"
        elif self.rule == "user" and context.user:
            return bounded(f"user:{context.user}")
        return _address_key(context)


def _address_key(context: RequestContext) -> str | None:
    """Return a key per client address.

    All clients behind one Unix socket have one peer: they would share one key, so they have none. All peers with a name
    in place of an address (test clients have one) share one key.
    """
    client = context.client
    if client:
        return f"ip:{address_group(client)}"
    return None if context.is_client_hidden else "ip:"
