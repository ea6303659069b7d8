"""The pipeline of a request: yours, or that of a name in the toolkit, with breakers and limits per host."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from resilience import Keyed, Pipeline, Policy, Resilience
from resilience.client import may_call_again, while_open
from resilience.errors import ConfigurationError, Problem
from resilience.policy import AroundPolicy
from resilience_http._errors import ErrorKinds

__all__ = ("PipelinePair", "host_of", "per_host", "pipeline_for", "toolkit_of")

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


def toolkit_of(given: Resilience | None) -> Resilience:
    """Return the toolkit of a client: the given one, or that of the process."""
    wanted: object = given
    if isinstance(wanted, str):
        hint = f"for the pipeline of this name write pipeline={wanted!r}"
        raise ConfigurationError([Problem("resilience", wanted, "a Resilience, or None", hint)])
    return Resilience.default() if given is None else Resilience.of(given)


def pipeline_for(toolkit: Resilience, wanted: Pipeline | str | None, errors: ErrorKinds) -> Pipeline:
    """Return the pipeline of a client. Its state belongs to the toolkit, the name and the host, not to the client.

    Args:
        toolkit: The toolkit with the configuration and the state.
        wanted: A pipeline; or the name of a configured pipeline, whose breaker, limits and bulkhead become one per
            host. None for the pipeline named `http`.
        errors: The exceptions of the library.

    Raises:
        ConfigurationError: No pipeline has this name.
    """
    if isinstance(wanted, Pipeline):
        return wanted
    if wanted is not None:
        given: object = wanted
        if not isinstance(given, str):
            raise ConfigurationError([Problem("pipeline", given, "a Pipeline, or the name of one that is configured")])
        toolkit.existing_pipeline(given)  # an unknown name is refused
    name = _DEFAULT_NAME if wanted is None else wanted
    return toolkit.client_pipeline(name, host_of, retry_on=errors.is_transient, exclude=errors.ours)


_WhenClosed: TypeAlias = Callable[[object, Callable[[], None]], bool]


class PipelinePair:
    """Two pipelines with the same policies: the second one without policies that may call again."""

    def __init__(self, pipeline: Pipeline, when_closed: _WhenClosed) -> None:
        policies = [while_open(policy, when_closed) for policy in pipeline.policies]
        self.repeating = pipeline.with_policies(*policies)
        self.sending_once = pipeline.with_policies(*[policy for policy in policies if not may_call_again(policy)])

    @classmethod
    def of(cls, pipeline: Pipeline, when_closed: _WhenClosed) -> PipelinePair:
        """Return the pair of a pipeline. Clients that are made per request share it, and the calls compiled for it."""
        pairs = _PAIRS.setdefault(pipeline, {})
        return pairs.get(when_closed) or pairs.setdefault(when_closed, cls(pipeline, when_closed))


_PAIRS: weakref.WeakKeyDictionary[Pipeline, dict[_WhenClosed, PipelinePair]] = weakref.WeakKeyDictionary()
