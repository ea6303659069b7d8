"""One policy for each host, tenant or method, bounded in number."""

from resilience.keyed._options import KeyedOptions
from resilience.keyed._policy import Keyed
from resilience.keyed._view import KeyedView

__all__ = ("Keyed", "KeyedOptions", "KeyedView")
