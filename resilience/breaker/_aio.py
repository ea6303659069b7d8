"""The breaker's one coroutine function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.breaker._policy import CircuitBreaker

__all__ = ("call_async",)


async def call_async(breaker: CircuitBreaker, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call the coroutine function `func` guarded by `breaker`; pybreaker's own version needs tornado."""
    return await breaker._chain.acall(func, *args, **kwargs)  # noqa: SLF001 - the method's body, kept where await may stand
