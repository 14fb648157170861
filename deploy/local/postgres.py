"""PostgreSQL of this machine, as the official image starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from phema.local_service.service import CannotStart, Service

UNPRIVILEGED = 65534
"""User and group of PostgreSQL when the caller is root: PostgreSQL refuses to run as root."""


def find_binaries() -> Path | None:
    """Folder of `initdb` and `postgres`: PHEMA_POSTGRES_BIN, else Debian's newest, else the PATH."""
    if "PHEMA_POSTGRES_BIN" in os.environ:
        return Path(os.environ["PHEMA_POSTGRES_BIN"])
    debian = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if debian:
        return max(debian, key=lambda path: int(path.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def unprivileged(*owned: Path) -> list[str]:
    """Prefix of a command that must not run as root. If root calls, UNPRIVILEGED also becomes the owner of `owned`."""
    if os.geteuid() != 0:
        return []
    for path in owned:
        os.chown(path, UNPRIVILEGED, UNPRIVILEGED)
    return ["setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"]


def postgres(service: Service, variables: Mapping[str, str], volume: Path, port: int) -> Service:
    """Raises CannotStart without PostgreSQL."""
    binaries = find_binaries()
    if binaries is None:
        raise CannotStart("there is no PostgreSQL: apt-get install postgresql, or set PHEMA_POSTGRES_BIN")
    user, password, database = (variables[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
    data = volume / "data"
    drop = unprivileged()
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def setup() -> None:
        if (data / "PG_VERSION").exists():
            return
        unprivileged(volume)
        secret = volume / "password"
        secret.touch(mode=0o600)
        secret.write_text(password)
        unprivileged(secret)
        try:
            _run(
                *(*drop, str(binaries / "initdb"), f"--pgdata={data}", f"--username={user}", f"--pwfile={secret}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
            )
        finally:
            secret.unlink()
        # The server in single-user mode, which listens on no port.
        create = f'CREATE DATABASE "{database}"\n'
        _run(*drop, str(binaries / "postgres"), "--single", "-D", str(data), "postgres", text=create)

    own = {"PATH": f"{binaries}:{os.defpath}", "PGPORT": str(port), "LC_ALL": "C"}
    return replace(
        service,
        command=(*drop, str(binaries / "postgres"), "-D", str(data), *options),
        environment={**service.environment, **own},
        setup=setup,
        stop_signal="SIGINT",  # as its image does: end now, without waiting for clients
    )


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", input=text)
    if done.returncode:
        why = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise CannotStart(
            f"PostgreSQL's folder could not be made ({' '.join(why)}); as root, choose a folder that user "
            f"{UNPRIVILEGED} can enter"
        )
