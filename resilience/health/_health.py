"""The registry of checks, and the questions a probe may ask it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.health import _sync
from resilience.health._asking import Asking, unknown_excludes
from resilience.health._check import Check, Launch, Probe
from resilience.health._naming import BOUND, GROUPS, LIFECYCLE, PING, problems_of
from resilience.health._options import HealthOptions
from resilience.health._reply import Question, Reply, question_of, reply_to
from resilience.health._report import Report, ReportEntry
from resilience.health._schedule import Schedule
from resilience.options import CLOCK, Instance, Opaque, checked, seconds

if TYPE_CHECKING:
    from resilience.lifecycle import Lifecycle

__all__ = ("Health",)

P = TypeVar("P", bound=Callable[[], Any])
Query = str | bytes | Mapping[str, Sequence[str]]
_OPTIONS = Instance(HealthOptions, expected="HealthOptions")
_LIFE = Opaque("a Lifecycle", lambda value: isinstance(getattr(value, "state", None), str))


class Health:
    """The checks of one process and the answers of its probes.

    Liveness runs no check unless one is added to the group `live` by name: it says that this process answers, and a
    dependency that is down must not get it killed. Readiness is 503 before the start is finished and while draining,
    once a lifecycle is attached. Probes share one run of a check and its cached outcome; a check that hangs is reported
    and not started again, and holds up neither other checks nor the probe beyond its timeout (L18).
    """

    def __init__(
        self, options: HealthOptions | None = None, *, lifecycle: Lifecycle | None = None, clock: Clock = monotonic
    ) -> None:
        self.options: HealthOptions = HealthOptions() if options is None else checked(options, "options", _OPTIONS)
        self.events = Emitter()
        self._clock = checked(clock, "clock", CLOCK)
        self._lifecycle = None if lifecycle is None else checked(lifecycle, "lifecycle", _LIFE)
        self._checks: dict[str, Check] = {}
        self._schedule = Schedule(self._launch_in_background)

    def attach(self, lifecycle: Lifecycle) -> None:
        """Let `lifecycle` decide about start and drain from now on."""
        self._lifecycle = checked(lifecycle, "lifecycle", _LIFE)

    def add(
        self,
        name: str,
        check: Probe,
        *,
        groups: Collection[str] = ("ready",),
        timeout: float | str | timedelta | None = None,
        cache: float | str | timedelta | None = None,
        failure: str | None = None,
        every: float | str | timedelta | None = None,
        failure_threshold: int | None = None,
        success_threshold: int | None = None,
    ) -> None:
        """Add a check: a function, plain or async, that raises or returns False when something is wrong.

        `groups` are `live`, `ready`, `startup`, or words of your own, for `report` and `/healthz?group=`.
        `timeout`, `cache` and the thresholds default to the options. With `every` it runs by itself in the background,
        that often; probes get its last answer, which fails as stale once three rounds and its timeout have passed.
        With `failure="warn"` it is shown and takes nothing out of service; the default is `"fail"`, and `"warn"` for
        the ready-made checks. Raises `ConfigurationError` for a name in use and all else that is wrong.
        """
        failure = failure if failure is not None else getattr(check, "failure", "fail")
        problems = list(problems_of(name, check, groups, failure))
        if problems:
            raise ConfigurationError(problems)
        options = self._options_with(
            timeout=timeout, cache=cache, failure_threshold=failure_threshold, success_threshold=success_threshold
        )
        period = None if every is None else seconds(every, "every", above=True)
        added = Check(name, check, tuple(groups), cast("str", failure), options, self._clock, self.events, period)
        # One atomic step, so that of two threads adding the same name one is told.
        if self._checks.setdefault(name, added) is not added:
            raise ConfigurationError([Problem("name", name, "a name no other check has")])

    def check(
        self,
        name: str,
        *,
        groups: Collection[str] = ("ready",),
        timeout: float | str | timedelta | None = None,
        cache: float | str | timedelta | None = None,
        failure: str | None = None,
        every: float | str | timedelta | None = None,
        failure_threshold: int | None = None,
        success_threshold: int | None = None,
    ) -> Callable[[P], P]:
        """Add the decorated function as a check; see `add`. The function itself stays as it is."""

        def register(check: P) -> P:
            self.add(
                name,
                check,
                groups=groups,
                timeout=timeout,
                cache=cache,
                failure=failure,
                every=every,
                failure_threshold=failure_threshold,
                success_threshold=success_threshold,
            )
            return check

        return register

    def _options_with(self, **given: Any) -> HealthOptions:
        return dataclasses.replace(self.options, **{name: value for name, value in given.items() if value is not None})

    def names(self, group: str) -> tuple[str, ...]:
        """Return what a report of `group` lists, in order. Raises `ConfigurationError` for a group there is not."""
        own = (PING, LIFECYCLE) if self._lifecycle is not None and group in BOUND else (PING,)
        return (*own, *(check.name for check in self._members(group)))

    def _members(self, group: str) -> list[Check]:
        members = [check for check in tuple(self._checks.values()) if group in check.groups]
        if not members and group not in GROUPS:
            raise ConfigurationError([Problem("group", group, "one of " + ", ".join(self.groups()))])
        return members

    def groups(self) -> tuple[str, ...]:
        """Return the groups there are: `live`, `ready`, `startup`, and those that checks were added to."""
        named = (group for check in tuple(self._checks.values()) for group in check.groups)
        return tuple(dict.fromkeys((*GROUPS, *named)))

    def close(self) -> None:
        """End the background checks; the next question begins them again. Runs under way are left to end."""
        self._schedule.close()

    def aclose(self) -> Coroutine[Any, Any, None]:
        """Do the same; nothing in it waits."""
        from resilience.health._health_aio import closed  # noqa: PLC0415 - asyncio costs 40 ms; WSGI needs none of it

        return closed(self)

    def _in_background(self) -> list[Check]:
        return [check for check in tuple(self._checks.values()) if check.every is not None]

    def _launch_in_background(self) -> Launch:
        """Return what starts a round: in the loop this process serves in where there is one, so its clients fit."""
        loop = getattr(self._lifecycle, "loop", None)
        if loop is None or not loop.is_running():
            return _sync.launch
        from resilience.health._aio import launch_in  # noqa: PLC0415 - as above

        return launch_in(loop)

    def report(self, group: str, *, exclude: Iterable[str] = (), only: str | None = None) -> Report:
        """Return the state of `group`, running what is not fresh; blocks for the longest timeout at most.

        `exclude` leaves checks out (a name that is none becomes a warning); `only` asks for a single one. Checks that
        are coroutine functions run in a loop of their own: in async code use `areport`. Raises `ConfigurationError` for
        a group there is not, and where `only` is not one of its `names`.
        """
        asking = self._ask(group, tuple(exclude), only, _sync.launch)
        return asking.answered(_sync.collect(asking.asked))

    def areport(
        self, group: str, *, exclude: Iterable[str] = (), only: str | None = None
    ) -> Coroutine[Any, Any, Report]:
        """Return the same, suspended for the longest timeout at most. Coroutine functions run in the calling loop.

        Raises `ConfigurationError` as `report` does.
        """
        from resilience.health._health_aio import areport  # noqa: PLC0415 - asyncio costs 40 ms; WSGI needs none of it

        return areport(functools.partial(self._ask, group, tuple(exclude), only))

    def handle(self, path: str, query: Query = "", accept: str | None = None) -> Reply:
        """Answer a probe, blocking. `path` is what follows the prefix the probes are mounted at: `/readyz/redis`.

        `query` is the raw query string, or every value of each parameter.
        """
        found = question_of(path, query, accept, self.names, self.groups)
        if isinstance(found, Reply):
            return found
        return reply_to(found, self.report(found.group, exclude=found.exclude, only=found.only))

    def ahandle(self, path: str, query: Query = "", accept: str | None = None) -> Coroutine[Any, Any, Reply]:
        """Answer a probe, suspended."""
        from resilience.health._health_aio import areply  # noqa: PLC0415 - as above

        return areply(question_of(path, query, accept, self.names, self.groups), self._areport_for)

    def _areport_for(self, question: Question) -> Coroutine[Any, Any, Report]:
        return self.areport(question.group, exclude=question.exclude, only=question.only)

    def _ask(self, group: str, exclude: tuple[str, ...], only: str | None, launch: Launch) -> Asking:
        if only is not None and only not in self.names(group):
            raise ConfigurationError([Problem("only", only, "one of " + ", ".join(self.names(group)))])
        members = self._members(group)
        wanted = [check for check in members if check.name not in exclude and only in {None, check.name}]
        past: list[ReportEntry] = []
        if self._in_background():
            self._schedule.ensure(self._in_background)
        if group == "startup":  # what has been there once has come up
            past = [ReportEntry(name=check.name) for check in wanted if check.has_passed]
            wanted = [check for check in wanted if not check.has_passed]
        return Asking(
            group=group,
            own=tuple(entry for entry in (*self._own(group), *past) if only in {None, entry.name}),
            asked=[(check, check.ask(launch)) for check in wanted],
            warnings=unknown_excludes(exclude, {check.name for check in members}),
            details=self.options.details,
        )

    def _own(self, group: str) -> Iterable[ReportEntry]:
        """Return what cannot be excluded: no probe may send requests to a process that leaves."""
        yield ReportEntry(name=PING)
        if self._lifecycle is None or group not in BOUND:
            return
        state = self._lifecycle.state
        stands = state == "ready" or (group == "startup" and state != "starting")
        if stands and group != "startup" and getattr(self._lifecycle, "drain_file_exists", False):
            stands, state = False, "the drain file exists"
        yield ReportEntry(name=LIFECYCLE, status="ok" if stands else "failed", reason=state, is_public=True)
