"""The background uploader: in order, durable before registered, failures reach the training thread."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from phema.shared.snapshots import ObjectExists, ObjectInfo, ObjectStore, StoreUnreachable, open_store
from phema.shared.snapshots.stores.background_uploader import BackgroundUploader, UploadCounts


def test_everything_is_stored_before_it_is_registered_and_in_order(store: ObjectStore) -> None:
    registered: list[str] = []

    def register(info: ObjectInfo) -> None:
        assert store.get(info.key) == info.key.encode()
        assert info.sha256 is not None
        registered.append(info.key)

    with BackgroundUploader(store, max_pending=3) as uploader:
        for number in range(12):
            key = f"a/{number:02d}"
            uploader.submit(lambda key=key: (key, key.encode()), register)
        uploader.flush()
        assert registered == [f"a/{n:02d}" for n in range(12)]
        counts = uploader.counts
    assert (counts.objects, counts.bytes, counts.retries, counts.pending) == (12, 48, 0, 0)
    assert counts.seconds > 0


@pytest.fixture
def local(tmp_path: Path) -> ObjectStore:
    return open_store((tmp_path / "store").as_uri())


def test_submit_waits_while_too_much_is_pending(local: ObjectStore) -> None:
    gate, began, third_in = threading.Event(), threading.Event(), threading.Event()

    def produce() -> tuple[str, bytes]:
        began.set()
        gate.wait()
        return "a", b"a"

    uploader = BackgroundUploader(local, max_pending=2)
    uploader.submit(produce, lambda info: None)
    uploader.submit(lambda: ("b", b"b"), lambda info: None)

    def third() -> None:
        uploader.submit(lambda: ("c", b"c"), lambda info: None)
        third_in.set()

    trainer = threading.Thread(target=third)
    trainer.start()
    began.wait()
    assert not third_in.is_set()
    assert uploader.counts.pending == 2
    gate.set()
    trainer.join()
    uploader.flush()
    uploader.close()
    assert [info.key for info in local.list()] == ["a", "b", "c"]
    assert uploader.counts.waited_seconds > 0


def test_a_store_that_comes_back_is_tried_again(tmp_path: Path) -> None:
    obstacle = tmp_path / "store"
    obstacle.write_text("a file where the store's folder should be")
    store, errors = open_store(obstacle.as_uri()), []

    def on_retry(error: Exception, delay_s: float) -> None:
        errors.append((type(error), delay_s))
        if len(errors) == 3:
            obstacle.unlink()

    registered: list[ObjectInfo] = []
    with BackgroundUploader(store, first_delay_s=0.01, on_retry=on_retry) as uploader:
        uploader.submit(lambda: ("a", b"x"), registered.append)
    assert errors == [(StoreUnreachable, 0.01), (StoreUnreachable, 0.02), (StoreUnreachable, 0.04)]
    assert [info.key for info in registered] == ["a"]
    assert uploader.counts.retries == 3


def test_a_store_that_stays_away_ends_the_uploader(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    uploader = BackgroundUploader(open_store((tmp_path / "store").as_uri()), patience_s=0.01, first_delay_s=0.001)
    uploader.submit(lambda: ("a", b"x"), lambda info: pytest.fail("nothing was stored"))
    with pytest.raises(StoreUnreachable):
        uploader.flush()
    uploader.close()
    counts = uploader.counts
    assert counts.retries >= 1
    assert counts == UploadCounts(retries=counts.retries, waited_seconds=counts.waited_seconds)


def test_a_failure_reaches_the_training_thread_and_drops_what_follows(local: ObjectStore) -> None:
    local.put("b", b"other bytes")
    registered: list[str] = []
    uploader = BackgroundUploader(local, max_pending=10)
    gate = threading.Event()
    uploader.submit(lambda: (gate.wait(), ("a", b"a"))[1], lambda info: registered.append(info.key))
    for key in ("b", "c"):
        uploader.submit(lambda key=key: (key, b"x"), lambda info: registered.append(info.key))
    gate.set()
    with pytest.raises(ObjectExists, match="object b already exists"):
        uploader.flush()
    with pytest.raises(ObjectExists):
        uploader.submit(lambda: ("d", b"d"), lambda info: None)
    uploader.close()
    assert registered == ["a"]
    assert [info.key for info in local.list()] == ["a", "b"]
    assert uploader.counts.pending == 0


def test_an_error_of_the_row_is_the_training_threads_too(local: ObjectStore) -> None:
    class LeaseLost(Exception):
        pass

    class CatalogAway(Exception):
        pass

    answers: list[Exception] = [CatalogAway(), CatalogAway(), LeaseLost()]

    def register(info: ObjectInfo) -> None:
        raise answers.pop(0)

    uploader = BackgroundUploader(local, first_delay_s=0.001, transient=(StoreUnreachable, CatalogAway))
    uploader.submit(lambda: ("a", b"a"), register)
    with pytest.raises(LeaseLost):
        uploader.flush()
    uploader.close()
    assert uploader.counts.retries == 2


class Away(Exception):
    """A catalog that cannot be reached."""


def test_while_only_the_rows_must_wait_objects_are_stored_and_nobody_waits(local: ObjectStore) -> None:
    """With two objects at most in memory, ten are stored while the first row cannot be written."""
    back, registered = threading.Event(), []

    def register(info: ObjectInfo) -> None:
        if not back.is_set():
            raise Away
        registered.append(info.key)

    keys = [f"a/{number}" for number in range(10)]
    with BackgroundUploader(local, max_pending=2, first_delay_s=0.001, transient=(Away,)) as uploader:
        for key in keys:
            uploader.submit(lambda key=key: (key, b"x"), register)
        while uploader.counts.objects < len(keys):
            threading.Event().wait(0.001)
        assert [info.key for info in local.list()] == keys
        assert (registered, uploader.counts.pending) == ([], len(keys))
        back.set()
    assert registered == keys


def test_rows_that_wait_are_bounded(local: ObjectStore) -> None:
    """The row in progress, two that wait, one object that is stored and one in the queue: then `submit` waits."""
    back, waits = threading.Event(), threading.Event()
    registered: list[str] = []

    def register(info: ObjectInfo) -> None:
        back.wait()
        registered.append(info.key)

    uploader = BackgroundUploader(local, max_pending=1, max_unregistered=2, on_wait=waits.set)
    keys = [f"a/{number}" for number in range(6)]
    trainer = threading.Thread(target=lambda: [uploader.submit(lambda key=key: (key, b"x"), register) for key in keys])
    trainer.start()
    waits.wait()
    assert uploader.counts.objects <= 4
    back.set()
    trainer.join()
    uploader.flush()
    uploader.close()
    assert registered == keys


def test_an_object_that_cannot_be_stored_does_not_take_the_rows_before_it(local: ObjectStore) -> None:
    local.put("b", b"other bytes")
    gate, registered = threading.Event(), []

    def register(info: ObjectInfo) -> None:
        gate.wait()
        registered.append(info.key)

    uploader = BackgroundUploader(local)
    uploader.submit(lambda: ("a", b"a"), register)
    uploader.submit(lambda: ("b", b"b"), register)
    with pytest.raises(ObjectExists):
        uploader.flush()
    gate.set()
    uploader.close()
    assert registered == ["a"]


def test_an_error_in_the_block_drops_what_has_not_begun(local: ObjectStore) -> None:
    began = threading.Event()

    def fail() -> None:
        with BackgroundUploader(local) as uploader:

            def produce() -> tuple[str, bytes]:
                began.set()
                uploader._closed.wait()
                return "a", b"a"

            uploader.submit(produce, lambda info: None)
            uploader.submit(lambda: ("b", b"b"), lambda info: None)
            began.wait()
            raise RuntimeError("training failed")

    with pytest.raises(RuntimeError, match="training failed"):
        fail()
    assert [info.key for info in local.list()] == ["a"]


def test_a_closed_uploader_takes_nothing(local: ObjectStore) -> None:
    uploader = BackgroundUploader(local)
    uploader.close()
    with pytest.raises(RuntimeError, match="closed"):
        uploader.submit(lambda: ("a", b"a"), lambda info: None)
    with pytest.raises(ValueError, match="max_pending 0"):
        BackgroundUploader(local, max_pending=0)
