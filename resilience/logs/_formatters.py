"""Formatters for log handlers: a JSON object in one line, or a text to read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from resilience.event_log import LogOptions
from resilience.logs._line import IDS, LineForm

__all__ = ("JsonFormatter", "TextFormatter")

# Each character outside of ASCII is escaped, so no text can break a line or change a terminal.
_ENCODE = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode
_TEXT_OF = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
_IN_FRONT = frozenset({"timestamp", "level", "logger", "event", "service_name", "process", "exception", "stack"})


class _LineFormatter(logging.Formatter):
    """The arguments of both formatters."""

    def __init__(
        self,
        *,
        service_name: str = "service",
        max_text: int = LogOptions.max_text,
        redact: Iterable[str] = LogOptions.redact,
    ) -> None:
        super().__init__()
        options = LogOptions(max_text=max_text, redact=tuple(redact))
        self._form = LineForm(service_name, options.max_text, options.redact)


class JsonFormatter(_LineFormatter):
    """Formats each record as a JSON object in one line.

    The fields are `timestamp` (RFC 3339, UTC), `level`, `logger`, `event` (the message), `service_name`, `request_id`,
    `trace_id`, `span_id` and `duration_ms`, null if they are unknown; `process`; `trace_sampled` within a trace; the
    fields of `extra`; and `exception` with `exception_type` after an error.

    No record makes it fail. Values that JSON cannot hold become texts. Secrets are hidden, long texts are cut, and an
    extra field with a name of ours is written as `extra_<name>`.

    Args:
        service_name: The name of the service, such as `config.service.name`.
        max_text: The most characters of a text, 100 to 1,000,000. A traceback has twice as many, and all extra fields
            of a line eight times as many.
        redact: Words besides `password`, `token` and their like: the value of a field whose name has one is hidden.

    Raises:
        ConfigurationError: `max_text` or `redact` is wrong.

    Example:
        >>> record = logging.makeLogRecord({"msg": "paid", "levelname": "INFO", "order": "o-1", "card_token": "4711"})
        >>> line = json.loads(JsonFormatter(service_name="shop").format(record))
        >>> [line[name] for name in ("event", "level", "service_name", "order", "card_token")]
        ['paid', 'info', 'shop', 'o-1', '***']
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return _ENCODE(self._form.of_record(record))


class TextFormatter(_LineFormatter):
    r"""Formats each record as a text to read: time, level, logger, message, extra fields.

    A record is one line. The traceback of an error follows in lines of its own, each one indented, so no text of a
    client can look like a record. Secrets and long texts are treated as by `JsonFormatter`.

    Args:
        service_name: Not shown; so both formatters take the same arguments.
        max_text: As for `JsonFormatter`.
        redact: As for `JsonFormatter`.

    Raises:
        ConfigurationError: `max_text` or `redact` is wrong.

    Example:
        >>> record = logging.makeLogRecord({"msg": "paid\nFAKE", "levelname": "INFO", "name": "shop", "order": "o-1"})
        >>> TextFormatter().format(record).partition(" ")[2]
        'INFO shop paid\\nFAKE order="o-1"'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the lines of the traceback."""
        line = self._form.of_record(record)
        words = [_printable(line[name]) for name in ("timestamp", "level", "logger", "event")]
        words[1] = words[1].upper()
        for name, value in line.items():
            if name not in _IN_FRONT and value is not None and not name.startswith("resilience_"):
                shown = value if name in IDS else _TEXT_OF(value)
                words.append(f"{_printable(name)}={_printable(shown)}")
        below = [str(line[name]) for name in ("exception", "stack") if name in line]
        return "\n    ".join([" ".join(words), *(_printable(each) for text in below for each in text.splitlines())])


def _printable(text: object) -> str:
    """Return a text in one line: all characters that are not printable are escaped as in `repr`."""
    line = text if isinstance(text, str) else _TEXT_OF(text)
    return line if line.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
