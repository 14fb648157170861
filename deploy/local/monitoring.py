"""Prometheus and Grafana of this machine, with the configuration that compose mounts."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

from deploy.local.object_store import answers
from deploy.local.process import CannotRun, Place, Program
from deploy.prometheus.elsewhere import write_config

GRAFANA = Path(__file__).parents[1] / "grafana"


def prometheus(place: Place, port: int, *, api: str, ray: str, interval: str | None) -> Program:
    """Raises CannotRun where there is no Prometheus."""
    program = shutil.which("prometheus")
    if program is None:
        raise CannotRun("there is no Prometheus: apt-get install prometheus")
    # The script writes the tokens to files first, which `write_config` does here.
    given = place.command.partition("exec /bin/prometheus ")[2].split()
    config = place.scratch / "prometheus.yml"
    flags = {
        "--config.file=/etc/prometheus/prometheus.yml": f"--config.file={config}",
        "--storage.tsdb.path=/prometheus": f"--storage.tsdb.path={place.volume}",
    }
    if not flags.keys() <= set(given):
        raise CannotRun(f"prometheus's command in docker-compose.yml has not the flags {', '.join(flags)}")

    def setup() -> None:
        write_config(
            place.scratch,
            api=api,
            ray=ray,
            api_token=place.environment["PHEMA_API_TOKEN"],
            ray_token=place.environment["RAY_AUTH_TOKEN"],
            interval=interval,
        )

    return Program(
        command=(program, *(flags.get(flag, flag) for flag in given), f"--web.listen-address=127.0.0.1:{port}"),
        environment={},
        check=replace(place.check, command=answers(_url(place.check.command))),
        setup=setup,
    )


def grafana(place: Place, port: int, *, prometheus: str) -> Program | None:
    """None where there is no Grafana; Debian has none."""
    program = shutil.which("grafana")
    if program is None:
        return None
    provisioning = place.scratch / "provisioning"

    def setup() -> None:
        shutil.copytree(GRAFANA / "provisioning", provisioning, dirs_exist_ok=True)
        for path in provisioning.rglob("*.y*ml"):
            text = path.read_text().replace("prometheus:9090", prometheus)
            path.write_text(text.replace("/var/lib/grafana/dashboards", str(GRAFANA / "dashboards")))

    variables = {
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_PATHS_DATA": str(place.volume),
        "GF_PATHS_LOGS": str(place.scratch),
        "GF_PATHS_PROVISIONING": str(provisioning),
    }
    return Program(
        command=(program, "server", "--homepath", "/usr/share/grafana"),
        environment={**place.environment, **variables},
        check=replace(place.check, command=answers(_url(place.check.command))),
        setup=setup,
    )


def _url(check: tuple[str, ...]) -> str:
    """What a check by wget, which images have and machines may lack, asks for."""
    found = re.search(r"http://\S+", " ".join(check))
    if found is None:
        raise CannotRun(f"the health check {' '.join(check)} in docker-compose.yml asks for no URL")
    return found[0]
