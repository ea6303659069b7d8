"""A processor for structlog. It imports nothing of structlog: a processor is a function of three arguments."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, MutableMapping
from typing import Any

from resilience.event_log import LogOptions
from resilience.logs._line import LineForm

__all__ = ("StructlogProcessor",)


class StructlogProcessor:
    """Gives the events of structlog the fields of `JsonFormatter`, in the same order and with the same bounds.

    Put it directly before the renderer. If the event does not have them, it adds `timestamp`, `level`, `logger`,
    `service_name`, the ids, `duration_ms`. It renders `exc_info` and `stack_info`, hides secrets, cuts long texts, and
    turns values that JSON cannot hold into texts.

    Args:
        service_name: The name of the service, such as `config.service.name`.
        max_text: As for `JsonFormatter`.
        redact: As for `JsonFormatter`.

    Raises:
        ConfigurationError: `max_text` or `redact` is wrong.

    Example:
        >>> event = StructlogProcessor(service_name="shop")(None, "info", {"event": "paid", "api_key": "k-1"})
        >>> event["event"], event["level"], event["service_name"], event["api_key"]
        ('paid', 'info', 'shop', '***')
    """

    def __init__(
        self,
        *,
        service_name: str = "service",
        max_text: int = LogOptions.max_text,
        redact: Iterable[str] = LogOptions.redact,
    ) -> None:
        options = LogOptions(max_text=max_text, redact=tuple(redact))
        self._form = LineForm(service_name, options.max_text, options.redact)

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any], /) -> dict[str, object]:
        """Return the fields of the line."""
        name = getattr(logger, "name", None)
        level = "error" if method == "exception" else "warning" if method == "warn" else method
        line = self._form.of_event(event, level, name if isinstance(name, str) else None)
        error = event.get("exc_info")
        if error is not None and error is not False:
            is_flag = not isinstance(error, BaseException | tuple)
            line |= self._form.exception_fields(sys.exc_info() if is_flag else error)
        if stack := event.get("stack_info"):
            text = stack if isinstance(stack, str) else "".join(traceback.format_stack(sys._getframe(1)))  # noqa: SLF001 - as structlog does
            line["stack"] = self._form.stack_field(text)
        return line
