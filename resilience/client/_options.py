"""What the client side can be told."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Listing, Options, Text, option

__all__ = ("ClientOptions",)


@dataclass(frozen=True, kw_only=True)
class ClientOptions(Options):
    """What every outgoing call carries."""

    margin: float = option(
        0.01, Duration(), "kept back from the deadline in force; where no more than this is left, no call is made"
    )
    deadline_header: str = option(
        "X-Request-Timeout",
        Text("a header name", pattern=r"[A-Za-z0-9-]+", longest=100),
        "header in which the other side is told, in seconds, how long it may take",
    )
    identity_header: str | None = option(
        None,
        Text("a header name", pattern=r"[A-Za-z0-9-]+", longest=100),
        "header in which the other side is told who our own caller is (the `user` of the request)",
        none="it is not told",
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
        "gRPC methods that may be called twice, besides those named in code: only they are retried and hedged",
    )
