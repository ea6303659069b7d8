"""The meaning of an HTTP status: its code, phrase, gRPC status and category. Pure tables and functions.

gRPC to HTTP is the mapping in google/rpc/code.proto; the way back is its inverse, with the nearest word where several
statuses share one. (gRPC's own http-grpc-status-mapping is for proxies without a grpc-status, and not used here.)
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import NamedTuple, TypeGuard

__all__ = (
    "CATEGORIES",
    "GRPC_TO_HTTP",
    "INTERNAL",
    "INTERNAL_MESSAGE",
    "MEANINGS",
    "Meaning",
    "category_for",
    "category_for_grpc",
    "grpc_status_for",
    "http_status_for",
    "is_code",
    "is_error_status",
    "is_retryable",
    "is_retryable_grpc",
    "meaning_of",
    "seconds_known",
    "statuses_for",
)

INTERNAL, INTERNAL_MESSAGE = "INTERNAL", "The service could not handle the request."

_CODE = re.compile(r"[A-Z][A-Z0-9_]*[A-Z0-9]", re.ASCII)
_LONGEST_CODE = 63
_LONGEST_WAIT = 31_536_000.0

GRPC_TO_HTTP = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}


class Meaning(NamedTuple):
    """The meaning of one HTTP status: the toolkit's code, a title, and the default message."""

    code: str
    title: str
    message: str
    grpc_status: str
    category: str


MEANINGS = {
    400: Meaning("BAD_REQUEST", "Bad Request", "The request is not valid.", "INVALID_ARGUMENT", "validation"),
    401: Meaning("UNAUTHENTICATED", "Unauthorized", "Authentication is required.", "UNAUTHENTICATED", "authentication"),
    402: Meaning("PAYMENT_REQUIRED", "Payment Required", "Payment is required.", "FAILED_PRECONDITION", "precondition"),
    403: Meaning("PERMISSION_DENIED", "Forbidden", "This is not allowed.", "PERMISSION_DENIED", "permission"),
    404: Meaning("NOT_FOUND", "Not Found", "There is nothing here.", "NOT_FOUND", "not_found"),
    405: Meaning("METHOD_NOT_ALLOWED", "Method Not Allowed", "This method is not allowed.", "UNIMPLEMENTED", "client"),
    406: Meaning("NOT_ACCEPTABLE", "Not Acceptable", "No acceptable format exists.", "INVALID_ARGUMENT", "client"),
    408: Meaning("REQUEST_TIMEOUT", "Request Timeout", "The request was too slow.", "DEADLINE_EXCEEDED", "timeout"),
    409: Meaning("CONFLICT", "Conflict", "The request conflicts with the current state.", "ABORTED", "conflict"),
    410: Meaning("GONE", "Gone", "This is no longer here.", "NOT_FOUND", "not_found"),
    411: Meaning("LENGTH_REQUIRED", "Length Required", "A length is required.", "INVALID_ARGUMENT", "client"),
    412: Meaning(
        "PRECONDITION_FAILED", "Precondition Failed", "A precondition failed.", "FAILED_PRECONDITION", "precondition"
    ),
    413: Meaning("PAYLOAD_TOO_LARGE", "Content Too Large", "The request is too large.", "INVALID_ARGUMENT", "client"),
    414: Meaning("URI_TOO_LONG", "URI Too Long", "The address is too long.", "INVALID_ARGUMENT", "client"),
    415: Meaning(
        "UNSUPPORTED_MEDIA_TYPE",
        "Unsupported Media Type",
        "This format is not supported.",
        "INVALID_ARGUMENT",
        "client",
    ),
    416: Meaning(
        "RANGE_NOT_SATISFIABLE",
        "Range Not Satisfiable",
        "The range asked for does not exist.",
        "OUT_OF_RANGE",
        "client",
    ),
    422: Meaning(
        "VALIDATION_FAILED", "Unprocessable Content", "The request is not valid.", "INVALID_ARGUMENT", "validation"
    ),
    423: Meaning("LOCKED", "Locked", "This is locked.", "FAILED_PRECONDITION", "precondition"),
    424: Meaning(
        "FAILED_DEPENDENCY",
        "Failed Dependency",
        "A step this depends on failed.",
        "FAILED_PRECONDITION",
        "precondition",
    ),
    425: Meaning("TOO_EARLY", "Too Early", "The request came too early.", "UNAVAILABLE", "unavailable"),
    426: Meaning(
        "UPGRADE_REQUIRED", "Upgrade Required", "Another protocol is required.", "FAILED_PRECONDITION", "client"
    ),
    428: Meaning(
        "PRECONDITION_REQUIRED",
        "Precondition Required",
        "A precondition is required.",
        "FAILED_PRECONDITION",
        "precondition",
    ),
    429: Meaning("RATE_LIMITED", "Too Many Requests", "Too many requests.", "RESOURCE_EXHAUSTED", "rate_limit"),
    431: Meaning(
        "HEADERS_TOO_LARGE",
        "Request Header Fields Too Large",
        "The headers are too large.",
        "INVALID_ARGUMENT",
        "client",
    ),
    499: Meaning("CANCELLED", "Client Closed Request", "The request was cancelled.", "CANCELLED", "cancelled"),
    500: Meaning(INTERNAL, "Internal Server Error", INTERNAL_MESSAGE, "INTERNAL", "internal"),
    501: Meaning("NOT_IMPLEMENTED", "Not Implemented", "This is not implemented.", "UNIMPLEMENTED", "internal"),
    502: Meaning("BAD_GATEWAY", "Bad Gateway", "A service this one needs failed.", "UNAVAILABLE", "dependency"),
    503: Meaning(
        "UNAVAILABLE",
        "Service Unavailable",
        "The service is temporarily unable to handle the request.",
        "UNAVAILABLE",
        "unavailable",
    ),
    504: Meaning("DEADLINE_EXCEEDED", "Gateway Timeout", "The request took too long.", "DEADLINE_EXCEEDED", "timeout"),
}

CATEGORIES = {
    "validation": (422, "INVALID_ARGUMENT"),
    "client": (400, "INVALID_ARGUMENT"),
    "authentication": (401, "UNAUTHENTICATED"),
    "permission": (403, "PERMISSION_DENIED"),
    "not_found": (404, "NOT_FOUND"),
    "conflict": (409, "ABORTED"),
    "precondition": (412, "FAILED_PRECONDITION"),
    "rate_limit": (429, "RESOURCE_EXHAUSTED"),
    "cancelled": (499, "CANCELLED"),
    "internal": (500, "INTERNAL"),
    "dependency": (502, "UNAVAILABLE"),
    "unavailable": (503, "UNAVAILABLE"),
    "timeout": (504, "DEADLINE_EXCEEDED"),
}
"""The HTTP and the gRPC status that say most about each category."""

_PHRASES = {status.value: status.phrase for status in HTTPStatus}

_NOT_BY_HTTP = {"FAILED_PRECONDITION": "precondition", "UNIMPLEMENTED": "internal"}
"""gRPC statuses that share an HTTP status with another one, and mean something else."""

_RETRYABLE = frozenset({408, 425, 429, 502, 503, 504})
_RETRYABLE_GRPC = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"})


def is_code(code: object) -> TypeGuard[str]:
    """Return whether `code` can be a client's constant and a `google.rpc.ErrorInfo.reason`."""
    return isinstance(code, str) and len(code) <= _LONGEST_CODE and _CODE.fullmatch(code) is not None


def is_error_status(status: object) -> TypeGuard[int]:
    """Return whether `status` is an HTTP client or server error, 400 to 599."""
    return isinstance(status, int) and not isinstance(status, bool) and 400 <= status <= 599  # noqa: PLR2004 - HTTP's own


def meaning_of(status: int) -> Meaning:
    """Return the meaning of `status` (400 to 599). Without a code of its own it gets `HTTP_<status>`."""
    known = MEANINGS.get(status)
    if known is not None:
        return known
    code, title = f"HTTP_{status}", _PHRASES.get(status)
    if status >= 500:  # noqa: PLR2004 - HTTP's own
        return Meaning(code, title or "Server Error", INTERNAL_MESSAGE, "INTERNAL", "internal")
    return Meaning(code, title or "Client Error", "The request is not valid.", "INVALID_ARGUMENT", "client")


def grpc_status_for(http_status: int) -> str:
    """Return the gRPC status nearest to an HTTP error status."""
    return meaning_of(http_status).grpc_status


def category_for(http_status: int) -> str:
    """Return the category of an HTTP error status, such as `validation` or `unavailable`."""
    return meaning_of(http_status).category


def category_for_grpc(grpc_status: str) -> str:
    """Return the category of a gRPC status by name, `internal` for a name gRPC does not have."""
    return _NOT_BY_HTTP.get(grpc_status) or category_for(http_status_for(grpc_status))


def statuses_for(category: str) -> tuple[int, str]:
    """Return the HTTP and the gRPC status of a category; for an unknown category those of `internal`."""
    return CATEGORIES.get(category, CATEGORIES["internal"])


def http_status_for(grpc_status: str) -> int:
    """Return the HTTP status of a gRPC status by name, 500 for a name gRPC does not have."""
    return GRPC_TO_HTTP.get(grpc_status, 500)


def is_retryable(http_status: int) -> bool:
    """Return whether a status by itself says that the same request may succeed later."""
    return http_status in _RETRYABLE


def is_retryable_grpc(grpc_status: str) -> bool:
    """Whether a call with this gRPC status can be repeated. `ABORTED` cannot: the client repeats its transaction."""
    return grpc_status in _RETRYABLE_GRPC


def seconds_known(value: object) -> float | None:
    """Return a wait in seconds, None for a value that is negative, NaN, infinite or longer than a year."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return round(float(value), 3) if 0 <= value <= _LONGEST_WAIT else None  # milliseconds are enough


class Sendable(NamedTuple):
    """The facts of an error in the form in which a client can get them; a wrong one is replaced."""

    has_code: bool
    http_status: int
    grpc_status: str
    retry_after: float | None


def sendable(code: object, http_status: object, grpc_status: object, retry_after: object) -> Sendable:
    """Return the facts of an error in the form in which a client can get them.

    Args:
        code: Its code.
        http_status: Its HTTP status. If it is no error status, the answer is a 500.
        grpc_status: Its gRPC status. If gRPC does not have it, it follows from the HTTP status.
        retry_after: Its wait in seconds.
    """
    if not is_error_status(http_status):
        http_status, grpc_status = 500, "INTERNAL"
    elif grpc_status not in GRPC_TO_HTTP:
        grpc_status = grpc_status_for(http_status)
    return Sendable(is_code(code), http_status, str(grpc_status), seconds_known(retry_after))
