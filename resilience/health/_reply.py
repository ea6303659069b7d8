"""The response to a probe, for all adapters. No framework, no I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qs

from resilience.envelope import JSON_TYPE, explicit_quality
from resilience.health._report import Report

__all__ = ("PROBE_PATHS", "ProbeRequest", "Reply", "error_reply", "parse_probe", "reply_to")

_ENDPOINTS = {"livez": "live", "healthz": "live", "readyz": "ready", "startupz": "startup"}
PROBE_PATHS = tuple(f"/{endpoint}" for endpoint in _ENDPOINTS)
"""The paths of the probes, unless an adapter mounts them under a prefix."""

_ANY_GROUP = "healthz"
_MAX_EXCLUDED = 50
_MAX_QUERY = 4096
_FALSE = frozenset({"0", "false", "no", "off"})
_TEXT_TYPE = "text/plain; charset=utf-8"


class Reply(NamedTuple):
    """A response. Send it unchanged; for HEAD without the body."""

    status: int
    headers: dict[str, str]
    body: bytes


class ProbeRequest(NamedTuple):
    """A probe, parsed."""

    endpoint: str
    group: str
    only: str | None
    exclude: tuple[str, ...]
    verbose: bool
    as_json: bool


def parse_probe(
    path: str,
    query: str | bytes | Mapping[str, Sequence[str]],
    accept: str | None,
    names: Callable[[str], Collection[str]],
    groups: Callable[[], Collection[str]] = tuple,
) -> ProbeRequest | Reply:
    """Return the request, or a 404 if the path names no probe, no check or no group.

    Args:
        path: The part after the prefix that the probes are mounted under, such as `/readyz/redis`.
        query: The raw query string, or all values of each parameter. `/healthz` answers for the group in `group`.
        accept: The header `Accept`.
        names: Returns the names of the checks of a group.
        groups: Returns the names of the groups.
    """
    endpoint, slash, check = path.strip("/").partition("/")
    group = _ENDPOINTS.get(endpoint)
    if group is None:
        return _not_found("probe")
    parameters = _parameters(query)
    if endpoint == _ANY_GROUP and parameters.get("group"):
        group = parameters["group"][0]
        if group not in groups():
            return _not_found("group")
    if slash and check not in names(group):
        return _not_found("check")
    json_quality, text_quality = explicit_quality(accept, JSON_TYPE), explicit_quality(accept, "text/plain")
    return ProbeRequest(
        endpoint=endpoint,
        group=group,
        only=check if slash else None,
        exclude=tuple(parameters.get("exclude", ()))[:_MAX_EXCLUDED],
        verbose=any(value.lower() not in _FALSE for value in parameters.get("verbose", ())),
        as_json=(json_quality or 0) > (text_quality or 0),
    )


def _parameters(query: str | bytes | Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    if isinstance(query, Mapping):
        return query
    text = query.decode("latin-1") if isinstance(query, bytes) else query
    return parse_qs(text[:_MAX_QUERY], keep_blank_values=True)


def reply_to(request: ProbeRequest, report: Report) -> Reply:
    """Return the response that carries `report`."""
    if request.as_json:
        return _reply(report.status, json.dumps(report.json()).encode(), JSON_TYPE)
    text = report.text(request.verbose, title=request.only or request.endpoint)
    return _reply(report.status, text.encode(errors="replace"), _TEXT_TYPE)


def _not_found(what: str) -> Reply:
    """Return a 404. `what` is a word of this module, never text of the client."""
    return _reply(404, f"no such {what}\n".encode(), _TEXT_TYPE)


def error_reply(status: int) -> Reply:
    """Return the response to a request that is no probe, with the standard phrase of its status."""
    return _reply(status, f"{HTTPStatus(status).phrase}\n".encode(), _TEXT_TYPE)


def _reply(status: int, body: bytes, content_type: str) -> Reply:
    headers = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Reply(status, headers | {"Content-Length": str(len(body))}, body)
