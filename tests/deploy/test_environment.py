"""Every variable that a deployment sets is one that something reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.local.compose import read_services
from phema.shared.settings import Settings
from tests.deploy.documents import COMPOSE, GPU, KUBERNETES, ROOT, env_file, load, services

OURS = {f"PHEMA_{name.upper()}" for name in Settings.model_fields}
CLIENT = {"PHEMA_URL"}
README = (ROOT / "deploy/README.md").read_text()
FOREIGN = set(
    re.findall(r"^\| `([A-Z][A-Za-z0-9_]*)` \|", README.partition("## Variables of other programs")[2], re.MULTILINE)
)
COMPOSE_TEXT = COMPOSE.read_text() + GPU.read_text()
INTERPOLATED = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", COMPOSE_TEXT))


def compose_variables() -> Iterator[tuple[str, str]]:
    for path in (COMPOSE, GPU):
        for service, fields in services(path).items():
            for name in fields.get("environment", {}):
                yield service, name


def kubernetes_variables() -> Iterator[tuple[str, str]]:
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        for document in load(path):
            yield from _within(document, str(path.relative_to(KUBERNETES)))


def _within(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "env":
                yield from ((where, variable["name"]) for variable in inner)
            elif key == "literals":
                yield from ((where, literal.partition("=")[0]) for literal in inner)
            else:
                yield from _within(inner, where)
    elif isinstance(value, list):
        for inner in value:
            yield from _within(inner, where)


def test_every_variable_in_compose_is_read_by_something() -> None:
    used = list(compose_variables())
    assert len(used) > 60
    assert [one for one in used if one[1] not in OURS | CLIENT | FOREIGN] == []


def test_every_variable_in_kubernetes_is_read_by_something() -> None:
    used = list(kubernetes_variables())
    assert len(used) > 20
    assert [one for one in used if one[1] not in OURS | CLIENT | FOREIGN] == []


def test_every_variable_in_the_image_is_read_by_something() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    names = {name for line in re.findall(r"^ENV (.*)$", text, re.MULTILINE) for name in re.findall(r"([A-Z_]+)=", line)}
    of_uv = {name for name in names if name.startswith("UV_")}  # while the image is built; uv documents them
    assert names - OURS - FOREIGN - of_uv == set()


def test_the_table_of_others_variables_lists_nothing_that_is_not_used() -> None:
    used = {name for _, name in [*compose_variables(), *kubernetes_variables()]}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert {name for name in FOREIGN - used if f"{name}=" not in dockerfile} == set()


def test_a_setting_has_one_value_in_all_processes_of_compose() -> None:
    """But for what the two addresses of S3 and each service's own size need."""
    values: dict[str, set[str]] = {}
    for fields in services().values():
        for name, value in fields.get("environment", {}).items():
            values.setdefault(name, set()).add(str(value))
    assert {name for name, found in values.items() if len(found) > 1} == set()


def test_the_example_offers_exactly_what_compose_asks_for() -> None:
    example = (ROOT / ".env.example").read_text()
    offered = set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))
    assert offered == INTERPOLATED


def test_defaults_in_compose_are_those_of_the_example() -> None:
    example = env_file(ROOT / ".env.example")
    defaults = re.findall(r"\$\{([A-Z0-9_]+):?-([^}]*)\}", COMPOSE_TEXT)
    assert len(defaults) > 20
    assert {name: value for name, value in defaults if name in example and example[name] != value} == {}


SIZES = {
    "trainer": (
        "max_running_trainings",
        "checkpoints_kept",
        "training_outage_seconds",
        "training_cpus_per_worker",
    ),
    "phema-worker": ("worker_actors", "actors_while_training"),
}
"""Settings by which operators adapt a deployment to its machines, and the service that reads each."""


@pytest.mark.parametrize("service", SIZES)
def test_sizes_can_be_changed_and_have_the_defaults_of_the_settings(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = dict.fromkeys(re.findall(r"\$\{([A-Z0-9_]+):\?", COMPOSE_TEXT), "a1b2")
    in_kubernetes = {
        variable["name"]: variable["value"]
        for document in load(KUBERNETES / f"base/{service}.yaml")
        for container in document["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]
    }
    for changed in (False, True):
        chosen = {f"PHEMA_{name.upper()}": "7" for name in SIZES[service]} if changed else {}
        environment = read_services(COMPOSE, {**secrets, **chosen})[service]["environment"]
        for name in SIZES[service]:
            variable = f"PHEMA_{name.upper()}"
            monkeypatch.setenv(variable, environment[variable])
            expected = 7 if changed else Settings.model_fields[name].default
            assert getattr(Settings(), name) == expected
            if not changed:
                assert in_kubernetes[variable] == environment[variable]


def test_empty_endpoints_mean_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """As .env.example says; without the lines it is MinIO."""
    secrets = dict.fromkeys(re.findall(r"\$\{([A-Z0-9_]+):\?", COMPOSE_TEXT), "a1b2")
    empty = {"PHEMA_S3_ENDPOINT_URL": "", "PHEMA_S3_PUBLIC_ENDPOINT_URL": ""}
    for chosen, expected in ((empty, (None, None)), ({}, ("http://minio:9000", "http://127.0.0.1:9000"))):
        environment = read_services(COMPOSE, {**secrets, **chosen})["api"]["environment"]
        for name in (name for name in environment if name.startswith("PHEMA_")):
            monkeypatch.setenv(name, environment[name])
        settings = Settings()
        assert (settings.s3_endpoint_url, settings.s3_public_endpoint_url) == expected


def test_every_port_of_the_host_can_be_changed() -> None:
    for name, service in services().items():
        for port in service.get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:\$\{PORT_[A-Z_]+:-(\d+)\}:\1", port), name


def test_secrets_are_required_and_have_no_default() -> None:
    required = set(re.findall(r"\$\{([A-Z0-9_]+):\?", COMPOSE_TEXT))
    secret = {name for name in INTERPOLATED if re.search("PASSWORD|TOKEN|SECRET", name)}
    assert secret <= required
    assert not re.search(r"\$\{[A-Z0-9_]*(PASSWORD|TOKEN|SECRET)[A-Z0-9_]*(:-|-|\})", COMPOSE_TEXT)
    example = env_file(ROOT / ".env.example")
    assert {name: example[name] for name in secret} == dict.fromkeys(secret, "")


def test_what_training_inherits_is_set_where_ray_starts() -> None:
    """Secrets do not travel with a job: Ray's nodes must hold them (services/trainer/control/job_environment.py)."""
    for service in ("ray-head", "ray-worker"):
        environment = services()[service]["environment"]
        assert {"PHEMA_DATABASE_URL", "PHEMA_S3_SECRET_ACCESS_KEY"} <= set(environment)
