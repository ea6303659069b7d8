"""The image of examples/kubernetes: its Dockerfile read and linted, its command started here as a process."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hatchling.builders.wheel import WheelBuilder
from manifests import FOLDER, Image, container_of, environment_of, manifest
from server_process import ServerProcess

ROOT = Path(__file__).parents[2]
SHOP, WAREHOUSE, STOCK = (manifest("Deployment", name) for name in ("shop", "warehouse", "stock"))
SERVING = health_pb2.HealthCheckResponse.SERVING
ENDED_BY_SIGTERM = -15
"""How uvicorn ends: it stops in good order, and then takes the signal as if it had not been handled."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Slow(http.server.BaseHTTPRequestHandler):
    """A provider that takes its time."""

    seconds = 1.0
    is_asked = threading.Event()

    def do_POST(self) -> None:
        self.is_asked.set()
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.seconds)
        self.send_response(201)
        self.end_headers()
        self.wfile.write(json.dumps({"paid": 450}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has there
        """Say nothing."""


@pytest.fixture
def provider() -> Iterator[str]:
    Slow.is_asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


Start = Callable[..., ServerProcess]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Run a command with the environment of a Deployment, where the image's files are."""
    for variable in [name for name in os.environ if name.startswith("RESILIENCE_")]:
        monkeypatch.delenv(variable)
    for path in Image().copied():
        shutil.copy(ROOT / path, tmp_path)
    with contextlib.ExitStack() as stack:

        def begin(
            command: list[str], deployment: dict[str, Any], port: int, *before: str, **more: str
        ) -> ServerProcess:
            assert command[0] == "python"
            here = [*before, sys.executable, *command[1:]]
            process = ServerProcess(here, tmp_path, {**environment_of(deployment), **more}, port)
            stack.callback(process.kill)
            return process

        yield begin


@pytest.fixture
def start(run: Start) -> Start:
    """Start what the image starts, and wait until it is ready."""

    def begin(*before: str, **settings: str) -> ServerProcess:
        port = free_port()
        command = [*Image().command, "--host", "127.0.0.1", "--port", str(port)]
        process = run(command, SHOP, port, *before, **settings)
        process.answers("/readyz", 200)
        return process

    return begin


def order(process: ServerProcess, seen: list[int]) -> threading.Thread:
    """Order something in a thread; the list gets the status."""

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", "/plain/orders", '{"item": "tea"}', {"Content-Type": "application/json"})
            seen.append(connection.getresponse().status)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


@pytest.mark.servers
@pytest.mark.realtime
def test_the_image_ends_in_order(start: Start, provider: str) -> None:
    """The command answers the probes; at SIGTERM what is in flight is finished, and it ends as uvicorn does."""
    server = start(SHOP_PROVIDER_URL=provider)
    container, seen = container_of(SHOP), list[int]()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server.ask(container[probe]["httpGet"]["path"])[0] == 200
    customer = order(server, seen)
    assert Slow.is_asked.wait(10)
    server.tell()
    customer.join()
    assert seen == [201]
    assert server.ended() == ENDED_BY_SIGTERM, server.output


@pytest.mark.servers
@pytest.mark.realtime
def test_the_image_says_that_it_leaves(start: Start, provider: str) -> None:
    """With a drain delay readiness is 503 after SIGTERM while new orders are still taken, and paid."""
    server, seen = start(SHOP_PROVIDER_URL=provider, RESILIENCE_LIFECYCLE__DRAIN_DELAY="2s"), list[int]()
    begin = server.tell()
    server.answers("/readyz", 503)
    assert server.ask("/livez")[0] == 200
    order(server, seen).join()
    assert seen == [201]
    assert server.ended() == ENDED_BY_SIGTERM, server.output
    assert time.monotonic() - begin >= 2


@pytest.mark.servers
def test_the_drain_file_flips_readiness(start: Start, tmp_path: Path) -> None:
    """The file alone makes readiness 503; one that a former container left is found, and gone as soon as removed."""
    file = tmp_path / "drain"
    server = start(RESILIENCE_LIFECYCLE__DRAIN_FILE=str(file))
    file.touch()
    assert [server.ask(path)[0] for path in ("/readyz", "/startupz", "/livez")] == [503, 200, 200]
    file.unlink()
    assert server.ask("/readyz")[0] == 200
    file.touch()
    server.tell()
    assert server.ended() == ENDED_BY_SIGTERM, server.output


@pytest.mark.servers
@pytest.mark.realtime
def test_the_warehouse_ends_in_order(run: Start) -> None:
    """The command of the Deployment answers the probes; told to end it says so for the delay, and the status is 0."""
    port, container = free_port(), container_of(WAREHOUSE)
    flags = {flag for each in importlib.import_module("gunicorn.config").KNOWN_SETTINGS for flag in each.cli or ()}
    newer = {"--no-control-socket"} - flags  # older versions have no such socket either
    words = [word for word in container["command"] + container["args"] if word not in newer]
    command = [word.replace("0.0.0.0:9002", f"127.0.0.1:{port}") for word in words]
    server = run(command, WAREHOUSE, port, RESILIENCE_LIFECYCLE__DRAIN_DELAY="2s")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        server.answers(container[probe]["httpGet"]["path"], 200)
    begin = server.tell()
    server.answers("/readyz", 503)
    assert server.ask("/livez")[0] == 200
    assert server.ended() == 0, server.output
    assert time.monotonic() - begin >= 2
    assert "ERROR" not in server.output


@pytest.mark.servers
@pytest.mark.realtime
def test_the_stock_ends_in_order(run: Start) -> None:
    """Each gRPC probe is answered; after SIGTERM calls are taken for the delay, readiness gone, and the status is 0."""
    port, container = free_port(), container_of(STOCK)
    settings = {"STOCK_ADDRESS": f"127.0.0.1:{port}", "RESILIENCE_LIFECYCLE__DRAIN_DELAY": "2s"}
    server = run(container["command"], STOCK, port, **settings)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        book: Any = channel.unary_unary("/shop.Stock/Book", lambda parcel: json.dumps(parcel).encode(), json.loads)

        def status(probe: str) -> int:
            asked = health_pb2.HealthCheckRequest(service=container[probe]["grpc"]["service"])
            return int(health.Check(asked, timeout=5, wait_for_ready=True).status)

        probes = ("startupProbe", "readinessProbe", "livenessProbe")
        assert [status(probe) for probe in probes] == [SERVING] * 3, server.output
        begin = server.tell()
        while status("readinessProbe") == SERVING:
            assert time.monotonic() - begin < 2
        assert status("livenessProbe") == SERVING
        assert book({"number": "1", "item": "tea", "quantity": 1}, timeout=5)["booked_by"]
    assert server.ended() == 0, server.output
    assert time.monotonic() - begin >= 2


def is_permitted(*command: str) -> bool:
    """Whether a program is there, and may do that here."""
    return bool(shutil.which(command[0])) and not subprocess.run(command, capture_output=True, check=False).returncode


NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child")


@pytest.mark.servers
@pytest.mark.skipif(not is_permitted(*NAMESPACE, "true"), reason="no right to make a process namespace")
def test_as_process_1_it_ends_with_status_0(start: Start) -> None:
    """As process 1, as in a container, SIGTERM is handled as well, and the status is 0: the kernel spares process 1."""
    server = start(*NAMESPACE)
    (child,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    status = Path(f"/proc/{child}/status").read_text()
    assert status.partition("NSpid:")[2].split()[:2] == [child, "1"]
    os.kill(int(child), 15)
    assert server.ended() == 0, server.output
    assert "Application shutdown complete" in server.output


def test_the_image_is_somebody_without_rights() -> None:
    """The image is built in one stage and run in another, by a user that is a number and not root."""
    image = Image()
    assert len(image.stages) >= 2
    assert [line.split()[0] for line in image.said("COPY") if line.startswith("--from")] == ["--from=build"]
    user = image.said("USER")[-1].split(":")
    assert all(part.isdigit() and int(part) > 0 for part in user)
    assert not image.said("HEALTHCHECK")
    assert not [line for name, line in image.instructions if name in {"ENTRYPOINT", "CMD"} and not line.startswith("[")]


def test_the_port_is_the_one_served() -> None:
    """The port that each command serves on is one that the image exposes, and the one of the Deployment's container."""
    command = Image().command
    port = command[command.index("--port") + 1]
    assert port in Image().said("EXPOSE")[0].split()
    assert [each["containerPort"] for each in container_of(SHOP)["ports"]] == [int(port)]
    assert command[command.index("--host") + 1] == "0.0.0.0"  # noqa: S104 - what a container has to listen on
    gunicorn = container_of(WAREHOUSE)["command"]
    addresses = {"warehouse": gunicorn[gunicorn.index("-b") + 1], "stock": environment_of(STOCK)["STOCK_ADDRESS"]}
    for name, address in addresses.items():
        host, _, own = address.partition(":")
        assert host == "0.0.0.0"  # noqa: S104 - the same
        assert own in Image().said("EXPOSE")[0].split()
        assert [each["containerPort"] for each in container_of(manifest("Deployment", name))["ports"]] == [int(own)]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container_of(STOCK)[probe]["grpc"]["port"] == container_of(STOCK)["ports"][0]["containerPort"]


def test_what_the_image_copies_is_enough(tmp_path: Path) -> None:
    """The first stage can build the wheel from what it copies, which is all there and not kept out of the build."""
    image, source = Image(), tmp_path / "source"
    source.mkdir()
    sent = [line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    for path in image.copied(0):
        assert path in sent
        copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
        copy(ROOT / path, source / path)
    assert all(path.split("/")[0] in sent for path in image.copied())
    (wheel,) = WheelBuilder(str(source)).build(directory=str(tmp_path / "dist"), versions=["standard"])
    with zipfile.ZipFile(wheel) as built:
        assert {"resilience/__init__.py", "resilience_fastapi/__init__.py"} <= set(built.namelist())


def test_hadolint_has_nothing_to_say() -> None:
    """The Dockerfile passes hadolint."""
    beside = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if beside is None:
        pytest.skip("hadolint is not installed: its wheels are for some platforms only")
    done = subprocess.run([beside, str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
