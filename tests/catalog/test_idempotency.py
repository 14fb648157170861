"""Responses stored for repeated requests, and the scrape targets of Prometheus."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import create_engine, text

from phema.shared.catalog import Catalog
from phema.shared.catalog.engine import parse_url
from phema.shared.catalog.repositories.idempotency import KEPT_SECONDS


def test_an_answer_is_kept(catalog: Catalog) -> None:
    with catalog.transaction() as tx:
        assert tx.idempotency.get("key") is None
        tx.idempotency.save("key", "hash", 201, {"id": "run-1", "list": [1, None, "é"]})
    with catalog.transaction() as tx:
        record = tx.idempotency.get("key")
    assert record is not None
    assert (record.request_hash, record.status, record.body) == ("hash", 201, {"id": "run-1", "list": [1, None, "é"]})


def test_the_first_answer_stays(catalog: Catalog) -> None:
    for status in (201, 409):
        with catalog.transaction() as tx:
            tx.idempotency.save("key", "hash", status, None)
    with catalog.transaction() as tx:
        record = tx.idempotency.get("key")
    assert record is not None
    assert (record.status, record.body) == (201, None)


def test_old_answers_are_forgotten(catalog: Catalog, catalog_url: str) -> None:
    with catalog.transaction() as tx:
        tx.idempotency.save("old", "hash", 201, None)
    engine = create_engine(parse_url(catalog_url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE idempotency SET created_at = created_at - :age"), {"age": KEPT_SECONDS + 60})
    engine.dispose()
    with catalog.transaction() as tx:
        tx.idempotency.save("new", "hash", 201, None)
        assert tx.idempotency.forget_old() == 1
        assert tx.idempotency.get("old") is None
        assert tx.idempotency.get("new") is not None
        assert tx.idempotency.forget_old() == 0


def test_racing_requests_with_one_key_do_the_work_once(catalog: Catalog) -> None:
    clients = 6
    start = threading.Barrier(clients)

    def request(_: int) -> str:
        start.wait()
        with catalog.transaction() as tx:
            record = tx.idempotency.get("key")
            if record is not None:
                return record.body["id"]
            run = tx.runs.create("digits", {}, "hash", total_images=1)
            tx.idempotency.save("key", "hash", 201, {"id": run.id})
            return run.id

    with ThreadPoolExecutor(clients) as pool:
        assert len(set(pool.map(request, range(clients)))) == 1
    with catalog.transaction() as tx:
        assert len(tx.runs.list().items) == 1


def test_targets_come_and_go(catalog: Catalog) -> None:
    with catalog.transaction() as tx:
        tx.scrape_targets.register("trainer", "127.0.0.1:9001", {"run_id": "run-1"})
        tx.scrape_targets.register("worker", "127.0.0.1:9000")
    with catalog.transaction() as tx:
        first, second = tx.scrape_targets.live(60)
        assert (first.address, first.kind, first.labels) == ("127.0.0.1:9000", "worker", {})
        assert second.labels == {"run_id": "run-1"}
        tx.scrape_targets.register("trainer", "127.0.0.1:9001", {"run_id": "run-2"})
        assert tx.scrape_targets.live(60)[1].labels == {"run_id": "run-2"}, "a new process at an old address"
        tx.scrape_targets.remove("127.0.0.1:9001")
        tx.scrape_targets.remove("127.0.0.1:9001")
        assert not tx.scrape_targets.touch("127.0.0.1:9001")
        assert [target.address for target in tx.scrape_targets.live(60)] == ["127.0.0.1:9000"]


def test_silent_targets_are_not_live_and_are_forgotten(catalog: Catalog, catalog_url: str) -> None:
    def age(seconds: float) -> None:
        engine = create_engine(parse_url(catalog_url))
        with engine.begin() as connection:
            connection.execute(text("UPDATE targets SET seen_at = seen_at - :seconds"), {"seconds": seconds})
        engine.dispose()

    with catalog.transaction() as tx:
        tx.scrape_targets.register("worker", "127.0.0.1:9000")
    age(100)
    with catalog.transaction() as tx:
        assert tx.scrape_targets.live(60) == []
        assert tx.scrape_targets.touch("127.0.0.1:9000")
        assert len(tx.scrape_targets.live(60)) == 1
    age(10_000)
    with catalog.transaction() as tx:
        tx.scrape_targets.register("worker", "127.0.0.1:9001")
        assert [target.address for target in tx.scrape_targets.live(1e9)] == ["127.0.0.1:9001"]
