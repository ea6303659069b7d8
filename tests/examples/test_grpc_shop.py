import contextlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from shop_modules import stock

from resilience import AppError
from resilience_grpc import client_interceptors

PARCEL = {"number": "7", "item": "tea", "quantity": 2}


@pytest.fixture
def served() -> Iterator[tuple[Any, Any]]:
    """Give the stock, and its method as the warehouse calls it."""
    with stock() as (module, port), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        guarded = grpc.intercept_channel(channel, *client_interceptors(module.toolkit))
        yield module, guarded.unary_unary("/shop.Stock/Book", module.encode, module.json.loads)


def shelves(ledger: Path) -> dict[str, int]:
    with sqlite3.connect(ledger) as database:
        found = dict(database.execute("SELECT item, remaining FROM shelves").fetchall())
    database.close()
    return found


def parcels(ledger: Path) -> list[tuple[str, str, int]]:
    with sqlite3.connect(ledger) as database:
        found = database.execute("SELECT number, booked_by, asked FROM parcels").fetchall()
    database.close()
    return found


@pytest.fixture
def instances(tmp_path: Path) -> Iterator[tuple[Any, Any, Path]]:
    """Give two ledgers, as two instances of the stock have them, over one file."""
    with stock() as (module, _), contextlib.ExitStack() as open_files:
        path = tmp_path / "ledger.db"
        one, other = (open_files.enter_context(contextlib.closing(module.Ledger(str(path)))) for _ in range(2))
        yield one, other, path


def test_a_parcel_is_booked(served: tuple[Any, Any]) -> None:
    """Whoever asks for something on the shelf is told who has booked it out."""
    _, book = served
    assert book(PARCEL, timeout=10) == {"booked_by": "stock"}


def test_what_is_sold_out_has_a_code(served: tuple[Any, Any], caplog: pytest.LogCaptureFixture) -> None:
    """An order for more than there is gets the stock's own code, and the log says for whom it was."""
    _, book = served
    with pytest.raises(AppError) as caught:
        book({**PARCEL, "item": "scone"}, timeout=10, metadata=[("x-request-id", "mine")])
    error = caught.value
    assert (error.code, error.http_status, error.details) == ("STOCK_C001", 409, {"item": "scone", "wanted": 2})
    assert "STOCK_C001 for parcel 7, request mine, trace -, " in caplog.text
    assert caplog.text.rstrip().endswith(" ms left")


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"quantity": 0}, ["quantity"]),
        ({"quantity": "two", "item": None}, ["item", "quantity"]),
        ({"number": 7}, ["number"]),
    ],
)
def test_a_request_that_makes_no_sense_books_nothing(
    served: tuple[Any, Any], change: dict[str, Any], fields: list[str]
) -> None:
    """Every field that is wrong is named, and the stock is not asked."""
    module, book = served
    with pytest.raises(grpc.RpcError) as caught:
        book({**PARCEL, **change}, timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [each["field"] for each in error.details["fields"]] == fields
    assert module.ledger.book("7", "tea", 1, "somebody") == "somebody"


def test_a_parcel_is_booked_once(instances: tuple[Any, Any, Path]) -> None:
    """Asked again for the same number, by way of another instance too, the stock takes nothing more from the shelf."""
    one, other, path = instances
    assert one.book("7", "tea", 2, "one") == "one"
    assert other.book("7", "tea", 2, "other") == "one"
    assert shelves(path)["tea"] == 9_998
    assert parcels(path) == [("7", "one", 2)]


def test_a_number_stands_for_one_parcel(instances: tuple[Any, Any, Path]) -> None:
    """A number that is used again for other contents is refused, by way of any instance, and nothing changes."""
    one, other, path = instances
    one.book("7", "tea", 2, "one")
    for item, quantity in (("cake", 2), ("tea", 1)):
        with pytest.raises(AppError) as caught:
            other.book("7", item, quantity, "other")
        assert (caught.value.code, caught.value.http_status) == ("STOCK_V001", 422)
    assert (shelves(path)["tea"], shelves(path)["cake"]) == (9_998, 100)
    assert parcels(path) == [("7", "one", 1)]


def test_what_is_not_there_is_not_booked(instances: tuple[Any, Any, Path]) -> None:
    """More than is left, or what nobody has heard of, is refused, and leaves no parcel; the ledger goes on."""
    one, _, path = instances
    for item, quantity in (("cake", 101), ("coffee", 1)):
        with pytest.raises(AppError) as caught:
            one.book("7", item, quantity, "one")
        assert caught.value.code == "STOCK_C001"
    assert parcels(path) == []
    assert one.book("8", "cake", 100, "one") == "one"
    assert shelves(path)["cake"] == 0


def test_instances_never_sell_more_than_there_is(instances: tuple[Any, Any, Path]) -> None:
    """Of 120 orders for the 100 cakes, each asked for by way of both instances at the same time, 100 are booked."""
    one, other, path = instances

    def order(number: int) -> bool:
        try:
            (one if number % 2 else other).book(str(number // 2), "cake", 1, "somebody")
        except AppError:
            return False
        return True

    with ThreadPoolExecutor(8) as customers:
        answers = list(customers.map(order, range(240)))
    assert shelves(path)["cake"] == 0
    assert len(parcels(path)) == 100
    assert {asked for _, _, asked in parcels(path)} == {2}
    assert sum(answers) == 200
