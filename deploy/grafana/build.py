"""phema's Grafana dashboards as code: `python -m deploy.grafana.build` writes `dashboards/*.json`.

Every metric of `shared/telemetry/metrics.py` is in a panel, and every metric in a panel comes from that table or from
`deploy/prometheus/rules`; both are tested. `queries()` lists the panels' queries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from deploy.grafana.run import RUN_DASHBOARD
from deploy.grafana.services import API, FLEET, STORE

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = (RUN_DASHBOARD, FLEET, STORE, API)


def files() -> dict[str, str]:
    """File name -> text of every dashboard."""
    return {f"{d.uid}.json": json.dumps(d.json(), indent=2, ensure_ascii=False) + "\n" for d in DASHBOARDS}


def queries() -> Iterator[tuple[str, str, str]]:
    """Dashboard's title, panel's title and expression of every query; `panels.concrete` fills in the variables."""
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            for query in panel.queries:
                yield dashboard.title, panel.title, query.expr


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
