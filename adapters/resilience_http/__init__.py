"""Outgoing HTTP, guarded: transports for httpx, an adapter for requests. The client itself is used as before.

Each needs its library: `pip install "resilience-plugins[httpx]"` or `"resilience-plugins[requests]"`. Nothing of either
is imported before one of its names is used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as at the root of `resilience`
if TYPE_CHECKING:
    from resilience_http._envelope import raise_for_envelope
    from resilience_http._httpx import ResilienceTransport
    from resilience_http._httpx_async import AsyncResilienceTransport
    from resilience_http._pipeline import host_of, per_host
    from resilience_http._requests import ResilienceAdapter

__all__ = (
    "AsyncResilienceTransport",
    "ResilienceAdapter",
    "ResilienceTransport",
    "host_of",
    "per_host",
    "raise_for_envelope",
)

_HOMES = {
    "AsyncResilienceTransport": "_httpx_async",
    "ResilienceAdapter": "_requests",
    "ResilienceTransport": "_httpx",
    "host_of": "_pipeline",
    "per_host": "_pipeline",
    "raise_for_envelope": "_envelope",
}
_NEEDED = {"_httpx": "httpx", "_httpx_async": "httpx", "_requests": "requests"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - already loaded by the interpreter; kept out of our namespace

    home = _HOMES[name]
    try:
        value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as missing:
        needed = _NEEDED.get(home)
        if missing.name != needed:
            raise
        remedy = f'pip install "resilience-plugins[{needed}]"'
        raise ModuleNotFoundError(f"resilience_http.{name} needs {needed}: {remedy}", name=needed) from missing
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
