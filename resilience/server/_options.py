"""The options of the server side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from resilience._support.retry_after import RETRY_AFTER_MAX
from resilience.errors import Problem
from resilience.health import PROBE_PATHS
from resilience.options import Choice, Duration, Flag, Listing, Options, Refused, Text, Whole, option
from resilience.ratelimit._rate import RateText
from resilience.server._client_address import EXPECTED_PROXY, UNIX, network_of

__all__ = ("ServerOptions",)


class Proxy(Text):
    """The rule of one trusted proxy: its address, its network, or `unix` for a Unix socket."""

    def __init__(self) -> None:
        super().__init__(EXPECTED_PROXY, longest=100)

    def check(self, value: object, /) -> str:
        """Return the text unchanged if it is valid."""
        text = super().check(value)
        if text == UNIX:
            return text
        try:
            network_of(text)
        except ValueError:
            raise Refused from None
        return text


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Options):
    """Guards for the requests that this service serves."""

    rate_limit: str | None = option(None, RateText(), "requests per client", none="no limit")
    rate_limit_burst: int | None = option(
        None, Whole(1), "requests that may come at once", none="the amount named in the rate"
    )
    rate_limit_key: str = option(
        "ip",
        Text("ip, user, or header:<name>", pattern=r"ip|user|header:[A-Za-z0-9-]+", longest=100),
        "the key that a request is charged under",
    )
    rate_limit_covers: str = option(
        "routes",
        Choice("routes", "all"),
        "requests that the limits of server, application and blueprint count: those that a route serves; or all, with "
        "static files and paths without a route",
    )
    rate_limit_headers: bool = option(False, Flag(), "send RateLimit and RateLimit-Policy headers")
    max_concurrent_requests: int | None = option(
        None, Whole(1, 100_000), "requests in flight at once; one more gets 503", none="no limit"
    )
    limits: bool = option(
        True,
        Flag(),
        "rate limits of the server and of routes, and max_concurrent_requests; false charges and refuses no request",
    )
    deadline: float | None = option(
        None, Duration(above=True, usual=60), "time that a request may take", none="no limit"
    )
    deadline_header: str = option(
        "X-Request-Timeout",
        Text("a header name", pattern=r"[A-Za-z0-9-]+", longest=100),
        "header in which a client sends how long it waits (seconds, or like 250ms), besides Request-Timeout; "
        "only ever shortens the deadline",
    )
    identity_header: str | None = option(
        None,
        Text("a header name", pattern=r"[A-Za-z0-9-]+", longest=100),
        "header in which a trusted proxy names the caller: the `user` of the request",
        none="no header is read",
    )
    trusted_proxies: tuple[str, ...] = option(
        (),
        Listing(Proxy()),
        "proxies whose X-Forwarded-For (and identity_header) counts; unix means every peer of a Unix socket",
    )
    errors: str = option(
        "json",
        Choice("json", "problem", "native"),
        "shape of error bodies: one envelope for all errors, or a problem document; native keeps the bodies of the "
        "framework and of the application, and refusals have the shape of the framework's own errors",
    )
    problem_type_base: str = option(
        "about:blank", Text("a URI", longest=500), "start of the `type` of a problem+json body"
    )
    retry_after_max: float = option(
        RETRY_AFTER_MAX,
        Duration(above=True),
        "longest `retry_after` that an answer passes on from another service's error; those of this service are kept",
    )
    exclude_paths: tuple[str, ...] = option(
        (*PROBE_PATHS, "/metrics"),
        Listing(Text("a path without . and .. segments", pattern=r"(?!.*/\.{1,2}(?:/|$))/.*", longest=500)),
        "paths that, with all below them, are never limited, refused or timed; / is the root page alone; "
        "a request for a path with . or .. segments is limited",
    )

    def _together(self) -> Iterable[Problem]:
        if (
            self.rate_limit is None and self.rate_limit_burst is not None
        ):  # a burst alone is a mistake: no limit would apply
            yield Problem("rate_limit_burst", self.rate_limit_burst, "none where rate_limit is not set")
        if self.rate_limit_burst is not None and ";" in (self.rate_limit or ""):
            yield Problem("rate_limit_burst", self.rate_limit_burst, "none beside several rates in rate_limit")
