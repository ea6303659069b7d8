"""The table of slots of a cluster: how it is read, and how the shards follow it."""

from __future__ import annotations

from typing import Any

import pytest

from resilience.redis._url import Endpoint
from resilience.redis.cluster._cluster import Cluster, Shard
from resilience.redis.cluster._loader import TableLoader
from resilience.redis.cluster._table import Redirection, SlotRange, ranges_of, read_slots, redirection_of

redis = pytest.importorskip("redis")

ASKED = Endpoint("10.0.0.1", 7001)
ONE, TWO, THREE = (Endpoint("10.0.0.1", port) for port in (7001, 7002, 7003))


def test_a_table_is_read() -> None:
    """Each row names its slots and its master; a node that names no address has the one at which it was asked."""
    replica = [b"10.0.0.9", 7009, b"id"]
    reply = [[0, 5, [b"10.0.0.2", 7002, b"id", []], replica], [6, 16383, [b"", 7001]], [7, 7, [None, 7001]]]
    assert read_slots(reply, ASKED) == [
        SlotRange(0, 5, Endpoint("10.0.0.2", 7002)),
        SlotRange(6, 16383, ASKED),
        SlotRange(7, 7, ASKED),
    ]


@pytest.mark.parametrize(
    "reply",
    [
        b"OK",
        [[0, 16384, [b"h", 1]]],
        [[5, 4, [b"h", 1]]],
        [[0, 1, [b"h", 0]]],
        [[0, 1, [b"h" * 254, 1]]],
        [[0, 1]],
        [[0, 1, [b"h", b"x"]]],
        [[0, 0, [b"h", port]] for port in range(1, 1002)],
    ],
    ids=["text", "slot too large", "backwards", "port 0", "host too long", "no master", "no number", "too many"],
)
def test_a_table_that_cannot_be_used(reply: Any) -> None:
    """A reply that is no table of slots is refused as a whole."""
    with pytest.raises((ValueError, TypeError, LookupError)):
        read_slots(reply, ASKED)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MOVED 3999 10.0.0.2:6381", Redirection(3999, Endpoint("10.0.0.2", 6381), is_final=True)),
        ("ASK 3999 [fe80::1]:6381", Redirection(3999, Endpoint("fe80::1", 6381), is_final=False)),
        ("MOVED 1 :7005", Redirection(1, Endpoint("10.0.0.1", 7005), is_final=True)),
    ],
)
def test_a_redirection_is_read(text: str, expected: Redirection) -> None:
    """MOVED and ASK name a slot and a node, in the errors of every redis-py."""
    assert redirection_of(redis.ResponseError(text), ASKED) == expected
    code, rest = text.split(" ", 1)
    kind = redis.exceptions.MovedError if code == "MOVED" else redis.exceptions.AskError
    assert redirection_of(kind(rest), ASKED) == expected


@pytest.mark.parametrize("text", ["MOVED", "MOVED 1", "MOVED x h:1", "MOVED 16384 h:1", "ASK 1 h:x", "ASK 1 h:0"])
def test_a_redirection_that_cannot_be_used(text: str) -> None:
    """A redirection without a usable slot and address is an error, and no place to go."""
    with pytest.raises((ValueError, LookupError)):
        redirection_of(redis.ResponseError(text), ASKED)


def test_ranges() -> None:
    """Slots are shown in runs."""
    assert ranges_of([]) == ""
    assert ranges_of([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


class Scene:
    """A cluster whose table the test installs."""

    def __init__(self) -> None:
        self.moved: list[Shard] = []
        self.gone: list[Shard] = []
        self.cluster = Cluster(TableLoader((ONE,), _never), 1.0, self.moved.append, self.gone.append)
        self.cluster._install([SlotRange(0, 9, ONE), SlotRange(10, 19, TWO)])

    def owner(self, slot: int) -> Shard:
        return self.cluster.shard_of(slot)


def _never(endpoint: Endpoint, seconds: float) -> Any:
    raise AssertionError(f"{endpoint} was asked for {seconds}")


def test_a_promoted_replica_takes_the_place_of_its_master() -> None:
    """A server that is new and has the slots of a master that is gone is the same shard, at another address."""
    scene = Scene()
    before = scene.owner(15)
    scene.cluster._install([SlotRange(0, 9, ONE), SlotRange(10, 19, THREE)])
    assert scene.owner(15) is before
    assert before.endpoint == THREE
    assert before.facts == {"node": "10.0.0.1:7003"}
    assert (scene.moved, scene.gone) == ([before], [])


def test_a_master_that_is_added_is_another_shard() -> None:
    """A new master that takes slots of one that stays gets a shard of its own."""
    scene = Scene()
    two = scene.owner(15)
    scene.cluster._install([SlotRange(0, 9, ONE), SlotRange(10, 14, TWO), SlotRange(15, 19, THREE)])
    assert scene.owner(10) is two
    assert scene.owner(15) is not two
    assert (scene.moved, scene.gone) == ([], [])


def test_a_master_that_is_removed() -> None:
    """A master whose slots another known one has taken is forgotten; slots without a master are unassigned."""
    scene = Scene()
    one, two = scene.owner(0), scene.owner(10)
    scene.cluster._install([SlotRange(0, 12, ONE)])
    assert scene.owner(12) is one
    assert scene.owner(13) is scene.cluster.unassigned
    assert scene.gone == [two]
    assert not scene.cluster.is_known(two)
    assert scene.cluster.unassigned_slots == "13-16383"


def test_a_redirection_corrects_one_slot() -> None:
    """MOVED corrects the slot that it names; ASK changes nothing."""
    scene = Scene()
    scene.cluster._refreshed_at = float("inf")  # no load of the table
    asked = scene.cluster.follow(Redirection(3, TWO, is_final=False))
    assert asked is scene.owner(10)
    assert scene.owner(3) is scene.owner(0)
    assert scene.cluster.follow(Redirection(3, THREE, is_final=True)) is scene.owner(3)
    assert scene.owner(3).endpoint == THREE
    assert scene.owner(4) is scene.owner(0)


def test_a_key_of_a_shard_is_found() -> None:
    """A tag moves a key to a slot of a certain shard; a shard without slots has none."""
    scene = Scene()
    cluster = scene.cluster
    tag = cluster.tag_at(scene.owner(10), lambda tag: f"{{probe:{tag}}}".encode())
    assert cluster.shard_with(f"{{probe:{tag}}}".encode()) is scene.owner(10)
    with pytest.raises(redis.ConnectionError):
        cluster.tag_at(Shard(THREE), str.encode)
