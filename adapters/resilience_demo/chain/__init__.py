"""The demo of three services that call each other.

One error crosses all services. Then the demo kills an instance and the journal, and drains another instance.
"""

from __future__ import annotations

from resilience_demo.chain._lines import ChainLines
from resilience_demo.chain._play_aio import play
from resilience_demo.chain._script import FULL, SHORT

__all__ = ("FULL", "SHORT", "ChainLines", "play")
