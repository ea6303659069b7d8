"""How settings are called: one `_` stays inside a word, two of them separate words."""

from __future__ import annotations

import re
from typing import Literal

from resilience._support.names import fold

__all__ = ("PREFIX", "Key", "Origin", "dotted", "fold", "is_foreign", "split", "variable")

PREFIX = "RESILIENCE_"

Key = tuple[str, ...]
"""Section, instance and field as folded words: `("pipeline", "payments", "retry", "attempts")`."""

Origin = Literal["argument", "environment", "file"]

# Kubernetes gives every pod variables about each service of the namespace, so a service called "resilience" or
# "resilience-demo" would otherwise look like a page of typing mistakes.
_KUBERNETES = re.compile(
    r"RESILIENCE_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def split(name: str) -> Key | None:
    """Return the key a variable stands for, or None when it does not carry our prefix."""
    if name[: len(PREFIX)].upper() != PREFIX:
        return None
    return tuple(fold(word) for word in name[len(PREFIX) :].split("__"))


def variable(key: Key) -> str:
    """Return the variable that sets `key`."""
    return PREFIX + "__".join(key).upper()


def dotted(key: Key) -> str:
    """Return `key` the way files and code spell it."""
    return ".".join(key)


def is_foreign(name: str) -> bool:
    """Tell whether somebody else owns this variable although it carries our prefix."""
    return _KUBERNETES.fullmatch(name) is not None
