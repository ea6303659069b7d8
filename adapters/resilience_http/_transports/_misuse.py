"""A transport in the wrong client, and a wrong object in a transport: refused when the client or transport is made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from resilience import Pipeline, Resilience
from resilience.errors import ConfigurationError, Problem

__all__ = ("check_inner", "refuse_transport")


_NAMES = {"handle_request": "ResilienceTransport", "handle_async_request": "AsyncResilienceTransport"}


def check_inner(inner: object, method: str) -> None:
    """Refuse an object inside of a transport that cannot make its requests.

    Args:
        inner: The object given; None for the library's own transport.
        method: The method that makes a request.
    """
    if inner is None or (callable(getattr(inner, method, None)) and not isinstance(inner, type)):
        return
    kind, hint = _NAMES[method], ""
    if isinstance(inner, Resilience):
        hint = f"write {kind}(resilience=toolkit)"
    elif isinstance(inner, Pipeline):
        hint = f"write {kind}(pipeline=pipeline)"
    elif isinstance(inner, str):
        hint = f"for the pipeline of this name write {kind}(pipeline={inner!r})"
    elif isinstance(inner, type):
        hint = f"give an instance: {kind}({inner.__name__}())"
    elif hasattr(inner, "handle_request") or hasattr(inner, "handle_async_request"):
        hint = "one is for blocking clients, the other for awaiting ones"
    raise ConfigurationError([Problem("inner", inner, f"a transport with the method {method}, or None", hint)])


def refuse_transport(client: Any, transport: type, *, is_awaiting: bool) -> None:
    """Make `client`, which awaits or not, refuse our `transport` of the other colour when it is made.

    The library itself finds out at the first request.
    """
    build: Callable[..., None] = client.__init__
    instead, name = list(_NAMES.values())[:: -1 if is_awaiting else 1]

    @functools.wraps(build)
    def initialize(self: object, *args: Any, **options: Any) -> None:
        mounts = options.get("mounts")
        given = [options.get("transport"), *(mounts.values() if isinstance(mounts, Mapping) else ())]
        if any(isinstance(each, transport) for each in given):
            place = f"{client.__module__.partition('.')[0]}.{client.__name__}"
            raise ConfigurationError(f"{name} is not for {place}: write {place}(transport={instead}())")
        build(self, *args, **options)

    client.__init__ = initialize
