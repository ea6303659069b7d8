"""The Accept headers of a client (RFC 9110, section 12.5.1), as far as an error body depends on them."""

from __future__ import annotations

from resilience.envelope._wire import JSON_TYPE, PROBLEM_TYPE

__all__ = ("explicit_quality", "ranges", "wants_problem")

_LONGEST = 4096
"""Characters of the header that are looked at: it is the client's to choose."""


def explicit_quality(accept: str | None, media_type: str) -> float | None:
    """Return the weight, 0 to 1, `accept` gives to exactly `media_type`; None where only a wildcard may cover it."""
    weights = [weight for name, weight in ranges(accept or "") if name == media_type]
    return max(weights) if weights else None


def wants_problem(accept_header: str | None, default: bool) -> bool:  # noqa: FBT001 - reads as wants_problem(accept, settings.problem)
    """Return whether the error body should be `application/problem+json`; `default` where the client does not care."""
    problem, plain = explicit_quality(accept_header, PROBLEM_TYPE), explicit_quality(accept_header, JSON_TYPE)
    if problem is None and plain is None:
        return default
    if problem == plain:
        return default
    if problem is None or plain is None:
        return bool(problem) if plain is None else plain == 0
    return problem > plain


def ranges(accept: str) -> list[tuple[str, float]]:
    """Return the values of a header of the Accept family, in lower case, each with its weight."""
    parsed = []
    for text in accept[:_LONGEST].split(","):
        name, *parameters = (part.strip().lower() for part in text.split(";"))
        parsed.append((name, _weight(parameters)))
    return parsed


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return _quality(value.strip())
    return 1.0


def _quality(text: str) -> float:
    """Return the weight, 0 if it is not a number: the client's preference is then unknown."""
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0
