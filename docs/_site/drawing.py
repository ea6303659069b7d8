"""Draws a diagram of states as SVG text, without a browser, a font or a program of another project."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

__all__ = ("Arrow", "drawn")

_WIDTH, _HEIGHT = 132, 44
_LINE, _CHARACTER = 15, 6.2
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2937;text-anchor:middle;dominant-baseline:central}"
    ".name{font-weight:600}.why{font-size:12px}"
    ".state{fill:#eff6ff;stroke:#2563eb;stroke-width:1.5}.arrow{fill:none;stroke:#475569;stroke-width:1.5}"
)
_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    ' role="img" aria-label="{title}">'
)
_ARROWHEAD = (
    '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0L10 5L0 10z" fill="#475569"/></marker></defs>'
)


class Arrow(NamedTuple):
    """A transition: the names of two states, and the lines of its cause.

    `bend` is the distance in pixels by which the middle of the line leaves the straight way, to the right of its
    direction. `at` is the place of the text on the line, 0 to 1.
    """

    start: str
    end: str
    causes: Sequence[str] = ()
    bend: float = 0.0
    at: float = 0.5


class _Point(NamedTuple):
    x: float
    y: float


def drawn(title: str, states: Mapping[str, tuple[float, float]], arrows: Sequence[Arrow], size: tuple[int, int]) -> str:
    """Return the SVG of `states`, each with its centre, and of the arrows between them."""
    width, height = size
    parts = [
        _HEAD.format(width=width, height=height, title=escape(title)),
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        _ARROWHEAD,
        f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>',
    ]
    lines = [_line(arrow, _Point(*states[arrow.start]), _Point(*states[arrow.end])) for arrow in arrows]
    parts += [line for line, _ in lines]
    for name, (x, y) in states.items():
        left, top = x - _WIDTH / 2, y - _HEIGHT / 2
        parts.append(f'<rect class="state" x="{left:g}" y="{top:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>')
        parts.append(f'<text class="name" x="{x:g}" y="{y:g}">{escape(name)}</text>')
    parts += [text for _, text in lines if text]
    return "\n".join([*parts, "</svg>", ""])


def _line(arrow: Arrow, start: _Point, end: _Point) -> tuple[str, str]:
    """Return the curve of an arrow, and its text."""
    if arrow.start == arrow.end:
        return _loop(arrow, start)
    length = math.dist(start, end)
    across = _Point(-(end.y - start.y) / length, (end.x - start.x) / length)
    middle = _Point(
        (start.x + end.x) / 2 + across.x * arrow.bend * 2, (start.y + end.y) / 2 + across.y * arrow.bend * 2
    )
    first, last = _border(start, middle), _border(end, middle)
    path = f"M{first.x:.1f} {first.y:.1f}Q{middle.x:.1f} {middle.y:.1f} {last.x:.1f} {last.y:.1f}"
    place = _on_curve(first, middle, last, arrow.at)
    return _arrow(path), _text(arrow.causes, place)


def _loop(arrow: Arrow, state: _Point) -> tuple[str, str]:
    x, top = state.x, state.y - _HEIGHT / 2
    path = f"M{x - 25:g} {top:g}C{x - 45:g} {top - 45:g} {x + 45:g} {top - 45:g} {x + 25:g} {top:g}"
    return _arrow(path), _text(arrow.causes, _Point(x, top - 48))


def _arrow(path: str) -> str:
    return f'<path class="arrow" d="{path}" marker-end="url(#head)"/>'


def _text(lines: Sequence[str], place: _Point) -> str:
    if not lines:
        return ""
    width, height = max(map(len, lines)) * _CHARACTER + 6, len(lines) * _LINE
    left, top = place.x - width / 2, place.y - height / 2
    background = f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height}" fill="#fff"/>'
    texts = (
        f'<text class="why" x="{place.x:.1f}" y="{top + (number + 0.5) * _LINE:.1f}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return "\n".join([background, *texts])


def _border(centre: _Point, towards: _Point) -> _Point:
    """Return the point at which the line from the centre of a state leaves its box."""
    x, y = towards.x - centre.x, towards.y - centre.y
    share = min(_WIDTH / 2 / abs(x) if x else math.inf, _HEIGHT / 2 / abs(y) if y else math.inf)
    return _Point(centre.x + x * share, centre.y + y * share)


def _on_curve(first: _Point, middle: _Point, last: _Point, at: float) -> _Point:
    before, turn, after = (1 - at) ** 2, 2 * at * (1 - at), at**2
    return _Point(
        before * first.x + turn * middle.x + after * last.x, before * first.y + turn * middle.y + after * last.y
    )
