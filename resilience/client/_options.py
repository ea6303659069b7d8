"""The options of the client side."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Listing, Options, Text, option

__all__ = ("ClientOptions",)


@dataclass(frozen=True, kw_only=True)
class ClientOptions(Options):
    """The data and the time of every outgoing call."""

    margin: float = option(
        0.01,
        Duration(usual=10),
        "time kept back of the deadline in force; if no more than this is left, no call is made",
    )
    deadline_header: str = option(
        "X-Request-Timeout",
        Text("a header name", pattern=r"[A-Za-z0-9-]+", longest=100),
        "header with the seconds that the other side may take",
    )
    identity_header: str | None = option(
        None,
        Text("a header name", pattern=r"[A-Za-z0-9-]+", longest=100),
        "header with the name of our own caller (the `user` of the request)",
        none="no header is sent",
    )
    idempotent_methods: tuple[str, ...] = option(
        (),
        Listing(
            Text(
                "a gRPC method such as shop.Orders/Get, all of a service as shop.Orders/*, or * for all",
                pattern=r"\*|/?[A-Za-z_][\w.]*/(\*|\w+)",
                longest=300,
            )
        ),
        "gRPC methods that may be called twice, besides those named in code: only these are retried and hedged",
    )
