"""Bulkhead: keep one slow dependency from taking every thread or task."""

from resilience.bulkhead._options import BulkheadOptions, ThreadPoolOptions
from resilience.bulkhead._policy import Bulkhead
from resilience.bulkhead._thread_pool import ThreadPoolBulkhead

__all__ = ("Bulkhead", "BulkheadOptions", "ThreadPoolBulkhead", "ThreadPoolOptions")
