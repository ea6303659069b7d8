"""What the ASGI servers of the matrix serve."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI

from resilience_fastapi import install

app = FastAPI()
lifecycle = install(app).lifecycle
lifecycle.on_stop(lambda: print("stop hook", flush=True), name="said")
print("loaded", flush=True)


@app.get("/work")
async def work() -> str:
    """Take a moment."""
    await asyncio.sleep(0.02)
    return "done"


@app.get("/slow/{seconds}")
async def slow(seconds: float) -> str:
    """Take longer."""
    print("slow one begins", flush=True)
    await asyncio.sleep(seconds)
    return "done"
