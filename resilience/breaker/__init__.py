"""Circuit breaker: stop calling what keeps failing, and find out gently whether it is back."""

from resilience.breaker._errors import CircuitOpenError
from resilience.breaker._options import BreakerOptions
from resilience.breaker._policy import CircuitBreaker

__all__ = ("BreakerOptions", "CircuitBreaker", "CircuitOpenError")
