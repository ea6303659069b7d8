"""The log of events: which events become a line, its text, and how many lines a policy may write."""

from resilience.event_log._destination import Destination
from resilience.event_log._lines import error_name, event_fields, opening
from resilience.event_log._log import EVENT_LOG, EventLog, EventSource
from resilience.event_log._options import LogOptions
from resilience.event_log._policy_log import NOT_QUIET, PolicyLog, Sample

__all__ = (
    "EVENT_LOG",
    "NOT_QUIET",
    "Destination",
    "EventLog",
    "EventSource",
    "LogOptions",
    "PolicyLog",
    "Sample",
    "error_name",
    "event_fields",
    "opening",
)
