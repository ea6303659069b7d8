"""Measures the faults of Redis, and writes the figures for docs/failure-modes.md.

Usage: .venv/bin/python tests/redis/faults/measure.py [--rounds 3]

Then run: .venv/bin/python docs/_site/write.py
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from redis_faults import FAULTS, Figures, measured  # noqa: E402 - see above
from redis_process import RedisProcess, find_binary  # noqa: E402 - see above

FIGURES = ROOT / "docs" / "_site" / "redis_faults.json"


def worst(rounds: list[Figures]) -> dict[str, float]:
    """Return the worst of each figure."""
    named = [dataclasses.asdict(each) for each in rounds]
    return {name: round(max(each[name] for each in named), 3) for name in named[0] if name != "codes"}


def main() -> None:
    """Measure each fault several times, and write the worst figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each fault is made; the worst figure counts")
    rounds = parser.parse_args().rounds
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        server = RedisProcess(find_binary(), Path(directory))
        server.start()
        try:
            for fault in FAULTS:
                results = []
                for _ in range(rounds):
                    server.ready()
                    results.append(measured(fault, server))
                found[fault.name] = {colour: worst([each[colour] for each in results]) for colour in results[0]}
                sys.stdout.write(f"{fault.name}: {found[fault.name]}\n")
        finally:
            server.kill()
    FIGURES.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
