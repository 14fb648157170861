"""PostgreSQL of this machine, as the official image starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from deploy.local.process import CannotRun, Place, Program

UNPRIVILEGED = 65534
"""User and group that PostgreSQL runs as where its caller is root, which it refuses."""


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
    """What goes before a command that must not run as root; where root calls, `owned` become that user's."""
    if os.geteuid() != 0:
        return []
    for path in owned:
        os.chown(path, UNPRIVILEGED, UNPRIVILEGED)
    return ["setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"]


def postgres(place: Place, port: int) -> Program:
    """Raises CannotRun where there is no PostgreSQL."""
    binaries = find_binaries()
    if binaries is None:
        raise CannotRun("there is no PostgreSQL: apt-get install postgresql, or set PHEMA_POSTGRES_BIN")
    user, password, database = (place.environment[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
    data = place.volume / "data"
    drop = unprivileged()
    server = [*drop, str(binaries / "postgres"), "-D", str(data)]
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}

    def setup() -> None:
        if (data / "PG_VERSION").exists():
            return
        unprivileged(place.volume)
        secret = place.volume / "password"
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
        # The server in its single-user form, which listens nowhere.
        create = f'CREATE DATABASE "{database}"\n'
        _run(*drop, str(binaries / "postgres"), "--single", "-D", str(data), "postgres", text=create)

    return Program(
        command=(*server, *(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))),
        environment={"PATH": f"{binaries}:{os.defpath}", "PGPORT": str(port), "LC_ALL": "C"},
        check=place.check,
        setup=setup,
        stop_signal="SIGINT",  # as its image: end now, and do not wait for clients
    )


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", input=text)
    if done.returncode:
        why = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise CannotRun(
            f"PostgreSQL's folder could not be made ({' '.join(why)}); as root, choose a folder that user "
            f"{UNPRIVILEGED} can enter"
        )
