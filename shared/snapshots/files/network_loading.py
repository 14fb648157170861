"""Loads the network of a snapshot file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.files.folder_layout import CONFIG_FILE, WEIGHTS_FILE
from phema.shared.snapshots.files.header import SnapshotMetadata, parse_header
from phema.shared.snapshots.files.snapshot_file import load_tensors, read_path
from phema.shared.validation_sentences import sentence


@dataclass(frozen=True)
class LoadedModel:
    """A denoiser in evaluation mode (float32, on the CPU) and the metadata of its file."""

    denoiser: Denoiser
    metadata: SnapshotMetadata


def load_denoiser(source: Path | str | bytes) -> Denoiser:
    """The network in a snapshot file, given by path or content; see `load_model`."""
    return load_model(source).denoiser


def load_model(source: Path | str | bytes) -> LoadedModel:
    """The network in a snapshot file, given by path or content, and the file's metadata. Nothing is unpickled.

    Raises CorruptObject if the file is truncated, was not written by phema, or does not hold exactly the network
    that its metadata describes. Raises OSError if the file cannot be opened.
    """
    name = "in memory" if isinstance(source, bytes) else str(source)
    metadata = _metadata(source, name)
    return LoadedModel(_denoiser(source, _network(metadata.config.get("network"), name), name), metadata)


def load_folder(folder: Path) -> Denoiser:
    """The network in a folder with `config.json` and the weights, as phema writes it for a promoted model.

    The weights may have been stored again by another program: `config.json` describes the network, and the metadata of
    the weights is not needed. Raises CorruptObject if the two do not fit, OSError if a file cannot be opened.
    """
    config, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    try:
        described = json.loads(config.read_bytes())
        network = described["network"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise CorruptObject(
            f"{config} describes no network: it must be a JSON object with the field network"
        ) from error
    return _denoiser(weights, _network(network, str(config)), str(weights))


def _network(document: Any, name: str) -> NetworkConfig:
    try:
        return NetworkConfig.model_validate(document)
    except ValidationError as error:
        raise CorruptObject(
            f"object {name} describes no network phema can build: {_first(error)}; weights of another training loop "
            "are for that loop's module, read them with safetensors.torch.load_file"
        ) from error


def _denoiser(source: Path | str | bytes, config: NetworkConfig, name: str) -> Denoiser:
    # Building draws random initial weights. The fork keeps them from changing the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        denoiser = build_denoiser(config)
    # Free the memory of the initial weights. Then the file's tensors become the parameters, without a copy.
    denoiser.to_empty(device="meta")
    tensors = load_tensors(source)
    _check_fit(denoiser, tensors, name)
    for key, wanted in denoiser.state_dict().items():
        # Tensors from a path are views of the mapped file, and would change with it: copy them.
        tensors[key] = tensors[key].to(wanted.dtype, copy=not isinstance(source, bytes))
    denoiser.load_state_dict(tensors, strict=True, assign=True)
    return denoiser.eval()


def _metadata(source: Path | str | bytes, name: str) -> SnapshotMetadata:
    header = parse_header(source, len(source), name) if isinstance(source, bytes) else read_path(Path(source))
    if header.metadata is None:
        raise CorruptObject(f"object {name} is a safetensors file without phema's metadata; it names no network")
    return header.metadata


def _check_fit(denoiser: Denoiser, tensors: dict[str, torch.Tensor], name: str) -> None:
    wanted = {key: tuple(tensor.shape) for key, tensor in denoiser.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            raise CorruptObject(
                f"object {name} does not hold the network its metadata describes: tensor {key} has shape "
                f"{found.get(key, 'none')}, expected {wanted.get(key, 'none')}"
            )


def _first(error: ValidationError) -> str:
    return sentence(error.errors(include_url=False)[0], "network")
