"""The meaning of an error of Redis: it is about the server, or about one key. No I/O.

A server that answers can still be of no use. A replica refuses writes after a failover (READONLY), a full server
refuses them too (OOM), and an ACL may forbid scripts (NOPERM). These errors hold for every key, so they count as an
outage. Other errors hold for one key only, such as WRONGTYPE for a key that another program wrote. Then the server
works.

The code is the first word of an error reply. redis-py turns some codes into classes and removes the word. Redis 6.2
puts the code of an error inside a script at the end of a text of its own.
"""

from __future__ import annotations

import enum
import re
from typing import Final

__all__ = (
    "CLUSTER",
    "MALFORMED",
    "ExchangeFailure",
    "code_of",
    "explain",
    "failure_of",
    "is_about_one_key",
    "is_of_redis",
    "is_redirect",
    "of_redis",
    "raised",
    "unreadable",
)

_CLASSES: Final = {
    "AskError": "ASK",
    "AuthenticationError": "NOAUTH",
    "AuthenticationWrongNumberOfArgsError": "NOAUTH",
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
"""Codes that redis-py turns into classes."""

MALFORMED: Final = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
"""Errors of reading a reply that breaks the protocol, or that the script does not return."""

_FIRST_WORD = re.compile(r"(?!ERR\b)([A-Z]{3,})(?: |$)")
_IN_SCRIPT = re.compile(r"user_script: ?\d+: -?(?!ERR\b)([A-Z]{3,}) ")
_FORBIDDEN = ("ACL failure in script", "The user executing the script can't run")
_SCRIPT_FAILED = "user_script:"
_ONE_KEY = frozenset({"WRONGTYPE", "SCRIPT"})

_REDIRECTS = frozenset({"ASK", "MOVED"})

CLUSTER: Final = (
    "it is a node of a Redis Cluster, which refuses keys of other nodes: name the cluster, as in "
    "redis+cluster://host:6379, or a proxy that serves all of it"
)
_EXPLANATIONS: Final = {
    "READONLY": "it is a read-only replica, and limiters write: name the primary, or an address that follows it",
    "MASTERDOWN": "it is a replica that has lost its primary: name the primary, or an address that follows it",
    "NOREPLICAS": "it has fewer replicas than min-replicas-to-write, so it refuses writes",
    "MISCONF": "it cannot save its data to disk, so it refuses writes",
    "LOADING": "it is still loading its data",
    "NOAUTH": "it refuses the user name and password of the URL",
    "NOPERM": "its ACL forbids what limiters need: +eval +evalsha +time +get +set +del ~{prefix}",
    "OOM": "its memory is full and its maxmemory-policy evicts nothing: raise maxmemory, or set volatile-ttl",
    "CLUSTERDOWN": (
        "the cluster serves no key of this slot, or no key at all while a master is missing: "
        "set cluster-require-full-coverage to no, and give each master a replica"
    ),
} | dict.fromkeys(("MOVED", "ASK", "CROSSSLOT", "TRYAGAIN"), CLUSTER)


class ExchangeFailure(enum.Enum):
    """Why an exchange of commands and replies has no replies."""

    CLOSED = "the server has closed the connection"
    LATE = "no reply in time"
    OTHER = "the replies cannot be read"


def failure_of(error: Exception) -> ExchangeFailure:
    """Return what the error of an exchange means."""
    from redis.exceptions import ConnectionError as NotConnected  # noqa: PLC0415 - an extra
    from redis.exceptions import TimeoutError as NotInTime  # noqa: PLC0415 - an extra

    if isinstance(error, NotConnected):
        return ExchangeFailure.CLOSED
    return ExchangeFailure.LATE if isinstance(error, NotInTime | TimeoutError) else ExchangeFailure.OTHER


def code_of(error: Exception) -> str | None:
    """Return the code of an error reply, `SCRIPT` for an error of a script itself, or None for any other error."""
    known = _CLASSES.get(type(error).__name__)
    if known is not None:
        return known
    if not any(kind.__name__ == "ResponseError" for kind in type(error).__mro__):
        return None
    text = str(error)
    if any(phrase in text for phrase in _FORBIDDEN):
        return "NOPERM"
    found = _IN_SCRIPT.search(text) or _FIRST_WORD.match(text)
    if found is not None:
        return found[1]
    return "SCRIPT" if _SCRIPT_FAILED in text else None


def is_about_one_key(error: Exception) -> bool:
    """Whether the server works and only this key cannot be used."""
    return code_of(error) in _ONE_KEY


def is_redirect(reply: object) -> bool:
    """Whether a reply is the error with which a node of a cluster names another one."""
    return isinstance(reply, Exception) and code_of(reply) in _REDIRECTS


def is_of_redis(error: Exception) -> bool:
    """Whether `error` is about Redis or the way to it. Any other error is the caller's, such as a time limit."""
    if isinstance(error, OSError):
        return True
    from redis.exceptions import RedisError  # noqa: PLC0415 - an extra

    return isinstance(error, RedisError)


def of_redis(error: Exception) -> Exception:
    """Return an error of connecting as an error of Redis. No time limit of a caller interrupts connecting."""
    return error if is_of_redis(error) else unreadable(error)


def unreadable(cause: Exception) -> Exception:
    """Return redis-py's error for a reply that cannot be read."""
    from redis.exceptions import InvalidResponse  # noqa: PLC0415 - an extra

    error = InvalidResponse(f"a reply that cannot be read: {type(cause).__name__}")
    error.__cause__ = cause
    return error


def raised(reply: object) -> object:
    """Return `reply`, or raise it if it is an error reply."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def explain(error: Exception, prefix: str) -> str:
    """Return why limiters cannot use the server, and the remedy if it is known."""
    code = code_of(error)
    if code is None:
        return f"it does not answer: {error}"
    known = _EXPLANATIONS.get(code, "").replace("~{prefix}", f"~{{{prefix}:*")
    return f"{code}: {known}" if known else f"it answers {code}"
