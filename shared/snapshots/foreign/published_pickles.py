"""EDM2's published network pickles: from the records in one to the network it holds, under phema's names. Torch-free.

phema's configuration G has the published names, shapes and numeric conventions throughout (factor 2 pi inside the
Fourier frequencies, attention channels head first and {q, k, v} fastest, main path before the skip, constant channel
last), so that every tensor is taken over as it is. What phema's configuration cannot express is refused, never
approximated.
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
from phema.shared.snapshots.foreign.pickle_reader import Machine
from phema.shared.snapshots.foreign.pickle_vocabulary import PUBLISHED, Module, StoredTensor

MAX_MODULES = 4_000
"""A published XXL network has about 250 modules with one or two tensors each."""
MAX_DEPTH = 8
_CLASSES = {"Precond", "UNet", "Block", "MPConv", "MPFourier", "ModuleDict", "ModuleList"}


@dataclass(frozen=True)
class PublishedNetwork:
    """The network of one file: its architecture and its tensors, still in the file."""

    config: NetworkConfig
    tensors: Mapping[str, StoredTensor]


def read_published(path: Path) -> PublishedNetwork:
    """The EMA network in a published pickle; nothing in the file is executed and no tensor is read yet.

    Raises ForeignFileRefused, or OSError when the file cannot be opened. The records are views of the mapped file.
    """
    name = str(path)
    with path.open("rb") as file:
        if not file.seek(0, 2):
            raise ForeignFileRefused(name, "it is empty")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return parse_published(data, name)


def parse_published(data: memoryview, name: str) -> PublishedNetwork:
    """The same from the bytes of a file called `name`."""
    machine = Machine(data, name, PUBLISHED)
    top = machine.load()
    if machine.position != len(data):
        raise ForeignFileRefused(name, f"{len(data) - machine.position:,} bytes follow the end of its pickle")
    if type(top) is not dict or "ema" not in top:
        raise ForeignFileRefused(name, "it holds no dict with the key 'ema', as EDM2's network snapshots do")
    ema = top["ema"]
    if type(ema) is not Module or ema.class_name != "Precond":
        found = f"a {ema.class_name!r}" if type(ema) is Module else f"a {type(ema).__name__}"
        raise ForeignFileRefused(name, f"its 'ema' is {found}, not the Precond of configuration G")
    tensors = _collect(ema, name)
    return PublishedNetwork(network_config(ema, tensors, name), tensors)


def _collect(root: Module, name: str) -> dict[str, StoredTensor]:
    """Parameters and buffers by their dotted names, in the order of the file."""
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
        raise ForeignFileRefused(name, f"the {part} of its module {'.'.join(path)!r} are no dict of names")
    return [(key, value) for key, value in members.items() if value is not None]
