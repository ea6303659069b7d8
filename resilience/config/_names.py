"""Names of settings: a single `_` is part of a word, `__` separates two words."""

from __future__ import annotations

import re
from typing import Literal

from resilience._support.names import fold

__all__ = ("PREFIX", "Key", "Origin", "dotted", "fold", "is_foreign", "split", "variable")

PREFIX = "RESILIENCE_"

Key = tuple[str, ...]
"""Section, instance and field as folded words: `("pipeline", "payments", "retry", "attempts")`."""

Origin = Literal["argument", "environment", "file"]

# Kubernetes sets variables for each service of the namespace in every pod. A service called "resilience" or
# "resilience-demo" would look like a page of typing mistakes.
_KUBERNETES = re.compile(
    r"RESILIENCE_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def split(name: str) -> Key | None:
    """Return the key of a variable, or None if its name does not begin with our prefix."""
    if name[: len(PREFIX)].upper() != PREFIX:
        return None
    return tuple(fold(word) for word in name[len(PREFIX) :].split("__"))


def variable(key: Key) -> str:
    """Return the variable that sets `key`."""
    return PREFIX + "__".join(key).upper()


def dotted(key: Key) -> str:
    """Return `key` as files and code write it."""
    return ".".join(key)


def is_foreign(name: str) -> bool:
    """Whether Kubernetes set this variable, although its name begins with our prefix."""
    return _KUBERNETES.fullmatch(name) is not None
