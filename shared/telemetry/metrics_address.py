"""The address under which other machines reach this one's metrics."""

from __future__ import annotations

import ipaddress
import socket

AUTO = "auto"
_ELSEWHERE = ("192.0.2.1", 9)  # a documentation address (RFC 5737): only the route towards it is looked up


def listening_address(host: str) -> str:
    """`host` itself, or for `auto` this machine's own address: in a container, the container's."""
    return own_address() if host == AUTO else host


def own_address() -> str:
    """The address of this host's name; where that is loopback, as on many laptops, the one that packets leave from."""
    try:
        named = socket.gethostbyname(socket.gethostname())
    except OSError:
        named = "127.0.0.1"
    if not ipaddress.ip_address(named).is_loopback:
        return named
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)  # a datagram socket sends nothing here
        except OSError:
            return named
        return str(probe.getsockname()[0])
