"""The Kubernetes example, read from its files: objects, the environment of a container, the image's instructions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

__all__ = ("FOLDER", "Image", "container_of", "deployments", "environment_of", "manifest", "manifests", "merged")

FOLDER = Path(__file__).parents[2] / "examples" / "kubernetes"


def documents(path: Path) -> list[dict[str, Any]]:
    """Return what a file holds."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects that `kubectl apply -k` sends, by kind and name."""
    names = documents(FOLDER / "kustomization.yaml")[0]["resources"]
    every = [document for name in names for document in documents(FOLDER / name)]
    return {(document["kind"], document["metadata"]["name"]): document for document in every}


def manifest(kind: str, name: str) -> dict[str, Any]:
    """Return one of them."""
    return manifests()[kind, name]


def deployments() -> list[str]:
    """Return the names of all Deployments."""
    return [name for kind, name in manifests() if kind == "Deployment"]


def container_of(deployment: dict[str, Any]) -> dict[str, Any]:
    """Return its only container."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


def environment_of(deployment: dict[str, Any]) -> dict[str, str]:
    """Return what a container finds in its environment; what a Secret would hold is empty."""
    container = container_of(deployment)
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found |= manifest("ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {each["name"]: each.get("value", "") for each in container["env"]}


def merged(base: Any, patch: Any) -> Any:
    """Return what a strategic merge makes of both: lists of named things are merged by name, null takes away."""
    if isinstance(base, dict) and isinstance(patch, dict):
        both = {name: merged(base.get(name), value) for name, value in patch.items()}
        return {name: value for name, value in {**base, **both}.items() if value is not None}
    if isinstance(base, list) and isinstance(patch, list) and all("name" in each for each in base + patch):
        named = {each["name"]: each for each in base}
        return list({**named, **{each["name"]: merged(named.get(each["name"]), each) for each in patch}}.values())
    return merged({}, patch) if isinstance(patch, dict) else patch


class Image:
    """What a Dockerfile says."""

    def __init__(self, path: Path = FOLDER / "Dockerfile") -> None:
        lines = re.sub(r"\\\n", " ", path.read_text()).splitlines()
        words = [line.split(None, 1) for line in lines if line.strip() and not line.startswith("#")]
        self.instructions = [(name, rest.strip()) for name, rest in words]

    @property
    def stages(self) -> list[list[tuple[str, str]]]:
        """The instructions after each FROM, with it."""
        starts = [index for index, (name, _) in enumerate(self.instructions) if name == "FROM"]
        return [self.instructions[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]

    def said(self, name: str, stage: int = -1) -> list[str]:
        """Return what follows an instruction in a stage."""
        return [rest for said, rest in self.stages[stage] if said == name]

    @property
    def command(self) -> list[str]:
        """What is started; anything else than exec form is an error."""
        return [*json.loads(self.said("ENTRYPOINT")[-1]), *json.loads(self.said("CMD")[-1])]

    def copied(self, stage: int = -1) -> list[str]:
        """Return the paths of the repository that a stage takes."""
        lines = [line.split() for line in self.said("COPY", stage) if not line.startswith("--from")]
        return [path for line in lines for path in line[:-1]]
