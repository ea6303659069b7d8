"""An envelope as `google.rpc.Status`, and the way back: what HTTP has a body for, gRPC carries in its trailers.

Trailers are small: beyond some 8 KiB clients put an error of their own in the place of ours. A status is therefore kept
under 4 KiB. What does not fit is left out in this order: the free details, field violations from the last one on,
the request id (the trailing metadata has it as well), the wait. The code is never left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import DecodeError, EncodeError, Message
from google.protobuf.struct_pb2 import Struct
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from resilience.envelope import Envelope, ErrorCatalog, http_status_for, read_envelope
from resilience.errors import AppError

__all__ = ("DETAILS", "StatusError", "error_from", "error_of_call", "number_of", "short_message", "status_of")

DETAILS = "grpc-status-details-bin"

_LARGEST = 4096
_LARGEST_MESSAGE = 1024
_LARGEST_READ = 65_536
_MOST_DIGITS = 2**53
_FIELDS, _OMITTED, _HTTP_STATUS, _TRACE_ID = "fields", "omitted", "http_status", "trace_id"
_NAMES = {code.value[0]: code.name for code in StatusCode}
_HAS_REASON = "reason" in BadRequest.FieldViolation.DESCRIPTOR.fields_by_name  # since googleapis-common-protos 1.66


def number_of(name: str) -> int:
    """Return the number of a gRPC status by name, that of `UNKNOWN` for a name gRPC does not have."""
    code = StatusCode.__members__.get(name, StatusCode.UNKNOWN)
    return int(code.value[0])


def short_message(message: str) -> str:
    """Return as much of `message` as may be sent: it travels twice, in the details and in a trailer of its own."""
    if len(message) * 4 <= _LARGEST_MESSAGE:
        return message
    return message.encode("utf-8", "replace")[:_LARGEST_MESSAGE].decode("utf-8", "ignore")


def status_of(envelope: Envelope, domain: str) -> Status:
    """Return `envelope` as a status of at most 4 KiB, its code qualified by the service `domain` it belongs to."""
    status = Status(code=number_of(envelope.grpc_status), message=short_message(_text(envelope.message)))
    _add(status, _info(envelope, domain))
    if envelope.retry_after is not None:
        wait = RetryInfo()
        wait.retry_delay.FromMicroseconds(round(envelope.retry_after * 1e6))
        _add(status, wait)
    if envelope.request_id:
        _add(status, RequestInfo(request_id=envelope.request_id))
    if envelope.details:
        with suppress(RecursionError):  # nested deeper than Python goes, and nobody reads that far
            _add_details(status, envelope)
    return status


def _info(envelope: Envelope, domain: str) -> ErrorInfo:
    info = ErrorInfo(reason=envelope.code, domain=domain)
    if envelope.http_status != http_status_for(envelope.grpc_status):
        info.metadata[_HTTP_STATUS] = str(envelope.http_status)
    if envelope.trace_id:
        info.metadata[_TRACE_ID] = envelope.trace_id
    return info


def _add_details(status: Status, envelope: Envelope) -> None:
    """Add which fields are wrong, and whatever else the error says about itself, as far as there is room."""
    details = _sendable(envelope)
    fields = details.pop(_FIELDS, None)
    if not _are_fields(fields):
        if fields is not None:
            details[_FIELDS] = fields
        _add(status, _struct(details))
        return
    omitted = _add_fields(status, fields)
    if omitted:
        already = details.get(_OMITTED)
        details[_OMITTED] = omitted + (already if isinstance(already, int) else 0)
    if details and not _add(status, _struct(details)) and omitted:
        _add(status, _struct({_OMITTED: details[_OMITTED]}))


def _are_fields(fields: Any) -> bool:
    return isinstance(fields, list) and bool(fields) and all(isinstance(field, dict) for field in fields)


def _add_fields(status: Status, fields: list[dict[str, Any]]) -> int:
    """Add as many violations as fit, and return how many did not."""
    bad, size = BadRequest(), status.ByteSize() + _ROOM_AROUND
    for position, field in enumerate(fields):
        violation = _violation(field)
        size += violation.ByteSize() + _ROOM_EACH
        if size > _LARGEST:
            _add(status, bad)
            return len(fields) - position
        bad.field_violations.append(violation)
    _add(status, bad)
    return 0


_ROOM_AROUND, _ROOM_EACH = 128, 4
"""Bytes: for the name of the message, for a note of how many violations are missing, and around each violation."""


def _violation(field: Mapping[str, Any]) -> BadRequest.FieldViolation:
    violation = BadRequest.FieldViolation(
        field=_text(field.get("field", "")), description=_text(field.get("message", ""))
    )
    if _HAS_REASON and field.get("type"):
        violation.reason = _text(field["type"]).upper()
    return violation


def _text(value: Any) -> str:
    """Return `value` as text that protobuf takes: half a surrogate pair is none."""
    return str(value).encode("utf-8", "replace").decode()


def _sendable(envelope: Envelope) -> dict[str, Any]:
    """Return the details as the envelope writes them for HTTP, in text that protobuf takes, keys included."""
    details = json.loads(envelope.render()[0])["details"]
    text = json.dumps(details, ensure_ascii=False).encode("utf-8", "replace")
    sendable: dict[str, Any] = json.loads(text, parse_int=_number)
    return sendable


def _struct(details: Mapping[str, Any]) -> Struct:
    struct = Struct()
    struct.update(details)
    return struct


def _number(digits: str) -> int | str:
    """Return a whole number, as text where a double could not hold it."""
    number = int(digits)
    return number if abs(number) <= _MOST_DIGITS else digits


def _add(status: Status, detail: Message) -> bool:
    """Add `detail`, unless the status would become too large."""
    packed = Packed()
    try:
        packed.Pack(detail)
    except (EncodeError, ValueError):  # nested deeper than protobuf goes
        return False
    status.details.append(packed)
    if status.ByteSize() <= _LARGEST:
        return True
    del status.details[-1]
    return False


class StatusError(Protocol):
    """A failed call: what grpcio raises, in either stack."""

    def code(self) -> StatusCode | None: ...
    def trailing_metadata(self) -> Iterable[Any] | None: ...


def error_of_call(call: StatusError, *, catalog: ErrorCatalog | None = None) -> AppError | None:
    """Return the error a failed call brought in its trailers, or None where it brought none. Never raises."""
    code = call.code()
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS and isinstance(value, bytes) and len(value) <= _LARGEST_READ:
            try:
                status = Status.FromString(value)
            except DecodeError:
                return None
            return error_from(status, catalog=catalog) if code is not None and status.code == code.value[0] else None
    return None


def error_from(status: Status, *, catalog: ErrorCatalog | None = None) -> AppError | None:
    """Return the error a status carries, or None where it names no code. Never raises, whoever wrote the status.

    HTTP status, category and whether to retry come from `catalog` where it knows the code, else from the gRPC status.
    """
    parts = _parts(status)
    info = parts.get(ErrorInfo)
    if info is None or status.code not in _NAMES or status.code == 0:
        return None
    name = _NAMES[status.code]
    http_status = _http_status(info.metadata.get(_HTTP_STATUS, ""), http_status_for(name), catalog, info.reason)
    body = {
        "code": info.reason,
        "message": status.message,
        "details": _details(parts),
        "request_id": parts[RequestInfo].request_id if RequestInfo in parts else "",
        "retry_after": _wait(parts.get(RetryInfo)),
    }
    error = read_envelope(http_status, body, {}, catalog=catalog)
    if error is not None:
        error.grpc_status = name
    return error


_READ = (BadRequest, ErrorInfo, RequestInfo, RetryInfo, Struct)


def _parts(status: Status) -> dict[Any, Any]:
    """Return the first detail of each kind we know; one that cannot be read counts as missing."""
    found: dict[Any, Any] = {}
    for packed in status.details:
        for kind in _READ:
            if kind not in found and packed.TypeName() == kind.DESCRIPTOR.full_name:
                detail = kind()
                try:
                    packed.Unpack(detail)
                except DecodeError:
                    break
                found[kind] = detail
    return found


def _http_status(stated: str, usual: int, catalog: ErrorCatalog | None, code: str) -> int:
    """Return the HTTP status the sender gave its error: stated, else the catalogue's, else the usual one."""
    if stated.isascii() and stated.isdecimal() and len(stated) == len("500"):
        return int(stated)
    if catalog is not None and code in catalog:
        return catalog.get(code).http_status
    return usual


def _details(parts: Mapping[Any, Any]) -> dict[str, Any]:
    struct, bad = parts.get(Struct), parts.get(BadRequest)
    details = {} if struct is None else {name: _plain(value) for name, value in struct.fields.items()}
    if bad is not None:
        details[_FIELDS] = [
            {
                "field": violation.field,
                "message": violation.description,
                "type": violation.reason.lower() if _HAS_REASON else "",
            }
            for violation in bad.field_violations
        ]
    return details


def _plain(value: Any) -> Any:
    """Return a `Value` as Python knows it; a double without a fraction is a whole number, as in JSON."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {name: _plain(inner) for name, inner in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_plain(inner) for inner in value.list_value.values]
    if kind == "number_value":
        return int(value.number_value) if value.number_value.is_integer() else value.number_value
    return None if kind in {"null_value", None} else getattr(value, kind)


def _wait(info: Any) -> float | None:
    return None if info is None else info.retry_delay.ToMicroseconds() / 1e6
