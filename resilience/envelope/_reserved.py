"""The toolkit's own codes: of every error class it raises, and of every HTTP status a framework answers with."""

from __future__ import annotations

import re
from typing import NamedTuple

from resilience import errors
from resilience.envelope._machine import MEANINGS, is_retryable

__all__ = ("RESERVED", "Meant")


class Meant(NamedTuple):
    """The meaning of one of the toolkit's own codes."""

    code: str
    message: str
    http_status: int
    grpc_status: str
    category: str
    retryable: bool
    description: str


def _of_class(kind: type[errors.ResilienceError]) -> Meant:
    description = re.split(r"[.;](?:\s|$)", kind.__doc__ or "")[0] + "."  # the rest describes attributes
    return Meant(
        kind.code, kind.public_message, kind.http_status, kind.grpc_status, kind.category, kind.retryable, description
    )


# Not imported from resilience.breaker, which costs the 128 ms of pybreaker; a test compares the two.
_CIRCUIT_OPEN = _of_class(errors.RejectedError)._replace(
    code="CIRCUIT_OPEN", description="The circuit to a dependency is open; the call was not made."
)

_CLASSES = (
    errors.ResilienceError,
    errors.RejectedError,
    errors.RateLimitedError,
    errors.BulkheadFullError,
    errors.DrainingError,
    errors.DeadlineExceededError,
    errors.PoolError,
    errors.PoolClosedError,
    errors.PoolTimeoutError,
    errors.PoolExhaustedError,
    errors.PoolSaturatedError,
    errors.StartupError,
    errors.ConfigurationError,
    errors.PluginError,
)


def _collected() -> tuple[Meant, ...]:
    """Return one entry per code; where a class and a status share one, the class says more."""
    found = {
        meaning.code: Meant(
            meaning.code, meaning.message, status, meaning.grpc_status, meaning.category, is_retryable(status),
            f"{status} {meaning.title}.",
        )
        for status, meaning in MEANINGS.items()
    }  # fmt: skip
    for meant in (*map(_of_class, _CLASSES), _CIRCUIT_OPEN):
        found[meant.code] = meant
    return tuple(found[code] for code in sorted(found))


RESERVED = _collected()
