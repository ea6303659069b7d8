"""Secrets in a line: the values of fields with a telling name, and credentials within a text."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from resilience._support.redaction import HIDDEN

__all__ = ("SecretRule",)

_WORDS = (
    "password", "passwd", "passphrase", "pwd", "secret", "token", "api_key", "access_key", "private_key",
    "authorization", "cookie", "credential", "signature", "session_id",
)  # fmt: skip
_LONGEST_NAME = 200

# The repetitions are bounded: a text made for it would otherwise cost the square of its length.
_CREDENTIALS = re.compile(r"://[^\s'\"<>]{0,512}@")
_BEARER = re.compile(r"\b(bearer|basic)\s{1,5}[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)


class SecretRule:
    """Decides which values of a line are hidden.

    Hidden are: the value of a field whose name has one of the words (`X-Api-Key`, `db_password`; not `max_tokens`),
    credentials in URLs, `password=...` and `"password": "..."` within a text, and the credentials of an
    `Authorization` header.

    Args:
        words: Words besides the usual ones.
    """

    def __init__(self, words: Iterable[str] = ()) -> None:
        words = [word.lower().replace("-", "_") for word in (*_WORDS, *words)]
        # `max_tokens=100` of a language model is a number, and no secret.
        names = "|".join(re.escape(word).replace("_", "[_-]?") for word in words)
        names = names.replace("|token|", r"|token(?!s['\"]?\s{0,3}[=:]\s{0,3}\d)|")
        self._has_word = re.compile("|".join(re.escape(_folded(word)) for word in words)).search
        self._assigned = re.compile(
            rf"((?:{names})[\w-]{{0,40}}(?:\s{{0,5}}=\s{{0,5}}|['\"]\s{{0,5}}:\s{{0,5}}))"
            r"(?:\"[^\"]*\"?|'[^']*'?|[^\s&;,'\"}\])]+)",
            re.IGNORECASE,
        )
        self._header = re.compile(r"((?:authorization|cookie)['\"]?\s{0,5}:\s{0,5})[^'\"\r\n]+", re.IGNORECASE)
        self._hints = tuple(dict.fromkeys(word.partition("_")[0] for word in words))
        self._named = functools.lru_cache(maxsize=1024)(self._is_secret)

    def is_secret(self, name: str, value: object) -> bool:
        """Whether the value of a field of this name is hidden. Numbers of tokens are shown."""
        return self._named(name) and not (isinstance(value, int | float) and "tokens" in name.lower())

    def _is_secret(self, name: str) -> bool:
        return self._has_word(_folded(name[:_LONGEST_NAME])) is not None

    def without_secrets(self, text: str) -> str:
        """Return a text in which `***` stands for each secret that can be recognised."""
        if "@" in text:
            text = _CREDENTIALS.sub(f"://{HIDDEN}@", text)
        if "=" in text or ":" in text or " " in text:
            folded = text.lower()
            if "bearer" in folded or "basic" in folded:
                text = _BEARER.sub(rf"\1 {HIDDEN}", text)
            for hint in self._hints:
                if hint in folded:
                    text = self._header.sub(rf"\1{HIDDEN}", text)
                    return self._assigned.sub(rf"\1{HIDDEN}", text)
        return text


def _folded(name: str) -> str:
    """Return a name without case and separators: `apiKey`, `api_key` and `X-API-Key` have the same word."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
