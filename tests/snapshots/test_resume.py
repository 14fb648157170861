"""Objects and reconstructions that are killed half-way, and how the next process resumes them."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from phema.shared.snapshots import CorruptObject, ObjectExists, ObjectStore, S3Options, StoreUnreachable, open_store
from phema.shared.snapshots.combining.reconstruct import OutputSpec, ReconstructionCancelled, reconstruct
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.stores.local import writer as local_writer
from phema.shared.snapshots.stores.local.resumable import ResumableLocalWriter
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.snapshots.stores.verification import digest
from tests.fixtures.s3 import S3Server
from tests.snapshots.test_store import leftovers, spoil
from tests.snapshots.weights import output, store_run

MIB = 2**20
BOUND = 32 * MIB
SIZE = 2_200_000
"""Rows of three: an fp32 output of 26 MB and an fp16 one of 13 MB, more than what is made durable at once."""


class Stop(Exception):
    """Ends a writer's `with` block as a shutdown does."""


def partial(store: ObjectStore) -> list[str]:
    """The files of unfinished resumable writers."""
    if isinstance(store, LocalStore):
        return sorted(path.name for path in store.folder.partial.glob("*"))
    return leftovers(store)


@pytest.fixture
def whole() -> bytes:
    return b"".join(bytes([n]) * MIB for n in range(12))


def begin(store: ObjectStore, data: bytes) -> None:
    """Write some of an object and end with an exception."""
    with pytest.raises(Stop), store.resumable("a/b") as writer:  # noqa: PT012
        writer.write(data)
        raise Stop


def test_a_writer_resumes_where_the_previous_one_ended(store: ObjectStore, whole: bytes) -> None:
    begin(store, whole[: 7 * MIB])
    assert list(store.list()) == []
    with store.resumable("a/b") as writer:
        assert 5 * MIB <= writer.position <= 7 * MIB
        writer.write(whole[writer.position :])
    assert store.get("a/b") == whole
    assert writer.info == digest(store, "a/b")
    assert partial(store) == []


def test_an_uninterrupted_resumable_writer_writes_the_same_object(store: ObjectStore, whole: bytes) -> None:
    for data in (b"", b"small", whole):
        key = f"a/{len(data)}"
        for _ in range(2):  # the same again is success
            with store.resumable(key) as writer:
                assert writer.position == 0
                writer.write(data)
            assert store.get(key) == data
            assert writer.info == digest(store, key)
        with pytest.raises(ObjectExists), store.resumable(key) as writer:
            writer.write(data + b"x")
        store.forget(key)
    assert partial(store) == []


def test_a_forgotten_object_is_written_from_the_start(store: ObjectStore, whole: bytes) -> None:
    begin(store, whole[: 7 * MIB])
    store.forget("a/b")
    assert partial(store) == []
    store.forget("a/b")
    with store.resumable("a/b") as writer:
        assert writer.position == 0
        writer.write(b"other")
    assert store.get("a/b") == b"other"


def test_a_writer_whose_object_is_forgotten_commits_nothing(store: ObjectStore, whole: bytes) -> None:
    with pytest.raises(StoreUnreachable), store.resumable("a/b") as writer:  # noqa: PT012
        writer.write(whole)
        store.forget("a/b")
        writer.write(whole)
    assert list(store.list()) == []
    store.forget("a/b")
    assert partial(store) == []


def test_the_latest_writer_takes_over(store: ObjectStore, whole: bytes) -> None:
    """As when a worker freezes: another worker gets its job, and the frozen one may wake up at any time."""
    with contextlib.suppress(StoreUnreachable), store.resumable("a/b") as first:
        first.write(whole[: 9 * MIB])
        with store.resumable("a/b") as second:
            assert 5 * MIB <= second.position <= 9 * MIB
            first.write(whole[9 * MIB : 10 * MIB])
            store.put("c", b"3")  # sweeps what killed writers left, and not this
            second.write(whole[second.position :])
        assert store.get("a/b") == whole
        first.write(whole[10 * MIB :])
    assert store.get("a/b") == whole
    assert second.info == digest(store, "a/b")
    assert partial(store) == []


@pytest.mark.parametrize("rival", ["takes over", "forgets"])
def test_a_writer_that_loses_its_object_at_the_last_moment_publishes_nothing(
    rival: str, tmp_path: Path, whole: bytes
) -> None:
    """Another process acts between the writer's last look at its file and the link that publishes it."""
    store = LocalStore(tmp_path)
    other = store.resumable("a/b")

    class Overtaken(ResumableLocalWriter):
        def _commit(self) -> None:
            if rival == "takes over":
                stack.enter_context(other)
            else:
                store.forget("a/b")
            super()._commit()

    with contextlib.ExitStack() as stack:
        with pytest.raises(StoreUnreachable, match="taken over"), Overtaken(store.folder, "a/b") as writer:
            writer.write(whole)
        assert list(store.list()) == []
        if rival == "takes over":
            other.write(whole[other.position :])
    assert [info.key for info in store.list()] == (["a/b"] if rival == "takes over" else [])
    assert partial(store) == []


def test_damaged_partial_objects_of_a_folder_are_not_resumed(tmp_path: Path, whole: bytes) -> None:
    store = LocalStore(tmp_path / "store")
    damages: list[Callable[[Path, Path], object]] = [
        lambda data, note: data.write_bytes(b"x" + data.read_bytes()[1:]),
        lambda data, note: data.write_bytes(data.read_bytes()[:-1]),
        lambda data, note: note.write_text("99999999999999999999 f"),
        lambda data, note: note.write_text(""),
        lambda data, note: note.unlink(),
    ]
    for damage in damages:
        begin(store, whole)
        data, note = (store.folder.partial / name for name in partial(store))
        damage(data, note)
        with store.resumable("a/b") as writer:
            assert writer.position == 0
            writer.write(b"anew")
        assert store.get("a/b") == b"anew"
        store.delete("a/b")


def test_killed_after_its_commit_a_writer_leaves_the_object_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    begin(store, b"first")
    [data, _] = partial(store)
    (store.root / "a").mkdir()
    (store.root / "a" / "b").hardlink_to(store.folder.partial / data)  # as a kill between the two steps leaves it
    with pytest.raises(ObjectExists), store.resumable("a/b") as writer:
        writer.write(b"second")
    assert writer.position == 0
    assert store.get("a/b") == b"first"


KILLED = """
import json, sys, torch
from phema.shared.snapshots import S3Options, open_store
from phema.shared.snapshots.combining.reconstruct import reconstruct
from tests.snapshots.test_resume import specs, stored_from

torch.set_num_threads(1)
task = json.loads(sys.argv[1])
store = open_store(task["url"], s3=task["s3"] and S3Options(**task["s3"]))
stored = stored_from(task["stored"])
report = lambda done, total: print(done / total, flush=True)
reconstruct(store, stored, specs(len(stored)), memory_bytes=task["memory"], progress=report, resume=True)
print("done", flush=True)
sys.stdin.read()
"""


def stored_from(dumped: list[dict[str, object]]) -> list[StoredSnapshot]:
    from phema.shared.snapshots.files.header import Profile

    return [StoredSnapshot(**fields | {"profile": Profile.model_validate(fields["profile"])}) for fields in dumped]  # type: ignore[arg-type]


def specs(count: int) -> list[OutputSpec]:
    """An fp32 and an fp16 output, which are never equally complete; some tensors of the first have own coefficients."""
    rows = [[(k + 1) / (i + 2) for i in range(count)] for k in range(3)]
    first = output("out/0", rows[0])
    mixed = OutputSpec(first.key, first.coefficients, first.metadata, "float32", {"dec.conv": rows[2]})
    return [mixed, output("out/1", rows[1], "float16")]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ObjectStore, dict[str, object]]:
    """A store with a run, and what a subprocess needs to open it."""
    url, options = (tmp_path / "store").as_uri(), None
    if request.param == "s3":
        url, options = request.getfixturevalue("s3_options")
    store = open_store(url, s3=options)
    stored = store_run(store, 4, size=SIZE)
    dumped = [{**asdict(s), "profile": s.profile.model_dump(mode="json")} for s in stored]
    s3 = asdict(options) if isinstance(options, S3Options) else None
    return store, {"url": url, "s3": s3, "stored": dumped, "memory": BOUND}


def killed(task: dict[str, object], until: float | str) -> None:
    """Reconstruct in a separate process, and kill the process once it is that far."""
    command = [sys.executable, "-c", KILLED, json.dumps(task)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reached = ""
    for line in process.stdout:
        reached = line.strip()
        if reached == "done" or (isinstance(until, float) and float(reached) >= until):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert reached == "done" if until == "done" else reached != "done", "it ended before it was killed"


def test_a_killed_reconstruction_is_resumed(place: tuple[ObjectStore, dict[str, object]]) -> None:
    store, task = place
    stored = stored_from(task["stored"])  # type: ignore[arg-type]
    wanted = specs(len(stored))
    reconstruct(store, stored, wanted, memory_bytes=BOUND)
    undisturbed = [store.get(spec.key) for spec in wanted]
    for spec in wanted:
        store.delete(spec.key)

    killed(task, 0.8)
    assert all(store.head(spec.key) is None for spec in wanted)
    assert partial(store)
    seen: list[tuple[int, int]] = []
    follow = lambda done, total: seen.append((done, total))  # noqa: E731
    infos = reconstruct(store, stored, wanted, memory_bytes=2 * BOUND, progress=follow, resume=True)
    assert [store.get(spec.key) for spec in wanted] == undisturbed
    assert infos == [digest(store, spec.key) for spec in wanted]
    assert seen[-1][0] == seen[-1][1]
    assert partial(store) == []

    store.delete("out/1")  # killed between the commits of the two
    seen.clear()
    assert reconstruct(store, stored, wanted, memory_bytes=BOUND, progress=follow, resume=True) == infos
    seen.clear()
    assert reconstruct(store, stored, wanted, memory_bytes=BOUND, progress=follow, resume=True) == infos
    assert seen == []


def test_a_stopped_reconstruction_is_resumed_or_abandoned(store: ObjectStore) -> None:
    stored = store_run(store, 4, size=1_000_000)
    wanted = specs(4)

    def stop(at: float) -> None:
        place = [0.0]
        with pytest.raises(ReconstructionCancelled):
            reconstruct(
                store,
                stored,
                wanted,
                memory_bytes=BOUND,
                progress=lambda done, total: place.__setitem__(0, done / total),
                cancelled=lambda: place[0] > at,
                resume=True,
            )

    stop(0.5)
    assert partial(store)
    for spec in wanted:
        store.forget(spec.key)
    assert partial(store) == []
    stop(0.3)
    stop(0.7)
    reconstruct(store, stored, wanted, memory_bytes=BOUND, resume=True)
    continued = [store.get(spec.key) for spec in wanted]
    for spec in wanted:
        store.delete(spec.key)
    reconstruct(store, stored, wanted, memory_bytes=BOUND)
    assert [store.get(spec.key) for spec in wanted] == continued


def test_what_was_made_of_damaged_bytes_is_not_resumed(store: ObjectStore) -> None:
    """The byte lies where the first attempt has read already."""
    stored = store_run(store, 4, size=1_000_000)
    wanted = specs(4)
    whole = store.get(stored[1].key)
    changed = bytearray(whole)
    changed[20_000] ^= 1
    spoil(store, stored[1].key, bytes(changed))
    place = [0.0]
    with pytest.raises(ReconstructionCancelled):
        reconstruct(
            store,
            stored,
            wanted,
            memory_bytes=BOUND,
            progress=lambda done, total: place.__setitem__(0, done / total),
            cancelled=lambda: place[0] > 0.7,
            resume=True,
        )
    assert partial(store)
    with pytest.raises(CorruptObject, match=f"object {stored[1].key} .*is damaged"):
        reconstruct(store, stored, wanted, memory_bytes=BOUND, resume=True)
    assert partial(store) == []
    assert [info.key for info in store.list()] == [snapshot.key for snapshot in stored]


def test_a_key_that_holds_something_else_is_refused(store: ObjectStore) -> None:
    stored = store_run(store, 4)
    wanted = specs(4)
    store.put("out/1", b"somebody else's")
    with pytest.raises(ObjectExists, match="out/1"):
        reconstruct(store, stored, wanted, memory_bytes=BOUND, resume=True)
    assert store.get("out/1") == b"somebody else's"


def test_a_folder_deletes_partial_objects_that_were_never_resumed(tmp_path: Path) -> None:
    import os

    store = LocalStore(tmp_path / "store")
    begin(store, b"long ago")
    for name in partial(store):
        os.utime(store.folder.partial / name, (0, 0))
    with store.resumable("other") as writer:
        assert isinstance(writer, ResumableLocalWriter)
        assert len(partial(store)) == 1  # its own
        writer.write(b"1")
    assert partial(store) == []


@pytest.mark.parametrize("kind", ["takeover", "forget"])
def test_ownership_and_publication_are_one_step(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process gets the object at the last moment: after the writer has synced everything, before it commits."""
    store, link = LocalStore(tmp_path / "store"), local_writer.link_exclusively
    with contextlib.ExitStack() as stack:
        second: list[ResumableLocalWriter] = []

        def interrupted(source: Path, target: Path) -> None:
            monkeypatch.undo()
            if kind == "takeover":
                second.append(stack.enter_context(LocalStore(store.root).resumable("a/b")))
            else:
                LocalStore(store.root).forget("a/b")
            link(source, target)

        monkeypatch.setattr(local_writer, "link_exclusively", interrupted)
        with pytest.raises(StoreUnreachable, match="taken over"), store.resumable("a/b") as first:
            first.write(b"x" * MIB)
        assert list(store.list()) == []
        for writer in second:
            writer.write((b"x" * MIB)[writer.position :])
    assert [info.key for info in store.list()] == ["a/b"][: len(second)]
    assert partial(store) == []


def test_a_small_object_that_is_given_up_is_not_published(store: ObjectStore) -> None:
    """As when a job is cancelled while an attempt that has lost the job still runs."""
    with pytest.raises(StoreUnreachable), store.resumable("a/b") as writer:  # noqa: PT012
        writer.write(b"small")
        store.forget("a/b")
        store.delete("a/b")
    assert list(store.list()) == []
    assert partial(store) == []


def test_old_unfinished_objects_are_swept(store: ObjectStore) -> None:
    begin(store, b"x" * 6 * MIB)
    store.put("whole", b"1")
    assert store.sweep() == 0
    assert partial(store)
    assert store.sweep(older_than_s=-60.0) == 1
    assert partial(store) == []
    assert [info.key for info in store.list()] == ["whole"]


def test_uploads_outside_the_prefix_are_left_alone(s3_server: S3Server, s3_bucket: str) -> None:
    client = s3_server.client()
    client.create_multipart_upload(Bucket=s3_bucket, Key="elsewhere/a")
    ours = open_store(f"s3://{s3_bucket}/store", s3=s3_server.options)
    begin(ours, b"x" * 6 * MIB)
    assert ours.sweep(older_than_s=-60.0) == 1
    assert [u["Key"] for u in client.list_multipart_uploads(Bucket=s3_bucket)["Uploads"]] == ["elsewhere/a"]
    client.close()
