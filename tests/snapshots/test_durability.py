"""kill -9 at any point of a write leaves no object or a whole one, on both stores."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from phema.shared.snapshots import ObjectStore, S3Options, digest, open_store
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.snapshots.stores.object_keys import sha256_of_key

MIB = 2**20

WRITER = """
import json, os, sys
from phema.shared.snapshots import S3Options, open_store

task = json.loads(sys.argv[1])
store = open_store(task["url"], s3=task["s3"] and S3Options(**task["s3"]))
with store.writer("a/b") as writer:
    for number in range(12):
        writer.write(bytes([number]) * 2**20)
        print(number, flush=True)
    sys.stdin.read()
print("committed", flush=True)
sys.stdin.read()
"""

PUTTER = """
import hashlib, json, os, sys
from phema.shared.snapshots import S3Options, open_store

task = json.loads(sys.argv[1])
store = open_store(task["url"], s3=task["s3"] and S3Options(**task["s3"]))
print("ready", flush=True)
while True:
    data = os.urandom(task["size"])
    store.put(f"many/{hashlib.sha256(data).hexdigest()}.bin", data)
    print("put", flush=True)
"""


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ObjectStore, dict[str, object]]:
    """A store and how a subprocess opens it."""
    if request.param == "local":
        url, options = (tmp_path / "store").as_uri(), None
    else:
        url, options = request.getfixturevalue("s3_options")
    s3 = asdict(options) if isinstance(options, S3Options) else None
    return open_store(url, s3=options), {"url": url, "s3": s3}


def start(program: str, task: dict[str, object]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, json.dumps(task)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("last", [0, 5, 11])
def test_a_killed_writer_leaves_no_object(place: tuple[ObjectStore, dict[str, object]], last: int) -> None:
    store, task = place
    process = start(WRITER, task)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == last:
            break
    kill(process)
    assert store.head("a/b") is None
    assert list(store.list()) == []
    with store.writer("a/b") as writer:
        writer.write(b"the next attempt")
    assert store.get("a/b") == b"the next attempt"
    if isinstance(store, LocalStore):
        assert os.listdir(store.folder.unfinished) == []  # swept by the next writer


def test_a_committed_object_survives_the_kill(place: tuple[ObjectStore, dict[str, object]]) -> None:
    store, task = place
    process = start(WRITER, task)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    assert process.stdout.readlines()[-1] == "committed\n"
    process.wait()
    process.stdout.close()
    assert store.get("a/b") == b"".join(bytes([n]) * MIB for n in range(12))


@pytest.mark.parametrize("size", [300_000, 9 * MIB])
def test_killed_at_any_moment_every_visible_object_is_whole(
    place: tuple[ObjectStore, dict[str, object]], size: int
) -> None:
    store, task = place
    dice = random.Random(size)
    for _ in range(3):
        process = start(PUTTER, task | {"size": size})
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(dice.randrange(4)):
            process.stdout.readline()
        # The next put is under way; how far it gets is left to the machine.
        for _ in range(dice.randrange(200_000)):
            pass
        kill(process)
    for info in store.list():
        assert info.size == size
        assert digest(store, info.key).sha256 == sha256_of_key(info.key)


def test_a_writer_at_work_is_not_swept(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    with store.writer("first") as first:
        first.write(b"1")
        with store.writer("second") as second:
            second.write(b"2")
        store.put("third", b"3")
        first.write(b"1")
    assert [store.get(info.key) for info in store.list()] == [b"11", b"2", b"3"]
