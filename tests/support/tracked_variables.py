"""What an error tracker sends beside an error."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping
from typing import Any

__all__ = ("variables_of",)


def variables_of(error: BaseException) -> str:
    """Return what an error tracker sends: the `repr` of every local variable, items of containers one by one."""
    shown: list[str] = []

    def add(value: Any, levels: int = 6) -> None:
        shown.append(repr(value))
        if levels and isinstance(value, Mapping):
            for each in value.values():
                add(each, levels - 1)
        elif levels and isinstance(value, list | tuple):
            for each in value:
                add(each, levels - 1)
        elif levels and dataclasses.is_dataclass(value):
            add({field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}, levels - 1)

    chain: BaseException | None = error
    while chain is not None:
        for frame, _ in list(traceback.walk_tb(chain.__traceback__))[1:]:  # the first is the caller's own
            add(dict(frame.f_locals))
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    return "\n".join(shown)
