"""Mutate the machines, run their tests on each mutant, and fail if the tests notice less than `ENOUGH` of the mutants.

    python tests/mutation/run.py [--processes N] [--scratch FOLDER] [PACKAGE or MODULE ...]

mutmut (settings under `[tool.mutmut]` in pyproject.toml) works on a copy of the tree in a scratch folder, and changes
nothing in the tree. The run takes one package after the other, and runs only the tests of this package: a machine that
needs the tests of another package to be right is not tested. PACKAGE or MODULE selects machines: `breaker`,
`breaker._machine`. At the end of a package the run prints the survivors that README.md beside this file does not
explain. The run uses one process by default, at low priority.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("resilience", "tests")
SPINNER = re.compile("[\u2800-\u28ff] ")  # one line for each character that a test prints
MACHINES = (
    "*/_machine.py",
    "breaker/_cut_offs.py",
    "breaker/_plan.py",
    "breaker/_rules.py",
    "breaker/_states.py",
    "breaker/_window.py",
    "pool/_connecting.py",
    "redis/_pool_machine.py",
)
# The other tests of pools use threads and real time, and would take hours.
FEWER_TESTS = {"pool": [f"tests/core/pool/test_{name}.py" for name in ("machine", "connecting", "machine_random")]}
MORE_TESTS = {"toolkit": ["tests/core/test_compose.py"]}
ENOUGH = 0.95
NOTICED = ("killed", "timeout")


def machines(selected: Sequence[str]) -> dict[str, list[str]]:
    """Return the modules to mutate of each package; all, if none is selected."""
    found: dict[str, list[str]] = {}
    for path in sorted({path for pattern in MACHINES for path in (ROOT / "resilience").glob(pattern)}):
        package, module = path.parent.name, path.stem
        if not selected or package in selected or f"{package}.{module}" in selected:
            found.setdefault(package, []).append(module)
    return found


def tests_of(package: str) -> list[str]:
    if package in FEWER_TESTS:
        return FEWER_TESTS[package]
    folder = f"tests/core/{package}"
    own = folder if (ROOT / folder).is_dir() else f"tests/core/test_{package}.py"
    return [own, *MORE_TESTS.get(package, ())]


def copy(scratch: Path, package: str, modules: Sequence[str]) -> None:
    """Copy the tree, with settings that name these modules and their tests only."""
    scratch.mkdir(parents=True)
    for name in COPIED:
        shutil.copytree(ROOT / name, scratch / name, ignore=shutil.ignore_patterns("__pycache__"))
    narrowed = {
        "only_mutate": [f"resilience/{package}/{module}.py" for module in modules],
        "pytest_add_cli_args_test_selection": tests_of(package),
    }
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in narrowed.items())
    settings = (ROOT / "pyproject.toml").read_text().replace("[tool.mutmut]\n", f"[tool.mutmut]\n{lines}")
    (scratch / "pyproject.toml").write_text(settings)


def mutmut(scratch: Path, *arguments: str) -> str:
    """Return what mutmut prints; if it fails, end with that."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (line for line in done.stdout.splitlines() if not SPINNER.match(line))
        sys.exit(f"{' '.join(command)} failed in {scratch}:\n{chr(10).join(lines)[-5000:]}\n{done.stderr[-5000:]}")
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


def report(scratch: Path, known: str) -> Counter[str]:
    """Print how each machine did, and the survivors that README.md does not explain; return the counts of all."""
    by_module: dict[str, Counter[str]] = {}
    survivors: dict[str, list[str]] = {}
    for mutant, outcome in outcomes(scratch).items():
        module = module_of(mutant)
        counts = by_module.setdefault(module, Counter())
        if outcome in NOTICED:
            counts["noticed"] += 1
            continue
        was, became = change_of(scratch, mutant)
        line = f"- `{place_of(mutant)}`: `{was}` -> `{became}`"
        if is_for_checkers(was, became):
            continue
        if line in known:
            counts["explained"] += 1
        else:
            counts["open"] += 1
            survivors.setdefault(module, []).append(f"{line}  ({outcome}, {mutant})")
    for module, counts in sorted(by_module.items()):
        print(row_of(module, counts), *survivors.get(module, ()), sep="\n", flush=True)
    return sum(by_module.values(), Counter())


def row_of(name: str, counts: Counter[str]) -> str:
    """Return a row of the table in README.md."""
    figures = (counts.total(), counts["noticed"], f"{share_of(counts):.1%}", counts["explained"], counts["open"])
    return f"| {name} | {' | '.join(map(str, figures))} |"


def share_of(counts: Counter[str]) -> float:
    return counts["noticed"] / counts.total()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("selected", nargs="*", metavar="PACKAGE or MODULE")
    parser.add_argument("--processes", default="1")
    parser.add_argument("--scratch", type=Path)
    given = parser.parse_args()
    chosen = machines(given.selected)
    if not chosen:
        parser.error(f"no machine is called {' or '.join(given.selected)}")
    os.nice(10)
    scratch = Path(tempfile.mkdtemp(prefix="mutation-")) if given.scratch is None else given.scratch
    known = (Path(__file__).parent / "README.md").read_text()
    print(f"working in {scratch}, for some minutes", flush=True)
    print("| module | mutants | noticed | share | explained | open |\n|---|---|---|---|---|---|", flush=True)
    counts: Counter[str] = Counter()
    for package, modules in chosen.items():
        shutil.rmtree(scratch / package, ignore_errors=True)
        copy(scratch / package, package, modules)
        mutmut(scratch / package, "run", "--max-children", given.processes)
        counts += report(scratch / package, known)
    print(row_of("all", counts))
    # Not of the explained ones: no test can notice a change without an effect. Some packages have little else left.
    share = counts["noticed"] / (counts.total() - counts["explained"])
    print(f"The tests noticed {share:.1%} of the mutants that change anything; {ENOUGH:.0%} are enough")
    if given.scratch is None:
        shutil.rmtree(scratch)
    return share < ENOUGH


if __name__ == "__main__":
    sys.exit(main())
