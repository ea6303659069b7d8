"""Which policies guard a request: those given, those configured, or the usual ones; by host where that matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from resilience import DeadlineExceededError, Keyed, Pipeline, Policy, Resilience
from resilience.client import configured_policies, default_policies, may_call_again, while_open
from resilience.errors import ConfigurationError, Problem
from resilience.policy import AroundPolicy

__all__ = ("Errors", "Guards", "host_of", "per_host", "pipeline_for")

_DEFAULT_NAME = "http"
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
            policies = default_policies(
                errors.is_transient,
                exclude=errors.ours,
                breaker_key=host_of,
                breaker_name=f"{_DEFAULT_NAME}.breaker",
            )
            return Pipeline(_DEFAULT_NAME, *policies)
        return _configured(toolkit, _DEFAULT_NAME, errors)
    given: Any = wanted
    if not isinstance(given, str):
        raise ConfigurationError([Problem("pipeline", given, "a Pipeline, or the name of one that is configured")])
    # What code alone has made is taken as it is; what nobody has is refused.
    return _configured(toolkit, given, errors) if toolkit.policies(given) else toolkit.existing_pipeline(given)


def _configured(toolkit: Resilience, name: str, errors: Errors) -> Pipeline:
    policies = configured_policies(toolkit, name, retry_on=errors.is_transient, exclude=errors.ours, key=host_of)
    return Pipeline(name, *policies)


class Guards:
    """A pipeline as two: for requests that do no harm when they arrive twice, and for those that may."""

    def __init__(self, pipeline: Pipeline, when_closed: Callable[[Any, Callable[[], None]], bool]) -> None:
        policies = [while_open(policy, when_closed) for policy in pipeline.policies]
        self.repeating = pipeline.with_policies(*policies)
        self.once = pipeline.with_policies(*[policy for policy in policies if not may_call_again(policy)])
