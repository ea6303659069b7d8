"""Facts that errors and results of any origin state about themselves, as attributes; and the errors of a group."""

from __future__ import annotations

from typing import Any

__all__ = ("cut_off_by_caller", "leaves", "said_by")

_MOST_CAUSES = 8


def said_by(outcome: object, name: str) -> Any:
    """Return the attribute `name` of an error or result of a third party, None if it has none."""
    try:
        return getattr(outcome, name, None)
    except Exception:  # noqa: BLE001 - a property may raise anything; urllib's HTTPError raises KeyError
        return None


def cut_off_by_caller(error: BaseException | None) -> BaseException | None:
    """Return the cut-off that `error` is or was raised from, None if the caller's deadline did not end the call.

    A cut-off says of itself, as `is_callers`, that the caller stopped waiting before the call had used the time that
    the service allows (or had used up half of the service's own deadline before the call). A healthy dependency
    cannot prevent it, so no policy counts it against the dependency, retries it, or spends a budget on it. Errors of
    plugins and adapters may carry the attribute, too, with `allowed` (seconds).
    """
    left = _MOST_CAUSES
    while error is not None and left:
        try:  # `said_by`, inlined: breakers, retries and hedges ask about every error
            if getattr(error, "is_callers", None) is True:
                return error
        except Exception:  # noqa: BLE001, S110 - a property may raise anything
            pass
        error = error.__cause__
        left -= 1
    return None


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors in an exception group (PEP 654), those of nested groups included; else `error` itself.

    An `asyncio.TaskGroup` raises such a group. Policies and envelopes judge the errors in it, not the group.
    """
    found: list[BaseException] = []
    pending = [error]
    while pending:
        each = pending.pop()
        if isinstance(each, BaseExceptionGroup):
            pending.extend(reversed(each.exceptions))
        else:
            found.append(each)
    return found
