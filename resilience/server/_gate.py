"""The gate: every request is recognised, and most are let in."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from resilience.bulkhead import Bulkhead
from resilience.clock import monotonic
from resilience.errors import ConfigurationError, DeadlineExceededError, Problem, RateLimitedError
from resilience.server import _aio
from resilience.server._client import FORWARDED_FOR, TrustedProxies
from resilience.server._context import RequestContext
from resilience.server._deadline import REQUEST_TIMEOUT, patience_of, sooner
from resilience.server._identity import REQUEST_ID, identity_of, request_id_of
from resilience.server._key import KeyRule, bounded
from resilience.server._options import ServerOptions
from resilience.server._paths import ExcludedPaths
from resilience.server._quota import Decision, Quota, quota_headers
from resilience.server._trace import BAGGAGE, TRACEPARENT, TRACESTATE, trace_id_of
from resilience.timeout import Deadline

if TYPE_CHECKING:
    from resilience.envelope import Envelope, ErrorCatalog
    from resilience.lifecycle import Lifecycle
    from resilience.server._quota import Bucket

__all__ = ("ServerGate",)

_log = logging.getLogger("resilience")

_UNTRUSTED_SOCKET = (
    "limits by address do not hold for clients behind the Unix socket of this server: no trusted proxy names them "
    "(request %s). If only your proxy connects there, set RESILIENCE_SERVER__TRUSTED_PROXIES=unix"
)
_SILENT_PROXY = (
    "limits by address do not hold for a client behind the Unix socket of this server: its proxy sent no "
    "X-Forwarded-For (request %s). In nginx: proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
)

_HEADERS = (REQUEST_ID, TRACEPARENT, TRACESTATE, BAGGAGE, FORWARDED_FOR, REQUEST_TIMEOUT)

Limiter = Callable[[str, str, int | None], "Bucket"]
"""Makes or finds the bucket of a name, a rate and a burst: `Resilience.limiter`."""


class _Toolkit(Protocol):
    """The parts of `Resilience` the gate is built from."""

    @property
    def config(self) -> Any: ...  # resilience.config.Config: pyright takes no cached_property for a property
    @property
    def catalog(self) -> ErrorCatalog: ...
    @property
    def lifecycle(self) -> Lifecycle: ...
    @property
    def limiter(self) -> Limiter: ...


class ServerGate:
    """What happens to a request before the service sees it, for any framework.

    An adapter calls `receive` with the headers named in `wanted`; then `admit`, and `charge` (or `await acharge`) for
    the quota it returns, any of which may refuse; `answered` when the last byte is out, and `leave` when all that ran
    behind the answer has ended too. `key` decides whose quota is charged where `rate_limit_key` says too little.
    """

    def __init__(
        self,
        options: ServerOptions | None = None,
        *,
        limiter: Limiter | None = None,
        limiter_waits: bool = True,
        lifecycle: Lifecycle | None = None,
        key: Callable[[RequestContext], str] | None = None,
    ) -> None:
        self.options = options = options or ServerOptions()
        self.lifecycle = lifecycle
        self.catalog: ErrorCatalog | None = None
        """Whose messages, and in which languages, clients are answered with."""
        self._limiter, self._limiter_waits = limiter, limiter_waits
        self._allowed = options.deadline
        self._proxies = TrustedProxies(options.trusted_proxies)
        self._client_of = self._proxies.client_of
        rule = KeyRule(options.rate_limit_key)
        self._key: Callable[[RequestContext], str | None] = (
            rule.of if key is None else lambda context: bounded(key(context))
        )
        self._has_warned = False
        self._deadline_header = options.deadline_header.lower()
        self._identity_header = (options.identity_header or "").lower()
        configured = (self._deadline_header, self._identity_header, rule.header)
        self.wanted = frozenset(filter(None, (*_HEADERS, *configured)))
        """Lower-case names of the headers `receive` looks at; several lines of one are joined by a comma."""
        self._excluded = ExcludedPaths(options.exclude_paths)
        most = options.max_concurrent_requests
        self.slots = None if most is None else Bulkhead(most, name="server")
        self.quota = (
            None if options.rate_limit is None
            else self.quota_for("default", options.rate_limit, options.rate_limit_burst, name="server")
        )  # fmt: skip

    @classmethod
    def of(cls, toolkit: _Toolkit, *, key: Callable[[RequestContext], str] | None = None) -> ServerGate:
        """Build the gate a `Resilience` is configured for."""
        config, limiter = toolkit.config, toolkit.limiter
        in_memory = config.redis.url is None
        gate = cls(config.server, limiter=limiter, limiter_waits=not in_memory, lifecycle=toolkit.lifecycle, key=key)
        gate.catalog = toolkit.catalog
        return gate

    def receive(
        self, headers: Mapping[str, str], peer: str | None = None, *, path: str = "", patience: float | None = None
    ) -> RequestContext:
        """Return the context of a request. Nothing in `headers` can make this fail.

        `peer` is the address of the socket's other end; None or "" for a Unix socket.

        `path` is what `exclude_paths` speaks of (HTTP path, gRPC method). `patience` is how long the transport says
        the caller waits, in seconds (gRPC knows, HTTP does not).
        """
        find = headers.get
        traceparent = find(TRACEPARENT)
        context = RequestContext(
            request_id_of(find(REQUEST_ID)),
            trace_id_of(traceparent) if traceparent else "",
            client := self._client_of(peer, find(FORWARDED_FOR)),
        )
        if not client:
            context.is_unknown = self._proxies.hides(peer, find(FORWARDED_FOR))
        # Not by name in the call above: Python makes a dictionary of the names, and requests are many.
        context.gate = self
        context.headers = headers
        if self._identity_header and self._proxies.trusts(peer):
            context.user = identity_of(find(self._identity_header))
        excluded = self._excluded
        if path in excluded.paths or (path.startswith(excluded.below) and path in excluded):
            context.is_excluded = True
            return context
        own = allowed = self._allowed
        asked, also = find(self._deadline_header), find(REQUEST_TIMEOUT)
        if asked is not None or also is not None or patience is not None:
            allowed = sooner(allowed, patience, patience_of(asked), patience_of(also))
        if allowed is not None:
            now = monotonic()
            limit = None if allowed == own else math.inf if own is None else now + own
            context.deadline = Deadline(now + allowed, limit=limit, began=now)  # after() would check it once more
        return context

    def enter(self, context: RequestContext, *, takes_place: bool = True) -> None:
        """Count a request as under way, or raise `BulkheadFullError`.

        Excluded paths are neither counted nor refused. CORS preflights are counted; they take no place.

        A connection that lives for hours (a websocket) is counted with `takes_place=False`: it keeps nobody out. So is
        a request that may still be refused before it takes its place by `admit`, which does not count it again.
        """
        if context.is_excluded:
            return
        if takes_place and self.slots is not None and not context.is_preflight:
            context.place = self.slots.admit()
        if self.lifecycle is not None and not context.is_counted:
            self.lifecycle.enter()
        context.is_counted = True

    def admit(self, context: RequestContext) -> Quota | None:
        """Let a request in as `enter` does, and charge it.

        Returns the quota that is still to be charged where its bucket may keep us waiting: `charge` or `acharge` it.
        Raises `BulkheadFullError`, `RateLimitedError`, or `DeadlineExceededError` where the time is up.
        """
        if context.deadline is not None and context.deadline.expired:
            raise DeadlineExceededError("the deadline passed before the request was served", policy="server")
        self.enter(context)
        quota = self.quota
        if quota is None or context.is_excluded or context.is_preflight:
            return None
        if quota.waits:
            return quota
        self.charge(context, quota)
        return None

    def leave(self, context: RequestContext) -> None:
        """Undo `enter`: the answer is complete, and so is all that ran behind it. A second call does nothing."""
        if not context.is_counted:
            return
        context.is_counted = False
        if self.lifecycle is not None:
            self.lifecycle.leave()
        if context.place is not None and self.slots is not None:
            place, context.place = context.place, None
            self.slots.on_success(place, None)

    def answered(self, context: RequestContext) -> None:
        """Lift the deadline: the last byte is out, and work that follows it (background tasks) delays nobody."""
        if context.deadline is not None:
            context.deadline.at = math.inf

    def broken_off(self, context: RequestContext) -> None:
        """Log, in one line, an answer that had begun and that the deadline ends half-way."""
        _log.warning("request %s was broken off by its deadline, in the midst of its answer", context.request_id)

    def charge(self, context: RequestContext, quota: Quota, key: str | None = None, cost: int = 1) -> None:
        """Charge `quota` with `cost`, or raise `RateLimitedError`. May block, for as long as Redis is allowed to.

        A CORS preflight is not charged, nor a request that is counted by address while its address cannot be known.
        """
        whose = self.key_of(context, key)
        if whose is not None:
            self.judge(context, quota, quota.bucket.acquire(whose, cost))

    def acharge(
        self, context: RequestContext, quota: Quota, key: str | None = None, cost: int = 1
    ) -> Coroutine[Any, Any, None]:
        """Charge `quota` as `charge` does, suspending."""
        return _aio.charge(self, context, quota, self.key_of(context, key), cost)

    def key_of(self, context: RequestContext, key: str | None = None) -> str | None:
        """Return whose quota is charged; whatever user code makes of it is bounded in length.

        None for a CORS preflight, and for a client's address that cannot be known: the first such request is logged.
        """
        if context.is_preflight:
            return None
        if key is not None:
            return bounded(key)
        key = self._key(context)
        return self.known(context, key) if key is None else key

    def known(self, context: RequestContext, key: str | None) -> str | None:
        """Return `key`. The first time that there is none, log a warning that says why and which setting mends it."""
        if key is None and not self._has_warned:
            self._has_warned = True
            _log.warning(_SILENT_PROXY if self._proxies.trusts_unix else _UNTRUSTED_SOCKET, context.request_id)
        return key

    def judge(self, context: RequestContext, quota: Quota, decision: Decision) -> None:
        """Note a decision, and raise `RateLimitedError` where it says no."""
        context.charges += ((quota, decision),)
        if not decision.allowed:
            name = quota.bucket.name
            raise RateLimitedError(f"{name}: quota spent", policy=name, retry_after=decision.retry_after)

    def quota_for(self, label: str, rate: str, burst: int | None = None, *, name: str) -> Quota:
        """Return a quota kept in the bucket `name`, known to callers as `label`."""
        if self._limiter is None:
            raise ConfigurationError([Problem("rate_limit", rate, "a limiter to keep it in")])
        return Quota(label, self._limiter(name, rate, burst), waits=self._limiter_waits)

    def quota_headers(self, context: RequestContext) -> tuple[tuple[str, str], ...]:
        """Return the `RateLimit` headers of what was charged; none unless `rate_limit_headers` is set."""
        return quota_headers(context.charges) if context.charges and self.options.rate_limit_headers else ()

    def localized(self, envelope: Envelope, accept_language: str | None) -> Envelope:
        """Return an error's envelope in the language its client reads best, as far as there are translations."""
        if self.catalog is None:
            return envelope.in_language(accept_language)
        return self.catalog.localized(envelope, accept_language)

    @property
    def is_closing(self) -> bool:
        """Whether a client should open its next request on another connection."""
        return self.lifecycle is not None and self.lifecycle.is_draining
