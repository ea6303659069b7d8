"""The record of a shared breaker on the wire: its keys, its channel, and the question and the reply as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from resilience._support.keys import bounded_key
from resilience.breaker._plan import MODES
from resilience.breaker._states import CLOSED, HALF_OPEN, OPEN
from resilience.breaker.shared._machine import FleetRecord, Override
from resilience.errors import one_line
from resilience.options import LONGEST
from resilience.redis import LuaScript

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resilience.redis._exchange import Reply

__all__ = ("SCRIPT", "channel_of", "keys_of", "question", "read_record", "read_reply", "text_of")

SCRIPT: Final = LuaScript(Path(__file__).with_name("record.lua").read_text(encoding="utf-8"))


_PARTS: Final = ("record", "votes", "trials", "history", "instances")
_LONGEST: Final = 20_000
"""Characters of a record. One of ours has 3,000 at most, if its texts are all escapes."""
_MOST: Final = 10**14
"""No number of ours comes near: the largest ones are milliseconds of the server's clock."""


def keys_of(prefix: str, name: str) -> tuple[bytes, ...]:
    """Return the keys of the breaker `name`, in the order of the script. All are in one slot of a cluster."""
    tag = f"{{{prefix}:fleet:breaker:{_safe(name)}}}"
    return tuple(f"{tag}:{part}".encode() for part in _PARTS)


def channel_of(name: str) -> str:
    """Return the channel of the breaker, without the prefix of the fleet."""
    return f"breaker:{_safe(name)}"


def _safe(name: str) -> str:
    """Return `name` without the characters that would end the hash tag of a key."""
    return bounded_key(name).replace("%", "%25").replace("{", "%7B").replace("}", "%7D")


def question(ask: Mapping[str, Any], **more: object) -> str:
    """Return the argument of the script."""
    return json.dumps({**ask, **more}, separators=(",", ":"))


def read_reply(reply: Reply) -> tuple[FleetRecord, list[str]]:
    """Return the record, and the tokens of the slots that the caller got. Raises `ValueError` for any other reply."""
    if not isinstance(reply, list) or not reply:
        raise ValueError("no record")
    record, *tokens = cast("list[bytes | str]", reply)
    return read_record(record), [text_of(token) for token in tokens]


def read_record(text: bytes | str) -> FleetRecord:
    """Return the record that a reply or a message holds. Raises `ValueError` for anything else."""
    try:
        if len(text) > _LONGEST:
            raise ValueError("no record of ours")
        found: dict[str, Any] = json.loads(text if isinstance(text, str) else text.decode("utf-8", "replace"))
        override = Override(
            _whole(found["version"]),
            _one_of((*MODES, ""), found["word"]),
            _seconds(found["word_left"]),
            one_line(found["why"]),
            one_line(found["author"]),
        )
        return FleetRecord(
            _whole(found["epoch"]),
            _one_of((CLOSED, OPEN, HALF_OPEN), found["state"]),
            _seconds(found["left"]),
            one_line(found["reason"]),
            _whole(found["ok"]),
            _whole(found["failed"]),
            _whole(found["openings"]),
            _whole(found["votes"]),
            _whole(found["trials"]),
            override,
            _whole(found["instances"]),
            found["is_new"] is True,
            found["is_wanted"] is True,
        )
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError("no record") from error


def _whole(value: float) -> int:
    if not 0 <= value < _MOST:
        raise ValueError("no number of ours")
    return int(value)


def _one_of(words: Sequence[str], value: object) -> str:
    if not isinstance(value, str) or value not in words:
        raise ValueError("an unknown word")
    return value


def _seconds(milliseconds: float) -> float:
    """Return a duration that is a number of at most two years, whatever a stranger has written into the record."""
    if not 0 <= milliseconds <= 2000 * LONGEST:
        raise ValueError("no duration")
    return milliseconds / 1000


def text_of(value: bytes | str) -> str:
    """Return what a reply holds as text, whether the client decodes replies or not."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
