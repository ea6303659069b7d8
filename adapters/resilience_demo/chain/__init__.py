"""Three services that call each other, as processes: one error crosses all of them, one is killed, one is drained."""

from __future__ import annotations

from resilience_demo.chain._lines import Lines
from resilience_demo.chain._play_aio import play
from resilience_demo.chain._script import FULL, SHORT

__all__ = ("FULL", "SHORT", "Lines", "play")
