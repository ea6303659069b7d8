"""Notes on an error (PEP 678) about the attempts that were made before it reached the caller."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

__all__ = ("annotate",)


def annotate(error: BaseException, begins: str, notes: Iterable[str]) -> None:
    """Put `notes`, each of which begins with `begins`, on `error` in place of those that met it before.

    One error object may be raised again and again: its notes must not grow.
    """
    with contextlib.suppress(Exception):  # an error that cannot have notes (a frozen dataclass) is still the caller's
        # Not getattr: urllib's HTTPError raises KeyError for an attribute it does not have (python/cpython#98778).
        others = [note for note in vars(error).get("__notes__", ()) if not str(note).startswith(begins)]
        error.__notes__ = [*others, *notes]
