"""A system that is out of threads: each start of a thread fails in the C library, as it does at a limit of pids."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from resilience._support import executor

_LARGER_THAN_ANY_MEMORY = 1 << 50


@contextlib.contextmanager
def out_of_threads() -> Iterator[None]:
    """Let each start of a thread in this process fail. No idle thread of ours is left either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "_idle", [])
        before = threading.stack_size(_LARGER_THAN_ANY_MEMORY)
        try:
            yield
        finally:
            threading.stack_size(before)
