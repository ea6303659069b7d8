"""The payment provider of the example shop: a service that the shop's team cannot repair.

Run it beside the shop, and break it while you watch::

    uvicorn examples.flaky_upstream:app --port 9001
    curl -X PUT localhost:9001/admin/mode/hanging      (or broken, or healthy)
"""

from __future__ import annotations

import asyncio
import itertools
from enum import StrEnum
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request

WORK_SECONDS = 0.003
HANG_SECONDS = 2.0
BLIP_EVERY = 25
"""Even on a good day one call in so many fails."""

LOOPBACK = {"127.0.0.1", "::1"}


class Mode(StrEnum):
    """How the provider is doing."""

    HEALTHY = "healthy"
    HANGING = "hanging"
    BROKEN = "broken"


class Provider:
    """Its condition, and the calls it has had since that began."""

    def __init__(self) -> None:
        self.change(Mode.HEALTHY)

    def change(self, mode: Mode) -> None:
        """Be in `mode` from the next call on."""
        self.mode = mode
        self.calls = itertools.count(1)

    async def work(self) -> None:
        """Take as long as the mode says, and fail if it says so."""
        mode, is_blip = self.mode, next(self.calls) % BLIP_EVERY == 0
        await asyncio.sleep(HANG_SECONDS if mode is Mode.HANGING else WORK_SECONDS)
        if mode is not Mode.HEALTHY or is_blip:
            raise HTTPException(503, "the ledger is not available")


provider = Provider()
app = FastAPI(title="Payment provider")


async def only_from_here(request: Request) -> None:
    """Refuse everybody who is not on this machine."""
    if request.client is None or request.client.host not in LOOPBACK:
        raise HTTPException(403, "only from this machine")


@app.post("/charges")
async def charge(payment: dict[str, Any]) -> dict[str, Any]:
    """Take the money."""
    await provider.work()
    return {"paid": payment.get("cents", 0)}


@app.get("/health")
async def health() -> dict[str, str]:
    """Return the health of the provider, as slowly and as badly as all other answers."""
    await provider.work()
    return {"status": "ok"}


@app.put("/admin/mode/{mode}", dependencies=[Depends(only_from_here)])
async def change_mode(mode: Mode) -> dict[str, str]:
    """Break it, or repair it."""
    provider.change(mode)
    return {"mode": mode}
