"""Draws the pictures of docs/architecture.md: python docs/site/draw_house.py

`house.svg` shows the layers of `[tool.importlinter]` in pyproject.toml, so that the picture cannot differ from what
`make lint` checks. `processes.svg` shows which process talks to which.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "pictures" / "architecture"
WORDS = {
    "phema.command": "the phema command",
    "phema.demos": "phema demo, phema reproduce",
    "phema.local_service": "phema up, down, doctor",
    "phema.administration": "rebuild, verify, adopt",
    "phema.integrations": "Lightning, Trainer, Accelerate",
    "phema.sdk": "in your own process: snapshots, weights",
    "phema.terminal": "progress bars, tables",
    "phema.client": "REST client",
    "phema.services.api": "accepts and answers requests",
    "phema.services.trainer": "trains on Ray",
    "phema.services.phema_worker": "reconstructs, evaluates",
    "phema.shared.wiring": "from settings to store, catalog",
    "phema.shared.service_runtime": "leases, metrics of a service",
    "phema.shared.submissions": "from requests to jobs",
    "phema.shared.reports": "HTML reports about runs",
    "phema.shared.analyses": "comparisons with errors",
    "phema.shared.studies": "sweeps, searches",
    "phema.shared.drawing": "pictures without scores",
    "phema.shared.model_records": "promoted models",
    "phema.shared.settings": "every setting",
    "phema.shared.recipes": "configurations, presets",
    "phema.shared.metrics": "how networks are scored",
    "phema.shared.pictures": "every plot and grid",
    "phema.shared.snapshots": "stores, files, plans, sums",
    "phema.shared.catalog": "database, job queue",
    "phema.shared.datasets": "pictures in, batches out",
    "phema.shared.telemetry": "metrics, log fields",
    "phema.shared.edm2": "the paper: networks, averages, post-hoc solve, samplers, training. No I/O",
}
"""What lives in each room."""
NOT_DRAWN = {"phema.errors", "phema.extras", "phema.shared.validation_sentences"}
"""Single modules that every room above them uses."""
WIDTH, MARGIN, LEFT, ROW, GAP = 960, 20, 56, 46, 14
FILL = {"phema.services": "#fbe9e0", "phema.shared": "#e6eefb", "phema": "#e6f3e8"}
INK, FAINT = "#1d2430", "#8a94a3"


class Box(NamedTuple):
    """A rectangle with a title and a line of text."""

    x: float
    y: float
    width: float
    height: float
    title: str
    text: str
    fill: str


def layers() -> list[list[str]]:
    """The rooms of each layer of the house, from the top, as pyproject.toml lists them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [house] = [contract for contract in contracts if contract["name"] == "the arrows of the house run one way"]
    [services] = [contract for contract in contracts if contract["name"] == "services never import each other"]
    found = []
    for layer in house["layers"]:
        rooms = [room for room in layer.split(" | ") if room not in NOT_DRAWN]
        rooms = [part for room in rooms for part in (services["modules"] if room == "phema.services" else [room])]
        if rooms:
            found.append(rooms)
    return found


def house() -> str:
    """SVG of the layers."""
    boxes = []
    rows = layers()
    for row, rooms in enumerate(rows):
        inner = WIDTH - LEFT - MARGIN
        width = (inner - GAP * (len(rooms) - 1)) / len(rooms)
        for column, room in enumerate(rooms):
            x, y = LEFT + column * (width + GAP), MARGIN + row * (ROW + GAP)
            name = room.removeprefix("phema.").replace(".", "/") if "." in room else room
            name = name if name.startswith(("shared", "services")) else f"phema/{name}"
            boxes.append(Box(x, y, width, ROW, name, WORDS.get(room, ""), _fill(room)))
    bottom = MARGIN + len(rows) * (ROW + GAP) - GAP
    arrow = _arrow(28, MARGIN, 28, bottom)
    words = f'<text x="-{(MARGIN + bottom) / 2:g}" y="18" transform="rotate(-90)" class="t">imports run down</text>'
    return _svg(bottom + MARGIN, [*map(_box, boxes), arrow, words], "The rooms of phema and their layers")


def processes() -> str:
    """SVG of the processes, the catalog and the bucket."""
    user, service, state = "#e6f3e8", "#fbe9e0", "#e6eefb"
    columns, width, height = (20, 260, 500, 740), 200, 52
    boxes = [
        Box(columns[0], 20, width, height, "command, client, browser", "requests, presigned downloads", user),
        Box(columns[1], 20, width, height, "api", "REST, no torch, no Ray", service),
        Box(columns[2], 20, width, height, "Prometheus, Grafana", "finds every run by itself", service),
        Box(columns[0], 240, width, height, "your training loop", "SnapshotWriter", user),
        Box(columns[1], 130, width, height, "catalog", "SQLite or PostgreSQL: rows, jobs", state),
        Box(columns[1], 240, width, height, "bucket", "folder or S3: write-once files", state),
        Box(columns[2], 130, width, height, "trainer", "claims trainings", service),
        Box(columns[3], 130, width, height, "Ray: trainings", "one process per worker", service),
        Box(columns[2], 350, width, height, "phema-worker", "claims all other jobs", service),
        Box(columns[3], 350, width, height, "Ray: actors", "reconstruct, draw, score", service),
    ]
    arrows = [
        _arrow(220, 46, 260, 46),
        _arrow(360, 72, 360, 130),
        _arrow(500, 46, 460, 46),
        _arrow(500, 156, 460, 156),
        _arrow(700, 156, 740, 156),
        _arrow(220, 266, 260, 266),
        _arrow(120, 72, 262, 240),
        _arrow(740, 182, 460, 255),
        _arrow(500, 352, 460, 182),
        _arrow(740, 352, 460, 280),
        _arrow(700, 376, 740, 376),
    ]
    return _svg(422, [*map(_box, boxes), *arrows], "The processes of phema")


def _fill(room: str) -> str:
    return next(colour for prefix, colour in FILL.items() if room.startswith(prefix))


def _box(box: Box) -> str:
    x, middle = box.x + box.width / 2, box.y + box.height / 2
    return (
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="5" fill="{box.fill}"'
        f' stroke="{FAINT}"/>'
        f'<text x="{x:g}" y="{middle - 4:g}" class="n">{escape(box.title)}</text>'
        f'<text x="{x:g}" y="{middle + 13:g}" class="t">{escape(box.text)}</text>'
    )


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
    return f'<line {ends} stroke="{INK}" stroke-width="1.3" marker-end="url(#head)"/>'


def _svg(height: float, parts: Iterable[str], description: str) -> str:
    lines: Sequence[str] = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">',
        f"<title>{escape(description)}</title>",
        "<style>text{font-family:sans-serif;text-anchor:middle}"
        f".n{{font-size:13px;font-weight:bold;fill:{INK}}}.t{{font-size:11px;fill:{INK}}}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height:g}" fill="#ffffff"/>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


PICTURES = {"house.svg": house, "processes.svg": processes}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw())
