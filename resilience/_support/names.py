"""How a name of the user's is compared with one that stood in a variable."""

from __future__ import annotations

import re

__all__ = ("fold",)

_BETWEEN = re.compile(r"[-._/]+")


def fold(name: str) -> str:
    """Return the form in which `payments-api`, `payments.api` and `PAYMENTS_API` are one name."""
    return _BETWEEN.sub("_", name.lower()).strip("_")
