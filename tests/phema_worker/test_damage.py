"""A task whose inputs changed in the store fails, names the object, and leaves nothing behind."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from phema.services.phema_worker.evaluation.tasks import DrawTask, Network, Weights
from phema.services.phema_worker.task_outcomes import Done, Failed
from phema.services.phema_worker.task_progress import TaskProgress
from phema.services.phema_worker.task_runner import TaskRunner
from phema.services.phema_worker.tasks import Output, ReconstructTask, RetainTask
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.settings import Settings
from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.files.snapshot_file import encode
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.wiring import store_from
from tests.fixtures.s3 import S3Server
from tests.phema_worker.lab import tiny_config
from tests.snapshots.test_store import spoil
from tests.snapshots.weights import metadata, store_run


@pytest.fixture(params=["local", "s3"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[TaskRunner, ObjectStore]:
    """A runner as the worker's actor makes it, and its store."""
    settings = Settings(state_dir=tmp_path)
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        settings = Settings(
            state_dir=tmp_path,
            store_url=f"s3://{request.getfixturevalue('s3_bucket')}",
            s3_endpoint_url=server.endpoint_url,
            s3_access_key_id=server.access_key_id,
            s3_secret_access_key=SecretStr(server.secret_access_key),
        )
    return TaskRunner(settings), store_from(settings)


def changed(data: bytes, place: int) -> bytes:
    copy = bytearray(data)
    copy[place] ^= 1
    return bytes(copy)


def test_a_changed_byte_in_a_snapshot_fails_the_reconstruction(runner: tuple[TaskRunner, ObjectStore]) -> None:
    at_work, store = runner
    stored = store_run(store, 4)
    before = [info.key for info in store.list()]
    profile = Profile.power(0.07)
    row = Output(
        result_id="rec-1",
        num_images=stored[-1].num_images,
        key="out/1",
        coefficients=(0.25,) * 4,
        dtype="float32",
        profile=profile,
        lineage={"snapshots": []},
    )
    task = ReconstructTask("token", tuple(stored), (row, replace(row, result_id="rec-2", key="out/2")))
    victim = stored[1]
    whole = store.get(victim.key)
    spoil(store, victim.key, changed(whole, -100))
    outcome = at_work.do(task, TaskProgress())
    assert isinstance(outcome, Failed)
    assert not outcome.retry
    assert outcome.error.startswith(f"damaged-object: object {victim.key} ")
    assert [info.key for info in store.list()] == before
    spoil(store, victim.key, whole)  # as after a repair: nothing of the failed attempt is used
    done = at_work.do(task, TaskProgress())
    assert isinstance(done, Done)
    assert [written.key for written in done.written] == ["out/1", "out/2"]


@pytest.mark.parametrize("damaged", ["weights", "guide"])
def test_changed_weights_and_guides_are_not_evaluated(runner: tuple[TaskRunner, ObjectStore], damaged: str) -> None:
    at_work, store = runner
    config = tiny_config()
    described = metadata(config=config.model_dump(mode="json"), buffers=())
    whole = {name: encode(build_denoiser(config.network).state_dict(), described) for name in ("weights", "guide")}
    used = {name: store.put(name, data) for name, data in whole.items()}
    spoil(store, damaged, changed(whole[damaged], -1))
    weights, guide = (Weights(name, name, str(info.sha256)) for name, info in used.items())
    network = Network(weights, guide, config.model_dump(mode="json"), {})
    outcome = at_work.do(DrawTask("token", "part", network, {}, "", 0, 4, True, "parts/1"), TaskProgress())
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith(f"damaged-object: object {damaged} ")
    assert [info.key for info in store.list()] == ["guide", "weights"]


def test_a_worker_removes_what_killed_processes_left(tmp_path: Path) -> None:
    at_work = TaskRunner(Settings(state_dir=tmp_path))
    store = store_from(Settings(state_dir=tmp_path))
    assert isinstance(store, LocalStore)
    with pytest.raises(KeyboardInterrupt), store.resumable("a/b") as writer:  # noqa: PT012
        writer.write(b"long ago")
        raise KeyboardInterrupt
    left = list(store.folder.partial.iterdir())
    assert left
    for path in left:
        os.utime(path, (0, 0))
    at_work.do(RetainTask("token", (), (), 0), TaskProgress())
    assert at_work.sweeper is not None
    at_work.sweeper.join()
    assert list(store.folder.partial.iterdir()) == []
