"""Prometheus and Grafana of this machine, with the configuration files that compose mounts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from deploy.prometheus.write_config import write_config
from phema.local_service.service import CannotStart, Check, Service, http_check

GRAFANA = Path(__file__).parents[1] / "grafana"


def prometheus(
    service: Service,
    variables: Mapping[str, str],
    volume: Path,
    scratch: Path,
    *,
    api: str,
    ray: str,
    interval: str | None,
) -> Service:
    """`api` and `ray` are host:port. Raises CannotStart without Prometheus."""
    program = shutil.which("prometheus")
    if program is None:
        raise CannotStart("there is no Prometheus: apt-get install prometheus")
    # Compose's shell script writes the tokens to files before it starts Prometheus; here `write_config` does.
    given = " ".join(service.command).partition("exec /bin/prometheus ")[2].split()
    flags = {
        "--config.file=/etc/prometheus/prometheus.yml": f"--config.file={scratch / 'prometheus.yml'}",
        "--storage.tsdb.path=/prometheus": f"--storage.tsdb.path={volume}",
    }
    if not flags.keys() <= set(given):
        raise CannotStart(f"prometheus's command in docker-compose.yml has not the flags {', '.join(flags)}")

    def setup() -> None:
        write_config(
            scratch,
            api=api,
            ray=ray,
            api_token=variables["PHEMA_API_TOKEN"],
            ray_token=variables["RAY_AUTH_TOKEN"],
            interval=interval,
        )

    return replace(
        service,
        command=(program, *(flags.get(flag, flag) for flag in given), f"--web.listen-address={service.address}"),
        check=_check_by_python(service),
        setup=setup,
    )


def grafana(
    service: Service, variables: Mapping[str, str], volume: Path, scratch: Path, *, prometheus: str
) -> Service | None:
    """`prometheus` is host:port. None without Grafana, which Debian does not package."""
    program = shutil.which("grafana")
    if program is None:
        return None
    provisioning = scratch / "provisioning"

    def setup() -> None:
        shutil.copytree(GRAFANA / "provisioning", provisioning, dirs_exist_ok=True)
        for path in provisioning.rglob("*.y*ml"):
            text = path.read_text().replace("prometheus:9090", prometheus)
            path.write_text(text.replace("/var/lib/grafana/dashboards", str(GRAFANA / "dashboards")))

    host, _, port = service.address.rpartition(":")
    own = {
        "GF_SERVER_HTTP_ADDR": host,
        "GF_SERVER_HTTP_PORT": port,
        "GF_PATHS_DATA": str(volume),
        "GF_PATHS_LOGS": str(scratch),
        "GF_PATHS_PROVISIONING": str(provisioning),
    }
    return replace(
        service,
        command=(program, "server", "--homepath", "/usr/share/grafana"),
        environment={**service.environment, **variables, **own},
        check=_check_by_python(service),
        setup=setup,
    )


def _check_by_python(service: Service) -> Check:
    """The service's health check without wget, which images have and machines may lack."""
    assert service.check is not None
    found = re.search(r"http://\S+", " ".join(service.check.command))
    if found is None:
        raise CannotStart(f"the health check of {service.name} in docker-compose.yml asks for no URL")
    return replace(service.check, command=http_check(found[0]))
