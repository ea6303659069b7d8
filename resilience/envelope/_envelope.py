"""The envelope: all that a client gets of an error (L16)."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from resilience.envelope._framework_errors import ANSWERS, worst_of
from resilience.envelope._languages import ENGLISH, chosen
from resilience.envelope._machine import (
    INTERNAL,
    INTERNAL_MESSAGE,
    Sendable,
    is_error_status,
    meaning_of,
    seconds_known,
    sendable,
)
from resilience.envelope._wire import JSON_TYPE, PROBLEM_TYPE, encoded, retry_after_line, safe_headers
from resilience.errors import AppError, ResilienceError, leaves, said_by, shown

__all__ = ("Envelope", "envelope_of", "envelope_of_group", "http_envelope", "validation_envelope")

_log = logging.getLogger("resilience")

_TELLS_WHEN = frozenset({429, 503})
_MOST_FIELDS = 100
_LONGEST_TEXT = 300
_BLANK = "about:blank"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One error as its client gets it. `retry_after` is in seconds, None if it is unknown."""

    code: str = INTERNAL
    message: str = INTERNAL_MESSAGE
    details: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = ""
    trace_id: str = ""
    retry_after: float | None = None
    http_status: int = 500
    grpc_status: str = "INTERNAL"
    headers: Mapping[str, str] = field(default_factory=dict)
    translations: Mapping[str, str] = field(default_factory=dict)
    """The message in other languages, by tag."""
    language: str = ""
    """The tag of the language `message` is in, once that was chosen for a client; else empty."""
    is_remote: bool = False
    """Whether `retry_after` is another service's."""

    def bounded(self, retry_after_max: float) -> Envelope:
        """Return this error with a wait that another service asked for cut to `retry_after_max` seconds."""
        if not self.is_remote or self.retry_after is None or self.retry_after <= retry_after_max:
            return self
        return replace(self, retry_after=retry_after_max)

    def in_language(self, accept_language: str | None, default: str = ENGLISH) -> Envelope:
        """Return this error in the language its client reads best; `default` is that of the message itself."""
        if not self.translations:
            return self
        language = chosen(accept_language, self.translations, default)
        return replace(self, message=self.translations.get(language, self.message), language=language)

    def body(self) -> dict[str, Any]:
        """Return the members of the default body, always all of them."""
        return {
            "code": self.code,
            "message": self.message,
            "details": dict(self.details),
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "retry_after": self.retry_after,
        }

    def problem(self, type_base: str = _BLANK) -> dict[str, Any]:
        """Return the members of an RFC 9457 problem; its `type` is `type_base` followed by the code."""
        members = {
            "type": _type_of(type_base, self.code),
            "title": meaning_of(self.http_status).title,
            "status": self.http_status,
            "detail": self.message,
        }
        if self.request_id:
            members["instance"] = _instance_of(self.request_id)
        extensions = self.body()
        del extensions["message"]
        if self.retry_after is None:
            del extensions["retry_after"]
        return members | extensions

    def render(self, problem: bool = False, type_base: str = _BLANK) -> tuple[bytes, str]:  # noqa: FBT001, FBT002 - render(problem=...) reads either way
        """Return the body and its content type. Never raises, whatever `details` holds."""
        if problem:
            return encoded(self.problem(type_base)), PROBLEM_TYPE
        return encoded(self.body()), JSON_TYPE

    def response_headers(self) -> dict[str, str]:
        """Return the headers that belong to the error: its own, and `Retry-After` on 429 and 503 when known."""
        headers = safe_headers(self.headers)
        if self.http_status in _TELLS_WHEN and self.retry_after is not None:
            headers["Retry-After"] = retry_after_line(self.retry_after)
        if self.language:
            headers["Content-Language"] = self.language
            varies = next((name for name in headers if name.lower() == "vary"), "Vary")
            headers[varies] = ", ".join(filter(None, (headers.get(varies), "Accept-Language")))
        return headers


def _type_of(base: str, code: str) -> str:
    if base == _BLANK:
        return base
    return f"{base}{code}" if base.endswith(("/", "#", "=", ":")) else f"{base}/{code}"


def _instance_of(request_id: str) -> str:
    """Return a URI reference of this one occurrence: an id that is a UUID names it everywhere."""
    try:
        return uuid.UUID(request_id).urn
    except ValueError:
        return "#" + quote(request_id, safe="")


def envelope_of(error: BaseException, *, request_id: str = "", trace_id: str = "") -> Envelope:
    """Return the envelope of `error`.

    The client gets code, message and details of an `AppError`. If its code or status cannot be sent, the error is
    logged and the client gets a 500. For our other errors the client gets the fixed sentence of their class, for all
    other errors a generic 500. The envelope of an exception group is that of the worst error in it (see `worst_of`),
    with the longest `retry_after` of all errors in it.

    Args:
        error: Any exception.
        request_id: The id of the request, "" if it has none.
        trace_id: The id of the trace, "" if it has none.
    """
    if isinstance(error, BaseExceptionGroup):
        return envelope_of_group(error, worst_of(error), request_id=request_id, trace_id=trace_id)
    if not isinstance(error, ResilienceError):
        return Envelope(request_id=request_id, trace_id=trace_id)
    facts = sendable(error.code, error.http_status, error.grpc_status, error.retry_after)
    if not facts.has_code or facts.http_status != error.http_status or facts.grpc_status != error.grpc_status:
        _log_replaced(error, facts)
    if not facts.has_code:
        return Envelope(request_id=request_id, trace_id=trace_id)
    message, details, headers = _public(error)
    return Envelope(
        code=error.code,
        message=message,
        details=details,
        headers=headers,
        request_id=request_id,
        trace_id=trace_id,
        retry_after=facts.retry_after,
        http_status=facts.http_status,
        grpc_status=facts.grpc_status,
        translations=error.translations if isinstance(error, AppError) else {},
        is_remote=error.is_remote,
    )


def envelope_of_group(
    group: BaseExceptionGroup[BaseException], worst: BaseException, *, request_id: str = "", trace_id: str = ""
) -> Envelope:
    """Return the envelope of one error of a group, with the longest `retry_after` of all errors in the group.

    Args:
        group: An exception group of any depth.
        worst: The error in it that the client gets; see `worst_of`.
        request_id: The id of the request, "" if it has none.
        trace_id: The id of the trace, "" if it has none.
    """
    envelope = envelope_of(worst, request_id=request_id, trace_id=trace_id)
    if not isinstance(worst, ANSWERS):
        return envelope
    waits = [
        (seconds_known(said_by(each, "retry_after")), said_by(each, "is_remote") is True) for each in leaves(group)
    ]
    longest = max(((wait, is_remote) for wait, is_remote in waits if wait is not None), default=None)
    return envelope if longest is None else replace(envelope, retry_after=longest[0], is_remote=longest[1])


def _log_replaced(error: ResilienceError, facts: Sendable) -> None:
    """Log the fact of an error that no client can get."""
    if not facts.has_code:
        _log.error("answered as %s: %s is no code a client could rely on", INTERNAL, shown(error.code), exc_info=error)
    elif facts.http_status != error.http_status:
        _log.error("%s answered as 500: its http_status is %s", error.code, shown(error.http_status), exc_info=error)
    else:
        shown_status = shown(error.grpc_status)
        _log.error("%s: its grpc_status is %s, which gRPC does not have", error.code, shown_status, exc_info=error)


def _public(error: ResilienceError) -> tuple[str, dict[str, object], dict[str, str]]:
    if isinstance(error, AppError):
        return str(error.message), _mapping(error, "details"), _mapping(error, "headers")
    return error.public_message, {}, {}


def _mapping(error: AppError, name: str) -> dict[str, Any]:
    """Return the mapping in an attribute, {} if it is no mapping: the client still gets the code."""
    try:
        return dict(getattr(error, name))
    except Exception:  # noqa: BLE001 - anybody can set it to anything
        _log.error("%s: its %s cannot be read as a mapping", error.code, name, exc_info=True)
        return {}


def http_envelope(
    status: int,
    *,
    message: str | None = None,
    details: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    request_id: str = "",
    trace_id: str = "",
) -> Envelope:
    """Return the envelope of a framework's HTTP error.

    Args:
        status: 400 to 599. Another status becomes 500.
        message: The text that the application has chosen for its client; None or "" for our sentence of the status.
            It is sent on every status: only the text of an exception is never sent (L16).
        details: JSON values that the application has chosen for its client.
        headers: HTTP headers of the answer. A `Retry-After` becomes the `retry_after` of the envelope.
        request_id: The id of the request, "" if it has none.
        trace_id: The id of the trace, "" if it has none.
    """
    status = status if is_error_status(status) else 500
    meaning = meaning_of(status)
    return Envelope(
        code=meaning.code,
        message=str(message) if message else meaning.message,
        details=dict(details or {}),
        headers=dict(headers or {}),
        request_id=request_id,
        trace_id=trace_id,
        retry_after=_stated_wait(headers or {}),
        http_status=status,
        grpc_status=meaning.grpc_status,
    )


def _stated_wait(headers: Mapping[str, str]) -> float | None:
    for name, value in headers.items():
        if name.lower() == "retry-after" and value.isascii() and value.isdecimal():
            return seconds_known(float(value))
    return None


def validation_envelope(
    fields: Iterable[Mapping[str, object]], *, request_id: str = "", trace_id: str = ""
) -> Envelope:
    """Return a 422 with the `field`, `message` and `type` of each violation, never with the input.

    Args:
        fields: The violations. At most 100 are listed; `omitted` counts the others.
        request_id: The id of the request, "" if it has none.
        trace_id: The id of the trace, "" if it has none.
    """
    every = list(fields)
    listed = [_field_error(one) for one in every[:_MOST_FIELDS]]
    details: dict[str, object] = {"fields": listed}
    if len(every) > len(listed):
        details["omitted"] = len(every) - len(listed)
    return http_envelope(422, details=details, request_id=request_id, trace_id=trace_id)


def _field_error(one: Mapping[str, object]) -> dict[str, str]:
    return {name: str(one.get(name, ""))[:_LONGEST_TEXT] for name in ("field", "message", "type")}
