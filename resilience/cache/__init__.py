"""Cache: what a call returned a moment ago, instead of another call."""

from resilience.cache._options import CacheOptions
from resilience.cache._policy import Cache

__all__ = ("Cache", "CacheOptions")
