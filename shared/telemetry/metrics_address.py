"""The address at which other machines reach this machine's metrics."""

from __future__ import annotations

import ipaddress
import socket

AUTO = "auto"
_OUTSIDE = ("192.0.2.1", 9)  # a documentation address (RFC 5737); only the route to it is looked up, nothing is sent


def listening_address(host: str) -> str:
    """`host`, or this machine's own address for `auto`. In a container that is the container's address."""
    return own_address() if host == AUTO else host


def own_address() -> str:
    """The address of this machine's host name, or of its outgoing interface if the name resolves to loopback."""
    try:
        named = socket.gethostbyname(socket.gethostname())
    except OSError:
        named = "127.0.0.1"
    if not ipaddress.ip_address(named).is_loopback:
        return named
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_OUTSIDE)  # connecting a datagram socket sends nothing
        except OSError:
            return named
        return str(probe.getsockname()[0])
