"""Latents are decoded by several threads at once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from phema.shared.datasets.decoding import PictureFormat, decode
from tests.datasets.photos import npy


@pytest.fixture
def threads_change_often() -> Iterator[None]:
    """The garbage collector calls Python code every few objects, and threads take turns wherever they can."""

    def work(*_: Any) -> None:
        sum(range(50))

    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(30)
    gc.callbacks.append(work)
    yield
    gc.callbacks.remove(work)
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("threads_change_often")
def test_threads_that_decode_at_once_do_not_disturb_each_other() -> None:
    """Without a lock, one header in about 130 raised SystemError in Python 3.11.7."""
    data = npy(np.full((8, 16, 16), 0.5, np.float32))
    latents = PictureFormat("latents", channels=4, resolution=16)
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(lambda _: decode(data, latents, is_array=True).sum(), range(4000)))
    assert set(decoded) == {0.5 * 8 * 16 * 16}
