"""Readers of an attempt's log see exactly what was written, also when the reader or the trainer dies at any point."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from phema.shared.service_runtime import attempt_logs
from phema.shared.service_runtime.attempt_logs import AttemptLog
from phema.shared.snapshots import ObjectStore, open_store
from phema.shared.snapshots.stores.object_keys import log_pieces_prefix


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_logs, "PIECE_BYTES", 100)
    monkeypatch.setattr(attempt_logs, "LARGEST_LOG", 1000)
    monkeypatch.setattr(attempt_logs, "OVERLAP_BYTES", 50)


def log(store: ObjectStore) -> AttemptLog:
    return AttemptLog(store, "run-1", "job-1-a1")


def lines(count: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(count))


def pieces(store: ObjectStore) -> list[str]:
    return [one.key for one in store.list(log_pieces_prefix("run-1", "job-1-a1"))]


def test_a_reader_sees_a_log_grow_and_end(store: ObjectStore) -> None:
    writer, reader, seen = log(store), log(store), b""
    assert reader.read() == (b"", False)
    for count in (1, 2, 30, 30, 31):
        writer.write(lines(count) + b"half a li")
        new = reader.read()
        seen += new.data
        assert (seen, new.complete) == (lines(count), False)
    writer.complete(lines(40))
    assert reader.read() == (lines(40).removeprefix(seen), True)
    assert pieces(store) == []
    assert log(store).read() == (lines(40), True)
    assert log(store).tail(16) == b"line 38\nline 39\n"


def test_the_end_of_a_long_log_is_kept_and_a_reader_keeps_its_place(store: ObjectStore) -> None:
    writer, reader, seen = log(store), log(store), b""
    for count in range(10, 400, 10):
        writer.write(lines(count))
        seen += reader.read().data
    assert seen == lines(390)
    assert sum(len(store.get(key)) for key in pieces(store)) <= 1000 + 2 * 100 + 100
    late = log(store).read().data
    assert lines(390).endswith(late)
    assert len(late) >= 900
    writer.complete(lines(395))
    kept, complete = reader.read()
    assert (seen + kept, complete) == (lines(395), True)
    whole = log(store).read().data
    assert lines(395).endswith(whole)
    assert whole.startswith(b"line ")
    assert 900 <= len(whole) <= 1000


def test_another_trainer_goes_on_with_the_pieces_that_it_finds(store: ObjectStore) -> None:
    """Both may write for a while, and one may be killed between a piece and the deletion of the one before."""
    one, other, reader, seen = log(store), log(store), log(store), b""
    chance = random.Random(0)
    for count in range(1, 120):
        chance.choice([one, other]).write(lines(count))
        if chance.random() < 0.3:
            seen += reader.read().data
            assert lines(count) == seen
    one.complete(lines(120))
    other.complete(lines(120))
    assert (seen + reader.read().data) == lines(120)
    assert pieces(store) == []


class DiesInDelete(Exception):
    pass


def test_a_writer_that_dies_before_it_deletes_leaves_a_readable_log(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(key: str) -> None:
        raise DiesInDelete

    log(store).write(lines(3))
    with monkeypatch.context() as patch:
        patch.setattr(store, "delete", die)
        with pytest.raises(DiesInDelete):
            log(store).write(lines(5))
        assert len(pieces(store)) == 2
        assert log(store).read() == (lines(5), False)
        with pytest.raises(DiesInDelete):
            log(store).complete(lines(6))
    assert log(store).read() == (lines(6), True)
    log(store).complete(lines(6))
    assert pieces(store) == []
