"""The suite of laws that every policy passes, for policies of third parties as well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace

from resilience._engine._chain import Chain
from resilience._engine._steps import Steps
from resilience.errors import RejectedError
from resilience.policy import AroundPolicy, Policy, Verdict

__all__ = ("PolicyConformance",)


class _Counts:
    """Counts how the permits of a policy are settled."""

    def __init__(self) -> None:
        self.admitted = 0
        self.settled: list[str] = []

    def around(self, steps: Steps) -> Steps:
        """Return `steps` with every admission and every settlement counted."""

        def admit() -> object:
            permit = None if steps.admit is None else steps.admit()
            self.admitted += 1
            return permit

        def admit_blocking() -> object:
            permit = steps.admit_blocking() if steps.admit_blocking is not None else None
            self.admitted += 1
            return permit

        async def admit_awaiting() -> object:
            permit = await steps.admit_awaiting() if steps.admit_awaiting is not None else None
            self.admitted += 1
            return permit

        def on_success(permit: object, result: object, /) -> Verdict:
            self.settled.append("success")
            return None if steps.on_success is None else steps.on_success(permit, result)

        def on_failure(permit: object, error: Exception, /) -> Verdict:
            self.settled.append("failure")
            return steps.on_failure(permit, error)

        def on_abandon(permit: object, /) -> None:
            self.settled.append("abandon")
            steps.on_abandon(permit)

        return replace(
            steps,
            admit=admit,
            admit_blocking=None if steps.admit_blocking is None else admit_blocking,
            admit_awaiting=None if steps.admit_awaiting is None else admit_awaiting,
            fast_permit=None,
            on_success=on_success,
            on_failure=on_failure,
            on_abandon=on_abandon,
            settles_once=False,
        )


class Boom(Exception):  # noqa: N818 - the tests raise it, and no code handles it
    """Raised by guarded functions of the suite."""


class PolicyConformance:
    """The laws of a policy that settles permits, in both colours. Subclass and implement `make_policy`.

    The policy made must admit two calls, one after the other, and let their outcomes stand.
    """

    def make_policy(self) -> Policy:
        """Return a fresh policy that admits at least one call at a time, and another one after it."""
        raise NotImplementedError

    def _chain(self) -> tuple[Chain, _Counts]:
        counts = _Counts()
        return Chain("conformance", (counts.around(Steps.of(self.make_policy())),)), counts

    def test_has_the_shape_of_a_policy(self) -> None:
        """A policy has a stable name and the four steps."""
        policy = self.make_policy()
        assert isinstance(policy, Policy | AroundPolicy)
        assert policy.name == policy.name
        assert policy.name

    def test_result_passes_through(self) -> None:
        """A result reaches the caller unchanged and settles its permit once (L2)."""
        chain, counts = self._chain()
        assert chain(lambda value: value)(3) == 3
        assert counts.settled == ["success"]

    def test_error_passes_through(self) -> None:
        """The error itself reaches the caller and settles its permit once (L2)."""
        chain, counts = self._chain()
        boom = Boom()

        def fail() -> None:
            raise boom

        assert _raised(chain(fail)) is boom
        assert counts.settled == ["failure"]

    def test_interrupt_abandons(self) -> None:
        """KeyboardInterrupt is not an outcome: the permit is given back (L2)."""
        chain, counts = self._chain()

        def interrupted() -> None:
            raise KeyboardInterrupt

        assert isinstance(_raised(chain(interrupted)), KeyboardInterrupt)
        assert counts.settled == ["abandon"]

    def test_admits_again_however_a_call_ended(self) -> None:
        """A call gives its permit back, however it ends: the next call is admitted (L2)."""
        for outcome in (None, Boom(), KeyboardInterrupt()):
            chain, counts = self._chain()

            def act(outcome: BaseException | None = outcome) -> None:
                if outcome is not None:
                    raise outcome

            for calls in (1, 2):
                assert _raised(chain(act)) is outcome
                assert counts.admitted == calls

    def test_abandoned_generator_abandons(self) -> None:
        """A generator left half-way gives its permit back (L2)."""
        chain, counts = self._chain()

        def items() -> Generator[int, None, None]:
            yield 1
            yield 2

        generator = chain(items)()
        assert next(generator) == 1
        generator.close()
        assert counts.settled == ["abandon"]

    def test_refusal_is_neutral(self) -> None:
        """A refusal by an inner policy passes through as it is (L4)."""
        chain, counts = self._chain()
        refusal = RejectedError("no", policy="inner")

        def refused() -> None:
            raise refusal

        assert _raised(chain(refused)) is refusal
        assert len(counts.settled) == 1

    def test_colours_agree(self) -> None:
        """The awaiting driver settles exactly as the blocking one does."""
        asyncio.run(self._colours_agree())

    async def _colours_agree(self) -> None:
        for outcome, expected in ((3, "success"), (Boom(), "failure"), (asyncio.CancelledError(), "abandon")):
            chain, counts = self._chain()

            async def act(outcome: object = outcome) -> object:
                await asyncio.sleep(0)
                if isinstance(outcome, BaseException):
                    raise outcome
                return outcome

            assert await _outcome(chain(act)()) is outcome
            assert counts.settled == [expected]

    def test_cancelled_task_abandons(self) -> None:
        """A task cancelled while the guarded call waits gives its permit back (L2)."""
        asyncio.run(self._cancelled_task_abandons())

    async def _cancelled_task_abandons(self) -> None:
        chain, counts = self._chain()
        task = asyncio.ensure_future(chain(asyncio.Event().wait)())
        while not counts.admitted:  # noqa: ASYNC110 - admission has no event to wait for; it is a few steps away
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        assert isinstance(await _outcome(task), asyncio.CancelledError)
        assert counts.settled == ["abandon"]
        assert await chain.acall(asyncio.sleep, 0, 3) == 3


def _raised(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - the suite checks the exception, of whatever type
        return error
    return None


async def _outcome(awaitable: Awaitable[object]) -> object:
    try:
        return await awaitable
    except BaseException as error:  # noqa: BLE001 - the suite checks the exception, of whatever type
        return error
