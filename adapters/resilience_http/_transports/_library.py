"""httpx2 or httpx, as the transports need it.

httpx2 is the maintained continuation of httpx. Both have the same transport interface, but no common class: a response,
a body and an exception must be of the classes of the library whose client gets them. So the transports name no library.
They take its classes from a `HTTPXLibrary`, and classes of ours that must derive from a class of the library are made
there.
"""

from __future__ import annotations

import types
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from resilience_http._errors import Counterparts, ErrorKinds

__all__ = ("Foreign", "HTTPXLibrary", "HTTPXRequest", "HTTPXResponse")

Foreign: TypeAlias = Any
"""A class or object of the library: a URL, headers, a stream, the module."""


class HTTPXRequest(Protocol):
    """A request of either library."""

    method: str
    url: Foreign
    headers: Foreign
    stream: Foreign
    extensions: Foreign


class HTTPXResponse(Protocol):
    """A response of either library."""

    request: Foreign
    status_code: int
    headers: Foreign
    stream: Foreign
    is_closed: bool

    def read(self) -> bytes:
        """Read the body."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...


Q = TypeVar("Q", bound=HTTPXRequest)
A = TypeVar("A", bound=HTTPXResponse)
B = TypeVar("B")


class HTTPXLibrary(Generic[Q, A]):
    """The classes of a library that the transports use, and the classes of ours that derive from its own.

    Args:
        module: `httpx2`, or `httpx`.
    """

    def __init__(self, module: Foreign) -> None:
        self.name: str = module.__name__
        self.request_class: type[Foreign] = module.Request
        self.response_class: type[Foreign] = module.Response
        self.client: type[Foreign] = module.Client
        self.async_client: type[Foreign] = module.AsyncClient
        self.transport: type[Foreign] = module.BaseTransport
        self.async_transport: type[Foreign] = module.AsyncBaseTransport
        self.byte_stream: type[Foreign] = module.ByteStream
        self.sync_stream: type[Foreign] = module.SyncByteStream
        self.async_stream: type[Foreign] = module.AsyncByteStream
        self.timeout_exception: type[Exception] = module.TimeoutException
        self.status_error: type[Exception] = module.HTTPStatusError
        self.decoding_error: type[Exception] = module.DecodingError
        self.client_defaults: dict[str, object] = {
            "proxy": None,
            "proxies": None,  # httpx 0.27
            "verify": True,
            "cert": None,
            "http1": True,
            "http2": False,
            "limits": module.Limits(max_connections=100, max_keepalive_connections=20),
        }
        """The options of a client that shape its connections."""
        self.errors = _errors_of(module)

    def derived(self, ours: type[B], theirs: type[Foreign]) -> type[B]:
        """Return a class of ours as one that derives from a class of the library, too."""
        return types.new_class(ours.__name__, (ours, theirs), exec_body=lambda body: body.update(library=self))


def _errors_of(module: Foreign) -> ErrorKinds:
    return ErrorKinds(
        transient=(module.TransportError, module.HTTPStatusError),
        permanent=(module.UnsupportedProtocol, module.LocalProtocolError),
        ours=(module.UnsupportedProtocol, module.LocalProtocolError, module.PoolTimeout),
        counterparts=Counterparts(
            late=module.TimeoutException,
            full=module.PoolTimeout,  # as if the client's own limit of connections were reached
            refused=module.ConnectError,  # the class that says that no request was sent
            status=module.HTTPStatusError,
        ),
    )
