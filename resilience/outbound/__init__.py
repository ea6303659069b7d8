"""The client side, without a framework: what a call carries, how long it may take, whether it may be repeated."""

from resilience.outbound._carried import Outbound, is_out_of_time, outbound_headers, refuse_if_spent
from resilience.outbound._http import IDEMPOTENT_METHODS, asked_wait, is_failure, is_worth_repeating, may_repeat
from resilience.outbound._options import ClientOptions
from resilience.outbound._while_open import WhileOpen, while_open

__all__ = (
    "IDEMPOTENT_METHODS",
    "ClientOptions",
    "Outbound",
    "WhileOpen",
    "asked_wait",
    "is_failure",
    "is_out_of_time",
    "is_worth_repeating",
    "may_repeat",
    "outbound_headers",
    "refuse_if_spent",
    "while_open",
)
