"""A plugin-based resilience toolkit for existing Python web services.

Names are loaded when they are first used (PEP 562): `import resilience` costs a few milliseconds, and a service that
only retries never imports the packages of a breaker.
"""

from __future__ import annotations

from resilience._version import __version__

TYPE_CHECKING = False  # importing it from typing would take most of the time of `import resilience`
if TYPE_CHECKING:
    from resilience.breaker import CircuitBreaker, CircuitOpenError
    from resilience.budget import RetryBudget
    from resilience.bulkhead import Bulkhead, ThreadPoolBulkhead
    from resilience.cache import Cache
    from resilience.envelope import ErrorCatalog
    from resilience.errors import (
        AppError,
        BulkheadFullError,
        ConfigurationError,
        DeadlineExceededError,
        DrainingError,
        PluginError,
        PoolClosedError,
        PoolError,
        PoolExhaustedError,
        PoolSaturatedError,
        PoolTimeoutError,
        RateLimitedError,
        RejectedError,
        ResilienceError,
        StartupError,
    )
    from resilience.events import Event
    from resilience.fallback import Fallback
    from resilience.health import Health
    from resilience.hedge import Hedge
    from resilience.idempotency import idempotent
    from resilience.keyed import Keyed
    from resilience.lifecycle import Lifecycle
    from resilience.pipeline import Pipeline
    from resilience.policy import Policy, PolicyBase, Replace, RetryAfter, Wait
    from resilience.pool import AsyncPool, Pool
    from resilience.ratelimit import RateLimit, TokenBucket
    from resilience.retry import Retry
    from resilience.singleflight import SingleFlight
    from resilience.timeout import Deadline, Timeout
    from resilience.toolkit import Resilience

__all__ = (
    "AppError",
    "AsyncPool",
    "Bulkhead",
    "BulkheadFullError",
    "Cache",
    "CircuitBreaker",
    "CircuitOpenError",
    "ConfigurationError",
    "Deadline",
    "DeadlineExceededError",
    "DrainingError",
    "ErrorCatalog",
    "Event",
    "Fallback",
    "Health",
    "Hedge",
    "Keyed",
    "Lifecycle",
    "Pipeline",
    "PluginError",
    "Policy",
    "PolicyBase",
    "Pool",
    "PoolClosedError",
    "PoolError",
    "PoolExhaustedError",
    "PoolSaturatedError",
    "PoolTimeoutError",
    "RateLimit",
    "RateLimitedError",
    "RejectedError",
    "Replace",
    "Resilience",
    "ResilienceError",
    "Retry",
    "RetryAfter",
    "RetryBudget",
    "SingleFlight",
    "StartupError",
    "ThreadPoolBulkhead",
    "Timeout",
    "TokenBucket",
    "Wait",
    "__version__",
    "idempotent",
)

_HOMES = {
    "breaker": ("CircuitBreaker", "CircuitOpenError"),
    "budget": ("RetryBudget",),
    "bulkhead": ("Bulkhead", "ThreadPoolBulkhead"),
    "cache": ("Cache",),
    "envelope": ("ErrorCatalog",),
    "errors": tuple(name for name in __all__ if name.endswith("Error") and name != "CircuitOpenError"),
    "events": ("Event",),
    "fallback": ("Fallback",),
    "health": ("Health",),
    "hedge": ("Hedge",),
    "idempotency": ("idempotent",),
    "keyed": ("Keyed",),
    "lifecycle": ("Lifecycle",),
    "pipeline": ("Pipeline",),
    "pool": ("AsyncPool", "Pool"),
    "policy": ("RetryAfter", "Policy", "PolicyBase", "Replace", "Wait"),
    "ratelimit": ("RateLimit", "TokenBucket"),
    "retry": ("Retry",),
    "singleflight": ("SingleFlight",),
    "timeout": ("Deadline", "Timeout"),
    "toolkit": ("Resilience",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            import importlib  # noqa: PLC0415 - already loaded by the interpreter; kept out of our namespace

            value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
