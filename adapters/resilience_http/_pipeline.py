"""The pipeline of a request: yours, the configured one, or the default; with breakers and limits per host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from resilience import Keyed, Pipeline, Policy, Resilience
from resilience.client import configured_policies, default_policies, may_call_again, while_open
from resilience.errors import ConfigurationError, Problem
from resilience.policy import AroundPolicy
from resilience_http._errors import ErrorKinds

__all__ = ("PipelinePair", "host_of", "per_host", "pipeline_for")

_DEFAULT_NAME = "http"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def host_of(request: Any) -> str:
    """Return the host of a request of httpx or requests, with its port unless it is the default port."""
    url = request.url
    if isinstance(url, str):
        url = urlsplit(url)
        host, port = url.hostname or "", url.port
        return host if port in {None, _DEFAULT_PORTS.get(url.scheme)} else f"{host}:{port}"
    return url.host if url.port is None else f"{url.host}:{url.port}"


def per_host(make: Callable[[str], Policy | AroundPolicy], **options: Any) -> Keyed:
    """Return a policy that is one per host.

    Args:
        make: A function that takes `host` or `host:port` and returns a new policy.
        options: Those of `Keyed`.

    Example:
        >>> from resilience import CircuitBreaker, Pipeline
        >>> pipeline = Pipeline("http", per_host(lambda host: CircuitBreaker(name=host)))
    """
    return Keyed(make, host_of, **options)


def pipeline_for(toolkit: Resilience, wanted: Pipeline | str | None, errors: ErrorKinds) -> Pipeline:
    """Return the pipeline of a client.

    Args:
        toolkit: The toolkit with the configuration.
        wanted: A pipeline; or the name of a configured pipeline, whose breaker and limits become one per host. None for
            the pipeline named `http`, or for the default policies if none is configured.
        errors: The exceptions of the library.

    Raises:
        ConfigurationError: No pipeline has this name.
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
            return toolkit.adopt(Pipeline(_DEFAULT_NAME, *policies))
        return _configured(toolkit, _DEFAULT_NAME, errors)
    given: object = wanted
    if not isinstance(given, str):
        raise ConfigurationError([Problem("pipeline", given, "a Pipeline, or the name of one that is configured")])
    # A pipeline that only code has made is taken as it is. An unknown name is refused.
    return _configured(toolkit, given, errors) if toolkit.policies(given) else toolkit.existing_pipeline(given)


def _configured(toolkit: Resilience, name: str, errors: ErrorKinds) -> Pipeline:
    policies = configured_policies(toolkit, name, retry_on=errors.is_transient, exclude=errors.ours, key=host_of)
    return toolkit.adopt(Pipeline(name, *policies))


class PipelinePair:
    """Two pipelines with the same policies: the second one without policies that may call again."""

    def __init__(self, pipeline: Pipeline, when_closed: Callable[[object, Callable[[], None]], bool]) -> None:
        policies = [while_open(policy, when_closed) for policy in pipeline.policies]
        self.repeating = pipeline.with_policies(*policies)
        self.sending_once = pipeline.with_policies(*[policy for policy in policies if not may_call_again(policy)])
