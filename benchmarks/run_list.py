"""How long the list of runs takes in a catalog of 10,000 runs: `python -m benchmarks.run_list [--url URL]`.

The catalog is that of `large_catalog`, where the newest 60 runs also have histories of 1,000 rows and evaluations.
Without `--url`, SQLite in a temporary folder; the URL is that of an empty database. Prints the smallest and the median
time of each address in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import insert, text

from benchmarks.large_catalog import Size, fill
from phema.services.api.app import create_app
from phema.shared.catalog import Catalog
from phema.shared.catalog.engine import open_engine, parse_url
from phema.shared.catalog.models import Evaluation, HistoryPoint
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.settings import Settings

NEWEST, ROWS, EVALUATIONS, REPEATS = 60, 1_000, 100, 15
ADDRESSES = (
    "/runs",
    "/runs?name=ment-99",
    "/runs?state=failed",
    "/runs?preset=digits-tiny",
    "/runs?preset=none",
    "/runs?origin=imported",
    "/runs?sort=name",
    "/runs?sort=progress",
    "/runs?sort=images&order=asc",
    "/v1/runs",
    "/v1/runs?sort=images",
)


def add_histories(url: str) -> None:
    """Histories with 40 figures per row, and evaluations, of the newest runs."""
    engine = open_engine(parse_url(url), answer_seconds=600.0)
    figures = {f"activation/enc/{number}/max": 1.25 + number for number in range(36)}
    recipe = EvaluationRecipe(num_samples=1000, metrics=("frechet",)).document()
    with engine.begin() as connection:
        runs = connection.execute(text(f"SELECT id, num_images FROM runs ORDER BY seq DESC LIMIT {NEWEST}")).all()
        weights = connection.execute(text("SELECT id FROM reconstructions LIMIT 1")).scalar_one()
        first = connection.execute(text("SELECT max(seq) FROM evaluations")).scalar_one() + 1
        for number, (run, images) in enumerate(runs):
            rows = [
                {
                    "run_id": run,
                    "num_images": images * row // ROWS,
                    "values": {"loss": 1 / row, "images_per_second": 600.0, **figures},
                    "created_at": 0.0,
                }
                for row in range(1, ROWS + 1)
            ]
            connection.execute(insert(HistoryPoint), rows)
            evaluations = [
                {
                    "seq": first + number * EVALUATIONS + place,
                    "id": f"eval-{number}-{place}",
                    "run_id": run,
                    "reconstruction_id": weights,
                    "recipe": recipe,
                    "content_key": f"list:{number}:{place}",
                    "figures": {"frechet": 0.5 + place / 100},
                    "errors": {"frechet": 0.01},
                    "replicates": {"frechet": [0.5] * 20},
                    "created_at": 0.0,
                }
                for place in range(EVALUATIONS)
            ]
            connection.execute(insert(Evaluation), evaluations)
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("ANALYZE"))
    engine.dispose()


def milliseconds(action: Callable[[], Any]) -> tuple[float, float]:
    """(smallest, median) of REPEATS, after one that does not count."""
    action()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - began))
    return round(min(times), 1), round(statistics.median(times), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    url = parser.parse_args().url
    with tempfile.TemporaryDirectory(prefix="phema-run-list-") as folder:
        settings = Settings(state_dir=Path(folder), **({"database_url": url} if url else {}))
        catalog = Catalog(settings.catalog_url)
        catalog.upgrade()
        fill(settings.catalog_url, Size())
        add_histories(settings.catalog_url)
        with TestClient(create_app(settings), base_url="http://localhost") as client:
            found = {}
            for address in ADDRESSES:
                answer = client.get(address)
                assert answer.status_code == 200, answer.text
                found[address] = milliseconds(lambda address=address: client.get(address))  # type: ignore[misc]
        catalog.close()
    kind = settings.catalog_url.partition(":")[0]
    print(json.dumps({"database": kind, "python": platform.python_version(), "milliseconds": found}, indent=1))


if __name__ == "__main__":
    main()
