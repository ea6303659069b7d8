import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from shop_modules import stock, warehouse

TEA = {"item": "tea", "quantity": 1}


@pytest.fixture
def shelf() -> Iterator[tuple[Any, int]]:
    """Give the stock, served for real on a loopback port."""
    with stock() as served:
        yield served


@pytest.fixture
def desk(shelf: tuple[Any, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a client of the warehouse as it is in the file."""
    with warehouse(monkeypatch, shelf[1]) as module:
        yield module.app.test_client()


def nobody() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_a_parcel_is_packed(desk: Any) -> None:
    """A parcel is booked out by the stock, and packed here; asked again, it is the same one."""
    number = str(uuid.uuid4())
    answers = [desk.put(f"/parcels/{number}", json=TEA) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json == answers[1].json == {"number": number, "packed_by": "warehouse", "booked_by": "stock"}


def test_an_error_of_the_stock_is_passed_on(desk: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What the stock refuses is refused here in its words, for the same request, and both logs say for which."""
    number = uuid.uuid4()
    answer = desk.put(f"/parcels/{number}", json={**TEA, "item": "scone"}, headers={"X-Request-ID": "mine"})
    assert answer.status_code == 409
    assert (answer.json["code"], answer.json["message"]) == ("STOCK_C001", "This is sold out.")
    assert answer.json["details"] == {"item": "scone", "wanted": 1}
    assert answer.json["request_id"] == "mine"
    told = [record.name for record in caplog.records if f"parcel {number}, request mine," in record.getMessage()]
    assert told == ["stock", "warehouse"]


def test_a_request_that_makes_no_sense_is_the_callers(desk: Any) -> None:
    """What the stock says of the fields of a request reaches who sent it; other numbers than UUIDs lead nowhere."""
    answer = desk.put(f"/parcels/{uuid.uuid4()}", json={"item": "tea", "quantity": -1})
    assert (answer.status_code, answer.json["code"]) == (422, "VALIDATION_FAILED")
    assert [each["field"] for each in answer.json["details"]["fields"]] == ["quantity"]
    assert desk.put("/parcels/7", json=TEA).status_code == 404


def test_one_instance_of_the_stock_is_enough(shelf: tuple[Any, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """While one of two instances is gone, every parcel is packed."""
    with warehouse(monkeypatch, nobody(), shelf[1]) as module:
        desk = module.app.test_client()
        assert [desk.put(f"/parcels/{uuid.uuid4()}", json=TEA).status_code for _ in range(10)] == [200] * 10


def test_without_any_stock_it_is_unavailable(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where nobody books, three attempts are made, the log tells of them, and the customer hears 503."""
    with warehouse(monkeypatch, nobody()) as module:
        answer = module.app.test_client().put(f"/parcels/{uuid.uuid4()}", json=TEA)
        assert (answer.status_code, answer.json["code"]) == (503, "UNAVAILABLE")
    events = [message for message in caplog.messages if message.startswith("retry.")]
    assert events == ["retry.scheduled shop.Stock.retry"] * 2 + ["retry.exhausted shop.Stock.retry"]


def test_nothing_is_called_before_it_is_needed(shelf: tuple[Any, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The application can be loaded, forked and probed without a connection to the stock."""
    with warehouse(monkeypatch, shelf[1]) as module:
        assert module.app.test_client().get("/readyz").status_code == 200
        assert module.stock._channels == {}
        module.app.test_client().put(f"/parcels/{uuid.uuid4()}", json=TEA)
        assert len(module.stock._channels) == 1
