"""Resilience for an existing FastAPI application: `install(app)`, and nothing else in the application changes.

Needs the `fastapi` extra: `pip install "resilience-plugins[fastapi]"`.
"""

try:
    import fastapi as _fastapi  # noqa: F401 - asked for first, so that what is missing is named with its remedy
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(
        'resilience_fastapi needs FastAPI: pip install "resilience-plugins[fastapi]"', name="fastapi"
    ) from _missing

from resilience_fastapi._disconnect import DisconnectOnCancel
from resilience_fastapi._install import install
from resilience_fastapi._limit import rate_limit
from resilience_fastapi._middleware import ResilienceMiddleware
from resilience_fastapi._openapi import error_responses
from resilience_fastapi._probes import health_router

__all__ = ("DisconnectOnCancel", "ResilienceMiddleware", "error_responses", "health_router", "install", "rate_limit")
