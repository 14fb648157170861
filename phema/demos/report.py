"""The demo's pictures and its HTML report: one file, nothing fetched from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
import torch

from phema.demos.demo_results import Findings, Trial
from phema.sdk.networks import load, save_grid
from phema.shared.datasets import open_dataset
from phema.shared.pictures import curves as figures
from phema.shared.pictures.curves import DARK, LIGHT, Theme
from phema.shared.recipes.run_config import RunConfig
from phema.terminal.formats import duration, figure

TIE = 0.01
"""Lengths so close to the best are named beside it."""


def write_report(findings: Findings, folder: Path) -> Path:
    """Write frechet.png, profiles.png, magnitudes.png, training.png, real.png and report.html into `folder`."""
    points = [figures.Point(t.sigma_rel, t.frechet, t.held_out_loss) for t in findings.trials]
    drawings: dict[str, Callable[[Theme], bytes]] = {
        "frechet": lambda theme: figures.curve(points, findings.tracked, theme),
        "profiles": lambda theme: figures.profiles(findings.plan, theme),
        "magnitudes": lambda theme: figures.magnitudes(findings.history, theme),
        "training": lambda theme: figures.training(findings.history, theme),
    }
    html = {}
    for name, draw in drawings.items():
        light = draw(LIGHT)
        (folder / f"{name}.png").write_bytes(light)
        html[name] = _picture(light, draw(DARK), name)
    real = _real_digits(RunConfig.model_validate(findings.run.config), folder / "real.png")
    page = _page(findings, html, real)
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _page(found: Findings, html: dict[str, str], real: Path) -> str:
    config = RunConfig.model_validate(found.run.config)
    recipe, best = found.best.evaluation.recipe, found.best
    template = Template(files("phema.demos").joinpath("templates/report.html").read_text(encoding="utf-8"))
    return template.substitute(
        run_name=escape(found.run.name),
        summary=_summary(found),
        facts=_facts(found),
        real=_data(real.read_bytes()),
        drawn=_data(best.pictures.read_bytes()),
        best_percent=_percent(best.sigma_rel),
        steps=recipe.get("num_steps"),
        num_samples=f"{recipe.get('num_samples'):,}",
        held_out=config.dataset.held_out,
        curve=html["frechet"],
        curve_text=_curve_text(found),
        rows="".join(_row(found, trial) for trial in found.trials),
        gallery="".join(_gallery_item(trial, trial is best) for trial in found.trials),
        profiles=html["profiles"],
        profiles_text=_profiles_text(found),
        magnitudes=html["magnitudes"],
        magnitudes_text=_magnitudes_text(found),
        training=html["training"],
        weights=escape(str(found.weights_file.name)),
        closing=_closing(found),
    )


def _summary(found: Findings) -> str:
    tracked = _list([_percent(s) for s in found.tracked])
    return (
        f"A diffusion model learned to draw handwritten digits in {duration(found.seconds['training'])} minutes. "
        f"While it trained, only its averages of σ_rel {tracked} were stored. Afterwards {len(found.trials)} lengths "
        f"were reconstructed from those snapshots in {_seconds(found.seconds['reconstruction'])} and compared: "
        f"<strong class='accent'>{_percent(found.best.sigma_rel)}</strong> draws the best digits."
    )


def _facts(found: Findings) -> str:
    parameters = sum(p.numel() for p in load(found.weights_file).parameters())
    speeds = [line.values.get("images_per_second") for line in found.history]
    speed = float(np.median([s for s in speeds if s is not None])) if any(speeds) else float("nan")
    facts = {
        "Parameters": f"{parameters:,}",
        "Images seen": f"{found.run.num_images:,}",
        "Images per second": f"{speed:,.0f}",
        "Snapshots read": f"{len(found.plan.snapshots)}",
        "Best σ_rel": _percent(found.best.sigma_rel),
        "Fréchet distance": figure(found.best.frechet),
    }
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())


def _curve_text(found: Findings) -> str:
    best, worst = found.best, max(found.trials, key=lambda trial: trial.frechet)
    near = [t for t in found.trials if t is not best and t.frechet <= (1 + TIE) * best.frechet]
    by_loss = min(found.trials, key=lambda trial: trial.held_out_loss)
    text = (
        f"The Fréchet distance is smallest at σ_rel {_percent(best.sigma_rel)} ({figure(best.frechet)}) and "
        f"{worst.frechet / best.frechet:.1f} times as large at {_percent(worst.sigma_rel)}. "
    )
    if near:
        text += f"{_list([_percent(t.sigma_rel) for t in near])} came within {TIE * 100:g}&nbsp;% of it. "
    text += (
        "The best length was one of the two tracked during training. "
        if best.sigma_rel in found.tracked
        else "Nobody tracked the best length during training. "
    )
    ends = (found.trials[0], found.trials[-1])
    if best in ends:
        text += "It lies at the edge of what was tried, so the true optimum may lie beyond. "
    if by_loss is best:
        return text + "The held-out loss agrees."
    return text + (
        f"The held-out loss prefers {_percent(by_loss.sigma_rel)}: the two ask different questions, "
        "how good whole pictures look and how well single denoising steps are predicted."
    )


def _profiles_text(found: Findings) -> str:
    worst = max(found.plan.outputs, key=lambda output: output.profile_error or 0.0)
    times = len({snapshot.num_images for snapshot in found.plan.snapshots})
    return (
        f"An average of length σ_rel weighs the past of the weights by a power of time. From snapshots of "
        f"{len(found.tracked)} lengths at {times} times a combination was computed whose weighting comes closest to "
        f"each wanted one. A length that was stored is returned exactly; the hardest here, "
        f"{_percent(worst.sigma_rel or 0.0)}, is missed by {100 * (worst.profile_error or 0.0):.2g}&nbsp;% of its "
        f"norm, its weights by an expected {100 * worst.predicted_error:.2g}&nbsp;%. "
        "All this is known before any weights are read."
    )


def _magnitudes_text(found: Findings) -> str:
    weights, activations = _means(found, "weight"), _means(found, "activation")
    nonfinite = sum(line.values.get("grad_nonfinite") or 0 for line in found.history)
    lost = f"{nonfinite:,.0f} gradient values were not finite" if nonfinite else "every gradient was finite"
    return (
        "The paper’s architecture is built so that neither weights nor activations run away as training goes on. "
        f"Mean weight magnitudes stayed {_span([v for row in weights for v in row])}; mean activation magnitudes "
        f"reached {max(map(max, activations)):.2f} at most and ended {_span(activations[-1])}; {lost}."
    )


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return f"at {low}" if low == high else f"between {low} and {high}"


def _means(found: Findings, kind: str) -> list[list[float]]:
    """Mean magnitudes of the blocks of the averaged network, [times][blocks], where they were measured."""
    rows = (
        [
            v
            for name, v in line.values.items()
            if name.startswith(f"{kind}/") and name.endswith("/mean") and v is not None
        ]
        for line in found.history
    )
    return [row for row in rows if row]


def _closing(found: Findings) -> str:
    names = ("starting the service", "training", "reconstruction", "evaluation")
    parts = ", ".join(f"{name} {duration(found.seconds[name])}" for name in names if name in found.seconds)
    return f"Run {escape(found.run.name)} ({escape(found.run.id)}). Minutes: {parts}."


def _row(found: Findings, trial: Trial) -> str:
    planned = next(output for output in found.plan.outputs if output.sigma_rel == trial.sigma_rel)
    error = "stored" if trial.sigma_rel in found.tracked else f"{100 * (planned.profile_error or 0.0):.2g} %"
    cells = [
        _percent(trial.sigma_rel),
        figure(trial.frechet),
        figure(trial.held_out_loss),
        error,
        f"{planned.noise_gain:.2f}",
    ]
    best = " class='best'" if trial is found.best else ""
    return f"<tr{best}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _gallery_item(trial: Trial, best: bool) -> str:
    label = f"{_percent(trial.sigma_rel)}{' · best' if best else ''}"
    return (
        f"<figure{' class=best' if best else ''}>"
        f"<img class='grid' alt='Digits drawn at {label}' src='{_data(trial.pictures.read_bytes())}'>"
        f"<figcaption><b>{label}</b><span>{figure(trial.frechet)}</span></figcaption></figure>"
    )


def _real_digits(config: RunConfig, path: Path) -> Path:
    """Ten training pictures of each class, one class per row."""
    dataset = open_dataset(config.dataset)
    chosen = [np.flatnonzero(dataset.train.labels == label)[:10] for label in range(dataset.num_classes)]
    images, _ = dataset.train.batch(np.concatenate(chosen))
    return save_grid(torch.from_numpy(images), path, columns=10)


def _picture(light: bytes, dark: bytes, name: str) -> str:
    """An image that follows the reader's colour scheme."""
    return (
        f"<picture><source media='(prefers-color-scheme: dark)' srcset='{_data(dark)}'>"
        f"<img alt='{name}' src='{_data(light)}'></picture>"
    )


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _seconds(value: float) -> str:
    return "a second" if value < 1.5 else f"{value:.0f} seconds"


def _list(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _percent(sigma_rel: float) -> str:
    return f"{100 * sigma_rel:g}&nbsp;%"
