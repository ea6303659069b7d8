"""An `Envelope` as `google.rpc.Status`, and back: HTTP has the envelope in the body, gRPC in the trailing metadata.

Trailing metadata are small. Beyond some 8 KiB, clients replace the status by an error of their own. So a status is kept
under 4 KiB. If it does not fit, parts are left out in this order: the free details, field violations from the last one
on, the request id (the trailing metadata have it as well), the wait. The code is never left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from google.protobuf.any_pb2 import Any as PackedDetail
from google.protobuf.message import DecodeError, EncodeError, Message
from google.protobuf.struct_pb2 import Struct, Value
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from resilience.envelope import Envelope, ErrorCatalog, http_status_for, read_envelope
from resilience.errors import AppError
from resilience_grpc._types import Metadata

__all__ = ("DETAILS", "StatusError", "error_from", "error_of_call", "number_of", "short_message", "status_of")

DETAILS = "grpc-status-details-bin"
"""The name of the trailing metadata that hold the status."""

_MAX_STATUS = 4096
_MAX_MESSAGE = 1024
_MAX_READ = 65_536
_FIXED_ROOM, _ROOM_PER_VIOLATION = 128, 4
"""Bytes for the name of BadRequest and for a note of how many violations are missing; and around each violation."""
_MAX_EXACT_INTEGER = 2**53
"""The largest number up to which a double holds every whole number."""
_FIELDS, _OMITTED, _HTTP_STATUS, _TRACE_ID = "fields", "omitted", "http_status", "trace_id"
_NAMES = {code.value[0]: code.name for code in StatusCode}
_DEFAULT_HTTP_STATUSES = {name: http_status_for(name) for name in StatusCode.__members__}
_HAS_REASON = "reason" in BadRequest.FieldViolation.DESCRIPTOR.fields_by_name  # since googleapis-common-protos 1.66


# To the wire


def number_of(name: str) -> int:
    """Return the number of a gRPC status. A name that gRPC does not have gives the number of `UNKNOWN`."""
    code = StatusCode.__members__.get(name, StatusCode.UNKNOWN)
    return int(code.value[0])


def short_message(message: str) -> str:
    """Return the part of `message` that is sent. It travels twice: in the details and in metadata of its own."""
    return str(message).encode("utf-8", "replace")[:_MAX_MESSAGE].decode("utf-8", "ignore")


def status_of(envelope: Envelope, domain: str) -> Status:
    """Return an envelope as a status of at most 4 KiB.

    Args:
        envelope: The envelope.
        domain: The service that the code belongs to.
    """
    status = Status(code=number_of(envelope.grpc_status), message=short_message(envelope.message))
    info = ErrorInfo(reason=envelope.code, domain=domain)
    if envelope.http_status != _DEFAULT_HTTP_STATUSES.get(envelope.grpc_status, 500):
        info.metadata[_HTTP_STATUS] = str(envelope.http_status)
    if envelope.trace_id:
        info.metadata[_TRACE_ID] = envelope.trace_id
    details: list[Message] = [info]
    if envelope.retry_after is not None:
        wait = RetryInfo()
        wait.retry_delay.FromMicroseconds(round(envelope.retry_after * 1e6))
        details.append(wait)
    if envelope.request_id:
        details.append(RequestInfo(request_id=envelope.request_id))
    _add(status, *details)
    if envelope.details:
        with suppress(RecursionError):  # nested deeper than Python goes: no client reads that far
            _add_details(status, envelope)
    return status


def _add(status: Status, *details: Message) -> bool:
    """Add each detail that fits. Return whether the last one was added."""
    was_added = False
    for detail in details:
        packed = PackedDetail()
        try:
            packed.Pack(detail)
        except (EncodeError, ValueError):  # nested deeper than protobuf goes
            was_added = False
            continue
        status.details.append(packed)
        was_added = status.ByteSize() <= _MAX_STATUS
        if not was_added:
            del status.details[-1]
    return was_added


def _add_details(status: Status, envelope: Envelope) -> None:
    """Add the violations of fields, and all other details of the error, as far as there is room."""
    details = _sendable(envelope)
    fields = details.pop(_FIELDS, None)
    if not (isinstance(fields, list) and fields and all(isinstance(field, dict) for field in fields)):
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


def _add_fields(status: Status, fields: Sequence[Mapping[str, object]]) -> int:
    """Add as many violations as fit. Return how many did not."""
    bad, size = BadRequest(), status.ByteSize() + _FIXED_ROOM
    for position, field in enumerate(fields):
        violation = BadRequest.FieldViolation(
            field=_text(field.get("field", "")), description=_text(field.get("message", ""))
        )
        if _HAS_REASON and field.get("type"):
            violation.reason = _text(field["type"]).upper()
        size += violation.ByteSize() + _ROOM_PER_VIOLATION
        if size > _MAX_STATUS:
            _add(status, bad)
            return len(fields) - position
        bad.field_violations.append(violation)
    _add(status, bad)
    return 0


def _text(value: object) -> str:
    """Return `value` as text that protobuf takes: half of a surrogate pair is replaced."""
    return str(value).encode("utf-8", "replace").decode()


def _sendable(envelope: Envelope) -> dict[str, Any]:
    """Return the details as the envelope writes them for HTTP, keys and values in text that protobuf takes."""
    details = json.loads(envelope.render()[0])["details"]
    text = json.dumps(details, ensure_ascii=False).encode("utf-8", "replace")
    sendable: dict[str, Any] = json.loads(text, parse_int=_number)
    return sendable


def _struct(details: Mapping[str, Any]) -> Struct:
    struct = Struct()
    struct.update(details)
    return struct


def _number(digits: str) -> int | str:
    """Return a whole number, as text if a double cannot hold it."""
    number = int(digits)
    return number if abs(number) <= _MAX_EXACT_INTEGER else digits


# From the wire


class StatusError(Protocol):
    """A failed call of either stack."""

    def code(self) -> StatusCode | None: ...
    def trailing_metadata(self) -> Metadata | None: ...


def error_of_call(call: StatusError, *, catalog: ErrorCatalog | None = None) -> AppError | None:
    """Return the error in the trailing metadata of a failed call, None if there is none. Never raises.

    Args:
        call: The failed call.
        catalog: The errors that this service knows. Default: none.
    """
    code = call.code()
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS and isinstance(value, bytes) and len(value) <= _MAX_READ:
            try:
                status = Status.FromString(value)
            except DecodeError:
                return None
            return error_from(status, catalog=catalog) if code is not None and status.code == code.value[0] else None
    return None


def error_from(status: Status, *, catalog: ErrorCatalog | None = None) -> AppError | None:
    """Return the error in a status, None if the status has no code of an error. Never raises.

    Args:
        status: The status.
        catalog: The errors that this service knows. HTTP status, category and whether to retry are those of the
            catalog if it knows the code, else those of the gRPC status. Default: none.
    """
    info = _unpacked(status, ErrorInfo)
    if info is None or status.code not in _NAMES or status.code == 0:
        return None
    request, wait = _unpacked(status, RequestInfo), _unpacked(status, RetryInfo)
    name = _NAMES[status.code]
    http_status = _http_status(info.metadata.get(_HTTP_STATUS, ""), http_status_for(name), catalog, info.reason)
    body = {
        "code": info.reason,
        "message": status.message,
        "details": _details(_unpacked(status, Struct), _unpacked(status, BadRequest)),
        "request_id": "" if request is None else request.request_id,
        "retry_after": None if wait is None else wait.retry_delay.ToMicroseconds() / 1e6,
    }
    error = read_envelope(http_status, body, {}, catalog=catalog)
    if error is not None:
        error.grpc_status = name
    return error


DetailT = TypeVar("DetailT", bound=Message)


def _unpacked(status: Status, kind: type[DetailT]) -> DetailT | None:
    """Return the first detail of a kind. A detail that cannot be read is skipped."""
    for packed in status.details:
        if packed.TypeName() == kind.DESCRIPTOR.full_name:
            detail = kind()
            with suppress(DecodeError):
                packed.Unpack(detail)
                return detail
    return None


def _http_status(stated: str, default: int, catalog: ErrorCatalog | None, code: str) -> int:
    """Return the HTTP status of an error: the one that the sender has stated, else the catalog's, else the default."""
    if stated.isascii() and stated.isdecimal() and len(stated) == len("500"):
        return int(stated)
    if catalog is not None and code in catalog:
        return catalog.get(code).http_status
    return default


def _details(struct: Struct | None, bad: BadRequest | None) -> dict[str, object]:
    details = {} if struct is None else {name: _python_value(value) for name, value in struct.fields.items()}
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


def _python_value(value: Value) -> object:
    """Return a `Value` as Python has it. A double without a fraction is a whole number, as in JSON."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {name: _python_value(inner) for name, inner in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_python_value(inner) for inner in value.list_value.values]
    if kind == "number_value":
        return int(value.number_value) if value.number_value.is_integer() else value.number_value
    return None if kind is None or kind == "null_value" else getattr(value, kind)
