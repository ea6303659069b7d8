"""The gate: it identifies each request, admits or refuses it, charges it, and counts it as in flight."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from resilience.bulkhead import Bulkhead
from resilience.clock import monotonic
from resilience.errors import ConfigurationError, DeadlineExceededError, Problem, RateLimitedError
from resilience.server._client_address import FORWARDED_FOR, TrustedProxies
from resilience.server._context import RequestContext, current_request
from resilience.server._headers import (
    REQUEST_ID,
    REQUEST_TIMEOUT,
    ExcludedPaths,
    identity_of,
    request_id_of,
    shortest,
    timeout_of,
)
from resilience.server._options import ServerOptions
from resilience.server._quota import Charge, ServerQuota, quota_headers
from resilience.server._rate_key import KeyRule, bounded, key_text
from resilience.server._request_log import RequestRecord
from resilience.server._trace import BAGGAGE, TRACEPARENT, TRACESTATE, trace_id_of
from resilience.timeout import Deadline

if TYPE_CHECKING:
    from resilience.envelope import Envelope, ErrorCatalog
    from resilience.event_log import EventLog
    from resilience.lifecycle import Lifecycle
    from resilience.ratelimit import TokenBucket

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

Limiter = Callable[[str, str, int | None], "TokenBucket"]
"""Returns the bucket of a name, a rate and a burst: `Resilience.limiter`."""


class _Metrics(Protocol):
    """Counts the requests."""

    def request_ended(
        self, method: str, route: str | None, status: int | str | None, seconds: float, trace_id: str, /
    ) -> None: ...


class _GateParts(Protocol):
    """The parts of `Resilience` that the gate is built from."""

    @property
    def config(self) -> Any: ...  # resilience.config.Config: pyright takes no cached_property for a property
    @property
    def catalog(self) -> ErrorCatalog: ...
    @property
    def lifecycle(self) -> Lifecycle: ...
    @property
    def event_log(self) -> EventLog: ...
    @property
    def limiter(self) -> Limiter: ...
    @property
    def metrics(self) -> _Metrics | None: ...


class ServerGate:
    """Guards the requests of one server, for any framework.

    An adapter calls, for each request, in this order:

    1. `receive` with the headers named in `wanted`. It returns the `RequestContext`.
    2. `admit`, and `charge` (or `await acharge`) for the quota that `admit` returns. Each of them may refuse.
    3. `response_sent` when the last byte of the answer is out.
    4. `leave` when all work behind the answer has ended too, such as background tasks.

    Args:
        options: The section `server` of the configuration.
        limiter: Returns the bucket for a name, a rate and a burst. Needed if a rate limit is configured.
        limiter_waits: Whether buckets may block the caller, as those on Redis do.
        lifecycle: Counts the requests in flight, for the drain.
        key: Returns the key that a request is charged under, in place of the option `rate_limit_key`. For a request
            for which it returns None or "", the option decides.

    Raises:
        ConfigurationError: A rate limit is configured, and there is no limiter.
    """

    def __init__(
        self,
        options: ServerOptions | None = None,
        *,
        limiter: Limiter | None = None,
        limiter_waits: bool = True,
        lifecycle: Lifecycle | None = None,
        key: Callable[[RequestContext], object] | None = None,
    ) -> None:
        self.options = options = options or ServerOptions()
        self.lifecycle = lifecycle
        self.catalog: ErrorCatalog | None = None
        """The messages of errors, and their translations."""
        self._logs_requests = False
        self._metrics: _Metrics | None = None
        self._limiter, self._limiter_waits = limiter, limiter_waits
        self._allowed = options.deadline
        self._proxies = TrustedProxies(options.trusted_proxies)
        self._client_of = self._proxies.client_of
        rule = KeyRule(options.rate_limit_key)
        self._key: Callable[[RequestContext], str | None] = rule.of if key is None else _key_or_rule(key, rule)
        self._has_warned = False
        self._deadline_header = options.deadline_header.lower()
        self._identity_header = (options.identity_header or "").lower()
        configured = (self._deadline_header, self._identity_header, rule.header)
        self.wanted = frozenset(filter(None, (*_HEADERS, *configured)))
        """Lower-case names of the headers that `receive` reads. Join several lines of one header by commas."""
        self._excluded = ExcludedPaths(options.exclude_paths)
        maximum = options.max_concurrent_requests if options.limits else None
        self.bulkhead = None if maximum is None else Bulkhead(maximum, name="server")
        self.quota = (
            None if options.rate_limit is None or not options.limits
            else self.quota_for("default", options.rate_limit, options.rate_limit_burst, name="server")
        )  # fmt: skip

    @classmethod
    def of(cls, toolkit: _GateParts, *, key: Callable[[RequestContext], object] | None = None) -> ServerGate:
        """Return the gate for the configuration of a `Resilience`."""
        config, limiter = toolkit.config, toolkit.limiter
        in_memory = config.redis.url is None
        gate = cls(config.server, limiter=limiter, limiter_waits=not in_memory, lifecycle=toolkit.lifecycle, key=key)
        gate.catalog = toolkit.catalog
        gate._logs_requests, gate._metrics = config.log.requests, toolkit.metrics
        if gate.bulkhead is not None:
            gate.bulkhead.events.log_to(toolkit.event_log)
        return gate

    def receive(
        self, headers: Mapping[str, str], peer: str | None = None, *, path: str = "", timeout: float | None = None
    ) -> RequestContext:
        """Return the context of a request. No text in `headers` can make this fail.

        Args:
            headers: The headers named in `wanted`, by lower-case name.
            peer: The address of the other end of the socket; None or "" for a Unix socket.
            path: The path that `exclude_paths` is compared with: an HTTP path, or a gRPC method.
            timeout: The seconds that the client waits, if the transport knows them: gRPC does, HTTP does not.
        """
        find = headers.get
        traceparent = find(TRACEPARENT)
        context = RequestContext(
            request_id_of(find(REQUEST_ID)),
            trace_id_of(traceparent) if traceparent else "",
            client := self._client_of(peer, find(FORWARDED_FOR)),
        )
        if not client:
            context.is_client_hidden = self._proxies.hides_client(peer, find(FORWARDED_FOR))
        # Not as keyword arguments of the call above: Python would make a dictionary of them, for every request.
        context.gate = self
        context.headers = headers
        if self._identity_header and self._proxies.trusts(peer):
            context.user = identity_of(find(self._identity_header))
        excluded = self._excluded
        if path in excluded.paths or (path.startswith(excluded.below) and path in excluded):
            context.is_excluded = True
            return context
        if self._logs_requests or self._metrics is not None:
            context.record = RequestRecord()
        own = allowed = self._allowed
        asked, also = find(self._deadline_header), find(REQUEST_TIMEOUT)
        if asked is not None or also is not None or timeout is not None:
            allowed = shortest(allowed, timeout, timeout_of(asked), timeout_of(also))
        if allowed is not None:
            now = monotonic()
            limit = None if allowed == own else math.inf if own is None else now + own
            context.deadline = Deadline(
                now + allowed, limit=limit, began=now
            )  # `Deadline.after` would check the number again
        return context

    def enter(self, context: RequestContext, *, takes_permit: bool = True) -> None:
        """Count a request as in flight, and take one of `max_concurrent_requests` for it.

        Excluded paths are neither counted nor refused. CORS preflights are counted, and need no permit.

        Args:
            context: The request.
            takes_permit: False for a connection that lives for hours (a websocket), which must keep no request out;
                and for a request that `admit` will be called for later, which does not count it again.

        Raises:
            BulkheadFullError: `max_concurrent_requests` are in flight.
        """
        if context.is_excluded:
            return
        if takes_permit and self.bulkhead is not None and not context.is_preflight:
            context.permit = self.bulkhead.admit()
        if self.lifecycle is not None and not context.is_counted:
            self.lifecycle.enter()
        context.is_counted = True

    def admit(self, context: RequestContext) -> ServerQuota | None:
        """Admit a request as `enter` does, and charge it.

        Returns:
            The quota that is still to be charged, by `charge` or `acharge`, if its bucket may block; else None.

        Raises:
            BulkheadFullError: `max_concurrent_requests` are in flight.
            RateLimitedError: The client has spent its quota.
            DeadlineExceededError: The deadline has passed already.
        """
        if context.deadline is not None and context.deadline.expired:
            raise DeadlineExceededError("the deadline passed before the request was served", policy="server")
        self.enter(context)
        quota = self.quota
        if quota is None or context.is_excluded or context.is_preflight or context.is_unrouted:
            return None
        if quota.waits:
            return quota
        self.charge(context, quota)
        return None

    def leave(self, context: RequestContext) -> None:
        """Undo `enter`: the answer and all work behind it are complete. A second call does nothing."""
        if not context.is_counted:
            return
        context.is_counted = False
        if self.lifecycle is not None:
            self.lifecycle.leave()
        if context.permit is not None and self.bulkhead is not None:
            permit, context.permit = context.permit, None
            self.bulkhead.on_success(permit, None)

    def response_sent(self, context: RequestContext) -> None:
        """End the deadline: the last byte is out, and no client waits for work that follows (background tasks)."""
        if context.deadline is not None:
            context.deadline.at = math.inf

    def log_request(self, context: RequestContext, method: str = "") -> None:
        """Count a request whose answer has ended, and write its line, if metrics and log have each request.

        Probes and other excluded paths are left out. A second call does nothing.

        Args:
            context: The request.
            method: The HTTP method; "" for gRPC.
        """
        record, context.record = context.record, None
        if record is None or context.is_excluded:
            return
        if self._metrics is not None:
            trace_id = context.trace_id if context.trace_flags & 1 else ""
            self._metrics.request_ended(method, record.route, record.status, record.seconds, trace_id)
        if not self._logs_requests:
            return
        ids: dict[str, str] = {}
        if context is not current_request():
            ids = {"request_id": context.request_id} | ({"trace_id": context.trace_id} if context.trace_id else {})
        record.write(method, context.client, ids)

    def log_broken_off(self, context: RequestContext) -> None:
        """Log, in one line, that the deadline ended an answer whose status was sent already."""
        _log.warning("request %s was broken off by its deadline, in the midst of its answer", context.request_id)

    def charge(self, context: RequestContext, quota: ServerQuota, key: str | None = None, cost: int = 1) -> None:
        """Charge `quota` with `cost`. May block, for as long as Redis may take.

        All limits of a request are charged, or none: if one refuses, all that the request has paid before is paid back.
        A CORS preflight is not charged. Nor is a request that is counted by address, if its address cannot be known.

        Args:
            context: The request.
            quota: The quota to charge.
            key: The key to charge; None for the key of the server's rule.
            cost: Tokens, at least 1.

        Raises:
            RateLimitedError: The quota is spent.
        """
        key = self.key_of(context, key)
        if key is None:
            return
        decision = quota.bucket.acquire(key, cost)
        if not decision.allowed:
            self.refund(context)
            _refuse(context, (quota, decision, key))
        context.charges += ((quota, decision, key),)

    async def acharge(self, context: RequestContext, quota: ServerQuota, key: str | None = None, cost: int = 1) -> None:
        """Charge `quota` without blocking the thread. For the arguments see `charge`."""
        key = self.key_of(context, key)
        if key is None:
            return
        decision = await quota.bucket.aacquire(key, cost)
        if not decision.allowed:
            await self.arefund(context)
            _refuse(context, (quota, decision, key))
        context.charges += ((quota, decision, key),)

    def refund(self, context: RequestContext) -> None:
        """Pay back all that the request has paid: a limit refuses it, or no limit was to count it. May block."""
        for quota, decision, key in context.charges:
            quota.bucket.refund(key, decision)
        context.charges = _undone(context.charges)

    async def arefund(self, context: RequestContext) -> None:
        """Pay back all that the request has paid without blocking the thread."""
        for quota, decision, key in context.charges:
            await quota.bucket.arefund(key, decision)
        context.charges = _undone(context.charges)

    def key_of(self, context: RequestContext, key: str | None = None) -> str | None:
        """Return the key to charge, at most 128 characters: `key`, or that of the server's rule.

        None for a CORS preflight, and if the address of the client is the key and cannot be known: the first time, the
        gate logs a warning.
        """
        if context.is_preflight:
            return None
        if key is not None:
            return bounded(key)
        key = self._key(context)
        return self.warn_without(context, key) if key is None else key

    def warn_without(self, context: RequestContext, key: str | None) -> str | None:
        """Return `key`. The first time that it is None, log a warning with the reason and the setting to change."""
        if key is None and not self._has_warned:
            self._has_warned = True
            _log.warning(_SILENT_PROXY if self._proxies.trusts_unix else _UNTRUSTED_SOCKET, context.request_id)
        return key

    def quota_for(self, label: str, rate: str, burst: int | None = None, *, name: str) -> ServerQuota:
        """Return the quota of a bucket.

        Args:
            label: The name of the quota in the headers that clients see.
            rate: The rate, such as "5/minute".
            burst: Requests that may come at once; None for the amount of the rate.
            name: The name of the bucket.

        Raises:
            ConfigurationError: The gate has no limiter.
        """
        if self._limiter is None:
            raise ConfigurationError([Problem("rate_limit", rate, "a limiter to keep it in")])
        return ServerQuota(label, self._limiter(name, rate, burst), waits=self._limiter_waits)

    def quota_headers(self, context: RequestContext) -> tuple[tuple[str, str], ...]:
        """Return the `RateLimit` headers of a request; none unless it was charged and `rate_limit_headers` is set."""
        return quota_headers(context.charges) if context.charges and self.options.rate_limit_headers else ()

    def localized(self, envelope: Envelope, accept_language: str | None) -> Envelope:
        """Return an error's envelope in the language that the client prefers, if the catalog has a translation."""
        if self.catalog is None:
            return envelope.in_language(accept_language)
        return self.catalog.localized(envelope, accept_language)

    @property
    def is_closing(self) -> bool:
        """Whether the server is about to stop, so that a client should use another connection for its next request."""
        return self.lifecycle is not None and self.lifecycle.is_draining


def _key_or_rule(key: Callable[[RequestContext], object], rule: KeyRule) -> Callable[[RequestContext], str | None]:
    """Return a function that returns the key of a function of the user, or that of `rule` if it returns none."""

    def key_of(context: RequestContext) -> str | None:
        found = key_text(key(context))
        return rule.of(context) if found is None else bounded(found)

    return key_of


def _undone(charges: tuple[Charge, ...]) -> tuple[Charge, ...]:
    """Return some charges after their refund: the headers show the buckets as they are then."""
    return tuple([(quota, decision.undone(), key) for quota, decision, key in charges])


def _refuse(context: RequestContext, refusal: Charge) -> NoReturn:
    quota, decision, _ = refusal
    context.charges += (refusal,)
    name = quota.bucket.name
    quota.bucket.report(decision)
    raise RateLimitedError(
        f"rate limit {name!r}: {quota.bucket.rate_text} exceeded", policy=name, retry_after=decision.retry_after
    )
