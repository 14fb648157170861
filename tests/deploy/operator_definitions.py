"""The definitions (CRDs) of KubeRay and the Prometheus operator as JSON schemas, from a folder of the caller.

They are not part of this repository. PHEMA_OPERATOR_DEFINITIONS names a folder with `ray.io_rayclusters.yaml` from
KubeRay's `helm-chart/kuberay-operator/crds`, and from the Prometheus operator's `example/prometheus-operator-crd`
`monitoring.coreos.com_podmonitors.yaml`, `…_prometheusrules.yaml` and `…_scrapeconfigs.yaml`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FOLDER = os.environ.get("PHEMA_OPERATOR_DEFINITIONS")
_OPEN = ("x-kubernetes-preserve-unknown-fields", "additionalProperties")


def definitions(folder: Path) -> dict[tuple[str, str], Draft202012Validator]:
    """(apiVersion, kind) -> validator, for every served version of every definition of the folder."""
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        spec = yaml.safe_load(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = dict(_strict(version["schema"]["openAPIV3Schema"]))
            # Kubernetes itself checks the metadata.
            schema["properties"] = {**schema["properties"], "metadata": {"type": "object"}}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = Draft202012Validator(schema)
    return found


def faults_of(one: dict[str, Any], validator: Draft202012Validator) -> Iterator[str]:
    """What an operator's definition refuses, or would drop without a word."""
    for error in validator.iter_errors(one):
        yield f"{one['kind']} {one['metadata']['name']}: {'.'.join(map(str, error.absolute_path))}: {error.message}"


def _strict(schema: Any) -> Any:
    """The schema with unknown fields refused, and numbers allowed where Kubernetes takes either."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: value if key == "enum" else _strict(value) for key, value in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
        made.pop("pattern", None)
    if made.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    if "properties" in made and not any(made.get(key) for key in _OPEN):
        made["additionalProperties"] = False
    return made
