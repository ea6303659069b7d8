"""The client side, without a framework: the headers of a call, its time, and whether it may repeat."""

from resilience.client._context import ClientContext, client_headers, is_out_of_time, refuse_if_spent
from resilience.client._held_results import while_open
from resilience.client._http import IDEMPOTENT_METHODS, asked_wait, is_failure, is_worth_repeating, may_repeat
from resilience.client._options import ClientOptions
from resilience.client._policy_kinds import hedge_named, may_call_again, owns_call, runs_in_threads
from resilience.client._transport_timeout import TransportTimeout
from resilience.event_log import Destination

__all__ = (
    "IDEMPOTENT_METHODS",
    "ClientContext",
    "ClientOptions",
    "Destination",
    "TransportTimeout",
    "asked_wait",
    "client_headers",
    "hedge_named",
    "is_failure",
    "is_out_of_time",
    "is_worth_repeating",
    "may_call_again",
    "may_repeat",
    "owns_call",
    "refuse_if_spent",
    "runs_in_threads",
    "while_open",
)
