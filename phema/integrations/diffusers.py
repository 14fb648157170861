"""diffusers: the averages that its `EMAModel` saved become a run, and chosen weights become a pipeline.

Neither needs diffusers itself: both sides are safetensors files and JSON.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from phema.client.client import Client
from phema.errors import InvalidArgument
from phema.sdk.importing import Imported, import_run
from phema.shared.snapshots.files.snapshot_file import TORCH_DTYPES

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
_AVERAGE_FIELDS = (
    *("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"),
)
"""Fields that `EMAModel.save_pretrained` adds to a component's configuration."""


def import_averages(
    folder: str | PathLike[str],
    run: str | PathLike[str],
    *,
    images_per_step: int,
    buffers: Sequence[str] = (),
    client: Client | None = None,
) -> Imported:
    """Import what `EMAModel.save_pretrained` wrote below `folder`, such as `checkpoint-500/unet_ema`, as snapshots.

    `run` is the name of a run of a service, or a folder or bucket without one. `images_per_step` is the number of
    images in one step of the optimizer, over all processes. `buffers` are shell patterns of tensors that are not
    averaged. A repeated import writes only what is missing. Raises InvalidArgument.
    """
    return import_run(Path(folder), os.fspath(run), images_per_step=images_per_step, buffers=buffers, client=client)


def write_pipeline(
    pipeline: str | PathLike[str], output: str | PathLike[str], components: Mapping[str, str | PathLike[str]]
) -> Path:
    """Copy the pipeline in folder `pipeline` to the folder `output`, with other weights for some components.

    `components` maps a component such as "unet" to a safetensors file: what `reconstruct` or `download` returned. Its
    tensors must have the names and shapes of the component's own; they are stored in its dtypes. `output` appears when
    it is complete; it must not exist. Raises InvalidArgument.
    """
    source, target = Path(pipeline), Path(output)
    if not (source / "model_index.json").is_file():
        raise InvalidArgument(f"pipeline {source} is no folder of a pipeline: it has no model_index.json")
    if target.exists():
        raise InvalidArgument(f"output {target} exists already; give a folder that does not")
    for name in components:
        if not (source / name / WEIGHTS_FILE).is_file():
            known = ", ".join(sorted(path.parent.name for path in source.glob(f"*/{WEIGHTS_FILE}")))
            raise InvalidArgument(f"component {name!r} has no {WEIGHTS_FILE} in {source}; allowed: {known}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".phema-{secrets.token_hex(6)}"
    try:
        replaced = {source / name / WEIGHTS_FILE for name in components}
        shutil.copytree(source, partial, ignore=lambda folder, names: [n for n in names if Path(folder, n) in replaced])
        for name, weights in components.items():
            write_component(source / name, partial / name, weights)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def write_component(component: str | PathLike[str], output: str | PathLike[str], weights: str | PathLike[str]) -> Path:
    """Write `weights`, a safetensors file, as the component that the folder `component` holds: `from_pretrained` reads
    it. Fields of an EMAModel are left out of its `config.json`; where the weights came from stays in the metadata of
    the file. Returns `output`. Raises InvalidArgument."""
    source, target = Path(component), Path(output)
    try:
        config = json.loads((source / "config.json").read_bytes())
        with safe_open(source / WEIGHTS_FILE, "pt") as file:
            wanted = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            shapes = {name: tuple(part.get_shape()) for name, part in wanted.items()}
            dtypes = {name: part.get_dtype() for name, part in wanted.items()}
        with safe_open(weights, "pt") as file:
            lineage = file.metadata() or {}
        tensors = load_file(weights)
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidArgument(f"component {source} or weights {weights} cannot be read: {error}") from error
    for name in sorted(shapes.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        if found != shapes.get(name, "none"):
            raise InvalidArgument(
                f"weights {weights}: tensor {name!r} is {found}, in component {source.name} {shapes.get(name, 'none')}"
            )
    target.mkdir(parents=True, exist_ok=True)
    plain = {key: value for key, value in config.items() if key not in _AVERAGE_FIELDS}
    (target / "config.json").write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")
    stored = {name: tensor.to(TORCH_DTYPES[dtypes[name]]).contiguous() for name, tensor in tensors.items()}
    save_file(stored, target / WEIGHTS_FILE, metadata={**lineage, "format": "pt"})
    return target
