"""The options of a client that shape its connections (`proxy=`, `verify=` ...), and the internals of httpx for them.

httpx builds connections for these options only if it gets no transport. Beside a transport it ignores them, and a proxy
replaces the transport. So a client hands its options over to our transport, which builds the connections that the
client would have built. This relies on httpx 0.27 and 0.28 in two places:

- `httpx.Client.__init__` is wrapped, and the keyword arguments of the clients are read, which are public. An option
  that a later version adds is not handed over.
- `Client._transport_for_url`, in the two transports, chooses a proxy. If it goes, requests through a transport without
  an `inner` fail; with an `inner` it is not used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import httpx

from resilience.errors import ConfigurationError

__all__ = ("InnerTransport", "hand_over_options")

T = TypeVar("T")
_CLIENT_DEFAULTS: dict[str, object] = {
    "proxy": None,
    "proxies": None,  # httpx 0.27
    "verify": True,
    "cert": None,
    "http1": True,
    "http2": False,
    "limits": httpx.Limits(max_connections=100, max_keepalive_connections=20),
}


class InnerTransport(Generic[T]):
    """The transport inside of ours: a given one, or the connections that httpx would build for a client's options."""

    def __init__(self, inner: T | None, build: Callable[[dict[str, Any]], T]) -> None:
        self._is_given = inner is not None
        self._build = build
        # The transport, and the options that it was built for. `setdefault` is atomic: if several threads come first,
        # all use the transport of one of them.
        self._built: dict[str, tuple[T, dict[str, object]]] = {} if inner is None else {"": (inner, {})}

    @property
    def inner(self) -> T:
        """The transport. It is built at its first use, if no client has handed its options over."""
        if not self._built:
            self.claim({})
        return self._built[""][0]

    @property
    def is_built(self) -> bool:
        """Whether there is a transport to close."""
        return bool(self._built)

    def claim(self, options: Mapping[str, object]) -> None:
        """Take the options of a client.

        Raises:
            ConfigurationError: The transport inside was given, so that the options have no effect; or another client
                has handed over other options.
        """
        changed = {name: value for name, value in options.items() if value != _CLIENT_DEFAULTS.get(name, True)}
        if self._is_given:
            if names := _named(set(changed) & set(_CLIENT_DEFAULTS)):
                raise ConfigurationError(
                    f"{names} would not reach the connections of the transport inside of ours: "
                    "give the options to that transport, or leave it out"
                )
            return
        if not self._built:
            self._built.setdefault("", (self._build(dict(options)), changed))
        _, before = self._built[""]
        if changed != before:
            other = {*changed, *before} & {*_CLIENT_DEFAULTS, "trust_env"}
            raise ConfigurationError(
                f"this transport is used already, without or with another {_named(other)}: "
                "give each client a transport of its own (they can share a Pipeline)"
            )


def _named(names: set[str]) -> str:
    return ", ".join(f"{name}=" for name in sorted(names))


def hand_over_options(client: type, transport: type, claim: Callable[[Any, Mapping[str, object]], None]) -> None:
    """Make each new `client` with our `transport` hand over the options that httpx would ignore."""
    build: Callable[..., None] = client.__init__  # type: ignore[misc]  # of this very class

    @functools.wraps(build)
    def initialize(self: Any, *args: Any, **options: Any) -> None:
        given = options.get("transport")
        if isinstance(given, transport):
            taken = {name: options.pop(name) for name in _CLIENT_DEFAULTS if name in options}
            claim(given, {**taken, "trust_env": options.get("trust_env", True)})
        build(self, *args, **options)

    client.__init__ = initialize  # type: ignore[misc]  # at no other moment httpx knows both
