"""Cache: answer a call with the result that the same call returned a moment ago."""

from resilience.cache._options import CacheOptions
from resilience.cache._policy import Cache

__all__ = ("Cache", "CacheOptions")
