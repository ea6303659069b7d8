"""Follows one error: the stock (gRPC) raises it, the warehouse (Flask) forwards it, the shop (FastAPI) returns it."""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Iterable

import httpx2

from resilience_demo._children_aio import Child
from resilience_demo.chain._stage import Crossing, Sighting

__all__ = ("cross", "sightings")

_TIMEOUT = 5.0
_SOLD_OUT = "scone"
_LINE = re.compile(r"WARNING (\w+): (\w+) for parcel (\S+), request (\S+), trace (\S+), (\d+) ms left")


async def cross(http: httpx2.AsyncClient, servers: Iterable[Child]) -> Crossing:
    """Order a sold-out item and collect the reports of its error from the logs and from the answer."""
    crossing = Crossing(f"demo-{secrets.token_hex(4)}", secrets.token_hex(16), _TIMEOUT)
    headers = {
        "X-Request-ID": crossing.request_id,
        "traceparent": f"00-{crossing.trace_id}-{secrets.token_hex(8)}-01",
        "X-Request-Timeout": f"{_TIMEOUT:g}s",
    }
    parcel = str(uuid.uuid4())
    response = await http.put(f"/parcels/{parcel}", json={"item": _SOLD_OUT}, headers=headers)
    crossing.sightings = [sighting for child in servers for sighting in sightings(child.log_text, parcel)]
    crossing.sightings.append(_answered(response))
    return crossing


def sightings(log: str, parcel: str) -> list[Sighting]:
    """Return the lines of a log about the error of one parcel."""
    return [
        Sighting(service, "its log", code, request_id, trace_id, int(left) / 1000)
        for service, code, number, request_id, trace_id, left in _LINE.findall(log)
        if number == parcel
    ]


def _answered(response: httpx2.Response) -> Sighting:
    body = response.json()
    code, request_id, trace_id = (body.get(name, "") for name in ("code", "request_id", "trace_id"))
    return Sighting("shop", f"HTTP {response.status_code}", code, request_id, trace_id)
