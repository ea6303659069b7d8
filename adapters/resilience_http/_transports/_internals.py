"""The options of a client that shape its connections (`proxy=`, `verify=` ...), and internals that hand them over.

httpx2 and httpx build connections for these options only if they get no transport. Beside a transport they ignore the
options, and a proxy replaces the transport. So a client hands its options over to our transport, which builds the
connections that the client would have built. This relies on httpx2 2.0 to 2.16, and on httpx 0.27 and 0.28, in two
places:

- `Client.__init__` is wrapped, and the keyword arguments of the clients are read, which are public. An option
  that a later version adds is not handed over.
- `Client._transport_for_url`, in the two transports, chooses a proxy. If it goes, requests through a transport without
  an `inner` fail; with an `inner` it is not used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, Generic, Protocol, TypeVar

from resilience.errors import ConfigurationError

__all__ = ("GuardingTransport", "InnerTransport", "hand_over_options")

T = TypeVar("T")


class InnerTransport(Generic[T]):
    """The transport inside of ours: a given one, or the connections that a client would build with its options."""

    def __init__(self, inner: T | None, build: Callable[[dict[str, Any]], T], defaults: Mapping[str, object]) -> None:
        self._defaults = defaults
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
        changed = {name: value for name, value in options.items() if value != self._defaults.get(name, True)}
        if self._is_given:
            if names := _named(set(changed) & set(self._defaults)):
                raise ConfigurationError(
                    f"{names} would not reach the connections of the transport inside of ours: "
                    "give the options to that transport, or leave it out"
                )
            return
        if not self._built:
            self._built.setdefault("", (self._build(dict(options)), changed))
        _, before = self._built[""]
        if changed != before:
            other = {*changed, *before} & {*self._defaults, "trust_env"}
            raise ConfigurationError(
                f"this transport is used already, without or with another {_named(other)}: "
                "give each client a transport of its own (they can share a Pipeline)"
            )


def _named(names: set[str]) -> str:
    return ", ".join(f"{name}=" for name in sorted(names))


class GuardingTransport(Protocol):
    """A transport of ours."""

    def claim(self, options: Mapping[str, object]) -> None:
        """Take the options of the client that uses this transport."""
        ...


def hand_over_options(client: Any, transport: type[GuardingTransport], names: Collection[str]) -> None:
    """Make each new `client` with our `transport` hand over the options in `names`, which the library would ignore."""
    build: Callable[..., None] = client.__init__

    @functools.wraps(build)
    def initialize(self: object, *args: Any, **options: Any) -> None:
        given = options.get("transport")
        if isinstance(given, transport):
            taken = {name: options.pop(name) for name in names if name in options}
            given.claim({**taken, "trust_env": options.get("trust_env", True)})
        build(self, *args, **options)

    client.__init__ = initialize  # at no other moment the library knows both
