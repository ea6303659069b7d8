"""The fields of one line, made of a log record or of the event of structlog."""

from __future__ import annotations

import functools
import logging
import os
import time
import traceback
from collections.abc import Iterator, Mapping

from resilience.logs._ids import current_ids
from resilience.logs._plain import PlainForm
from resilience.logs._secrets import SecretRule

__all__ = ("IDS", "NO_ID", "LineForm", "rfc3339")

NO_ID = "-"
"""Stands in a record for an id that does not exist."""
IDS = ("request_id", "trace_id", "span_id")

_OF_A_RECORD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
_NOT_SHOWN = _OF_A_RECORD | {*IDS, "service_name", "trace_sampled", "duration_ms", "color_message"}
"""`color_message` is uvicorn's own message again, with the codes of a terminal."""
_TAKEN = frozenset({"timestamp", "level", "logger", "event", "exception", "exception_type", "stack", "process"})
"""Names of ours that `extra` may have as well."""
_FOUR_DIGITS = 1000
_DURATIONS = ("elapsed", "latency", "lasted")
"""Facts of events, in seconds, that say how long the work took."""


def rfc3339(seconds: object) -> str:
    """Return a time in seconds since 1970 as RFC 3339 in UTC, with microseconds; the present time if it is none."""
    try:
        whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)  # type: ignore[operator]  # or TypeError, below
        return f"{_second(whole)}.{micros:06d}Z"
    except (OverflowError, ValueError, OSError, TypeError):  # a record from elsewhere
        return rfc3339(time.time())


@functools.lru_cache(maxsize=8)
def _second(whole: int) -> str:
    day = time.gmtime(whole)
    return time.strftime("%Y-%m-%dT%H:%M:%S", day) if day.tm_year >= _FOUR_DIGITS else _second(0)


class LineForm:
    """Makes the fields of a line.

    Each line has `timestamp`, `level`, `logger`, `event` (the message), `service_name`, `request_id`, `trace_id`,
    `span_id` and `duration_ms`, in this order. They are None if they are unknown. The extra fields follow.

    Args:
        service_name: The name of the service.
        max_text: The most characters of a text.
        redact: Words of field names whose values are hidden, besides the usual ones.
    """

    def __init__(self, service_name: str, max_text: int, redact: tuple[str, ...]) -> None:
        self.service_name = service_name
        self._max_text = max_text
        self._secrets = SecretRule(redact)

    def of_record(self, record: logging.LogRecord) -> dict[str, object]:
        """Return the fields of a log record. Nothing in it can make this fail."""
        given = record.__dict__
        plain = PlainForm(self._secrets, self._max_text)
        message, fault = _message(record)
        line = {
            "timestamp": rfc3339(record.created),
            "level": _lower(plain.of(record.levelname)),
            "logger": plain.of(record.name),
            "event": plain.text(message),
            "service_name": plain.of(given.get("service_name", self.service_name)),
            **self._ids(given, plain),
            "duration_ms": _duration(given, plain),
            "process": plain.of(given.get("process")),
        }
        if fault:
            line["logging_error"] = fault
        for name in [each for each in given if each not in _NOT_SHOWN]:
            field = plain.name(name)
            line[f"extra_{field}" if field in _TAKEN else field] = plain.field(field, given[name])
        self._add_exception(line, record)
        return line

    def of_event(self, given: Mapping[str, object], level: str, logger: str | None) -> dict[str, object]:
        """Return the fields of an event of structlog."""
        plain = PlainForm(self._secrets, self._max_text)
        line = {
            "timestamp": plain.of(given.get("timestamp") or rfc3339(time.time())),
            "level": plain.of(given.get("level") or level),
            "logger": plain.of(given.get("logger") or logger),
            "event": plain.of(given.get("event")),
            "service_name": plain.of(given.get("service_name", self.service_name)),
            **self._ids(given, plain),
            "duration_ms": _duration(given, plain),
            "process": plain.of(given.get("process", os.getpid())),
        }
        for name, value in given.items():
            field = plain.name(name)
            if field not in line and field not in {"exc_info", "stack_info"}:
                line[field] = plain.field(field, value)
        return line

    def exception_fields(self, error: object) -> dict[str, object]:
        """Return the type and the traceback of `exc_info` in any of its forms; empty if it names no error."""
        if isinstance(error, tuple) and len(error) > 1:
            error = error[1]
        if not isinstance(error, BaseException):
            return {}
        text = "".join(_traceback_of(error)).rstrip("\n")
        return {"exception_type": type(error).__name__, "exception": self._ends_of(text)}

    def stack_field(self, stack: str) -> str:
        """Return the text of a stack, without secrets and bounded."""
        return self._ends_of(stack)

    def _ids(self, given: Mapping[str, object], plain: PlainForm) -> dict[str, object]:
        """Return the ids that a filter or the caller has put into a record; those of the present context if none has.

        A handler behind a queue formats in another thread: there, the context is another one.
        """
        if "request_id" in given and "trace_id" in given and "span_id" in given:
            ids = {name: _known(given[name], plain) for name in IDS}
            is_sampled = given.get("trace_sampled")
        else:
            found = current_ids()
            ids = {name: _known(given.get(name, getattr(found, name)), plain) for name in IDS}
            is_sampled = found.is_sampled
        return ids if is_sampled is None else {**ids, "trace_sampled": plain.of(is_sampled)}

    def _add_exception(self, line: dict[str, object], record: logging.LogRecord) -> None:
        if record.exc_info:
            line.update(self.exception_fields(record.exc_info))
        elif record.exc_text:  # of a record that has come from another process, or over a queue
            line["exception"] = self._ends_of(str(record.exc_text))
        if record.stack_info:
            line["stack"] = self._ends_of(str(record.stack_info))

    def _ends_of(self, text: str) -> str:
        """Return a traceback without secrets: if it is too long, its beginning and, above all, its end."""
        longest = 2 * self._max_text
        if len(text) > longest:
            head, tail = text[: longest // 4], text[-(longest - longest // 4) :]
            text = f"{head}\n... ({len(text) - longest} characters)\n{tail}"
        return self._secrets.without_secrets(text)


def _message(record: logging.LogRecord) -> tuple[str, str]:
    """Return the message, and why its arguments do not fit into it."""
    if not record.args and type(record.msg) is str:
        return record.msg, ""
    try:
        return record.getMessage(), ""
    except Exception as error:  # noqa: BLE001 - the arguments are objects of the service, and may raise anything
        template = record.msg if isinstance(record.msg, str) else f"<{type(record.msg).__name__}>"
        return template, f"{type(error).__name__} in the arguments of the message"


def _known(value: object, plain: PlainForm) -> object:
    return None if isinstance(value, str) and value in {NO_ID, ""} else plain.of(value)


def _lower(level: object) -> object:
    return level.lower() if isinstance(level, str) else level


def _duration(given: Mapping[str, object], plain: PlainForm) -> object:
    """Return the milliseconds that a record states, or that are a fact of its event."""
    if "duration_ms" in given:
        return plain.of(given["duration_ms"])
    facts = given.get("resilience_facts")
    if isinstance(facts, dict):
        names = ("seconds",) if given.get("resilience_event") == "health.changed" else _DURATIONS
        for name in names:
            if isinstance(seconds := facts.get(name), int | float):
                return round(seconds * 1000, 3)
    return None


def _traceback_of(error: BaseException) -> Iterator[str]:
    try:
        yield from traceback.format_exception(error)
    except Exception:  # noqa: BLE001 - code of the service: the text of an error, or of a group
        yield f"{type(error).__name__}, whose traceback cannot be written"
