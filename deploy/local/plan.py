"""Turn the services of docker-compose.yml into services of the supervisor."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.local import table
from deploy.local.addresses import Addresses
from deploy.local.compose import ComposeError, seconds
from deploy.local.monitoring import grafana, prometheus
from deploy.local.object_store import object_store
from deploy.local.postgres import postgres
from phema.local_service.processes import free_port
from phema.local_service.service import Check, OnExit, Service

_TABLE = "which deploy/local/table.py does not list"
Services = Mapping[str, Mapping[str, Any]]


def plan(
    services: Services, addresses: Addresses, folder: Path, scratch: Path, *, interval: str | None = None
) -> dict[str, Service]:
    """Every service that this machine can run, by name. `interval` as in `deploy.prometheus.write_config`.

    Raises ComposeError for anything that the table does not list, CannotStart when a program is missing.
    """
    known = {*table.OURS, *table.REPLACED, *table.LEFT_OUT}
    if unknown := sorted(set(services) - known):
        raise ComposeError(f"docker-compose.yml has the service {unknown[0]}, {_TABLE}")
    planned = {}
    for name, service in services.items():
        if name in table.LEFT_OUT:
            continue
        made = _service(name, service, services, addresses, folder, scratch, interval)
        if made is not None:
            planned[name] = made
    return planned


def _service(
    name: str,
    given: Mapping[str, Any],
    services: Services,
    addresses: Addresses,
    folder: Path,
    scratch: Path,
    interval: str | None,
) -> Service | None:
    if unknown := sorted(set(given) - {*table.FIELDS, *table.CONTAINER_FIELDS}):
        raise ComposeError(f"docker-compose.yml: {name} has the field {unknown[0]}, {_TABLE}")
    own, temporary = folder / "services" / name, scratch / name
    variables = _environment(name, given.get("environment", {}), services, addresses)
    command = [addresses.here(name, word, tuple(services)) for word in _words(given)]
    port = next(iter(addresses.ports.get(name, {})), None)
    service = Service(
        name=name,
        command=tuple(command) if name in table.REPLACED else _with_ray_flags(name, command, temporary),
        environment={**_machine(own, temporary), **variables},
        cwd=own,
        folders=(own, temporary),
        address=addresses.of(name, port) if port is not None else "",
        needs=tuple(given.get("depends_on", {})),
        check=_check(name, given["healthcheck"], services, addresses),
        on_exit=OnExit.COMPLETE if given["restart"] == "no" else OnExit.RESTART,
        grace=seconds(given.get("stop_grace_period", "10s")),
        reap=True,
    )
    if name not in table.REPLACED:
        return service
    volume = folder / "volumes" / _volume(name, given)
    # An image's program gets its own variables below; those of compose are for the image.
    service = replace(service, environment=_machine(own, temporary), folders=(*service.folders, volume))
    return _replaced(service, variables, volume, temporary, addresses, interval)


def _replaced(
    service: Service,
    variables: Mapping[str, str],
    volume: Path,
    scratch: Path,
    addresses: Addresses,
    interval: str | None,
) -> Service | None:
    """The service with this machine's program instead of its image; None without Grafana, which may be missing."""
    if service.name == "postgres":
        return postgres(service, variables, volume, addresses.port("postgres", 5432))
    if service.name == "minio":
        return object_store(service, variables, volume, scratch, addresses.port("minio", 9000))
    if service.name == "prometheus":
        api, ray = addresses.of("api", 8400), addresses.of("ray-head", 8265)
        return prometheus(service, variables, volume, scratch, api=api, ray=ray, interval=interval)
    return grafana(service, variables, volume, scratch, prometheus=addresses.of("prometheus", 9090))


def _environment(name: str, given: Mapping[str, Any], services: Services, addresses: Addresses) -> dict[str, str]:
    found = {}
    for variable, value in given.items():
        if variable in table.CHANGED:
            found[variable] = table.CHANGED[variable]
        elif variable in table.PORT_VARIABLES:
            found[variable] = str(addresses.port(name, int(value)))
        elif variable in table.ADDRESS_VARIABLES:
            found[variable] = addresses.here(name, value, tuple(services))
        elif variable in table.KEPT:
            found[variable] = value
            if addresses.here(name, value, tuple(services)) != value:
                raise ComposeError(f"docker-compose.yml: {variable} of {name} holds an address, {_TABLE}")
        else:
            raise ComposeError(f"docker-compose.yml: {name} has the variable {variable}, {_TABLE}")
    return found


def _machine(own: Path, scratch: Path) -> dict[str, str]:
    """Variables of every process: the PATH with this environment's programs first, and folders of its own."""
    kept = {name: os.environ[name] for name in table.MACHINE if name in os.environ}
    folders = {"HOME": own, "PHEMA_STATE_DIR": own, "TMPDIR": scratch, "MPLCONFIGDIR": scratch}
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    return {**kept, **table.IMAGE, "PATH": path, **{name: str(value) for name, value in folders.items()}}


def _words(service: Mapping[str, Any]) -> list[str]:
    return [*service.get("entrypoint", []), *service.get("command", [])]


def _check(name: str, given: Mapping[str, Any], services: Services, addresses: Addresses) -> Check | None:
    if given.get("disable"):
        return None
    kind, *words = given["test"]
    if kind != "CMD":
        raise ComposeError(f"docker-compose.yml: the health check of {name} is {kind}; only CMD is understood")
    patience = seconds(given["start_period"]) + given["retries"] * seconds(given["interval"])
    command = tuple(addresses.here(name, word, tuple(services)) for word in words)
    return Check(command, seconds(given["timeout"]), patience)


def _volume(name: str, service: Mapping[str, Any]) -> str:
    named = [mount.split(":")[0] for mount in service["volumes"] if not mount.startswith(".")]
    if len(named) != 1:
        raise ComposeError(f"docker-compose.yml: {name} has {len(named)} named volumes; one is understood")
    return str(named[0])


def _with_ray_flags(name: str, command: list[str], scratch: Path) -> tuple[str, ...]:
    """The command with the flags that `ray start`, alone or in a shell script, needs outside a container."""
    if command[:2] == ["ray", "start"]:
        return ("ray", "start", *_ray_flags(name, command[2:], scratch))
    return tuple(_in_script(name, word, scratch) for word in command)


def _in_script(name: str, script: str, scratch: Path) -> str:
    before, start, rest = script.partition("ray start ")
    if not start:
        return script
    flags, rest_and, after = rest.partition(" && ")
    return f"{before}{start}{' '.join(_ray_flags(name, flags.split(), scratch))}{rest_and}{after}"


def _ray_flags(name: str, given: list[str], scratch: Path) -> list[str]:
    flags = []
    for flag in given:
        option, _, _ = flag.partition("=")
        flags.append(f"{option}={table.RAY_FLAGS[option]}" if option in table.RAY_FLAGS else flag)
    host = table.ADDRESSES[name]
    ports = (*table.RAY_PORTS, *(table.RAY_HEAD_PORTS if "--head" in given else ()))
    added = [f"--{port}-port={free_port('0.0.0.0')}" for port in ports]
    return [*flags, f"--node-ip-address={host}", f"--temp-dir={scratch}", *added, *table.RAY_MORE]
