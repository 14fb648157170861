"""The card of a promoted model in Markdown, and the `config.json` of its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from phema.shared.metrics.registry import FIGURES
from phema.shared.model_records.record import ModelRecord, ScoredRecipe
from phema.shared.snapshots.files.folder_layout import CONFIG_FILE, WEIGHTS_FILE
from phema.shared.snapshots.profile import Profile

CLASS_NAME = "PretrainedDenoiser"
"""Of `phema`, with the methods of diffusers."""
_SHOWN_SNAPSHOTS = 20
"""Snapshots whose coefficients the card lists; the metadata of the weights file has all."""


def config_document(record: ModelRecord) -> dict[str, Any]:
    """`config.json` of the model's folder: what `phema.load` builds the network from."""
    return {
        "_class_name": CLASS_NAME,
        "model": record.reference,
        "network": record.network,
    }


def card(record: ModelRecord) -> str:
    """The card. Equal records give equal cards."""
    parts = [
        f"---\nlibrary_name: phema\ntags:\n- edm2\n- diffusion\n---\n\n# {record.name}, version {record.version}",
        record.description or "No description was given at the promotion.",
        _facts(record),
        _figures(record),
        _usage(record),
        _lineage(record),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _facts(record: ModelRecord) -> str:
    network, run = record.network, record.run
    rows = [
        ("Run", f"`{run.name}` ({run.id}, {run.origin})"),
        ("Preset", f"`{run.preset}`" if run.preset else "none"),
        ("Training time", f"{record.num_images:,} of {run.total_images:,} images"),
        ("Profile of the average", _profile(record.profile)),
        ("Predicted error of the average", _number(record.lineage.get("predicted_error"))),
    ]
    if network is not None:
        side, channels = network["img_resolution"], network["img_channels"]
        size = f"{side}x{side}, {channels} {'channel' if channels == 1 else 'channels'}"
        classes = f"{network['label_dim']} classes" if network.get("label_dim") else "no classes"
        rows.append(("Network", f"EDM2 configuration {network.get('config', 'G')}, {size}, {classes}"))
    promoted = datetime.fromtimestamp(record.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows += [
        ("Weights", f"{record.weights.size:,} bytes, {record.dtype}"),
        ("SHA-256 of the weights", f"`{record.weights.sha256}`"),
        ("SHA-256 of the run's configuration", f"`{run.config_hash}`"),
        ("Version of phema", f"{record.weights.code_version or 'unknown'} (weights), {record.code_version} (card)"),
        ("Promoted", promoted),
    ]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {_cell(value)} |" for name, value in rows)])


def _figures(record: ModelRecord) -> str:
    if not record.evaluations:
        return "## Figures\n\nThe weights had not been evaluated when they were promoted."
    parts = [
        "## Figures",
        "Figures of one evaluation are comparable with those of the same recipe only. ± is the standard error.",
    ]
    for number, scored in enumerate(record.evaluations, start=1):
        rows = ["| Figure | Value | Better |", "| --- | --- | --- |"]
        for name, value in in_registry_order(scored.figures).items():
            better = FIGURES[name].better if name in FIGURES else "unknown"
            rows.append(f"| `{name}` | {shown_figure(value, (scored.errors or {}).get(name))} | {better} |")
        parts += [f"### Evaluation {number}", "\n".join(rows), _recipe(scored)]
    return "\n\n".join(parts)


def _recipe(scored: ScoredRecipe) -> str:
    parts = [f"Recipe: `{_json(scored.recipe)}`."]
    if scored.guide is not None:
        guide = scored.guide
        parts.append(
            f"Guide: {guide.label} of run `{guide.run}` at {guide.num_images:,} images (SHA-256 `{guide.sha256}`)."
        )
    if scored.provenance:
        shown = json.dumps(scored.provenance, indent=1, sort_keys=True, ensure_ascii=False)
        parts.append(
            f"<details><summary>What the figures were computed with</summary>\n\n```json\n{shown}\n```\n\n</details>"
        )
    return "\n\n".join(parts)


def in_registry_order(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """The figures as the registry of metrics orders them: the one by which evaluations are ranked comes first."""
    rank = {name: place for place, name in enumerate(FIGURES)}
    return dict(sorted(figures.items(), key=lambda item: rank.get(item[0], len(rank))))


def shown_figure(value: float | None, error: float | None) -> str:
    """A figure with two significant digits of its standard error: 0.377 ± 0.012."""
    if value is None or not error:
        return _number(value)
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{places}f} ± {error:.{places}f}"


def _usage(record: ModelRecord) -> str:
    if record.network is None:
        return (
            "## Use\n\nThe network is not one of phema's. Read the tensors with `safetensors.torch.load_file` into the "
            "module that was trained."
        )
    return f"""## Use

```python
import phema

denoiser = phema.load("{record.name}-{record.version}")  # this folder, or the safetensors file alone
pictures = phema.sample(denoiser, seeds=16)
phema.save_grid(pictures, "samples.png")
```

`denoiser(x, sigma, class_labels)` is D(x; sigma), the expected clean picture. `{WEIGHTS_FILE}` is plain safetensors;
`{CONFIG_FILE}` holds the configuration of the network."""


def _lineage(record: ModelRecord) -> str:
    snapshots, coefficients = record.lineage.get("snapshots", []), record.lineage.get("coefficients", [])
    what = "snapshots of the run" if record.lineage.get("basis_id") is None else "vectors of a basis of the run"
    lines = ["## Lineage", "", f"The weights are a linear combination of {what}, {len(snapshots)} in number."]
    if record.lineage.get("tensors"):
        lines.append("Some tensors have coefficients of their own, which the metadata of the weights file lists.")
    lines += ["", "| Images | Profile | Coefficient | SHA-256 |", "| --- | --- | --- | --- |"]
    for snapshot, coefficient in list(zip(snapshots, coefficients, strict=False))[-_SHOWN_SNAPSHOTS:]:
        profile = _cell(_profile(snapshot["profile"]))
        lines.append(f"| {snapshot['num_images']:,} | {profile} | {coefficient:.6g} | `{snapshot['sha256']}` |")
    if len(snapshots) > _SHOWN_SNAPSHOTS:
        hidden = len(snapshots) - _SHOWN_SNAPSHOTS
        lines += ["", f"{hidden} earlier ones are listed in the metadata of the weights file (`phema.metadata`)."]
    return "\n".join(lines)


def _profile(document: dict[str, Any]) -> str:
    """A short text for people."""
    label = Profile.model_validate(document).label
    return f"power function, σ_rel {label}" if document.get("sigma_rel") is not None else label


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
