"""The definition of one error code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from resilience.errors import AppError

__all__ = ("ErrorDefinition",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDefinition:
    """One code, with its message, statuses, category and translations. Call it to get the `AppError` to raise."""

    code: str
    message: str
    http_status: int
    grpc_status: str
    category: str
    retryable: bool
    description: str = ""
    is_builtin: bool = False
    """Whether the code is the toolkit's own, and the same in every catalogue."""
    translations: dict[str, str] = field(default_factory=dict, compare=False)
    """The message in other languages, by tag; see `ErrorCatalog.translate`."""

    def __call__(
        self,
        message: str | None = None,
        *,
        details: Mapping[str, object] | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AppError:
        """Return an error with this code, for `raise`.

        Args:
            message: The text that the client gets. Default: the message of the definition.
            details: JSON values that the client gets. Default: none.
            retry_after: Seconds after which the client can try again. Default: not sent.
            headers: HTTP headers of the answer. Default: none.
        """
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
            translations=self.translations if message is None else None,
        )
