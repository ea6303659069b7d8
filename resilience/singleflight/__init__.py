"""Single flight: callers that want the same thing at the same time share one call."""

from resilience.singleflight._options import SingleFlightOptions
from resilience.singleflight._policy import SingleFlight

__all__ = ("SingleFlight", "SingleFlightOptions")
