"""Servers behind a Unix socket: the peer has no address, so all of a client's is what its proxy says."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from unix_server import SERVERS, Server, end, wait_for

pytestmark = pytest.mark.servers

EXAMPLE = Path(__file__).parents[2] / "examples" / "nginx"
WARNING = "set RESILIENCE_SERVER__TRUSTED_PROXIES=unix"

Start = Callable[..., Server]


@pytest.mark.parametrize("name", SERVERS)
def test_clients_behind_a_trusted_socket_are_told_apart(start: Start, name: str) -> None:
    """With `unix` among the trusted proxies each client that the proxy names has a quota of its own."""
    server = start(name, RESILIENCE_SERVER__TRUSTED_PROXIES="unix", RESILIENCE_SERVER__RATE_LIMIT="2/minute")
    clients = [f"203.0.113.{number}" for number in range(20)]
    answers = [server.get(forwarded=f"6.6.6.6, {client}") for client in clients]
    assert [(each.status_code, each.json()) for each in answers] == [(200, client) for client in clients]
    assert [server.get("/route", client).status_code for client in clients[:2]] == [200, 200]
    assert server.get(forwarded=clients[0]).status_code == 429
    assert server.get("/route", "203.0.113.99").status_code == 200
    assert server.get("/route", "203.0.113.99").status_code == 429
    assert WARNING not in server.output


@pytest.mark.parametrize("name", SERVERS)
def test_clients_of_a_socket_nothing_is_known_of_share_no_quota(start: Start, name: str) -> None:
    """Without the setting no client is refused for what others do; one warning names the setting."""
    server = start(name, RESILIENCE_SERVER__RATE_LIMIT="1/minute")
    answers = [server.get(path, f"203.0.113.{number}") for number in range(10) for path in ("/", "/route")]
    assert [(each.status_code, each.json()) for each in answers] == [(200, "")] * 20
    assert server.output.count(WARNING) == 1


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn"])
def test_a_proxy_that_names_nobody(start: Start, name: str) -> None:
    """A trusted proxy that sends no header is warned about; one that sends nonsense makes its clients share a quota."""
    server = start(name, RESILIENCE_SERVER__TRUSTED_PROXIES="unix", RESILIENCE_SERVER__RATE_LIMIT="1/minute")
    assert [server.get().status_code for _ in range(3)] == [200] * 3
    assert server.output.count("proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;") == 1
    assert [server.get(forwarded=text).status_code for text in ("nonsense", "other")] == [200, 429]


def settings_of_example() -> dict[str, str]:
    lines = (EXAMPLE / "shop.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_example_of_nginx_names_the_client() -> None:
    """The example of nginx appends the client's address, over the socket that its settings trust."""
    text = re.sub(r"#.*", "", (EXAMPLE / "nginx.conf").read_text())
    assert re.search(r"server unix:/run/shop/shop\.sock\b", text)
    assert re.search(r"proxy_set_header\s+X-Forwarded-For\s+\$proxy_add_x_forwarded_for;", text)
    assert settings_of_example()["RESILIENCE_SERVER__TRUSTED_PROXIES"] == "unix"


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn"])
def test_behind_a_real_nginx(start: Start, name: str, tmp_path: Path) -> None:
    """Behind a real nginx with the example's configuration the client is its own address, whatever it claims."""
    binary = os.environ.get("TEST_NGINX") or shutil.which("nginx")
    if binary is None:
        pytest.skip("no nginx: put one on PATH, or name it in TEST_NGINX")
    server = start(name, **{**settings_of_example(), "RESILIENCE_SERVER__RATE_LIMIT": "2/minute"})
    with proxied(binary, server.path, tmp_path) as url, httpx2.Client(base_url=url) as client:
        answers: list[Any] = [client.get("/", headers={"X-Forwarded-For": f"6.6.6.{number}"}) for number in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert answers[0].json() == "127.0.0.1"


@contextlib.contextmanager
def proxied(binary: str, path: Path, directory: Path) -> Iterator[str]:
    """Run nginx with the example's file, its socket, port and places replaced by those of the test."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    text = (EXAMPLE / "nginx.conf").read_text().replace("/run/shop/shop.sock", str(path))
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    places = "".join(f"{kind}_temp_path {directory};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    text = text.replace("http {", f"http {{ access_log off; {places}", 1)
    (directory / "nginx.conf").write_text(f"daemon off; master_process off; pid {directory}/nginx.pid;\n{text}")
    log = directory / "nginx.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [binary, "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", "stderr"],
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: httpx2.get(f"{url}/livez").status_code == 200, process, log)
        yield url
    finally:
        end(process)
