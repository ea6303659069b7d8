"""A guarded block of code: `with` and `async with`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from types import TracebackType

    from resilience._engine._chain import Chain

__all__ = ("GuardedBlock",)


_NOT_ENTERED = "the guard was left without having been entered"


class GuardedBlock:
    """A guarded block, in either colour. Each use admits anew; one that overlaps another needs a guard of its own.

    An interrupt that strikes as `__exit__` begins, before its first instruction, gives the permits back only once the
    interrupt itself is forgotten: its traceback holds the guard until then.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._entered: Any = None

    def __enter__(self) -> None:
        block = self._occupy(self._chain._blocking_block)  # noqa: SLF001 - one idea in two classes
        try:
            block.__enter__()
        except BaseException:
            self._entered = None
            block.gen.close()  # nothing is left to close, unless an interrupt came when the block was entered
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        block, self._entered = self._entered, None
        try:
            if block is None:
                raise RuntimeError(_NOT_ENTERED)
            return cast("bool | None", block.__exit__(kind, error, traceback))
        finally:
            if block is not None:
                block.gen.close()  # nothing is left to close, unless an interrupt came before the generator went on

    def __aenter__(self) -> Coroutine[Any, Any, None]:
        from resilience._engine._generators_aio import enter  # noqa: PLC0415 - only what awaits pays for asyncio

        block = self._occupy(self._chain._awaiting_block)  # noqa: SLF001 - one idea in two classes
        return enter(block, self._vacate)

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, bool | None]:
        return cast("Coroutine[Any, Any, bool | None]", self._vacate().__aexit__(kind, error, traceback))

    def _occupy(self, make: Callable[[], Any]) -> Any:
        if self._entered is not None:  # remembering two blocks would leave the wrong one first
            raise RuntimeError("this guard is in use already; call guard() for each block")
        self._entered = make()
        return self._entered

    def _vacate(self) -> Any:
        block, self._entered = self._entered, None
        if block is None:
            raise RuntimeError(_NOT_ENTERED)
        return block
