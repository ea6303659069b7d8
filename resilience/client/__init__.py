"""The client side, without a framework: what a call carries, how long it may take, whether it may be repeated."""

from resilience.client._carried import ClientContext, client_headers, is_out_of_time, refuse_if_spent
from resilience.client._default_policies import (
    configured_policies,
    default_policies,
    hedge_named,
    may_call_again,
    owns_call,
    runs_in_threads,
)
from resilience.client._http import IDEMPOTENT_METHODS, asked_wait, is_failure, is_worth_repeating, may_repeat
from resilience.client._options import ClientOptions
from resilience.client._transport_timeout import TransportTimeout
from resilience.client._while_open import while_open

__all__ = (
    "IDEMPOTENT_METHODS",
    "ClientContext",
    "ClientOptions",
    "TransportTimeout",
    "asked_wait",
    "client_headers",
    "configured_policies",
    "default_policies",
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
