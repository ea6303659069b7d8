"""Mutate the machines, run their own tests on every mutant, and fail where fewer than `ENOUGH` of them are noticed.

    python tests/mutation/run.py [--processes N] [--scratch FOLDER] [MODULE ...]

mutmut (settings under `[tool.mutmut]` in pyproject.toml) works on a copy of the tree in a scratch folder; nothing is
left in the tree itself. MODULE narrows it down: `breaker._machine`. Survivors that README.md beside this file does not
explain are printed at the end, with their change. One process unless told otherwise, at low priority.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("resilience", "tests", "pyproject.toml")
ENOUGH = 0.9
NOTICED = ("killed", "timeout")


def copy(scratch: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, scratch / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(source, scratch)


def mutmut(scratch: Path, *arguments: str) -> str:
    """Return what mutmut prints; end with that where it fails."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}")
    return done.stdout


def outcomes(scratch: Path) -> dict[str, str]:
    """Return what became of each mutant that was tried."""
    lines = mutmut(scratch, "results", "--all", "true").splitlines()
    pairs = (line.strip().rsplit(": ", 1) for line in lines if ": " in line)
    return {name: outcome for name, outcome in pairs if outcome != "not checked"}


def module_of(mutant: str) -> str:
    return mutant.rsplit(".", 1)[0].removeprefix("resilience.")


def place_of(mutant: str) -> str:
    """Return module and function as a reader would write them."""
    function = mutant.rsplit(".", 1)[1].rsplit("__mutmut_", 1)[0]
    return f"{module_of(mutant)} {function.removeprefix('x_').removeprefix('xǁ').replace('ǁ', '.')}"


def change_of(scratch: Path, mutant: str) -> tuple[str, str]:
    """Return what stood there, and what it was changed to, each on one line."""
    lines = mutmut(scratch, "show", mutant).splitlines()
    was, became = (
        " ".join(line[1:].strip() for line in lines if line.startswith(sign) and not line.startswith(sign * 3))
        for sign in "-+"
    )
    return was, became


def is_for_checkers(was: str, became: str) -> bool:
    """Whether only the type named in a `cast` has changed, which nobody reads at run time."""
    was, became = (re.sub(r"cast\([^,]*,", "cast(_,", line) for line in (was, became))
    return was == became


def report(scratch: Path) -> float:
    """Print how each machine did and which survivors need a reason; return the share that was noticed."""
    found = outcomes(scratch)
    total = Counter(map(module_of, found))
    noticed = Counter(module_of(mutant) for mutant, outcome in found.items() if outcome in NOTICED)
    for module, number in sorted(total.items()):
        print(f"{module:24} {noticed[module]:4} of {number:4}  {noticed[module] / number:6.1%}")
    known = (Path(__file__).parent / "README.md").read_text()
    for mutant in (mutant for mutant, outcome in found.items() if outcome not in NOTICED):
        was, became = change_of(scratch, mutant)
        line = f"- `{place_of(mutant)}`: `{was}` -> `{became}`"
        if line not in known and not is_for_checkers(was, became):
            print(f"{line}  ({found[mutant]}, {mutant})")
    return sum(noticed.values()) / sum(total.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("--processes", default="1")
    parser.add_argument("--scratch", type=Path)
    given = parser.parse_args()
    os.nice(10)
    scratch = Path(tempfile.mkdtemp(prefix="mutation-")) if given.scratch is None else given.scratch
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    copy(scratch)
    print(f"working in {scratch}, for some minutes", flush=True)
    mutmut(scratch, "run", "--max-children", given.processes, *(f"resilience.{module}.*" for module in given.modules))
    share = report(scratch)
    print(f"{share:.1%} of the mutants were noticed; {ENOUGH:.0%} are enough")
    if given.scratch is None:
        shutil.rmtree(scratch)
    return share < ENOUGH


if __name__ == "__main__":
    sys.exit(main())
