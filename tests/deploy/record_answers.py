"""Record what a real Prometheus answers to two dashboards into answers.json, for test_drawing.py.

`python -m tests.deploy.record_answers --prometheus URL --run RUN_ID`, for a run of the last hour, which
docs/dashboards.md shows how to make. There is one value every 30 s.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import httpx

from deploy.grafana.draw import CHOSEN, Result, Window, asking, drawn, life
from deploy.grafana.run import RUN_DASHBOARD
from deploy.grafana.services import STORE

FILE = Path(__file__).with_name("answers.json")
STEP = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--run", required=True)
    given = parser.parse_args()
    answers: dict[str, Result] = {}
    with httpx.Client(timeout=60) as client:
        answer = asking(given.prometheus, client)

        def ask(expr: str, window: Window) -> Result:
            answers[expr] = answer(expr, window)
            return answers[expr]

        begun, ended = life(ask, given.run, time.time(), 3600)
        answers.clear()
        window = Window(STEP * (begun // STEP), STEP * (ended // STEP + 3), STEP)
        variables = {"run": given.run, **CHOSEN}
        drawn(RUN_DASHBOARD, ask, window, **variables)
        drawn(STORE, ask, window)
    known = {"window": [window.start, window.end, window.step], "variables": variables, "answers": answers}
    FILE.write_text(json.dumps(known, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
