"""A reconstruction's memory stays within its bound for any number of snapshots. A separate process measures it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reconstruct_memory import MIB, TARGET, measured
from benchmarks.synthetic_run import fill
from phema.shared.snapshots import S3Options, open_store

BOUND = 64 * MIB
PARAMETERS = 1_200_000


@pytest.mark.parametrize("kind", ["local", "s3"])
@pytest.mark.timeout(280)
def test_memory_is_bounded_for_any_number_of_snapshots(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    options: S3Options | None = None
    url = (tmp_path / "store").as_uri()
    if kind == "s3":
        url, options = request.getfixturevalue("s3_options")
    stored = fill(open_store(url, s3=options), 64, PARAMETERS, "float16")
    assert sum(s.size for s in stored) > 2 * BOUND
    for chosen in (stored[-8:], stored):
        assert measured(kind, url, options, chosen, BOUND).ratio <= TARGET
