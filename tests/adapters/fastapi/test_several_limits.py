"""Several limits on one request: all are charged or none, whatever their order and place."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException

from resilience_fastapi import install, rate_limit

PLACES = ("server", "application", "router", "inclusion", "route", "route again")


def shop(place: str, toolkit: Any, *, name: str, is_installed: bool = True) -> FastAPI:
    """Make an application with a limit of three requests a day in each place, and of one a day in `place`."""

    def limits(here: str) -> list[Any]:
        rate, key = ("1/day", "header:X-Tight") if here == place else ("3/day", "ip")
        return [rate_limit(rate, key=key, name=f"{name} {here}")]

    def log_in() -> None:
        """Stand between the limits, as an authentication does."""

    app, router = FastAPI(dependencies=limits("application")), APIRouter(dependencies=limits("router"))
    between = [*limits("route"), Depends(log_in), *limits("route again")]
    router.add_api_route("/", lambda: "ok", dependencies=between)
    if is_installed:
        settings = {"server__rate_limit": "3/day"}
        if place == "server":
            settings = {"server__rate_limit": "1/day", "server__rate_limit_key": "header:X-Tight"}
        install(app, toolkit(**settings))
    app.include_router(router, dependencies=limits("inclusion"))
    return app


async def passed(client: Any, tight: str) -> bool:
    answer = await client.get("/", headers={"X-Tight": tight})
    assert answer.status_code in {200, 429}
    return bool(answer.status_code == 200)


@pytest.mark.parametrize("place", PLACES)
async def test_a_refusal_charges_no_other_limit(browse: Any, toolkit: Any, place: str) -> None:
    """However many requests one limit refuses, all the others have their tokens left."""
    async with browse(shop(place, toolkit, name="x")) as client:
        assert await passed(client, "a")
        assert not any([await passed(client, "a") for _ in range(5)])
        assert [await passed(client, tight) for tight in "bcd"] == [True, True, False]


@pytest.mark.parametrize("place", PLACES[1:])
async def test_without_install(browse: Any, toolkit: Any, place: str, request: pytest.FixtureRequest) -> None:
    """The same holds for limits of an application without our layer."""
    async with browse(shop(place, toolkit, name=request.node.name, is_installed=False)) as client:
        assert await passed(client, "a")
        assert not any([await passed(client, "a") for _ in range(5)])
        assert [await passed(client, tight) for tight in "bcd"] == [True, True, False]


async def test_other_refusals_are_paid_for(browse: Any, toolkit: Any) -> None:
    """A request that another dependency refuses was charged before: a limit protects what follows."""

    def log_in() -> None:
        raise HTTPException(401)

    app = FastAPI()
    install(app, toolkit())
    app.get("/", dependencies=[rate_limit("3/day"), Depends(log_in)])(lambda: "ok")
    async with browse(app) as client:
        assert [(await client.get("/")).status_code for _ in range(4)] == [401, 401, 401, 429]


async def test_limits_that_are_written_alike_count_apart(browse: Any, toolkit: Any) -> None:
    """An application and its route may have the same rate: a request takes one token of each."""
    app = FastAPI(dependencies=[rate_limit("2/hour")])
    install(app, toolkit())
    app.get("/", dependencies=[rate_limit("2/hour")])(lambda: "ok")
    async with browse(app) as client:
        assert [(await client.get("/")).status_code for _ in range(3)] == [200, 200, 429]
