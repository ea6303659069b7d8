"""docs/howto/errors.md says of statuses and messages what the code does."""

from __future__ import annotations

import re
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
from fastapi import FastAPI, HTTPException
from flask import Flask, abort

from resilience.envelope import (
    category_for,
    category_for_grpc,
    grpc_status_for,
    http_status_for,
    statuses_for,
)
from resilience.envelope._machine import CATEGORIES, GRPC_TO_HTTP, meaning_of
from resilience_fastapi import install
from resilience_flask import FlaskResilience

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "errors.md").read_text()
LINE = re.compile(r"^\| `([a-z_]+)` \| ([^|]+) \| ([^|]+) \|([^|]*)\|$", re.MULTILINE)


class Row(NamedTuple):
    """One category: its HTTP statuses, their gRPC status, those that have another, and what comes back to it."""

    statuses: list[int]
    others: str
    grpc: str
    exceptions: dict[int, str]
    back: list[str]

    @classmethod
    def read(cls, statuses: str, to: str, back: str) -> Row:
        """Read the cells of a row."""
        others = re.findall(r"other (\d)xx", statuses)
        return cls(
            [int(one) for one in re.findall(r"\d{3}", statuses)],
            others[0] if others else "-",
            to.partition(";")[0].strip(),
            {int(status): name for status, name in re.findall(r"(\d{3}): ([A-Z_]+)", to)},
            re.findall(r"[A-Z_]+", back),
        )


ROWS: dict[str, Row] = {category: Row.read(*cells) for category, *cells in LINE.findall(PAGE)}


def row_of(status: int) -> str:
    """Return the category of the row that a status belongs to: one that names it, else one for others of its kind."""
    named = [each for each, row in ROWS.items() if status in row.statuses or status in row.exceptions]
    found = named or [each for each, row in ROWS.items() if str(status).startswith(row.others)]
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize("status", range(400, 600))
def test_http_statuses(status: int) -> None:
    """Every error status has the category of its row, and the gRPC status the row gives it."""
    category = row_of(status)
    row = ROWS[category]
    assert category_for(status) == category
    assert grpc_status_for(status) == row.exceptions.get(status, row.grpc)


def test_grpc_statuses() -> None:
    """Every gRPC status stands in one row's last column, that of its category."""
    back = {name: category for category, row in ROWS.items() for name in row.back}
    assert sum(len(row.back) for row in ROWS.values()) == len(back)
    assert back == {name: category_for_grpc(name) for name in GRPC_TO_HTTP if name != "OK"}
    assert {name: http_status_for(name) for name in GRPC_TO_HTTP} == GRPC_TO_HTTP


def test_categories() -> None:
    """A category by itself stands for the first status of its row, and `client` for 400."""
    assert set(ROWS) == set(CATEGORIES)
    for category, row in ROWS.items():
        assert statuses_for(category) == (400 if category == "client" else row.statuses[0], row.grpc)


@pytest.mark.parametrize("status", [404, 409, 418, 500, 503])
async def test_messages_of_frameworks(status: int) -> None:
    """A message given to an HTTP error is sent; without one Flask's is our sentence, and FastAPI's the phrase."""
    flask, fastapi = Flask(__name__), FastAPI()

    @flask.get("/<text>")
    def refuse(text: str) -> str:
        abort(status, *([] if text == "plain" else [text]))

    @fastapi.get("/{text}")
    async def refuse_too(text: str) -> None:
        raise HTTPException(status, None if text == "plain" else text)

    FlaskResilience(flask)
    install(fastapi)
    client = flask.test_client()
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(fastapi), base_url="http://test") as other:
        given = client.get("/mine").get_json()["message"], (await other.get("/mine")).json()["message"]
        usual = client.get("/plain").get_json()["message"], (await other.get("/plain")).json()["message"]
    assert given == ("mine", "mine")
    assert usual == (meaning_of(status).message, HTTPStatus(status).phrase)
