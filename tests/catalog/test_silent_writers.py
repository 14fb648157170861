"""External runs whose writers fall silent: one event is recorded then, and one when the writer writes again."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from phema.shared.catalog import Catalog, EventKind, Transaction
from phema.shared.snapshots.profile import Profile


def opened(catalog: Catalog, name: str = "mine", origin: str = "external") -> str:
    with catalog.transaction() as tx:
        run, _ = tx.external_runs.open(name, origin=origin, config={}, total_images=None)
        assert run.written_at is not None
        return run.id


def age(tx: Transaction, run_id: str, seconds: float) -> None:
    """Make the last sign of life older."""
    tx.runs._session.execute(
        text("UPDATE runs SET written_at = written_at - :s WHERE id = :run"), {"s": seconds, "run": run_id}
    )


def events(catalog: Catalog, run_id: str) -> list[EventKind]:
    with catalog.transaction(read_only=True) as tx:
        kinds = [one.kind for one in tx.run_events.list(run_id).items]
    return [kind for kind in kinds if kind in (EventKind.SILENT, EventKind.HEARD)]


def silent(catalog: Catalog, at_least_s: float = 600) -> list[str]:
    with catalog.transaction() as tx:
        return [run.id for run in tx.external_runs.note_silent(at_least_s=at_least_s)]


def test_silence_is_recorded_once_and_ends_with_the_next_word(catalog: Catalog) -> None:
    run_id = opened(catalog)
    assert silent(catalog) == []
    with catalog.transaction() as tx:
        age(tx, run_id, 3700)
    assert silent(catalog) == [run_id]
    assert silent(catalog) == []
    with catalog.transaction(read_only=True) as tx:
        run = tx.runs.get(run_id)
    assert run.silent_since == run.written_at
    for _ in range(2):
        with catalog.transaction() as tx:
            tx.external_runs.wrote(run_id)
    with catalog.transaction(read_only=True) as tx:
        assert tx.runs.get(run_id).silent_since is None
    assert events(catalog, run_id) == [EventKind.SILENT, EventKind.HEARD]


def test_the_usual_time_between_snapshots_decides(catalog: Catalog) -> None:
    run_id = opened(catalog)
    for time in range(1, 5):
        snapshot(catalog, run_id, time)
    with catalog.transaction() as tx:
        # One snapshot every 1000 s.
        tx.runs._session.execute(text("UPDATE snapshots SET created_at = 1000 * num_images"))
        age(tx, run_id, 2900)
    assert silent(catalog) == []
    with catalog.transaction() as tx:
        age(tx, run_id, 200)
    assert silent(catalog) == [run_id]
    snapshot(catalog, run_id, 5)
    assert events(catalog, run_id) == [EventKind.SILENT, EventKind.HEARD]


def test_ended_and_imported_runs_are_never_silent(catalog: Catalog) -> None:
    ended, imported = opened(catalog, "ended"), opened(catalog, "imported", "imported")
    with catalog.transaction() as tx:
        tx.external_runs.finish(ended)
        for run_id in (ended, imported):
            age(tx, run_id, 10_000)
    assert silent(catalog) == []


def snapshot(catalog: Catalog, run_id: str, num_images: int) -> None:
    row: dict[str, Any] = {"num_images": num_images, "dtype": "float32", "size": 1, "sha256": f"{num_images:064x}"}
    with catalog.transaction() as tx:
        profile = Profile.power(0.05).model_dump(mode="json")
        tx.snapshots.add(run_id=run_id, profile=profile, key=f"runs/{run_id}/{num_images}", **row)
        tx.external_runs.seen(run_id, num_images)
