"""The layer of settings that only clients have: with nothing configured, a retry and a circuit breaker.

The layer is below the pipeline `default`: each of its values is in force in every HTTP and gRPC client, unless a
setting replaces it. So a number that is set somewhere changes that number, and takes no policy away. Only
`ENABLED=false` does. Functions and blocks do not have the layer: it is safe to repeat a request that the transport
knows to be idempotent, but not any function.
"""

from __future__ import annotations

from resilience.config._machine import LayerValue

__all__ = ("CLIENT_DEFAULT", "CLIENT_LAYER")

CLIENT_DEFAULT = "client default"
"""The source of these values."""

_FAILURE_RULES = frozenset({"fail_max", "failure_count_threshold"})
"""Each of them is a rule for failures by itself, so it replaces the rate and does not stand beside it."""

CLIENT_LAYER = (
    LayerValue("pipeline.*.retry", "attempts", 3, CLIENT_DEFAULT),
    LayerValue("pipeline.*.retry", "timeout", 30.0, CLIENT_DEFAULT),
    LayerValue("pipeline.*.breaker", "failure_rate_threshold", 0.5, CLIENT_DEFAULT, _FAILURE_RULES),
    LayerValue("pipeline.*.breaker", "reset_timeout", 30.0, CLIENT_DEFAULT),
)
