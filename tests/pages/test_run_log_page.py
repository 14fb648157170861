"""The last lines of a training's log on the page of its run."""

from __future__ import annotations

import httpx

from phema.shared.catalog import submission_id
from phema.shared.service_runtime.attempt_logs import AttemptLog
from tests.pages.conftest import Seeded


def test_the_last_lines_are_shown_and_a_refresh_does_not_read_them(seeded: Seeded) -> None:
    with seeded.catalog.transaction(read_only=True) as tx:
        run = tx.runs.get("digits-constant")
        number = tx.jobs.attempts(run.job_id)[-1].number
    log = AttemptLog(seeded.store, run.id, submission_id(run.job_id, number))
    log.complete(b"".join(b"line %d\n" % line for line in range(100)))
    html = {"Accept": "text/html"}
    opened = httpx.get(f"{seeded.url}/runs/{run.name}", headers=html, timeout=60).text
    assert "line 99" in opened
    assert "line 79" not in opened
    refreshed = httpx.get(f"{seeded.url}/runs/{run.name}", headers={**html, "X-Phema-Refresh": "1"}, timeout=60).text
    assert "line 99" not in refreshed
    assert 'id="event-list"' in refreshed
