import re
import shlex
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from resilience import Resilience
from resilience.retry import Retry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """What CI runs is what the README tells a stranger to run."""
    command = next(line for line in README.splitlines() if line.endswith(".venv/bin/tox"))
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_a_source_distribution_can_be_tested_too() -> None:
    """Unpacked, it takes the README's test command: all that tox and the tests read is in it."""
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="hatchling is not installed")
    held = {file.distribution_path for file in sdist.SdistBuilder(str(ROOT)).recurse_included_files()}
    assert {"tox.ini", "toxfile.py", ".ci/run", "tests/docs/test_readme.py", "docs/index.md"} <= held


async def test_one_line_of_middleware_does_what_it_says() -> None:
    """The first example gives an app its probes and its error envelope."""
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "install(app)" in block)
    namespace: dict[str, object] = {}
    exec(code, namespace)  # noqa: S102 - the README's own example
    app = namespace["app"]
    assert isinstance(app, FastAPI)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/livez")).status_code == 200
        missing = await client.get("/nowhere")
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    assert missing.headers["x-request-id"] == missing.json()["request_id"]


def test_variables_of_the_readme_are_understood() -> None:
    """The variables of the third example configure the pipeline they name."""
    exports = [shlex.split(line)[1] for line in README.splitlines() if line.startswith("export ")]
    with_values = dict(export.split("=", 1) for export in exports)
    resilience = Resilience.from_env(with_values)
    policies = {type(policy).__name__: policy for policy in resilience.pipeline("payments").policies}
    retry = policies["Retry"]
    assert isinstance(retry, Retry)
    assert retry.options.attempts == 4
    assert "Timeout" in policies
    resilience.close()
