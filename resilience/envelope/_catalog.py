"""The catalogue: every error code of a service, defined once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from resilience.envelope import _export
from resilience.envelope._definition import ErrorDefinition
from resilience.envelope._envelope import Envelope
from resilience.envelope._languages import ENGLISH, is_language, tag_of
from resilience.envelope._machine import (
    GRPC_TO_HTTP,
    category_for,
    category_for_grpc,
    grpc_status_for,
    http_status_for,
    is_code,
    is_error_status,
    meaning_of,
    statuses_for,
)
from resilience.envelope._reserved import RESERVED, Meant
from resilience.errors import AppError, ConfigurationError, Problem

__all__ = ("ErrorCatalog",)

_LONGEST_DOMAIN = 253


class ErrorCatalog:
    """The error codes of one service.

    The toolkit's own codes are always in the catalogue and cannot be redefined.

    Args:
        domain: The name of the service in gRPC error details, 1 to 253 characters.
        language: The language tag of the messages, such as `de` or `pt-BR`.

    Raises:
        ConfigurationError: `domain` or `language` is wrong.

    Example:
        >>> catalog = ErrorCatalog("orders")
        >>> sold_out = catalog.define("ORDERS_C001", "Sold out.", http_status=409)
        >>> sold_out().http_status
        409
    """

    def __init__(self, domain: str = "service", *, language: str = ENGLISH) -> None:
        self.domain = _checked_domain(domain)
        self.language = _checked_language(language)
        self._known: dict[str, ErrorDefinition] = {meant.code: _builtin(meant) for meant in RESERVED}

    def define(
        self,
        code: str,
        message: str,
        *,
        http_status: int | None = None,
        grpc_status: str | None = None,
        category: str | None = None,
        retryable: bool = False,
        description: str = "",
        translations: Mapping[str, str] | None = None,
    ) -> ErrorDefinition:
        """Add `code` and return its definition.

        One of `http_status`, `grpc_status` and `category` is enough: the first of them that is given decides the
        others. Without any of them the status is 500.

        Args:
            code: Capitals, digits and `_`, 2 to 63 characters, such as `ORDERS_V001`.
            message: The text that clients get.
            http_status: 400 to 599.
            grpc_status: The name of a gRPC status, such as `NOT_FOUND`.
            category: A word, such as `not_found`.
            retryable: Whether the same request can succeed later.
            description: A sentence for the exported catalogue.
            translations: The message in other languages, by tag.

        Raises:
            ConfigurationError: The code exists, or an argument is wrong. The error lists every problem.
        """
        problems = list(_wrong(code, message, http_status, grpc_status, category, retryable, description))
        problems += _wrong_translations(translations or {})
        if problems:
            raise ConfigurationError(problems)
        http, grpc, kind = _meant(http_status, grpc_status, category)
        definition = ErrorDefinition(
            code=code,
            message=message,
            http_status=http,
            grpc_status=grpc,
            category=kind,
            retryable=retryable,
            description=description,
            translations={tag_of(language): text for language, text in (translations or {}).items()},
        )
        # One atomic step: if two threads define the same code, one of them gets the error.
        if (first := self._known.setdefault(code, definition)) is not definition:
            raise ConfigurationError([_taken(first)])
        return definition

    def translate(self, language: str, messages: Mapping[str, str]) -> None:
        """Add messages in another language, by code. The toolkit's own codes can be translated, too.

        The `Accept-Language` of a client selects the language, if the error has the message of its catalogue.

        Raises:
            ConfigurationError: A code is not defined, or a message or the tag is wrong.
        """
        _checked_language(language)
        problems = [problem for text in messages.values() for problem in _wrong_translations({language: text})]
        if problems:
            raise ConfigurationError(problems)
        for definition, text in [(self.get(code), text) for code, text in messages.items()]:
            definition.translations[tag_of(language)] = text

    def untranslated(self, language: str) -> tuple[str, ...]:
        """Return the service's own codes that have no message in `language`."""
        tag = tag_of(language)
        return tuple(one.code for one in self if not one.is_builtin and tag not in one.translations)

    def localized(self, envelope: Envelope, accept_language: str | None) -> Envelope:
        """Return `envelope` in the language that its client prefers. A message that is not the catalogue's stays."""
        if not envelope.translations:
            known = self._known.get(envelope.code)
            if known is None or not known.translations or not _is_stock(envelope, known):
                return envelope
            envelope = replace(envelope, translations=known.translations)
        return envelope.in_language(accept_language, self.language)

    def error(
        self,
        code: str,
        message: str | None = None,
        *,
        details: Mapping[str, object] | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AppError:
        """Return the error to raise for `code`.

        Args:
            code: A code of this catalogue.
            message: The text that the client gets. Default: the message of the definition.
            details: JSON values that the client gets. Default: none.
            retry_after: Seconds after which the client can try again. Default: not sent.
            headers: HTTP headers of the answer. Default: none.

        Raises:
            ConfigurationError: The code is not defined.
        """
        return self.get(code)(message, details=details, retry_after=retry_after, headers=headers)

    def get(self, code: str) -> ErrorDefinition:
        """Return the definition of `code`. Raises `ConfigurationError` if the code is not defined."""
        definition = self._known.get(code)
        if definition is not None:
            return definition
        near = difflib.get_close_matches(str(code), self._known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"define it first: catalog.define({code!r}, ...)"
        raise ConfigurationError([Problem("code", code, f"a code of the {self.domain} catalogue", hint)])

    def __contains__(self, code: object) -> bool:
        return code in self._known

    def __iter__(self) -> Iterator[ErrorDefinition]:
        """Go through the service's own codes in the order they were defined, then the toolkit's."""
        every = tuple(self._known.values())
        return iter(sorted(every, key=lambda definition: definition.is_builtin))

    def __len__(self) -> int:
        return len(self._known)

    def markdown(self) -> str:
        """Return the catalogue as a Markdown document with one table for the service and one for the toolkit."""
        return _export.markdown(self.domain, tuple(self))

    def json(self) -> str:
        """Return the catalogue as a JSON document."""
        return _export.as_json(self.domain, tuple(self))


def _is_stock(envelope: Envelope, known: ErrorDefinition) -> bool:
    """Whether the message is that of the catalogue, or the name that HTTP gives the status."""
    message = envelope.message
    if message in {known.message, meaning_of(envelope.http_status).title}:
        return True
    return any(status == envelope.http_status and status.phrase == message for status in HTTPStatus)


def _checked_domain(domain: object) -> str:
    if isinstance(domain, str) and 1 <= len(domain) <= _LONGEST_DOMAIN:
        return domain
    raise ConfigurationError([Problem("domain", domain, "a name of 1 to 253 characters")])


def _checked_language(language: object) -> str:
    if is_language(language):
        return tag_of(language)
    raise ConfigurationError([_no_language("language", language)])


def _no_language(option: str, value: object) -> Problem:
    return Problem(option, value, "a language tag such as de or pt-BR")


def _wrong_translations(translations: Mapping[Any, Any]) -> Iterator[Problem]:
    for language, text in translations.items():
        if not is_language(language):
            yield _no_language("translations", language)
        if not isinstance(text, str) or not text:
            yield Problem(f"translations[{language}]", text, "the sentence clients see")


def _meant(http_status: int | None, grpc_status: str | None, category: str | None) -> tuple[int, str, str]:
    """Return all three, from the first one given."""
    if http_status is not None:
        return http_status, grpc_status or grpc_status_for(http_status), category or category_for(http_status)
    if grpc_status is not None:
        return http_status_for(grpc_status), grpc_status, category or category_for_grpc(grpc_status)
    http, grpc = statuses_for(category or "internal")
    return http, grpc, category or "internal"


def _builtin(meant: Meant) -> ErrorDefinition:
    return ErrorDefinition(**meant._asdict(), is_builtin=True)


def _wrong(
    code: object,
    message: object,
    http_status: object,
    grpc_status: object,
    category: object,
    retryable: object,
    description: object,
) -> Iterator[Problem]:
    if not is_code(code):
        yield Problem("code", code, "capitals, digits and _, such as ORDERS_V001; 2 to 63 characters")
    if not isinstance(message, str) or not message:
        yield Problem("message", message, "the sentence clients see")
    if http_status is not None and not is_error_status(http_status):
        yield Problem("http_status", http_status, "a whole number from 400 to 599")
    if grpc_status is not None and grpc_status not in GRPC_TO_HTTP:
        near = difflib.get_close_matches(str(grpc_status).upper(), GRPC_TO_HTTP, n=1)
        yield Problem("grpc_status", grpc_status, "a gRPC status name", f"did you mean {near[0]}?" if near else "")
    if category is not None and (not isinstance(category, str) or not category):
        yield Problem("category", category, "a word, or None (follows from http_status)")
    if not isinstance(retryable, bool):
        yield Problem("retryable", retryable, "True or False")
    if not isinstance(description, str):
        yield Problem("description", description, "text")


def _taken(first: ErrorDefinition) -> Problem:
    owner = "the toolkit uses it itself" if first.is_builtin else f"it is defined as {first.message!r}"
    return Problem("code", first.code, "a code of its own for every error", owner)
