"""Every error this toolkit raises, as one tree.

::

    ResilienceError
    ├── RejectedError               a policy refused the call; it was not made
    │   ├── CircuitOpenError        (in resilience.breaker: it is a pybreaker.CircuitBreakerError too)
    │   ├── RateLimitedError
    │   ├── BulkheadFullError
    │   └── DrainingError
    ├── DeadlineExceededError       the time allowed ran out
    ├── PoolError
    │   ├── PoolClosedError
    │   ├── PoolTimeoutError
    │   │   └── PoolExhaustedError
    │   └── PoolSaturatedError
    ├── AppError                    the service's own errors, with a code clients can rely on
    ├── StartupError                a service could not start; it names the missing dependency
    ├── ConfigurationError          something was set wrongly; every problem is listed at once
    └── PluginError

An error has its facts in attributes, never only in its text: `code`, `category`, `retryable`, `http_status`,
`grpc_status` and `retry_after` (seconds, or None if it is unknown).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from resilience._support.background import RunningWork, running_together
from resilience._support.given_facts import cut_off_by_caller, leaves, said_by
from resilience._support.joined import joined_class, joined_with
from resilience._support.portable import Portable, facts_of, packed, unpacked
from resilience._support.printable import described, named, one_line, shown, span
from resilience._support.problem import Problem
from resilience._support.usage import UsageWarning

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = (
    "REFUSALS",
    "AppError",
    "BulkheadFullError",
    "ConfigurationError",
    "DeadlineExceededError",
    "DrainingError",
    "PluginError",
    "PoolClosedError",
    "PoolError",
    "PoolExhaustedError",
    "PoolSaturatedError",
    "PoolTimeoutError",
    "Portable",
    "Problem",
    "RateLimitedError",
    "RejectedError",
    "ResilienceError",
    "RunningWork",
    "StartupError",
    "UsageWarning",
    "cut_off_by_caller",
    "described",
    "facts_of",
    "joined_class",
    "joined_with",
    "leaves",
    "named",
    "one_line",
    "packed",
    "running_behind",
    "running_together",
    "said_by",
    "shown",
    "span",
    "unpacked",
)


class ResilienceError(Portable, Exception):
    """An error of this toolkit, or of a service that uses it. Its fields say what a client can do."""

    code: str = "RESILIENCE_ERROR"
    category: str = "internal"
    retryable: bool = False
    http_status: int = 500
    grpc_status: str = "INTERNAL"
    retry_after: float | None = None
    is_remote: bool = False
    """Whether another service said so, in its answer to a call of ours."""

    public_message: ClassVar[str] = "The service could not handle the request."
    """The fixed text a remote client sees; `str(error)` is for our own logs and never leaves the process."""


_REFUSAL_FACTS = 3


class RejectedError(ResilienceError):
    """One of our policies refused the call before it was made.

    Never scored as a failure of the dependency and never retried unless asked for (L4).

    Args:
        message: The text of the error, for logs.
        policy: The name of the policy that refused the call.
        retry_after: Seconds until a call may be admitted, None if that is not known.
    """

    code = "REJECTED"
    category = "unavailable"
    retryable = True
    http_status = 503
    grpc_status = "UNAVAILABLE"
    public_message = "The service is temporarily unable to handle the request."

    def __init__(self, message: str = "", /, *, policy: str = "", retry_after: float | None = None) -> None:
        # A refusal has to be cheap. The facts stand in `args`, as those of an `OSError`: a dictionary would cost half
        # as much again, and no class with slots can be an `OSError`, which every error of requests is.
        self.args = (message, policy, retry_after)

    _hint: ClassVar[str] = ""  # leads from the message to `retry_after`, in the text of the error

    def __str__(self) -> str:
        after = self.retry_after
        if not self._hint or not isinstance(after, int | float):
            return self._message
        return f"{self._message}; {self._hint} {span(after)}"

    @property
    def _message(self) -> str:
        return str(self.args[0]) if self.args else ""

    @property
    def policy(self) -> str:
        """The name of the policy that refused the call."""
        return self.args[1] if len(self.args) == _REFUSAL_FACTS else ""

    @policy.setter
    def policy(self, name: str) -> None:
        self.args = (self._message, name, self.retry_after)

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may be admitted, None if that is not known."""
        return self.args[2] if len(self.args) == _REFUSAL_FACTS else None

    @retry_after.setter
    def retry_after(self, seconds: float | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]  # kept in `args`
        self.args = (self._message, self.policy, seconds)


class RateLimitedError(RejectedError):
    """The caller's quota is spent; `retry_after` seconds until one more call fits, None when it never will."""

    code = "RATE_LIMITED"
    category = "rate_limit"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    public_message = "Too many requests."
    _hint = "retry in"


class BulkheadFullError(RejectedError):
    """Every concurrent slot is taken, and waiting for one was not allowed or not worthwhile."""

    code = "BULKHEAD_FULL"
    grpc_status = "RESOURCE_EXHAUSTED"
    public_message = "The service is at capacity."
    _hint = "a place may be free in"


class DrainingError(RejectedError):
    """This process is shutting down and takes no new work."""

    code = "DRAINING"
    public_message = "The service is shutting down."


def running_behind(error: BaseException | None) -> RunningWork | None:
    """Return the work that goes on in a thread although `error` has ended the call, if there is any."""
    if isinstance(error, BaseExceptionGroup):
        return _running_behind_all(leaves(error))
    running = said_by(error, "running")
    if running is None and isinstance(error, RejectedError):  # in place of the error that opened a circuit
        running = said_by(error.__cause__, "running")
    return running if isinstance(running, RunningWork) else None


def _running_behind_all(errors: list[BaseException]) -> RunningWork | None:
    works = [work for each in errors if (work := running_behind(each)) is not None]
    if len(works) < 2:  # noqa: PLR2004 - a pair is the first to wait for
        return works[0] if works else None

    return running_together(works)


class DeadlineExceededError(ResilienceError):
    """The time for a call or a request has passed.

    Args:
        message: The text of the error, for logs.
        policy: The name of the policy that raised it, "" for a deadline alone.
        seconds: The time that the call had. 0 means that the call was not made.
        running: The work that a thread still does, None if the call has ended.
        allowed: The seconds that the service allows the call (`math.inf` without a limit), if the caller's deadline
            ended the call sooner, or if the call began with less than half of the service's own deadline left. Such an
            error shows nothing about the dependency; see `cut_off_by_caller`.
    """

    code = "DEADLINE_EXCEEDED"
    category = "timeout"
    retryable = True
    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    public_message = "The request took too long."

    allowed: float | None = None

    def __init__(
        self,
        message: str,
        *,
        policy: str = "",
        seconds: float | None = None,
        running: RunningWork | None = None,
        allowed: float | None = None,
    ) -> None:
        super().__init__(message)
        self.policy = policy
        self.seconds = seconds
        self.running = running
        self.allowed = allowed

    @property
    def is_callers(self) -> bool:
        """Whether the caller's deadline ended the call sooner than the service would have."""
        return self.allowed is not None

    @property
    def is_before_call(self) -> bool:
        """Whether no time was left at the start, so that the call was not made."""
        return self.seconds == 0.0


_COUNTS = ("total", "idle", "in_use", "waiting", "creating")


class PoolError(ResilienceError):
    """A connection pool could not hand out a connection, or a lease was misused.

    Args:
        message: The text of the error, for logs.
        pool: The name of the pool.
        waited: The seconds for which the borrower has waited.
        total: The connections of the pool at that moment: idle, in use, or being checked.
        idle: Idle connections.
        in_use: Connections that are lent.
        waiting: Borrowers that wait, without this one.
        creating: Attempts to connect that run.
        oldest_lease: The seconds for which the connection that was lent first has been in use, None if none is.
    """

    code = "POOL_ERROR"
    category = "unavailable"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    public_message = "The service is temporarily unable to handle the request."

    oldest_lease: float | None

    def __init__(self, message: str = "", *, pool: str = "", waited: float = 0.0, **figures: Any) -> None:
        super().__init__(message)
        self.pool, self.waited, self.oldest_lease = pool, waited, figures.get("oldest_lease")
        self.total, self.idle, self.in_use, self.waiting, self.creating = map(figures.get, _COUNTS, (0,) * len(_COUNTS))


class PoolClosedError(PoolError):
    """The pool has been closed."""

    code = "POOL_CLOSED"


class PoolTimeoutError(PoolError):
    """No connection became free within the time allowed. Its cause is the last error of connecting, if there is one.

    If the pool could not connect, this is a failure of the dependency: circuit breakers count it.
    """

    code = "POOL_TIMEOUT"
    retryable = True


class PoolExhaustedError(PoolTimeoutError):
    """No connection became free within the time allowed, because other borrowers had all of them.

    This says nothing about the dependency: circuit breakers do not count it, and it is not retried unless asked for.
    """

    code = "POOL_EXHAUSTED"


class PoolSaturatedError(PoolError):
    """So many callers already wait that one more was refused at once."""

    code = "POOL_SATURATED"
    retryable = True


class AppError(ResilienceError):
    """An error of the service itself, meant for its clients.

    The client gets `message` and `details` as they are. Prefer `ErrorCatalog.error(code)`: the catalogue has message,
    statuses and translations of each code in one place.

    Args:
        code: `[A-Z][A-Z0-9_]*[A-Z0-9]`, at most 63 characters, which is a valid `google.rpc.ErrorInfo.reason`, too.
        message: The text that the client gets.
        details: JSON values that the client gets.
        http_status: 400 to 599.
        grpc_status: The name of a gRPC status.
        category: A word, such as `not_found`.
        retryable: Whether the same request can succeed later.
        retry_after: Seconds after which the client can try again, None if unknown.
        headers: HTTP headers of the answer.
        translations: The message in other languages, by language tag.
        remote_request_id: The id of the request in the logs of the service that the error came from.
    """

    code = "INTERNAL"

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        details: Mapping[str, Any] | None = None,
        http_status: int = 500,
        grpc_status: str = "INTERNAL",
        category: str = "internal",
        retryable: bool = False,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        translations: Mapping[str, str] | None = None,
        remote_request_id: str = "",
    ) -> None:
        super().__init__(message or code)
        self.code = code
        self.message = message or self.public_message
        self.details = dict(details or {})
        self.http_status = http_status
        self.grpc_status = grpc_status
        self.category = category
        self.retryable = retryable
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        self.translations = dict(translations or {})
        self.remote_request_id = remote_request_id


class ConfigurationError(ResilienceError, ValueError):
    """At least one setting is wrong. `problems` has all of them, so that one start shows every mistake (L23)."""

    code = "CONFIGURATION"

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        self.problems: tuple[Problem, ...] = () if isinstance(problems, str) else tuple(problems)
        super().__init__(problems if isinstance(problems, str) else self._listed())

    def _listed(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        return f"{len(self.problems)} configuration problems:{lines}"


_OF_POOLS = (PoolClosedError, PoolSaturatedError, PoolExhaustedError)
REFUSALS: tuple[type[ResilienceError], ...] = (RejectedError, ConfigurationError, *_OF_POOLS)
"""The errors that our own parts raise in place of a call. No policy counts them as failures of the dependency (L4)."""


class StartupError(ResilienceError):
    """A service could not start. `step` names the missing dependency, or the start hook that failed."""

    code = "STARTUP"

    def __init__(self, message: str, *, step: str = "") -> None:
        super().__init__(message)
        self.step = step


class PluginError(ResilienceError):
    """A plugin could not be loaded. The message names the entry point, its distribution and the package to install."""

    code = "PLUGIN"
