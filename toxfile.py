"""Lets tox find every Python that pyenv has installed, active or not: its shims answer only for the active ones."""

from __future__ import annotations

import os
from pathlib import Path

_VERSIONS = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
_FOUND = sorted(str(folder) for folder in _VERSIONS.glob("3.*/bin"))
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *_FOUND])
