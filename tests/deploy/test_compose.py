"""docker-compose.yml: what a compose command would refuse, and what only shows when a machine is lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.compose import read_services, seconds
from phema.services.trainer.control.worker_resources import place_workers
from phema.shared.settings import Settings
from tests.deploy.documents import COMPOSE, GPU, ROOT, env_file, load, services
from tests.trainer.support import loose_attempt

SERVICES = services()
ONE_SHOT = {"volumes", "prepare", "doctor"}
NAMES = [*SERVICES]


def compose_command() -> list[str] | None:
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker"):
        probe = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if probe.returncode == 0:
            return ["docker", "compose"]
    return None


@pytest.mark.parametrize("files", [[COMPOSE], [COMPOSE, GPU]], ids=["cpu", "gpu"])
def test_a_compose_command_accepts_the_files(files: list[Path], tmp_path: Path) -> None:
    command = compose_command()
    if command is None:
        if os.environ.get("PHEMA_REQUIRE_COMPOSE"):
            pytest.fail("PHEMA_REQUIRE_COMPOSE is set, but there is no compose command")
        pytest.skip("no compose command: apt-get install docker-compose")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PHEMA_", "RAY_"))}
    required = set(re.findall(r"\$\{([A-Z0-9_]+):\?", COMPOSE.read_text()))
    (tmp_path / "env").write_text("".join(f"{name}=a1b2\n" for name in required))
    chosen = [f"--file={path}" for path in files]
    done = subprocess.run(
        [*command, f"--env-file={tmp_path / 'env'}", *chosen, "config"],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    worker = yaml.safe_load(done.stdout)["services"]["ray-worker"]
    assert ("devices" in str(worker["deploy"])) == (GPU in files)


def test_the_topology_is_the_designs() -> None:
    wanted = {"postgres", "minio", "ray-head", "ray-worker", "api", "trainer", "phema-worker", "prometheus", "grafana"}
    assert set(SERVICES) == wanted | ONE_SHOT | {"postgres-exporter"}


@pytest.mark.parametrize("name", NAMES)
def test_every_service_is_bounded_unprivileged_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert str(service["user"]).split(":")[0] not in ("root", "0")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert "privileged" not in service
    if name in ONE_SHOT:
        assert (service["restart"], service["healthcheck"]) == ("no", {"disable": True})
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", NAMES)
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    assert [port for port in SERVICES[name].get("ports", []) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", NAMES)
def test_images_are_named_exactly(name: str) -> None:
    image = re.sub(r"^\$\{[A-Z_]+:-(.*)\}$", r"\1", SERVICES[name]["image"])
    assert ":" in image
    assert not image.endswith(":latest")


def test_minio_is_the_last_published_image_by_digest() -> None:
    assert re.fullmatch(r"\$\{MINIO_IMAGE:-quay\.io/minio/minio:\S+@sha256:[0-9a-f]{64}\}", SERVICES["minio"]["image"])


@pytest.mark.parametrize("name", NAMES)
def test_services_start_after_what_they_need(name: str) -> None:
    for other, rule in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert rule == {"condition": wanted}


def test_the_order_of_starting_has_no_circle() -> None:
    left = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
    while left:
        free = {name for name, needs in left.items() if not needs & set(left)}
        assert free, f"each waits for another: {left}"
        left = {name: needs for name, needs in left.items() if name not in free}


def test_volumes_are_declared_and_folders_exist() -> None:
    declared = load(COMPOSE)[0]["volumes"]
    filled = read_services(COMPOSE, dict.fromkeys(re.findall(r"\$\{([A-Z0-9_]+):\?", COMPOSE.read_text()), "a1b2"))
    mounted = [mount.split(":")[0] for service in filled.values() for mount in service.get("volumes", [])]
    assert {source for source in mounted if not source.startswith("./")} == set(declared)
    assert [source for source in mounted if source.startswith("./") and not (ROOT / source).is_dir()] == []


def test_hosts_in_addresses_are_services() -> None:
    values = str([service.get("environment", {}) for service in SERVICES.values()])
    hosts = set(re.findall(r"(?:://|@)([a-z][a-z-]*):\d+", values)) | set(re.findall(r"'([a-z-]+):\d+'", values))
    assert {"postgres", "minio", "ray-head", "api"} <= hosts <= set(SERVICES)


def test_prometheus_finds_its_token_and_its_targets() -> None:
    (config,) = load(ROOT / "deploy/prometheus/prometheus.yml")
    files = set(re.findall(r"credentials_file': '([^']+)'", str(config)))
    script = SERVICES["prometheus"]["command"][0]
    assert files == set(re.findall(r"> (\S+)", script))
    assert {str(Path(file).parent) for file in files} <= set(SERVICES["prometheus"]["tmpfs"])
    hosts = {target.split(":")[0] for job in config["scrape_configs"] for group in job.get("static_configs", [])
             for target in group["targets"]}  # fmt: skip
    hosts |= {re.findall(r"//([a-z-]+):", sd["url"])[0] for job in config["scrape_configs"]
              for sd in job.get("http_sd_configs", [])}  # fmt: skip
    assert hosts <= set(SERVICES) | {"localhost"}


def test_health_checks_ask_for_checks_that_exist() -> None:
    from phema.local_service.doctor import CHECKS

    asked = {name: service["healthcheck"]["test"][3:] for name, service in SERVICES.items()
             if "doctor" in service["healthcheck"].get("test", [])}  # fmt: skip
    # Of several replicas each must say so of itself.
    assert asked == {"trainer": ["--only", "trainer", "--here"], "phema-worker": ["--only", "worker", "--here"]}
    assert {words[1] for words in asked.values()} <= set(CHECKS)


@pytest.mark.parametrize("name", NAMES)
def test_python_modules_that_are_started_exist(name: str) -> None:
    for module in re.findall(r"-m'?,? '?(services\.\w+)", str(SERVICES[name].get("command", ""))):
        assert (ROOT / module.replace(".", "/") / "__main__.py").exists()


def test_the_gpu_file_changes_only_what_gpus_need() -> None:
    gpu: dict[str, Any] = services(GPU)
    assert set(gpu) == {"ray-head", "ray-worker", "phema-worker"}
    assert len({service["image"] for service in gpu.values()}) == 1
    both = [*zip(SERVICES["ray-worker"]["command"], gpu["ray-worker"]["command"], strict=True)]
    assert [pair for pair in both if pair[0] != pair[1]] == [("--num-gpus=0", "--num-gpus=${RAY_WORKER_GPUS:-1}")]


def test_trainings_can_have_every_gpu_and_a_cpu() -> None:
    """Actors hold their share while they wait for work; a training takes whole GPUs (`control.worker_resources`)."""
    example = env_file(ROOT / ".env.example")
    gpu = services(GPU)["phema-worker"]["environment"]["PHEMA_ACTOR_GPUS"]
    assert gpu == f"${{PHEMA_ACTOR_GPUS:-{example['PHEMA_ACTOR_GPUS']}}}"
    held = float(example["PHEMA_ACTOR_GPUS"]) * int(example["PHEMA_WORKER_ACTORS"])
    cluster = {"CPU": 4.0, "GPU": float(example["RAY_WORKER_GPUS"]) - held}
    placement = place_workers(loose_attempt(device="auto").config, Settings(), cluster)
    assert placement.resources == {"CPU": 1.0, "GPU": 1.0}
    assert float(example["RAY_WORKER_CPUS"]) > Settings().actor_cpus * int(example["PHEMA_WORKER_ACTORS"])


@pytest.mark.parametrize("files", [[COMPOSE], [COMPOSE, GPU]], ids=["cpu", "gpu"])
def test_an_image_is_built_once_and_before_it_is_used(files: list[Path]) -> None:
    """Engines refuse a tag that two services build at once; the old compose command builds in the order of starting."""
    merged = {name: {**service, **(services(GPU).get(name, {}) if GPU in files else {})}
              for name, service in SERVICES.items()}  # fmt: skip
    ours = {service["image"] for service in merged.values() if "PHEMA_" in service["image"]}
    for image in ours:
        (builder,) = [name for name, one in merged.items() if one["image"] == image and "build" in one]
        arguments = dict(merged[builder]["build"]["args"])
        assert arguments.pop("TORCH") == ("cuda" if "CUDA" in image else "cpu")
        # Every other argument can be chosen in .env, and has the default of the Dockerfile.
        declared = dict(re.findall(r"^ARG (\w+)=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
        assert arguments == {name: f"${{{name}:-{declared[name]}}}" for name in arguments}
        assert "PYTHON_IMAGE" in arguments
        users = [name for name, one in merged.items() if one["image"] == image and "profiles" not in one]
        assert all(builder == name or builder in needs(name) for name in users)


def needs(name: str) -> set[str]:
    """All that a service starts after."""
    direct = set(SERVICES[name].get("depends_on", {}))
    return direct.union(*(needs(other) for other in direct))


def test_minio_s_volume_keeps_the_owner_that_the_image_gave_it() -> None:
    """An engine copies the owner of an image's folder to an empty volume each time a container with it is made."""
    assert SERVICES["volumes"]["volumes"] == ["objects:/var/lib/phema/objects"]
    assert SERVICES["minio"]["volumes"] == ["objects:/data:nocopy"]
    assert "volumes" in SERVICES["minio"]["depends_on"]
    owner = SERVICES["minio"]["user"].replace(":", " -g ")
    assert f"install -d -o {owner} /var/lib/phema/objects" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("engine", [None, "1", "64", "no number"])
def test_new_env_asks_for_no_more_cpus_than_the_engine_has(engine: str | None, tmp_path: Path) -> None:
    """Engines refuse a limit above what they have. Docker Desktop's has fewer CPUs than the machine."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/new_env.sh", tmp_path / "deploy")
    shutil.copy(ROOT / ".env.example", tmp_path)
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\n{'exit 1' if engine is None else f'echo {engine}'}\n")
    docker.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(tmp_path / "deploy/new_env.sh")], env=env, capture_output=True, check=True)
    cpus = int(engine) if engine in ("1", "64") else os.cpu_count() or 1
    assert f"\nRAY_WORKER_CPUS={min(4, cpus)}\n" in (tmp_path / ".env").read_text()


def test_nodes_of_ray_are_given_time() -> None:
    """`ray start` fails 30 s after its start on its own, and a container that is not healthy in time blocks others."""
    for name in ("ray-head", "ray-worker", "phema-worker"):
        start_s = int(SERVICES[name]["environment"]["RAY_raylet_start_wait_time_s"])
        assert seconds(SERVICES[name]["healthcheck"]["start_period"]) > start_s >= 120
    assert "ray-worker" in SERVICES["trainer"]["depends_on"], "without a worker no training finds room"


def test_trainings_have_time_to_write_a_checkpoint() -> None:
    for name in ("ray-head", "ray-worker"):
        assert seconds(SERVICES[name]["stop_grace_period"]) == 45


@pytest.mark.parametrize("name", ["trainer", "phema-worker"])
def test_a_lost_service_is_seen_within_a_minute(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert seconds(check["interval"]) * check["retries"] <= 60


def test_datasets_are_mounted_where_they_are_read() -> None:
    users = {name for name, service in SERVICES.items() if "/datasets:ro" in str(service.get("volumes"))}
    assert users == {"api", "ray-head", "ray-worker", "phema-worker"}


def test_another_port_of_minio_is_in_the_urls_that_users_get(tmp_path: Path) -> None:
    command = compose_command()
    env = tmp_path / "env"
    subprocess.run(["bash", str(ROOT / "deploy/new_env.sh"), str(env)], capture_output=True, check=True)
    env.write_text(env.read_text().replace("PORT_MINIO=9000", "PORT_MINIO=9123"))
    environment = read_services(COMPOSE, env_file(env))["api"]["environment"]
    assert environment["PHEMA_S3_PUBLIC_ENDPOINT_URL"] == "http://127.0.0.1:9123"
    if command is None:
        pytest.skip("no compose command: apt-get install docker-compose")
    done = subprocess.run(
        [*command, f"--env-file={env}", f"--file={COMPOSE}", "config"], capture_output=True, text=True, check=True
    )
    theirs = yaml.safe_load(done.stdout)["services"]["api"]["environment"]
    assert theirs["PHEMA_S3_PUBLIC_ENDPOINT_URL"] == "http://127.0.0.1:9123"


def test_new_env_needs_no_python(tmp_path: Path) -> None:
    """A host of containers may have none. The secrets are long, and differ."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "deploy/new_env.sh", tmp_path / "deploy")
    shutil.copy(ROOT / ".env.example", tmp_path)
    for program in ("bash", "dirname", "getconf", "od", "tr"):
        (tmp_path / "bin" / program).symlink_to(str(shutil.which(program)))
    env = {"PATH": str(tmp_path / "bin")}
    subprocess.run(["bash", str(tmp_path / "deploy/new_env.sh")], env=env, capture_output=True, check=True)
    made = [value for value in env_file(tmp_path / ".env").values() if re.fullmatch("[0-9a-f]{48}", value)]
    assert len(set(made)) == len(made) == (ROOT / ".env.example").read_text().count("=\n")


def test_new_env_fills_every_secret_and_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/new_env.sh", tmp_path / "deploy")
    shutil.copy(ROOT / ".env.example", tmp_path)
    command = ["bash", str(tmp_path / "deploy/new_env.sh")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    written = (tmp_path / ".env").read_text()
    assert re.findall(r"^[A-Z0-9_]+=$", written, re.MULTILINE) == []
    filled = {name for name, value in env_file(ROOT / ".env.example").items() if not value}
    assert filled == {name for name in filled if re.search("PASSWORD|TOKEN|SECRET", name)}
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    assert (tmp_path / ".env").read_text() == written
