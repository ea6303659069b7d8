"""In which language a client reads (RFC 9110, section 12.5.4; lookup as in RFC 4647, section 3.4)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TypeGuard

from resilience.envelope._accept import ranges

__all__ = ("ENGLISH", "chosen", "is_language", "tag_of")

ENGLISH = "en"

_MOST = 20
"""Languages of a header that are looked at: it is the client's to choose."""
_TAG = re.compile(r"[a-z]{2,8}(?:-[a-z0-9]{1,8})*", re.ASCII)


def tag_of(language: str) -> str:
    """Return a language tag as it is compared: `de_CH` is `de-ch`."""
    return language.replace("_", "-").lower()


def is_language(language: object) -> TypeGuard[str]:
    """Return whether this is a language tag such as `de` or `pt-BR`."""
    return isinstance(language, str) and _TAG.fullmatch(tag_of(language)) is not None


def chosen(accept_language: str | None, available: Collection[str], default: str) -> str:
    """Return the best of the `available` tags for this header; `default` where none of them is wanted."""
    for wanted in _by_weight(accept_language or ""):
        tag = wanted
        while tag:
            if tag in available or tag == default:
                return tag
            tag = tag.rpartition("-")[0]  # de-CH is content with de
        if wanted == "*":
            return default
    return default


def _by_weight(accept_language: str) -> list[str]:
    wanted = [(tag, weight) for tag, weight in ranges(accept_language)[:_MOST] if weight > 0]
    return [tag for tag, _ in sorted(wanted, key=lambda pair: -pair[1])]
