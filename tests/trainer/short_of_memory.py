"""`python -m tests.trainer.short_of_memory FOLDER JOB FENCE MIB`: the driver of one worker, which may take MIB more."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil

from phema.services.trainer.control.attempt_work import work_on as _loaded_before_the_limit
from phema.services.trainer.control.driver import drive
from phema.shared.settings import Settings
from tests.trainer.support import new_catalog

if __name__ == "__main__":
    assert _loaded_before_the_limit is not None
    folder, job, fence, mebibytes = sys.argv[1:]
    catalog = new_catalog(Path(folder))
    most = psutil.Process().memory_info().vms + int(mebibytes) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.exit(drive(catalog, Settings(state_dir=Path(folder)), job, int(fence), device="cpu"))
