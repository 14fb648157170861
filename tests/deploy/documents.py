"""The deployment's files as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from deploy.local.compose import read_variables

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
GPU = ROOT / "docker-compose.gpu.yml"
KUBERNETES = ROOT / "deploy/kubernetes"


class _Strict(yaml.SafeLoader):
    """A key given twice is an error, as it is for compose and Kubernetes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, f"a key twice among {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


def load(path: Path) -> list[dict[str, Any]]:
    """Every document of a YAML file."""
    return [document for document in yaml.load_all(path.read_text(), _Strict) if document is not None]


def services(path: Path = COMPOSE) -> dict[str, Any]:
    found: dict[str, Any] = load(path)[0]["services"]
    return found


def env_file(path: Path) -> dict[str, str]:
    return read_variables(path)
