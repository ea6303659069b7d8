"""The catalogue as documents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from resilience.envelope._definition import ErrorDefinition

__all__ = ("as_json", "markdown")

_COLUMNS = ("Code", "HTTP", "gRPC", "Retry", "Message", "Description")


def markdown(domain: str, definitions: Sequence[ErrorDefinition]) -> str:
    """Return a document with the service's own codes first."""
    own = [one for one in definitions if not one.is_builtin]
    toolkit = [one for one in definitions if one.is_builtin]
    lines = [f"# Error codes of {_cell(domain)}", ""]
    lines += _table(own) if own else ["None defined."]
    return "\n".join([*lines, "", "## Codes of the toolkit", "", *_table(toolkit), ""])


def _table(definitions: Iterable[ErrorDefinition]) -> list[str]:
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_row, definitions)]
    return [f"| {' | '.join(row)} |" for row in rows]


def _row(one: ErrorDefinition) -> tuple[str, ...]:
    retry = "yes" if one.retryable else "no"
    return (
        f"`{one.code}`", str(one.http_status), f"`{one.grpc_status}`", retry, _cell(one.message), _cell(one.description)
    )  # fmt: skip


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def as_json(domain: str, definitions: Iterable[ErrorDefinition]) -> str:
    """Return `{"domain": ..., "errors": [...]}`, indented for diffs."""
    return json.dumps({"domain": domain, "errors": [_record(one) for one in definitions]}, indent=2)


def _record(one: ErrorDefinition) -> dict[str, object]:
    return {
        "code": one.code,
        "message": one.message,
        "http_status": one.http_status,
        "grpc_status": one.grpc_status,
        "category": one.category,
        "retryable": one.retryable,
        "description": one.description,
        "source": "toolkit" if one.is_builtin else "service",
        **({"translations": dict(sorted(one.translations.items()))} if one.translations else {}),
    }
