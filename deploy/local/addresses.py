"""Choose where each service listens on this machine, and translate docker-compose.yml's addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.local.compose import ComposeError
from deploy.local.table import ADDRESSES, LOOPBACK, PORTS
from phema.local_service.processes import free_port

_ADDRESS = re.compile(r"(?<![\w.-])([a-z][a-z0-9-]*|127\.0\.0\.1):(\d+)")
_FLAG = re.compile(r"(--[a-z-]*port=)(\d+)")


@dataclass(frozen=True)
class Addresses:
    """`ports`: service -> port of the container -> port here. `published`: port of docker's host -> (service, port)."""

    ports: Mapping[str, Mapping[int, int]]
    published: Mapping[int, tuple[str, int]]

    @classmethod
    def free(cls, services: Mapping[str, Mapping[str, object]]) -> Addresses:
        """Addresses with ports that are free now."""
        # Free on every address, because Ray listens on all.
        ports = {name: {port: free_port("0.0.0.0") for port in own} for name, own in PORTS.items()}
        return cls(ports, published(services))

    def of(self, service: str, port: int) -> str:
        """host:port on this machine. Raises ComposeError for a port that the table does not list."""
        return f"{ADDRESSES.get(service, LOOPBACK)}:{self.port(service, port)}"

    def port(self, service: str, port: int) -> int:
        """Port on this machine. Raises ComposeError for a port that the table does not list."""
        try:
            return self.ports[service][port]
        except KeyError:
            raise ComposeError(
                f"docker-compose.yml has the address {service}:{port}, which deploy/local/table.py does not list"
            ) from None

    def here(self, service: str, text: str, services: Sequence[str]) -> str:
        """`text` of a service's command, variable or health check with the addresses of this machine.

        Raises ComposeError for an address that the table does not list.
        """

        def address(match: re.Match[str]) -> str:
            host, port = match[1], int(match[2])
            if host in services:
                return self.of(host, port)
            if host != LOOPBACK:
                return match[0]  # an address outside the cluster, such as another S3 server
            if port in self.ports.get(service, {}):
                # Ray's agents listen on 127.0.0.1 too.
                return f"{LOOPBACK}:{self.port(service, port)}"
            if port in self.published:
                return self.of(*self.published[port])
            raise ComposeError(
                f"docker-compose.yml: {service} uses {match[0]}, which deploy/local/table.py does not list"
            )

        text = _ADDRESS.sub(address, text)
        return _FLAG.sub(lambda match: match[1] + str(self.port(service, int(match[2]))), text)


def published(services: Mapping[str, Mapping[str, object]]) -> dict[int, tuple[str, int]]:
    """Port of docker's host -> (service, port in its container)."""
    found = {}
    for name, service in services.items():
        entries = service.get("ports", [])
        assert isinstance(entries, list)
        for entry in entries:
            _, outside, inside = entry.rsplit(":", 2)
            found[int(outside)] = (name, int(inside))
    return found
