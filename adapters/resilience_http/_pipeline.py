"""Which policies guard a request: those given, those configured, or the usual ones; by host where that matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from resilience import CircuitBreaker, DeadlineExceededError, Keyed, Pipeline, Policy, Resilience, Retry
from resilience.client import while_open
from resilience.errors import ConfigurationError, Problem
from resilience.policy import AroundPolicy

__all__ = ("Errors", "Guards", "host_of", "per_host", "pipeline_for")

_DEFAULT_NAME = "http"
_BY_HOST = frozenset({"breaker", "ratelimit", "bulkhead"})
"""Kinds whose state says something about one host."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Errors(NamedTuple):
    """What a library's errors mean."""

    transient: tuple[type[Exception], ...]
    """Another attempt may fare better."""
    permanent: tuple[type[Exception], ...]
    """Of these, the ones for which it will not."""
    ours: tuple[type[Exception], ...]
    """They say nothing about the host: it was never asked."""

    def is_transient(self, error: Exception) -> bool:
        """Whether another attempt may fare better."""
        if isinstance(error, DeadlineExceededError):
            return error.retryable and not error.is_before_call
        return isinstance(error, self.transient) and not isinstance(error, self.permanent)


def host_of(request: Any) -> str:
    """Return the host a request of httpx or requests goes to, with its port where that is not the usual one."""
    url = request.url
    if isinstance(url, str):
        url = urlsplit(url)
        host, port = url.hostname or "", url.port
        return host if port in {None, _DEFAULT_PORTS.get(url.scheme)} else f"{host}:{port}"
    return url.host if url.port is None else f"{url.host}:{url.port}"


def per_host(make: Callable[[str], Policy | AroundPolicy], **options: Any) -> Keyed:
    """Return a policy that is one per host: `make` takes `host` or `host:port`. `options` are those of `Keyed`."""
    return Keyed(make, host_of, **options)


def pipeline_for(toolkit: Resilience, wanted: Pipeline | str | None, errors: Errors) -> Pipeline:
    """Return the pipeline given, or the one configured under a name, with breaker and limits by host.

    Without a name it is the one configured as `http`, or where there is none: three attempts within 30 s, and for
    each host a breaker that opens when half of its last 100 calls have failed.
    Raises `ConfigurationError` for a name that no pipeline has.
    """
    if isinstance(wanted, Pipeline):
        return wanted
    if wanted is None:
        if not toolkit.config.values(pipeline=_DEFAULT_NAME):
            return Pipeline(_DEFAULT_NAME, *_usual(errors))
        return _configured(toolkit, _DEFAULT_NAME, errors)
    given: Any = wanted
    if not isinstance(given, str):
        raise ConfigurationError([Problem("pipeline", given, "a Pipeline, or the name of one that is configured")])
    # What code alone has made is taken as it is; what nobody has is refused.
    return _configured(toolkit, given, errors) if toolkit.policies(given) else toolkit.existing_pipeline(given)


def _configured(toolkit: Resilience, name: str, errors: Errors) -> Pipeline:
    return Pipeline(name, *[_fitted(toolkit, name, policy, errors) for policy in toolkit.policies(name)])


def _usual(errors: Errors) -> tuple[Any, ...]:
    def breaker(_host: str) -> CircuitBreaker:
        return CircuitBreaker(failure_rate_threshold=0.5, reset_timeout=30, exclude=errors.ours)

    return Retry(attempts=3, on=errors.is_transient, timeout=30), per_host(breaker, name=f"{_DEFAULT_NAME}.breaker")


def _fitted(toolkit: Resilience, name: str, policy: Any, errors: Errors) -> Any:
    """Return a configured policy as HTTP wants it: text cannot say which errors of a library are worth a retry."""
    if isinstance(policy, Retry):
        options = {field: getattr(policy.options, field) for field in policy.options.fields()}
        fitted = Retry(on=errors.is_transient, **options)
        fitted.sources = policy.sources
        return fitted
    if policy.kind not in _BY_HOST:
        return policy

    def make(host: str) -> Any:
        made = next(each for each in toolkit.policies(name, key=host) if each.kind == policy.kind)
        if isinstance(made, CircuitBreaker):
            made.add_excluded_exceptions(*errors.ours)
        return made

    return per_host(make, name=f"{name}.{policy.kind}")


class Guards:
    """A pipeline as two: for requests that do no harm when they arrive twice, and for those that may."""

    def __init__(self, pipeline: Pipeline, when_closed: Callable[[Any, Callable[[], None]], bool]) -> None:
        policies = [while_open(policy, when_closed) for policy in pipeline.policies]
        self.repeating = pipeline.with_policies(*policies)
        self.once = pipeline.with_policies(*[policy for policy in policies if not _repeats(policy)])


def _repeats(policy: Any) -> bool:
    """Whether a policy may call again: one that looks for marked functions does so because it may."""
    return bool(getattr(policy, "retries", False)) or hasattr(policy, "applies_to")
