"""The manifests of examples/kubernetes, held against Kubernetes' schemas, the real loader and the examples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from example_modules import load
from kubernetes_validate.utils import ValidationError, validate
from manifests import FOLDER, Image, container_of, deployments, environment_of, manifest, manifests, merged

from resilience import ConfigurationError, Resilience

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "kubernetes.md").read_text()
VERSIONS = ["1.30", "1.34", "1.37"]
"""The first that runs `preStop.sleep` unasked, the one that calls it stable, and the newest there is a schema for."""

EXAMPLES = {"shop": "fastapi_shop", "warehouse": "flask_shop", "stock": "grpc_shop"}
PROBES = {"startupProbe": "/startupz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}


def patched(name: str) -> dict[str, Any]:
    """Return a Deployment with the patch for drain files."""
    result: dict[str, Any] = merged(
        manifest("Deployment", name), yaml.safe_load((FOLDER / "drain-file.yaml").read_text())
    )
    return result


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("which", [*manifests(), ("Deployment", "with a drain file")], ids="-".join)
def test_manifests_are_valid(which: tuple[str, str], version: str) -> None:
    """Every object, also as patched, is what the API server expects, with no field it does not know."""
    document = manifests()[which] if which in manifests() else patched("shop")
    assert validate(document, version, strict=True) == version


def test_a_misspelt_field_is_noticed() -> None:
    """The schemas are strict: what the API server would drop without a word is an error here."""
    document = merged(manifest("Deployment", "shop"), {"spec": {"template": {"spec": {"enableServiceLink": False}}}})
    with pytest.raises(ValidationError):
        validate(document, VERSIONS[-1], strict=True)


def test_all_of_the_folder_is_applied() -> None:
    """Every manifest of the folder is a resource of the kustomization, or a patch that the page tells of."""
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    others = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml", *kustomization["resources"]}
    assert others == {"drain-file.yaml"}
    assert "drain-file.yaml" in PAGE
    images = {container_of(manifest("Deployment", name))["image"].partition(":")[0] for name in deployments()}
    assert images == {image["name"] for image in kustomization["images"]}


def test_no_secret_is_in_the_folder() -> None:
    """The Redis URL, and with it a password, comes from a Secret that is made by hand; no file holds a value of one."""
    assert not [name for kind, name in manifests() if kind == "Secret"]
    for (kind, _), document in manifests().items():
        assert kind != "ConfigMap" or "RESILIENCE_REDIS__URL" not in document["data"]
    for name in deployments():
        (url,) = [each for each in container_of(manifest("Deployment", name))["env"] if each["name"].endswith("__URL")]
        wanted = url["valueFrom"]["secretKeyRef"]
        assert "value" not in url
        assert f"kubectl create secret generic {wanted['name']} --from-literal={wanted['key']}=" in PAGE


@pytest.mark.parametrize("name", deployments())
def test_variables_are_understood(name: str) -> None:
    """The real loader takes the environment of each container, in strict mode; one letter less and it would not."""
    environment = environment_of(manifest("Deployment", name))
    assert environment["RESILIENCE_STRICT"] == "true"
    Resilience.from_env(environment).close()
    for variable in environment:
        misspelt = {**environment, variable[:-1]: environment[variable] or "1"}
        if variable.startswith("RESILIENCE_") and variable != "RESILIENCE_STRICT":
            with pytest.raises(ConfigurationError, match=variable[:-1]):
                Resilience.from_env(misspelt)


@pytest.mark.parametrize("name", deployments())
def test_labels_match(name: str) -> None:
    """Service, disruption budget and spread select the pods of the Deployment, and of no other one."""
    pods = {each: manifest("Deployment", each)["spec"]["template"]["metadata"]["labels"] for each in deployments()}
    deployment = manifest("Deployment", name)["spec"]
    service, budget = manifest("Service", name)["spec"], manifest("PodDisruptionBudget", name)["spec"]
    selectors = [
        deployment["selector"]["matchLabels"],
        service["selector"],
        budget["selector"]["matchLabels"],
        *(
            each["labelSelector"]["matchLabels"]
            for each in deployment["template"]["spec"].get("topologySpreadConstraints", [])
        ),
    ]
    for selector in selectors:
        assert [each for each, labels in pods.items() if selector.items() <= labels.items()] == [name]
    ports = {port["name"]: port["containerPort"] for port in container_of(manifest("Deployment", name))["ports"]}
    assert {port["targetPort"] for port in service["ports"]} <= set(ports)


@pytest.mark.parametrize("name", deployments())
def test_pods_may_do_nothing(name: str) -> None:
    """A container is nobody: no root, no capability, no file to write, no token, the runtime's own system calls."""
    pod = manifest("Deployment", name)["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["automountServiceAccountToken"] is False
    assert container_of(manifest("Deployment", name))["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} <= set(container_of(manifest("Deployment", name))["resources"])


@pytest.mark.parametrize("name", deployments())
def test_no_update_or_eviction_takes_the_last_pod(name: str) -> None:
    """An update takes no pod before its successor is ready; an eviction leaves all but one."""
    deployment = manifest("Deployment", name)["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert deployment["strategy"]["rollingUpdate"]["maxSurge"] >= 1
    assert deployment["replicas"] > manifest("PodDisruptionBudget", name)["spec"]["maxUnavailable"] > 0


async def test_probes_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example answers each probe, on the path and port of the manifest; a drain fails readiness alone."""
    container = container_of(manifest("Deployment", "shop"))
    for variable, value in environment_of(manifest("Deployment", "shop")).items():
        monkeypatch.setenv(variable, value)
    shop = load("fastapi_shop")
    ports = {port["name"] for port in container["ports"]}
    paths = {probe: container[probe]["httpGet"]["path"] for probe in PROBES}
    assert paths == PROBES
    assert {container[probe]["httpGet"]["port"] for probe in PROBES} <= ports

    async def statuses() -> dict[str, int]:
        return {probe: (await client.get(path)).status_code for probe, path in paths.items()}

    transport = httpx2.ASGITransport(shop.app)
    async with (
        shop.app.router.lifespan_context(shop.app),
        httpx2.AsyncClient(transport=transport, base_url="http://shop.example") as client,
    ):
        assert set((await statuses()).values()) == {200}
        shop.toolkit.lifecycle.drain()
        assert await statuses() == {"startupProbe": 200, "readinessProbe": 503, "livenessProbe": 200}


@pytest.mark.parametrize("name", deployments())
def test_probes_are_patient_enough(name: str) -> None:
    """A probe waits longer than a check may take, and the start is given longer than one dependency may take."""
    container = container_of(manifest("Deployment", name))
    toolkit = Resilience.from_env(environment_of(manifest("Deployment", name)))
    for probe in PROBES:
        assert container[probe]["timeoutSeconds"] > toolkit.config.health.timeout
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > toolkit.config.lifecycle.startup_timeout
    toolkit.close()


def grace(deployment: dict[str, Any]) -> float:
    """Return how long a pod has, in seconds."""
    return float(deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])


def pre_stop(deployment: dict[str, Any]) -> float:
    """Return how long the hook takes, in seconds."""
    hook = container_of(deployment).get("lifecycle", {}).get("preStop")
    if hook is None:
        return 0
    return float(hook["sleep"]["seconds"] if "sleep" in hook else hook["exec"]["command"][-1].split()[-1])


@pytest.mark.parametrize("which", ["shop", "shop with a drain file", "warehouse", "stock"])
def test_the_grace_period_is_long_enough(which: str) -> None:
    """What may happen between the end's beginning and SIGKILL fits, in the worst case and by the rule of the page."""
    name = which.partition(" ")[0]
    deployment = manifest("Deployment", name) if which == name else patched(name)
    toolkit = Resilience.from_env(environment_of(deployment))
    settings = toolkit.config.lifecycle
    server, around = server_limit(deployment), pre_stop(deployment) + settings.drain_delay
    stopping = stop_timeout(name, deployment)
    # gunicorn's limit begins at SIGTERM and ends with the stop hooks; the other two are for requests alone.
    assert pre_stop(deployment) + server < grace(deployment)
    assert name == "warehouse" or around + server + stopping < grace(deployment)
    assert toolkit.config.server.deadline is not None
    assert around + toolkit.config.server.deadline + stopping < server < grace(deployment)
    toolkit.close()


def stop_timeout(name: str, deployment: dict[str, Any]) -> float:
    """Return how long all drain and stop hooks of an example may take, as it says itself, in a process of its own."""
    command = [sys.executable, "-c", f"from {EXAMPLES[name]} import toolkit; print(toolkit.lifecycle.stop_timeout)"]
    known = {name: value for name, value in os.environ.items() if not name.startswith("RESILIENCE_")}
    environment = {**known, **environment_of(deployment), "PYTHONPATH": str(ROOT / "examples")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return float(done.stdout)


def server_limit(deployment: dict[str, Any]) -> float:
    """Return how long a server waits for requests, in seconds: by its command, or on gRPC by our own setting."""
    container = container_of(deployment)
    said = [*container["command"], *container.get("args", [])] if "command" in container else Image().command
    for option in ("--timeout-graceful-shutdown", "--graceful-timeout"):
        if option in said:
            return float(said[said.index(option) + 1])
    toolkit = Resilience.from_env(environment_of(deployment))
    toolkit.close()
    return float(toolkit.config.lifecycle.drain_timeout)


def test_the_page_tells_the_numbers_of_the_files() -> None:
    """Each number of the budget and of the probes on the page is the one in the manifests, and the sum is right."""
    deployment = manifest("Deployment", "shop")
    rows = [line.split("|")[1:4] for line in PAGE.splitlines() if re.match(r"\| \d+ s \| \d+ s \|", line)]
    for column, name in enumerate(("shop", "warehouse", "stock")):
        each = manifest("Deployment", name)
        toolkit = Resilience.from_env(environment_of(each))
        settings = toolkit.config.lifecycle
        hook = 0 if name == "warehouse" else settings.hook_timeout  # it is within gunicorn's limit
        steps = [pre_stop(each), settings.drain_delay, server_limit(each), hook]
        assert [float(row[column].split()[0]) for row in rows] == [*steps, sum(steps), grace(each)]
        toolkit.close()
    toolkit = Resilience.from_env(environment_of(deployment))
    settings = toolkit.config.lifecycle
    assert f"one may take {toolkit.config.server.deadline:.0f} s in the shop (`RESILIENCE_SERVER__DEADLINE`)" in PAGE
    assert f"(`RESILIENCE_HEALTH__TIMEOUT`, {toolkit.config.health.timeout:.0f} s)" in PAGE
    assert f"(`RESILIENCE_LIFECYCLE__STARTUP_TIMEOUT`, {settings.startup_timeout:.0f} s)" in PAGE
    for probe, path in PROBES.items():
        said = container_of(deployment)[probe]
        name, every, waits, failures = (
            probe.removesuffix("Probe"),
            *(said[key] for key in ("periodSeconds", "timeoutSeconds", "failureThreshold")),
        )
        assert container_of(manifest("Deployment", "warehouse"))[probe] == said
        same = container_of(manifest("Deployment", "stock"))[probe]
        assert same == {**{key: value for key, value in said.items() if key != "httpGet"}, "grpc": same["grpc"]}
        assert same["grpc"]["service"] == name
        assert f"| {name} | `{path}` | {every} s | {waits} s | {failures} failures" in PAGE
    toolkit.close()


def test_older_clusters_take_what_the_page_gives_them() -> None:
    """With the page's block, the Deployment is valid where `sleep` is unknown, and waits as long."""
    block = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
    deployment = manifest("Deployment", "shop")
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "shop", **block}]}}}}
    older = merged(deployment, patch)
    assert validate(older, "1.28", strict=True) == "1.28"
    assert pre_stop(older) == pre_stop(deployment)
    with pytest.raises(ValidationError):
        validate(deployment, "1.28", strict=True)


@pytest.mark.parametrize("name", deployments())
def test_a_proxy_in_the_pod_names_the_client(name: str) -> None:
    """Every service believes a proxy that speaks to it over a Unix socket, and no address."""
    with Resilience.from_env(environment_of(manifest("Deployment", name))) as toolkit:
        assert toolkit.config.server.trusted_proxies == ("unix",)
