"""Bulkhead: keep one slow dependency from taking every thread or task."""

from resilience.bulkhead._options import BulkheadOptions
from resilience.bulkhead._policy import Bulkhead

__all__ = ("Bulkhead", "BulkheadOptions")
