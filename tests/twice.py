"""Runs pytest, and then once more the tests that failed, one after the other: for tox.

Real processes and real seconds fail a test now and then on a machine that stands still, with nothing wrong. By
itself, such a test passes. A test that is wrong fails twice. Its arguments are those of pytest.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

_ALONE = ("--last-failed", "--last-failed-no-failures=none", "--numprocesses=0", "--no-cov")


def main(arguments: list[str]) -> int:
    """Return the exit status: that of the first run, or 0 if all that failed in it have passed alone."""
    command = [sys.executable, "-m", "pytest", *arguments]
    status = subprocess.run([*command, "--cache-clear"], check=False).returncode
    if status != pytest.ExitCode.TESTS_FAILED:
        return status
    sys.stdout.write("\nThe tests that failed run again, by themselves. If one passes now, look for the cause.\n")
    sys.stdout.flush()
    again = subprocess.run([*command, *_ALONE], check=False).returncode
    return _coverage(arguments) if again == pytest.ExitCode.OK else status


def _coverage(arguments: list[str]) -> int:
    """Return whether the first run has reached the coverage that the arguments ask for: a failed test hides that."""
    bounds = [each.partition("=")[2] for each in arguments if each.startswith("--cov-fail-under=")]
    report = [
        sys.executable,
        "-m",
        "coverage",
        "report",
        "--format=total",
        *(f"--fail-under={each}" for each in bounds),
    ]
    return subprocess.run(report, check=False).returncode if bounds else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
