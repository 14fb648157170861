"""What the page of a run offers to rename, fork and delete it, and the page of its deletion."""

from __future__ import annotations

from html import unescape

import httpx

from tests.pages.conftest import Seeded


def page(seeded: Seeded, path: str) -> str:
    answer = httpx.get(f"{seeded.url}/{path}", headers={"Accept": "text/html"}, timeout=60)
    assert answer.status_code == 200, answer.text
    return unescape(answer.text)


def test_the_page_of_a_run_offers_its_changes(seeded: Seeded) -> None:
    with seeded.catalog.transaction() as tx:
        run = tx.runs.get("digits-recipe")
        tx.checkpoints.add(run_id=run.id, num_images=76_800, key="page-of-a-fork", size=1, sha256="a" * 64)
    text = page(seeded, "runs/digits-recipe")
    for request in ("rename", "forks"):
        assert f'data-request="POST v1/runs/digits-recipe/{request}"' in text
    assert '<option value="76800">76,800 images</option>' in text
    assert "phema runs fork digits-recipe digits-recipe-fork" in text
    forked = httpx.post(
        f"{seeded.url}/v1/runs/digits-recipe/forks",
        json={"name": "forked", "config": {"total_images": 153_600}},
        timeout=60,
    )
    assert forked.status_code == 201, forked.text
    try:
        assert 'runs/forked">forked</a>' in page(seeded, "runs/digits-recipe")
        assert "the checkpoint at 76,800 images" in page(seeded, "runs/forked")
        assert "has no checkpoint of its own yet" in page(seeded, "runs/digits-recipe/deletion")
        plan = page(seeded, "runs/forked/deletion")
        assert 'data-request="DELETE v1/runs/forked"' in plan
        httpx.delete(f"{seeded.url}/v1/runs/forked", timeout=60)
        assert 'data-request="POST v1/runs/forked/restore"' in page(seeded, "runs/forked")
        assert "Keep the run" in page(seeded, "runs/forked/deletion")
    finally:
        with seeded.catalog.transaction() as tx:  # other tests look at the list of runs
            tx.run_deletions.remove(forked.json()["id"], [])
