"""What a validation hook found, as field violations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resilience.envelope import ErrorCatalog, validation_envelope, violations_of, worst_of
from resilience.errors import AppError, leaves, said_by

__all__ = ("refusal_of",)

_UNSAID = "The request is not valid."
_PAIR = 2

Violation = Mapping[str, Any]


def refusal_of(found: Any, catalog: ErrorCatalog) -> AppError | None:
    """Return the error for what a validation hook returned or raised, or None where there is nothing to say.

    Returned: None or True where all is well; else violations, each a mapping (`field`, `message`, `type`), a pair of
    field and message, or a message alone. Raised: an `AppError` is the answer itself, and a `ValueError` speaks by its
    text, or by its `errors()` where it has them (pydantic; see `violations_of`). Anything else that is raised is a
    fault of the hook, and is raised here. An exception group names the violations of all errors in it.
    """
    if isinstance(found, AppError):
        return found
    if isinstance(found, BaseExceptionGroup) and isinstance(worst := worst_of(found), AppError):
        return worst
    if found is None or found is True:
        return None
    violations = _of_error(found) if isinstance(found, BaseException) else _of_value(found)
    if not violations:
        return None
    return catalog.error("VALIDATION_FAILED", details=validation_envelope(violations).details)


def _of_error(error: BaseException) -> Sequence[Violation]:
    if isinstance(error, BaseExceptionGroup):
        return [violation for each in leaves(error) for violation in _of_error(each)]
    if not isinstance(error, ValueError):
        raise error
    told: Any = said_by(error, "errors")
    if callable(told):
        found: Any = told()
        return violations_of(found) or [_one(_UNSAID)]
    # A subclass (of decoding, of JSON) was not written for the client to read.
    return [_one(str(error) if type(error) is ValueError and error.args else _UNSAID)]


def _of_value(found: Any) -> list[Violation]:
    if found is False:
        return [_one(_UNSAID)]
    if isinstance(found, str | Mapping):
        return [_one(found)] if found else []
    if not isinstance(found, Iterable):
        raise TypeError(f"validate returned a {type(found).__name__}, which is neither None nor violations")
    return [_one(one) for one in found]


def _one(found: Any) -> Violation:
    if isinstance(found, Mapping):
        return found
    if isinstance(found, tuple) and len(found) == _PAIR:
        return {"field": found[0], "message": found[1]}
    if isinstance(found, str):
        return {"message": found}
    raise TypeError(f"validate returned a {type(found).__name__} as a violation")
