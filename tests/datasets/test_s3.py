"""Datasets behind a real S3 server: the same pictures, and no more bytes than they need."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from phema.shared.datasets import Dataset, DatasetError, open_dataset
from phema.shared.datasets.files.remote_files import Remote
from phema.shared.recipes.run_config import DatasetConfig
from phema.shared.settings import Settings
from phema.shared.snapshots import S3Options, open_store
from phema.shared.wiring import dataset_from
from tests.datasets.photos import photo_files, write_zip
from tests.fixtures.s3 import S3Server

COUNT, SIZE = 24, 16


@pytest.fixture
def settings(s3_options: tuple[str, S3Options]) -> Settings:
    _, options = s3_options
    assert options.secret_access_key is not None
    return Settings(
        s3_endpoint_url=options.endpoint_url,
        s3_region=options.region,
        s3_access_key_id=options.access_key_id,
        s3_secret_access_key=SecretStr(options.secret_access_key),
    )


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "photos.zip", photo_files(COUNT, SIZE)[0])


def everything(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    return dataset.train.batch(np.arange(len(dataset.train)))


def choice(path: str) -> DatasetConfig:
    return DatasetConfig(name="photos", path=path, held_out=4)


@pytest.mark.parametrize("kind", ["zip", "prefix"])
def test_what_lies_behind_s3_is_what_lies_here(
    kind: str, settings: Settings, s3_server: S3Server, s3_bucket: str, local: Path
) -> None:
    client = s3_server.client()
    if kind == "zip":
        client.put_object(Bucket=s3_bucket, Key="data/photos.zip", Body=local.read_bytes())
        path = f"s3://{s3_bucket}/data/photos.zip"
    else:
        for name, data in photo_files(COUNT, SIZE)[0].items():
            client.put_object(Bucket=s3_bucket, Key=f"data/{name}", Body=data)
        client.put_object(Bucket=s3_bucket, Key="database/other.png", Body=b"beside the prefix, not below it")
        path = f"s3://{s3_bucket}/data"
    client.close()
    remote, here = dataset_from(settings, choice(path)), open_dataset(choice(str(local)))
    remote.verify()
    for found, wanted in zip(everything(remote), everything(here), strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(remote.held_out.batch(np.arange(4))[0], here.held_out.batch(np.arange(4))[0])
    if kind == "zip":
        assert remote.info == here.info


class Counted:
    """A store that counts what is read from it."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._lock = threading.Lock()
        self.url, self.reads_in_flight = remote.url, remote.reads_in_flight
        self.reads: list[int] = []
        self.list, self.head = remote.list, remote.head

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._lock:
            self.reads.append(length)
        return self._remote.read_range(key, start, length)


def test_a_zip_is_read_in_one_range_per_picture(
    s3_options: tuple[str, S3Options], s3_server: S3Server, s3_bucket: str, local: Path
) -> None:
    client = s3_server.client()
    client.put_object(Bucket=s3_bucket, Key="photos.zip", Body=local.read_bytes())
    client.close()
    counted = Counted(open_store(f"s3://{s3_bucket}", s3=s3_options[1]))
    dataset = open_dataset(choice(f"s3://{s3_bucket}/photos.zip"), remote=lambda url: counted)
    opening = len(counted.reads)
    assert opening <= 6  # the directory, dataset.json, the first picture
    everything(dataset)
    assert len(counted.reads) - opening == COUNT - 4
    everything(dataset)
    assert len(counted.reads) - opening == COUNT - 4  # so small a set stays in memory
    assert sum(counted.reads[opening:]) < 1.2 * local.stat().st_size


def test_mistakes_are_named(settings: Settings, s3_bucket: str) -> None:
    with pytest.raises(DatasetError, match=rf"dataset s3://{s3_bucket}/none\.zip does not exist"):
        dataset_from(settings, choice(f"s3://{s3_bucket}/none.zip"))
    with pytest.raises(DatasetError, match=rf"dataset s3://{s3_bucket}/none holds no pictures"):
        dataset_from(settings, choice(f"s3://{s3_bucket}/none"))
    with pytest.raises(DatasetError, match=r"dataset s3://.*/a b cannot be opened: object key 'a b' must be"):
        dataset_from(settings, choice(f"s3://{s3_bucket}/a b"))
    with pytest.raises(DatasetError, match="lies behind S3, and this process was not told how to reach it"):
        open_dataset(choice(f"s3://{s3_bucket}/none.zip"))
