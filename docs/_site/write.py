"""Writes the parts of the committed pages that are generated from tables of the code: `python docs/_site/write.py`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

DOCS = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(DOCS.parent / each) for each in ("", "adapters", "docs", "tests/support")]

from _site import metrics, redis_faults, states  # noqa: E402 - see above
from _site.drawing import Arrow, drawn  # noqa: E402 - see above
from resilience.config._render import written  # noqa: E402 - of this checkout
from resilience.envelope import ErrorCatalog  # noqa: E402 - of this checkout
from resilience.options import rule_of  # noqa: E402 - of this checkout
from resilience.pool import PoolOptions  # noqa: E402 - of this checkout

__all__ = ("generated", "page")

_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(name: str, parts: dict[str, Callable[[], str]]) -> str:
    """Return a page with the text between its marks replaced by the parts of these names."""
    text = (DOCS / name).read_text()
    if set(parts) != {mark for _, mark, _ in _PART.findall(text)}:
        raise LookupError(f"docs/{name} must have the marks {', '.join(parts)}")
    return _PART.sub(lambda found: f"{found[1]}\n{parts[found[2]]().strip()}\n\n{found[3]}", text)


def generated() -> Iterator[tuple[Path, str]]:
    """Yield each file that is generated, with the text that it must have."""
    pages: dict[str, dict[str, Callable[[], str]]] = {
        "codes.md": {"codes": codes},
        "failure-modes.md": {"faults": redis_faults.table},
        "howto/pool.md": {"options": pool_options},
        "metrics.md": {"metrics": metrics.table},
        "states.md": {
            "circuit": lambda: _table(states.circuit(impatient=True)),
            "lifecycle": lambda: _table(states.lifecycle()),
            "redis": lambda: _table(states.redis()),
        },
    }
    for name, parts in pages.items():
        yield DOCS / name, page(name, parts)
    for name, picture in pictures().items():
        yield DOCS / "images" / name, picture


def codes() -> str:
    """Return the table of the codes of the toolkit."""
    return ErrorCatalog().markdown().partition("## Codes of the toolkit\n")[2]


def pool_options() -> str:
    """Return the table of the options of a pool."""
    rows = [("option", "variable", "default", "effect"), ("---",) * 4]
    for name, field in PoolOptions.fields().items():
        none = field.metadata["none"]
        effect = field.metadata["doc"] + (f". `None`: {none}" if none else "")
        rows.append((f"`{name}`", f"`{name.upper()}`", f"`{written(field.default, rule_of(field))}`", effect))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _table(transitions: tuple[states.Transition, ...]) -> str:
    causes: dict[tuple[str, str, str], list[str]] = {}
    for each in transitions:
        causes.setdefault((each.before, each.after, each.event), []).append(each.cause)
    rows: list[tuple[str, ...]] = [("from", "to", "cause", "event"), ("---",) * 4]
    rows += [(*way, "; ".join(found), f"`{event}`" if event else "-") for (*way, event), found in causes.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def pictures() -> dict[str, str]:
    """Return the pictures of the state machines, by the name of their file."""
    return {
        "circuit.svg": drawn(
            "The states of a circuit",
            {"closed": (90, 60), "open": (600, 60), "half-open": (600, 300), "ramp": (90, 300)},
            _arrows(
                states.circuit(impatient=False),
                {
                    ("open", "half-open"): (45, 0.27),
                    ("half-open", "open"): (45, 0.3),
                    ("half-open", "closed"): (0, 0.68),
                    ("ramp", "open"): (0, 0.22),
                },
            ),
            (760, 350),
        ),
        "lifecycle.svg": drawn(
            "The lifecycle of a process",
            {"starting": (90, 130), "ready": (300, 130), "draining": (510, 130), "stopped": (720, 130)},
            _arrows(
                states.lifecycle(),
                {
                    ("starting", "draining"): (-45, 0.5),
                    ("starting", "stopped"): (-85, 0.5),
                    ("ready", "stopped"): (45, 0.5),
                    ("stopped", "ready"): (85, 0.5),
                },
            ),
            (810, 210),
        ),
        "redis.svg": drawn(
            "Redis, as limiters see it",
            {"up": (120, 120), "down": (520, 120)},
            _arrows(states.redis(), {("up", "down"): (-35, 0.5), ("down", "up"): (-35, 0.5)}),
            (660, 210),
        ),
    }


def _arrows(
    transitions: tuple[states.Transition, ...], ways: dict[tuple[str, str], tuple[float, float]]
) -> list[Arrow]:
    """Return an arrow for each pair of states, with its bend and the place of its text where they are not the usual."""
    causes: dict[tuple[str, str], list[str]] = {}
    for each in transitions:
        causes.setdefault((each.before, each.after), []).extend([each.cause] if each.cause else [])
    return [Arrow(before, after, found, *ways.get((before, after), ())) for (before, after), found in causes.items()]


if __name__ == "__main__":
    for path, text in generated():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            sys.stdout.write(f"{path.relative_to(DOCS.parent)}\n")
