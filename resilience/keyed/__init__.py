"""One policy for each host, tenant or method, bounded in number."""

from resilience.keyed._options import KeyedOptions
from resilience.keyed._policy import Keyed

__all__ = ("Keyed", "KeyedOptions")
