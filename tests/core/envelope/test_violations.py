"""What pydantic has to say, without the values it says it about."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from resilience.envelope import violations_of

SENT = "hunter2-password"
WITHHELD = "The value is not valid."


def said(value: Any, message: str, kind: str = "value_error") -> str:
    """Return the message sent for a value that was refused with `message`."""
    (violation,) = violations_of([{"loc": ("p",), "msg": message, "type": kind, "input": value}])
    return violation["message"]


def nested(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        SENT,
        SENT.encode(),
        {"a": [{"b": SENT}]},
        ("short", {SENT}),
        {"a": nested(5_000, SENT)},
        5555,
    ],
    ids=["text", "bytes", "mapping", "set", "deep", "number"],
)
def test_what_was_sent_is_not_sent_back(value: Any) -> None:
    """A validator's own text is withheld where it repeats a value it saw, however deep that was (L16)."""
    assert said(value, f"{SENT} (5555) is taken") == WITHHELD
    assert said(value, "Is taken", "assertion_error") == "Is taken"


def test_words_of_pydantics_own_are_kept() -> None:
    """Only a text written by hand can hold a value, and one of three characters would be found by chance."""
    assert said("Input", "Input should be a valid integer", "int_parsing") == "Input should be a valid integer"
    assert said("is", "is taken") == "is taken"
    assert said(None, "is taken") == "is taken"


def test_more_than_can_be_looked_at_is_withheld() -> None:
    """Where there are too many values to look at, or they contain themselves, nothing written by hand is sent."""
    endless: list[Any] = []
    endless.append(endless)
    for value in ([0] * 10_001, nested(10_001, 0), endless):
        assert said(value, "no good") == WITHHELD
    assert said([0] * 9_999, "no good") == "no good"


def test_what_pydantic_says() -> None:
    """Place, message and type of each error, as pydantic has them; what somebody else leaves out is empty."""

    class Account(BaseModel):
        password: str

        @field_validator("password")
        @classmethod
        def is_free(cls, value: str) -> str:
            raise ValueError(f"{value} is taken")

    class Form(BaseModel):
        accounts: list[Account]
        age: int

    with pytest.raises(ValidationError) as caught:
        Form(accounts=[{"password": SENT}], age="x")  # type: ignore[list-item, arg-type]  # what a client sends
    missing = "Input should be a valid integer, unable to parse string as an integer"
    assert violations_of(caught.value.errors()) == [
        {"field": "accounts.0.password", "message": WITHHELD, "type": "value_error"},
        {"field": "age", "message": missing, "type": "int_parsing"},
    ]
    assert violations_of([{}]) == [{"field": "", "message": "", "type": ""}]
