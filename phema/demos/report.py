"""The demo's figures and its HTML report: one file that loads nothing from the network."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
import torch

from phema.demos.demo_results import DemoResults, Trial
from phema.sdk.networks import load, save_grid
from phema.shared.datasets import open_dataset
from phema.shared.pictures.ema_length import Point, ema_length_curve
from phema.shared.pictures.plan_profiles import plan_profiles
from phema.shared.pictures.theme import DARK, LIGHT, Theme
from phema.shared.pictures.training_history import magnitudes, training
from phema.shared.recipes.run_config import RunConfig
from phema.terminal.formats import duration, figure

TIE = 0.01
"""Lengths whose Fréchet distance is within this share of the best are named too."""


def write_report(results: DemoResults, folder: Path) -> Path:
    """Write frechet.png, profiles.png, magnitudes.png, training.png, real.png and report.html into `folder`."""
    points = [Point(t.sigma_rel, t.frechet, t.held_out_loss) for t in results.trials]
    drawings: dict[str, Callable[[Theme], bytes]] = {
        "frechet": lambda theme: ema_length_curve(points, results.tracked, theme),
        "profiles": lambda theme: plan_profiles(results.plan, theme),
        "magnitudes": lambda theme: magnitudes(results.history, theme),
        "training": lambda theme: training(results.history, theme),
    }
    html = {}
    for name, draw in drawings.items():
        light = draw(LIGHT)
        (folder / f"{name}.png").write_bytes(light)
        html[name] = _picture(light, draw(DARK), name)
    real = _real_digits(RunConfig.model_validate(results.run.config), folder / "real.png")
    page = _page(results, html, real)
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _page(results: DemoResults, html: dict[str, str], real: Path) -> str:
    config = RunConfig.model_validate(results.run.config)
    recipe, best = results.best.evaluation.recipe, results.best
    template = Template(files("phema.demos").joinpath("templates/report.html").read_text(encoding="utf-8"))
    return template.substitute(
        run_name=escape(results.run.name),
        summary=_summary(results),
        facts=_facts(results),
        real=_data(real.read_bytes()),
        drawn=_data(best.pictures.read_bytes()),
        best_percent=_percent(best.sigma_rel),
        steps=recipe.get("num_steps"),
        num_samples=f"{recipe.get('num_samples'):,}",
        held_out=config.dataset.held_out,
        curve=html["frechet"],
        curve_text=_curve_text(results),
        rows="".join(_row(results, trial) for trial in results.trials),
        gallery="".join(_gallery_item(trial, trial is best) for trial in results.trials),
        profiles=html["profiles"],
        profiles_text=_profiles_text(results),
        magnitudes=html["magnitudes"],
        magnitudes_text=_magnitudes_text(results),
        training=html["training"],
        weights=escape(str(results.weights_file.name)),
        closing=_closing(results),
    )


def _summary(results: DemoResults) -> str:
    tracked = _list([_percent(s) for s in results.tracked])
    return (
        f"A diffusion model learned to draw handwritten digits in {duration(results.seconds['training'])} minutes. "
        f"While it trained, only its averages of σ_rel {tracked} were stored. Afterwards {len(results.trials)} lengths "
        f"were reconstructed from those snapshots in {_seconds(results.seconds['reconstruction'])} and compared: "
        f"<strong class='accent'>{_percent(results.best.sigma_rel)}</strong> draws the best digits."
    )


def _facts(results: DemoResults) -> str:
    parameters = sum(p.numel() for p in load(results.weights_file).parameters())
    speeds = [line.values.get("images_per_second") for line in results.history]
    speed = float(np.median([s for s in speeds if s is not None])) if any(speeds) else float("nan")
    facts = {
        "Parameters": f"{parameters:,}",
        "Images seen": f"{results.run.num_images:,}",
        "Images per second": f"{speed:,.0f}",
        "Snapshots read": f"{len(results.plan.snapshots)}",
        "Best σ_rel": _percent(results.best.sigma_rel),
        "Fréchet distance": figure(results.best.frechet),
    }
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())


def _curve_text(results: DemoResults) -> str:
    best, worst = results.best, max(results.trials, key=lambda trial: trial.frechet)
    near = [t for t in results.trials if t is not best and t.frechet <= (1 + TIE) * best.frechet]
    by_loss = min(results.trials, key=lambda trial: trial.held_out_loss)
    text = (
        f"The Fréchet distance is smallest at σ_rel {_percent(best.sigma_rel)} ({figure(best.frechet)}) and "
        f"{worst.frechet / best.frechet:.1f} times as large at {_percent(worst.sigma_rel)}. "
    )
    if near:
        text += f"{_list([_percent(t.sigma_rel) for t in near])} came within {TIE * 100:g}&nbsp;% of it. "
    text += (
        "The best length was one of the two tracked during training. "
        if best.sigma_rel in results.tracked
        else "The best length was not tracked during training. "
    )
    ends = (results.trials[0], results.trials[-1])
    if best in ends:
        text += "It lies at the edge of what was tried, so the true optimum may lie beyond. "
    if by_loss is best:
        return text + "The held-out loss agrees."
    return text + (
        f"The held-out loss is smallest at {_percent(by_loss.sigma_rel)}: this loss measures single "
        "denoising steps, the Fréchet distance whole pictures."
    )


def _profiles_text(results: DemoResults) -> str:
    worst = max(results.plan.outputs, key=lambda output: output.profile_error or 0.0)
    times = len({snapshot.num_images for snapshot in results.plan.snapshots})
    return (
        f"An average of length σ_rel weights the training history by a power of time. For each wanted length, the "
        f"snapshots of {len(results.tracked)} lengths at {times} times are combined so that the weighting comes "
        f"closest to the wanted one. A stored length is returned exactly. The largest error is at "
        f"{_percent(worst.sigma_rel or 0.0)}: {100 * (worst.profile_error or 0.0):.2g}&nbsp;% of the profile's norm, "
        f"and an expected {100 * worst.predicted_error:.2g}&nbsp;% of the weights. "
        "These errors are known before any weights are read."
    )


def _magnitudes_text(results: DemoResults) -> str:
    weights, activations = _means(results, "weight"), _means(results, "activation")
    nonfinite = sum(line.values.get("grad_nonfinite") or 0 for line in results.history)
    lost = f"{nonfinite:,.0f} gradient values were not finite" if nonfinite else "every gradient was finite"
    return (
        "The paper’s architecture keeps the magnitudes of weights and activations bounded during training. "
        f"Mean weight magnitudes stayed {_span([v for row in weights for v in row])}; mean activation magnitudes "
        f"reached {max(map(max, activations)):.2f} at most and ended {_span(activations[-1])}; {lost}."
    )


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return f"at {low}" if low == high else f"between {low} and {high}"


def _means(results: DemoResults, kind: str) -> list[list[float]]:
    """Mean magnitudes of the blocks of the averaged network, [times][blocks], where they were measured."""
    rows = (
        [
            v
            for name, v in line.values.items()
            if name.startswith(f"{kind}/") and name.endswith("/mean") and v is not None
        ]
        for line in results.history
    )
    return [row for row in rows if row]


def _closing(results: DemoResults) -> str:
    names = ("starting the service", "training", "reconstruction", "evaluation")
    parts = ", ".join(f"{name} {duration(results.seconds[name])}" for name in names if name in results.seconds)
    return f"Run {escape(results.run.name)} ({escape(results.run.id)}). Minutes: {parts}."


def _row(results: DemoResults, trial: Trial) -> str:
    planned = next(output for output in results.plan.outputs if output.sigma_rel == trial.sigma_rel)
    error = "stored" if trial.sigma_rel in results.tracked else f"{100 * (planned.profile_error or 0.0):.2g} %"
    cells = [
        _percent(trial.sigma_rel),
        figure(trial.frechet),
        figure(trial.held_out_loss),
        error,
        f"{planned.noise_gain:.2f}",
    ]
    best = " class='best'" if trial is results.best else ""
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
    """An image for light and for dark mode."""
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
