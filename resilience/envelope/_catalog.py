"""The catalogue: every code a service can answer with, defined once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resilience.envelope import _export
from resilience.envelope._machine import (
    GRPC_TO_HTTP,
    category_for,
    grpc_status_for,
    is_code,
    is_error_status,
)
from resilience.envelope._reserved import RESERVED, Meant
from resilience.errors import AppError, ConfigurationError, Problem

__all__ = ("ErrorCatalog", "ErrorDefinition")

_LONGEST_DOMAIN = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDefinition:
    """One code and all it implies. Call it to get the `AppError` to raise."""

    code: str
    message: str
    http_status: int
    grpc_status: str
    category: str
    retryable: bool
    description: str = ""
    is_builtin: bool = False
    """Whether the code is the toolkit's own, and the same in every catalogue."""

    def __call__(
        self,
        message: str | None = None,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AppError:
        """Return an error of this kind; `message` and `details` are sent to the client. `retry_after` is in seconds."""
        return AppError(
            self.code,
            self.message if message is None else message,
            details=details,
            http_status=self.http_status,
            grpc_status=self.grpc_status,
            category=self.category,
            retryable=self.retryable,
            retry_after=retry_after,
            headers=headers,
        )


class ErrorCatalog:
    """The codes of one service; `domain` is its name in gRPC error details.

    The toolkit's own codes are always in it and cannot be redefined. Raises `ConfigurationError` naming what is wrong
    with a definition, at the line that makes it.
    """

    def __init__(self, domain: str = "service") -> None:
        self.domain = _checked_domain(domain)
        self._known: dict[str, ErrorDefinition] = {meant.code: _builtin(meant) for meant in RESERVED}

    def define(
        self,
        code: str,
        message: str,
        *,
        http_status: int = 500,
        grpc_status: str | None = None,
        category: str | None = None,
        retryable: bool = False,
        description: str = "",
    ) -> ErrorDefinition:
        """Add `code` and return its definition. gRPC status and category follow from `http_status` unless given."""
        problems = list(_wrong(code, message, http_status, grpc_status, category, retryable, description))
        if problems:
            raise ConfigurationError(problems)
        definition = ErrorDefinition(
            code=code,
            message=message,
            http_status=http_status,
            grpc_status=grpc_status or grpc_status_for(http_status),
            category=category or category_for(http_status),
            retryable=retryable,
            description=description,
        )
        # One atomic step, so that of two threads defining the same code one is told.
        if (first := self._known.setdefault(code, definition)) is not definition:
            raise ConfigurationError([_taken(first)])
        return definition

    def error(
        self,
        code: str,
        message: str | None = None,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AppError:
        """Return the error to raise for `code`. A code nobody defined is a `ConfigurationError`."""
        return self.get(code)(message, details=details, retry_after=retry_after, headers=headers)

    def get(self, code: str) -> ErrorDefinition:
        """Return the definition of `code`. A code nobody defined is a `ConfigurationError`."""
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


def _checked_domain(domain: Any) -> str:
    if isinstance(domain, str) and 1 <= len(domain) <= _LONGEST_DOMAIN:
        return domain
    raise ConfigurationError([Problem("domain", domain, "a name of 1 to 253 characters")])


def _builtin(meant: Meant) -> ErrorDefinition:
    return ErrorDefinition(**meant._asdict(), is_builtin=True)


def _wrong(
    code: Any, message: Any, http_status: Any, grpc_status: Any, category: Any, retryable: Any, description: Any
) -> Iterator[Problem]:
    if not is_code(code):
        yield Problem("code", code, "capitals, digits and _, such as ORDERS_V001; 2 to 63 characters")
    if not isinstance(message, str) or not message:
        yield Problem("message", message, "the sentence clients see")
    if not is_error_status(http_status):
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
