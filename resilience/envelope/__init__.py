"""Errors as clients see them: a catalogue of codes, one body for all of them, and the way back."""

from resilience.envelope._accept import explicit_quality, wants_problem
from resilience.envelope._catalog import ErrorCatalog
from resilience.envelope._definition import ErrorDefinition
from resilience.envelope._envelope import (
    Envelope,
    envelope_of,
    envelope_of_group,
    http_envelope,
    validation_envelope,
)
from resilience.envelope._framework_errors import ANSWERS, split_detail, worst_of
from resilience.envelope._lock import changes_since, lock_of
from resilience.envelope._machine import (
    category_for,
    category_for_grpc,
    grpc_status_for,
    http_status_for,
    is_retryable_grpc,
    statuses_for,
)
from resilience.envelope._read import read_envelope
from resilience.envelope._schema import ENVELOPE_SCHEMA, PROBLEM_SCHEMA, title_of
from resilience.envelope._violations import violations_of
from resilience.envelope._wire import JSON_TYPE, PROBLEM_TYPE, is_header

__all__ = (
    "ANSWERS",
    "ENVELOPE_SCHEMA",
    "JSON_TYPE",
    "PROBLEM_SCHEMA",
    "PROBLEM_TYPE",
    "Envelope",
    "ErrorCatalog",
    "ErrorDefinition",
    "category_for",
    "category_for_grpc",
    "changes_since",
    "envelope_of",
    "envelope_of_group",
    "explicit_quality",
    "grpc_status_for",
    "http_envelope",
    "http_status_for",
    "is_header",
    "is_retryable_grpc",
    "lock_of",
    "read_envelope",
    "split_detail",
    "statuses_for",
    "title_of",
    "validation_envelope",
    "violations_of",
    "wants_problem",
    "worst_of",
)
