"""What an error says, in notes (PEP 678), about what was tried before it reached the caller."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

__all__ = ("annotate",)


def annotate(error: BaseException, begins: str, notes: Iterable[str]) -> None:
    """Put `notes`, each of which begins with `begins`, on `error` in place of those that met it before.

    One error object may be raised again and again: what is said on it must not grow.
    """
    with contextlib.suppress(Exception):  # what cannot take a note (a frozen dataclass) is still the caller's error
        # Not getattr: urllib's HTTPError raises KeyError for an attribute it does not have (python/cpython#98778).
        others = [note for note in vars(error).get("__notes__", ()) if not str(note).startswith(begins)]
        error.__notes__ = [*others, *notes]
