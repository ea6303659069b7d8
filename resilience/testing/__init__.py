"""Tools for the tests of a service, and of policies written for the toolkit.

The switches act on all policies of the process: `manual_clock`, `no_waits`, `policies_off`, `record_events`, `reset`.
The pytest plugin of this package has a fixture for each of them, and calls `reset` between tests.
`ManualClock` and `RecordingListener` are for single policies. `PolicyConformance` is the suite that every built-in
policy passes: subclass it in your tests, return your policy from `make_policy`, and pytest runs it.
"""

from typing import TYPE_CHECKING

from resilience.plugins import lazy_names

if TYPE_CHECKING:
    from resilience.retry import no_waits
    from resilience.testing._conformance import PolicyConformance
    from resilience.testing._install import install
    from resilience.testing._manual_clock import ManualClock, manual_clock
    from resilience.testing._process_switches import policies_off, reset
    from resilience.testing._recording import RecordingListener, record_events

__all__ = (
    "ManualClock",
    "PolicyConformance",
    "RecordingListener",
    "install",
    "manual_clock",
    "no_waits",
    "policies_off",
    "record_events",
    "reset",
)

# The plugin replaces the clock before a module with a policy is imported. So this package imports none by itself.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "_conformance": ("PolicyConformance",),
        "_install": ("install",),
        "_manual_clock": ("ManualClock", "manual_clock"),
        "_process_switches": ("no_waits", "policies_off", "reset"),
        "_recording": ("RecordingListener", "record_events"),
    },
)
