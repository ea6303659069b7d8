"""From a probe's request to its response, for every adapter: no framework, no I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qs

from resilience.envelope import JSON_TYPE, explicit_quality
from resilience.health._report import Report

__all__ = ("ENDPOINTS", "PROBE_PATHS", "Question", "Reply", "question_of", "refusal", "reply_to")

ENDPOINTS = {"livez": "live", "healthz": "live", "readyz": "ready", "startupz": "startup"}
PROBE_PATHS = tuple(f"/{endpoint}" for endpoint in ENDPOINTS)
"""Where the probes are, unless they are mounted elsewhere."""

_ANY_GROUP = "healthz"
_MOST_EXCLUDED = 50
_LONGEST_QUERY = 4096
_NO = frozenset({"0", "false", "no", "off"})
_TEXT_TYPE = "text/plain; charset=utf-8"


class Reply(NamedTuple):
    """A response. Send it as it is; for HEAD leave out the body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Question(NamedTuple):
    """What a probe asks."""

    endpoint: str
    group: str
    only: str | None
    exclude: tuple[str, ...]
    verbose: bool
    as_json: bool


def question_of(
    path: str,
    query: str | bytes | Mapping[str, Sequence[str]],
    accept: str | None,
    names: Callable[[str], Collection[str]],
    groups: Callable[[], Collection[str]] = tuple,
) -> Question | Reply:
    """Return the question, or the 404 for a path that is no probe and no check of its group (`names`).

    `/healthz` answers for the group named by `?group=`, one of `groups`.
    """
    endpoint, slash, check = path.strip("/").partition("/")
    group = ENDPOINTS.get(endpoint)
    if group is None:
        return _not_found("probe")
    asked = _parameters(query)
    if endpoint == _ANY_GROUP and asked.get("group"):
        group = asked["group"][0]
        if group not in groups():
            return _not_found("group")
    if slash and check not in names(group):
        return _not_found("check")
    plain, text = explicit_quality(accept, JSON_TYPE), explicit_quality(accept, "text/plain")
    return Question(
        endpoint=endpoint,
        group=group,
        only=check if slash else None,
        exclude=tuple(asked.get("exclude", ()))[:_MOST_EXCLUDED],
        verbose=any(value.lower() not in _NO for value in asked.get("verbose", ())),
        as_json=(plain or 0) > (text or 0),
    )


def _parameters(query: str | bytes | Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    if isinstance(query, Mapping):
        return query
    text = query.decode("latin-1") if isinstance(query, bytes) else query
    return parse_qs(text[:_LONGEST_QUERY], keep_blank_values=True)


def reply_to(question: Question, report: Report) -> Reply:
    """Return the response that carries `report`."""
    if question.as_json:
        return _reply(report.status, json.dumps(report.json()).encode(), JSON_TYPE)
    text = report.text(question.verbose, title=question.only or question.endpoint)
    return _reply(report.status, text.encode(errors="replace"), _TEXT_TYPE)


def _not_found(what: str) -> Reply:
    """Return a 404; `what` is ours, never the client's text."""
    return _reply(404, f"no such {what}\n".encode(), _TEXT_TYPE)


def refusal(status: int) -> Reply:
    """Return the response to what is no probe's request, in the words of HTTP."""
    return _reply(status, f"{HTTPStatus(status).phrase}\n".encode(), _TEXT_TYPE)


def _reply(status: int, body: bytes, content_type: str) -> Reply:
    headers = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Reply(status, headers | {"Content-Length": str(len(body))}, body)
