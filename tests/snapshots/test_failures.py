"""Missing buckets, wrong credentials, unreachable servers, full disks: one clear sentence, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from phema.local_service.processes import free_port
from phema.shared.snapshots import (
    BucketMissing,
    CorruptObject,
    ObjectStore,
    S3Options,
    SnapshotError,
    StoreDenied,
    StoreFull,
    StoreUnreachable,
    open_store,
)
from tests.servers.s3 import S3Server
from tests.snapshots.failing import BreakingProxy, answering

MIB = 2**20
USES: list[Callable[[ObjectStore], object]] = [
    lambda store: store.check(),
    lambda store: store.put("a", b"x"),
    lambda store: store.put("a", bytes(33 * MIB)),
    lambda store: _write(store, 12 * MIB),
    lambda store: store.get("a"),
    lambda store: store.read_range("a", 0, 1),
    lambda store: store.head("a"),
    lambda store: list(store.list()),
]


def _write(store: ObjectStore, size: int) -> None:
    with store.writer("a") as writer:
        writer.write(bytes(size))


@pytest.mark.parametrize("use", USES)
def test_a_missing_bucket(s3_server: S3Server, use: Callable[[ObjectStore], object]) -> None:
    store = open_store("s3://phema-no-such-bucket/x", s3=s3_server.options)
    with pytest.raises(BucketMissing, match=r"^bucket phema-no-such-bucket does not exist at http://127\.") as error:
        use(store)
    assert_one_sentence(error.value)


def test_wrong_credentials(s3_server: S3Server, s3_options: tuple[str, S3Options]) -> None:
    url, options = s3_options
    if not s3_server.checks_secrets:
        pytest.skip("this emulator accepts any secret; PHEMA_TEST_S3=rgw does not")
    for wrong in (replace(options, secret_access_key="wrong"), replace(options, access_key_id="nobody")):
        for use in USES:
            with pytest.raises(StoreDenied, match="refuses these credentials") as error:
                use(open_store(url, s3=wrong))
            assert_one_sentence(error.value)
    assert list(open_store(url, s3=options).list()) == []


def test_no_credentials(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = open_store("s3://bucket", s3=S3Options(endpoint_url=s3_server.endpoint_url))
    with pytest.raises(StoreDenied, match="needs credentials and none are set") as error:
        store.check()
    assert_one_sentence(error.value)


def test_an_unreachable_server() -> None:
    options = S3Options(f"http://127.0.0.1:{free_port()}", access_key_id="a", secret_access_key="b")
    with pytest.raises(StoreUnreachable, match="did not answer") as error:
        open_store("s3://bucket", s3=options).check()
    assert_one_sentence(error.value)


@pytest.mark.parametrize(
    ("status", "code", "expected", "sentence"),
    [
        (
            507,
            "XMinioStorageFull",
            StoreFull,
            "is full: could not write a: XMinioStorageFull as told; nothing was kept",
        ),
        (403, "QuotaExceeded", StoreFull, "is full"),
        (403, "AccessDenied", StoreDenied, "refuses these credentials: could not write a: AccessDenied as told"),
        (403, "RequestTimeTooSkewed", StoreDenied, "RequestTimeTooSkewed"),
        (400, "BadDigest", CorruptObject, "received other bytes than were sent"),
        (404, "NoSuchBucket", BucketMissing, "bucket bucket does not exist"),
        (418, "SomethingNew", StoreUnreachable, "could not write a: SomethingNew as told"),
    ],
)
def test_what_a_server_says_becomes_one_error(
    status: int, code: str, expected: type[SnapshotError], sentence: str
) -> None:
    with answering(status, code) as endpoint:
        options = S3Options(endpoint, access_key_id="a", secret_access_key="b")
        store = open_store("s3://bucket", s3=options)
        store.bucket.find = lambda key: None  # type: ignore[attr-defined]  # an answer to HEAD has no body to tell from
        with pytest.raises(expected, match=sentence) as error:
            store.put("a", b"x")
    assert_one_sentence(error.value)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[BreakingProxy]:
    running = BreakingProxy(s3_server.endpoint_url, after=300_000)
    yield running
    running.close()


def test_a_read_goes_on_where_its_connection_broke(s3_options: tuple[str, S3Options], proxy: BreakingProxy) -> None:
    url, options = s3_options
    data = os.urandom(3 * MIB)
    open_store(url, s3=options).put("a", data)
    store = open_store(url, s3=replace(options, endpoint_url=proxy.url))
    proxy.breaks = 2
    assert store.get("a") == data
    assert store.read_range("a", 7, 2 * MIB) == data[7 : 7 + 2 * MIB]
    assert proxy.broken == 2


def test_a_connection_that_always_breaks(s3_options: tuple[str, S3Options], proxy: BreakingProxy) -> None:
    url, options = s3_options
    open_store(url, s3=options).put("a", bytes(3 * MIB))
    store = open_store(url, s3=replace(options, endpoint_url=proxy.url))
    proxy.breaks = 1000
    with pytest.raises(StoreUnreachable, match="breaks off sending a"):
        store.read_range("a", 0, 3 * MIB)


FULL_DISK = """
import json, resource, sys
from phema.shared.snapshots import StoreFull, open_store

task = json.loads(sys.argv[1])
if task["limit"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (task["limit"], task["limit"]))
store = open_store(task["url"])
store.put("kept", b"k" * 1000)
sentences = []
for how in ("put", "writer"):
    try:
        if how == "put":
            store.put("big", bytes(task["size"]))
        else:
            with store.writer("big") as writer:
                for _ in range(16):
                    writer.write(bytes(task["size"] // 16))
    except StoreFull as error:
        sentences.append(str(error))
store.put("after", b"a" * 1000)
print(json.dumps(sentences))
"""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A tmpfs of 4 MiB. Only root may mount."""
    mounted = folder / "small"
    mounted.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mounted)], capture_output=True)
    if made.returncode:
        pytest.skip(f"cannot mount a small disk: {made.stderr.decode().strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.parametrize("cause", ["disk", "file size limit"])
def test_a_full_disk_keeps_nothing_and_harms_nothing(tmp_path: Path, cause: str) -> None:
    with small_disk(tmp_path) if cause == "disk" else contextmanager(lambda: iter([tmp_path]))() as folder:
        url = (folder / "store").as_uri()
        task = {"url": url, "size": 16 * MIB, "limit": 0 if cause == "disk" else 2 * MIB}
        command = [sys.executable, "-c", FULL_DISK, json.dumps(task)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sentences = json.loads(done.stdout)
        assert len(sentences) == 2
        assert all(s.startswith(f"store {url} is full: it could not write big (") for s in sentences)
        store = open_store(url)
        assert [(info.key, info.size) for info in store.list()] == [("after", 1000), ("kept", 1000)]
        assert os.listdir(folder / "store" / ".tmp") == []


UNPRIVILEGED = """
import os, sys
from phema.shared.snapshots import StoreDenied, open_store

store = open_store(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
for use in (store.check, lambda: store.put("a", b"x"), lambda: store.delete("b")):
    try:
        use()
    except StoreDenied as error:
        print(error)
"""


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    open_store(folder.as_uri()).put("b", b"x")
    for path in (folder, folder / ".tmp"):
        path.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    command = [sys.executable, "-c", UNPRIVILEGED, folder.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for path in (folder, folder / ".tmp"):
        path.chmod(0o755)
    assert done.stdout.splitlines() == [
        f"store {folder.as_uri()} could not {action}: Permission denied"
        for action in ("be opened", "write a", "delete b")
    ]


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        store = open_store(folder.as_uri())
        for use in (store.check, lambda store=store: store.put("a", b"x")):
            with pytest.raises(StoreUnreachable, match=f"store {folder.as_uri()} could not ") as error:
                use()
            assert_one_sentence(error.value)


def assert_one_sentence(error: Exception) -> None:
    assert "\n" not in str(error)
    assert ". " not in str(error)
