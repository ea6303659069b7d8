"""What docs/howto/errors.md says of finding a request in the logs."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from flask import Flask

from resilience_fastapi import install
from resilience_flask import FlaskResilience

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "errors.md").read_text()
EXAMPLE = next(code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class RequestId" in code)
log = logging.getLogger("shop")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Collect what the handler of the example writes, with the example's own filter and format."""
    configuration = EXAMPLE[: EXAMPLE.index("handler = ")]
    namespace: dict[str, type[logging.Filter]] = {}
    exec(configuration, namespace)  # noqa: S102 - the page's own example
    (form,) = re.findall(r'format="([^"]+)"', EXAMPLE)
    handler = logging.StreamHandler(text := io.StringIO())
    handler.addFilter(namespace["RequestId"]())
    handler.setFormatter(logging.Formatter(form))
    logging.getLogger().addHandler(handler)
    yield text
    logging.getLogger().removeHandler(handler)


def test_outside_a_request(written: io.StringIO) -> None:
    """Without a request the record has a dash, as the example's comment says."""
    log.warning("no article %s", "x-1")
    (promised,) = re.findall(r"# (WARNING .*)", EXAMPLE)
    assert written.getvalue() == f"{promised}\n"


def test_in_flask(written: io.StringIO) -> None:
    """What a view logs has the id, and so has Flask's own record of an unhandled error."""
    app = Flask(__name__)

    @app.get("/")
    def fail() -> str:
        log.warning("here")
        raise ValueError

    FlaskResilience(app)
    assert app.test_client().get("/", headers={"X-Request-ID": "abc"}).status_code == 500
    assert "WARNING shop [abc] here\n" in written.getvalue()
    assert re.search(r"^ERROR \S+ \[abc\] Exception on / \[GET\]\nTraceback", written.getvalue(), re.MULTILINE)


@pytest.mark.parametrize("path", ["/task", "/thread"])
async def test_in_fastapi(written: io.StringIO, path: str) -> None:
    """What an endpoint of either colour logs has the id; an unhandled error is named by ours, in the page's words."""
    app = FastAPI()

    def fail() -> None:
        log.warning("here")
        raise ValueError

    async def fail_awaiting() -> None:
        fail()

    app.get("/thread")(fail)
    app.get("/task")(fail_awaiting)
    install(app)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get(path, headers={"X-Request-ID": "5f0c"})).status_code == 500
    (promised,) = re.findall(r"`(request 5f0c ended .*?)`", PAGE)
    assert written.getvalue() == f"WARNING shop [5f0c] here\nERROR resilience [5f0c] {promised}\n"


@pytest.mark.parametrize(
    "server",
    [
        "import uvicorn; uvicorn.Config(None)",
        "from gunicorn import config, glogging; glogging.Logger(config.Config())",
    ],
    ids=["uvicorn", "gunicorn"],
)
def test_without_a_configuration(server: str) -> None:
    """Under a server that has configured its own loggers, warnings of ours go to stderr and nothing below does."""
    code = f"{server}\nimport logging, resilience.events\nlog = logging.getLogger('resilience')\n"
    code += "log.info('quiet'); log.warning('warned'); log.error('failed')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.split() == ["warned", "failed"]
