"""A Ray host that drops all packets keeps the trainer from starting drivers, and from nothing else."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from phema.services.trainer.control.ray_jobs import RayJobs
from phema.services.trainer.control.reconciler import Reconciler
from phema.services.trainer.local_training import claim_locally
from phema.shared.catalog import Catalog, JobState
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters
from tests.trainer.support import get_run, tiny_config, wait_until


def test_leases_expire_though_every_question_to_ray_takes_longer_than_half_a_lease(
    local_catalog: Catalog, tmp_path: Path
) -> None:
    attempt = claim_locally(tiny_config(), local_catalog)
    with local_catalog.transaction() as tx:
        tx.leases.heartbeat(attempt.job_id, attempt.fence, lease_seconds=-60, message="16 of 320 images")
    settings = Settings(state_dir=tmp_path, poll_seconds=0.05, heartbeat_seconds=0.5, lease_seconds=1.5)
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with RayJobs(url, token="none", timeout_s=1.0) as jobs:
            rounds = Reconciler(settings, local_catalog, jobs, Meters("trainer"), owner="test")
            thread = threading.Thread(target=rounds.run, args=(stopping,))
            thread.start()
            try:
                wait_until(lambda: get_run(local_catalog, attempt.run_id).state is JobState.QUEUED, "expiry", 30)
            finally:
                stopping.set()
                thread.join()
    job = get_run(local_catalog, attempt.run_id).job
    assert (job.attempts, job.error) == (0, "Attempt 1 sent no heartbeat for 1.5 s.")
