"""Circuit breaker: stop calling a dependency that keeps failing, and find out gently when it works again."""

from resilience.breaker._options import BreakerOptions
from resilience.breaker._policy import CircuitBreaker
from resilience.breaker._report import CircuitOpenError

__all__ = ("BreakerOptions", "CircuitBreaker", "CircuitOpenError")
