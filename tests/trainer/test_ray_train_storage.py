"""Ray Train's folders: each driver deletes its own and those of earlier attempts at its job, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phema.services.trainer.control.ray_train_storage import RayTrainStorage, folder_name, ray_train_storage
from phema.shared.settings import Settings


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RayTrainStorage]:
    if request.param == "folder":
        yield ray_train_storage(Settings(state_dir=tmp_path))
        return
    url, options = request.getfixturevalue("s3_options")
    yield ray_train_storage(
        Settings(
            store_url=url,
            s3_endpoint_url=options.endpoint_url,
            s3_access_key_id=options.access_key_id,
            s3_secret_access_key=options.secret_access_key,
        )
    )


def write(storage: RayTrainStorage, name: str) -> None:
    storage.filesystem.create_dir(f"{storage.path}/{name}")
    with storage.filesystem.open_output_stream(f"{storage.path}/{name}/state.json") as file:
        file.write(json.dumps(name).encode())


def exists(storage: RayTrainStorage, name: str) -> bool:
    return bool(storage.filesystem.get_file_info(f"{storage.path}/{name}/state.json").is_file)


def test_a_driver_that_ends_leaves_the_folders_of_others(storage: RayTrainStorage) -> None:
    """Also that of a driver which creates it while the first one cleans up: there is no common folder to delete."""
    mine, other = folder_name("job-1", 1, 1), folder_name("job-2", 1, 1)
    assert "/" not in mine
    for name in (mine, other):
        write(storage, name)
    storage.remove(mine)
    storage.remove(mine)
    assert (exists(storage, mine), exists(storage, other)) == (False, True)


def test_a_folder_goes_with_an_attempt_that_fails(storage: RayTrainStorage) -> None:
    """Also after the last attempt, which no other follows."""
    name = folder_name("job-1", 5, 1)

    def fail() -> None:
        with storage.removing(name):
            write(storage, name)
            raise RuntimeError("the workers failed")

    with pytest.raises(RuntimeError, match="the workers failed"):
        fail()
    assert not exists(storage, name)


def test_folders_of_earlier_attempts_and_of_ended_jobs_are_deleted(storage: RayTrainStorage) -> None:
    names: dict[str, Any] = {
        folder_name("job-1", 1, 1): False,
        folder_name("job-1", 2, 3): False,
        folder_name("job-1", 12, 1): True,
        folder_name("job-11", 1, 1): True,
        folder_name("job-2", 5, 1): False,
    }
    for name in names:
        write(storage, name)
    storage.remove_unused("job-1", 12, lambda job: job == "job-2")
    assert {name: exists(storage, name) for name in names} == names
