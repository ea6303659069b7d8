"""The options of a retry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resilience._support.retry_after import RETRY_AFTER_MAX
from resilience.budget import BUDGET_NAME
from resilience.options import Choice, Duration, Flag, Number, Options, Whole, option

__all__ = ("RetryOptions",)


class _Jitter(Duration):
    """A jitter: `full`, `equal`, `none`, or the longest time that may be added."""

    words = Choice("full", "equal", "none")

    def __init__(self) -> None:
        super().__init__()
        self.expected = f"{self.words.expected}, or {self.expected}"

    def check(self, value: Any, /) -> Any:
        """Return the word, or seconds."""
        if isinstance(value, str):
            return value if value in self.words.words else super().parse(value)
        return super().check(value)

    def parse(self, text: str, /) -> Any:
        """Accept a word in any case, or a duration."""
        word = text.strip().lower()
        return word if word in self.words.words else super().parse(text)


@dataclass(frozen=True, kw_only=True)
class RetryOptions(Options):
    """Options under stamina's names. Waits grow as `backoff` says, up to `wait_max`, and vary at random."""

    attempts: int | None = option(3, Whole(1, 1000), "calls in total, the first one included", none="no limit")
    timeout: float | None = option(
        None,
        Duration(above=True, usual=300),
        "time in total; no wait is begun that would end after it",
        none="no limit",
    )
    backoff: str = option(
        "exponential",
        Choice("exponential", "linear", "constant", "decorrelated"),
        "how waits grow; decorrelated draws each between wait_initial and three times the one before",
    )
    wait_initial: float = option(0.1, Duration(usual=60), "wait before the second attempt")
    wait_max: float = option(
        5.0, Duration(usual=300), "longest wait of our own choice; a server may ask for a longer one"
    )
    retry_after_max: float | None = option(
        None,
        Duration(above=True),
        "longest wait that a server may ask for, as by Retry-After; a call that asks for more is given up at once",
        none="timeout if it is set, else 5m",
    )
    wait_jitter: str | float = option(
        "full",
        _Jitter(),
        "full: anything from 0 to the wait; equal: from half of it; a duration: up to this much is added",
    )
    wait_exp_base: float = option(2.0, Number(1, 100), "growth of an exponential wait from attempt to attempt")
    budget: str | None = option(None, BUDGET_NAME, "the retry budget to spend, shared by its name", none="no budget")
    idempotent_only: bool = option(False, Flag(), "retry functions marked with @idempotent only")
    on_timeout: bool = option(True, Flag(), "retry an attempt that a timeout of the same pipeline, inside, has ended")

    @property
    def max_retry_after(self) -> float:
        """The longest wait, in seconds, that a server may ask for."""
        return self.retry_after_max or self.timeout or RETRY_AFTER_MAX
