"""Any value as plain data of a bounded size: numbers, texts, lists and dictionaries that JSON can hold."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time
from enum import Enum
from itertools import islice

from resilience._support.redaction import HIDDEN, Secret
from resilience.logs._secrets import SecretRule

__all__ = ("PlainForm",)

_MAX_DEPTH = 6
_MAX_ITEMS = 100
"""Items of one list or dictionary."""
_MAX_VALUES = 1000
"""Values of one line."""
_TEXTS = 8
"""The extra fields of a line have this many times the characters of one text."""
_LONGEST_NAME = 200
_LEFT_OUT = "..."
_INT64 = 1 << 63


class _Converting(threading.local):
    """Whether this thread is asking an object for its text."""

    is_under_way = False


_CONVERTING = _Converting()


class PlainForm:
    """Turns the extra fields of one line into plain data.

    Lists of lists, mappings without end, objects that refer to themselves and texts of a gigabyte all end: depth, items
    and characters are bounded. An object that is no data is replaced by its `repr`, or by its type if that raises.

    Args:
        secrets: Decides which values are hidden.
        max_text: The most characters of a text.
    """

    __slots__ = ("_characters", "_max_text", "_secrets", "_values")

    def __init__(self, secrets: SecretRule, max_text: int) -> None:
        self._secrets, self._max_text = secrets, max_text
        self._values = _MAX_VALUES
        self._characters = max_text * _TEXTS

    def of(self, value: object, depth: int = 0) -> object:
        """Return a value as plain data."""
        kind = type(value)
        if kind is str:
            return self.text(value)  # type: ignore[arg-type]  # its type was compared
        if value is None or kind is bool:
            return value
        if isinstance(value, int | float):
            return self._number(value)
        if isinstance(value, str):  # StrEnum, markup, and texts that hide themselves
            return HIDDEN if isinstance(value, Secret) else self.text(str.__str__(value))
        return self._other(value, depth)

    def text(self, value: str) -> str:
        """Return a text without its secrets, cut if it is too long."""
        longest = min(self._max_text, max(self._characters, 0))
        self._characters -= min(len(value), longest)
        if len(value) > longest:
            # A margin, so that a secret at the cut is seen whole.
            return f"{self._secrets.without_secrets(value[: longest + 200])[:longest]}... ({len(value)} characters)"
        return self._secrets.without_secrets(value)

    def name(self, value: object) -> str:
        """Return the name of a field as a bounded text."""
        text = str.__str__(value) if isinstance(value, str) else _text_of(value)
        return text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME]

    def field(self, name: str, value: object, depth: int = 0) -> object:
        """Return the value of a field, hidden if its name says that it is a secret."""
        return HIDDEN if value is not None and self._secrets.is_secret(name, value) else self.of(value, depth)

    def _number(self, value: float) -> object:
        if isinstance(value, int):
            # JSON has no limit, but its readers have; and Python refuses to write more than 4,300 digits.
            return value if -_INT64 <= value < 2 * _INT64 else self.text(f"{value:#x}")
        return value if math.isfinite(value) else str(value)

    def _other(self, value: object, depth: int) -> object:
        try:
            if isinstance(value, Mapping | list | tuple | AbstractSet):
                return self._container(value, depth)
            if isinstance(value, Enum):
                return self.of(value.value, depth + 1) if depth < _MAX_DEPTH else self.text(value.name)
            if isinstance(value, date | time):
                return value.isoformat()
        except Exception:  # noqa: BLE001 - of a class of the service: its items, its length
            return f"<{type(value).__name__}>"
        return self.text(_text_of(value))

    def _container(self, value: Mapping[object, object] | list[object] | tuple[object, ...] | AbstractSet[object],
                   depth: int) -> object:  # fmt: skip
        if depth >= _MAX_DEPTH:
            return _LEFT_OUT
        most = min(_MAX_ITEMS, max(self._values, 0))
        self._values -= min(len(value), most)
        if isinstance(value, Mapping):
            found: dict[str, object] = {}
            for key, item in islice(value.items(), most):
                name = self.name(key)
                found[name] = self.field(name, item, depth + 1)
            if len(value) > most:
                found[_LEFT_OUT] = f"{len(value) - most} more"
            return found
        items = [self.of(item, depth + 1) for item in islice(value, most)]
        return items if len(value) <= most else [*items, f"... {len(value) - most} more"]


def _text_of(value: object) -> str:
    """Return the `repr` of an object; its type if the `repr` raises, or writes a line that asks for a `repr` again."""
    if not _CONVERTING.is_under_way:
        _CONVERTING.is_under_way = True
        try:
            if isinstance(value, BaseException):
                return f"{type(value).__name__}: {value}"
            return repr(value)
        except Exception:  # noqa: BLE001 - code of the service
            return f"<{type(value).__name__}>"
        finally:
            _CONVERTING.is_under_way = False
    return f"<{type(value).__name__}>"
