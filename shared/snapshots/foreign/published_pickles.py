"""Reads EDM2's published network pickles: architecture and tensors of the network, under phema's names. Torch-free.

phema's configuration G uses the published names, shapes and numeric conventions: a factor of 2 pi inside the Fourier
frequencies, attention channels ordered by head and then by {q, k, v}, the main path before the skip, the constant
channel last. So every tensor is taken over unchanged. A network that phema's configuration cannot express is refused.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.network_arguments import network_config
from phema.shared.snapshots.foreign.pickle_reader import PickleReader
from phema.shared.snapshots.foreign.pickle_records import Module, StoredTensor
from phema.shared.snapshots.foreign.published_allowlist import PUBLISHED

MAX_MODULES = 4_000
"""A published XXL network has about 250 modules with one or two tensors each."""
MAX_DEPTH = 8
_CLASSES = {"Precond", "UNet", "Block", "MPConv", "MPFourier", "ModuleDict", "ModuleList"}


@dataclass(frozen=True)
class PublishedNetwork:
    """The network of one file: its architecture, and its tensors, which are still in the file."""

    config: NetworkConfig
    tensors: Mapping[str, StoredTensor]


def read_published(path: Path) -> PublishedNetwork:
    """The EMA network in a published pickle. No code in the file is executed, and no tensor is read yet.

    Raises ForeignFileRefused, or OSError if the file cannot be opened. The tensors are views of the mapped file.
    """
    name = str(path)
    with path.open("rb") as file:
        if not file.seek(0, 2):
            raise ForeignFileRefused(name, "it is empty")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return parse_published(data, name)


def parse_published(data: memoryview, name: str) -> PublishedNetwork:
    """Like `read_published`, from the bytes of a file. `name` is what error messages call it."""
    reader = PickleReader(data, name, PUBLISHED)
    top = reader.load()
    if reader.position != len(data):
        raise ForeignFileRefused(name, f"{len(data) - reader.position:,} bytes follow the end of its pickle")
    if type(top) is not dict or "ema" not in top:
        raise ForeignFileRefused(name, "it holds no dict with the key 'ema', as EDM2's network snapshots do")
    ema = top["ema"]
    if type(ema) is not Module or ema.class_name != "Precond":
        found = f"a {ema.class_name!r}" if type(ema) is Module else f"a {type(ema).__name__}"
        raise ForeignFileRefused(name, f"its 'ema' is {found}, not the Precond of configuration G")
    tensors = _collect(ema, name)
    return PublishedNetwork(network_config(ema, tensors, name), tensors)


def _collect(root: Module, name: str) -> dict[str, StoredTensor]:
    """Parameters and buffers by their full names (with dots), in the order of the file."""
    tensors: dict[str, StoredTensor] = {}
    waiting: list[tuple[tuple[str, ...], Module]] = [((), root)]
    visited = 0
    while waiting:
        path, module = waiting.pop()
        visited += 1
        if visited > MAX_MODULES or len(tensors) > MAX_MODULES or len(path) > MAX_DEPTH:
            raise ForeignFileRefused(
                name, f"its network has over {MAX_MODULES:,} modules or tensors, {MAX_DEPTH} levels, or contains itself"
            )
        if module.class_name not in _CLASSES:
            raise ForeignFileRefused(
                name,
                f"its module {'.'.join(path)!r} is a {module.class_name!r}; known: {', '.join(sorted(_CLASSES))}",
            )
        for part in ("_parameters", "_buffers"):
            for key, tensor in _members(module, part, path, name):
                full = ".".join((*path, key))
                if type(tensor) is not StoredTensor:
                    raise ForeignFileRefused(name, f"its {full!r} is a {type(tensor).__name__}, not a tensor")
                tensors[full] = tensor
        for key, child in reversed(_members(module, "_modules", path, name)):
            if type(child) is not Module:
                raise ForeignFileRefused(
                    name, f"its {'.'.join((*path, key))!r} is a {type(child).__name__}, not a module"
                )
            waiting.append(((*path, key), child))
    return tensors


def _members(module: Module, part: str, path: tuple[str, ...], name: str) -> list[tuple[str, Any]]:
    members = module.state.get(part, {})
    if (
        type(members) is not dict
        or len(members) > MAX_MODULES
        or not all(type(key) is str and len(key) <= 100 for key in members)
    ):
        raise ForeignFileRefused(name, f"the {part} of its module {'.'.join(path)!r} are not a dict of names")
    return [(key, value) for key, value in members.items() if value is not None]
