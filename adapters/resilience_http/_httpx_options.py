"""The options of a client that shape its connections (`proxy=`, `verify=` and so on), and proxies by environment.

httpx builds connections for these options only if it is given no transport. Beside a transport it ignores them, and a
proxy replaces the transport. So a client hands its options over to our transport, which builds the connections that
the client would have built. Of httpx this relies on keyword arguments of its clients (public) and, in the two
transports, on `_transport_for_url` (0.27 and 0.28).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import httpx

from resilience.errors import ConfigurationError

__all__ = ("Connections", "hand_over_options")

T = TypeVar("T")
_USUAL: dict[str, Any] = {
    "proxy": None,
    "proxies": None,  # httpx 0.27
    "verify": True,
    "cert": None,
    "http1": True,
    "http2": False,
    "limits": httpx.Limits(max_connections=100, max_keepalive_connections=20),
}


class Connections(Generic[T]):
    """The transport inside of ours: the one given, or the connections that a client with such options would use."""

    def __init__(self, inner: T | None, build: Callable[[dict[str, Any]], T]) -> None:
        self._is_given = inner is not None
        self._build = build
        # The transport, and the options it is built for. `setdefault` is atomic: of threads that come first together,
        # all use the transport of one.
        self._built: dict[str, tuple[T, dict[str, Any]]] = {} if inner is None else {"": (inner, {})}

    @property
    def inner(self) -> T:
        """The transport, built at its first use if no client has claimed it."""
        if not self._built:
            self.claim({})
        return self._built[""][0]

    @property
    def is_built(self) -> bool:
        """Whether there is anything to close."""
        return bool(self._built)

    def claim(self, options: Mapping[str, Any]) -> None:
        """Take over the options of a client.

        Raises `ConfigurationError` if the transport inside was given, which the options would not reach, or if another
        client has claimed the same transport with other options.
        """
        changed = {name: value for name, value in options.items() if value != _USUAL.get(name, True)}
        if self._is_given:
            if names := _named(set(changed) & set(_USUAL)):
                raise ConfigurationError(
                    f"{names} would not reach the connections of the transport inside of ours: "
                    "give the options to that transport, or leave it out"
                )
            return
        if not self._built:
            self._built.setdefault("", (self._build(dict(options)), changed))
        _, before = self._built[""]
        if changed != before:
            other = {*changed, *before} & {*_USUAL, "trust_env"}
            raise ConfigurationError(
                f"this transport is used already, without or with another {_named(other)}: "
                "give each client a transport of its own (they can share a Pipeline)"
            )


def _named(names: set[str]) -> str:
    return ", ".join(f"{name}=" for name in sorted(names))


def hand_over_options(client: type, transport: type, claim: Callable[[Any, Mapping[str, Any]], None]) -> None:
    """Have each new `client` with such a `transport` hand over the options that httpx would ignore beside it."""
    build: Callable[..., None] = client.__init__  # type: ignore[misc]  # of this very class

    @functools.wraps(build)
    def initialize(self: Any, *args: Any, **options: Any) -> None:
        given = options.get("transport")
        if isinstance(given, transport):
            taken = {name: options.pop(name) for name in _USUAL if name in options}
            claim(given, {**taken, "trust_env": options.get("trust_env", True)})
        build(self, *args, **options)

    client.__init__ = initialize  # type: ignore[misc]  # httpx has no other moment at which both are known
