"""The README's sequence works as printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import phema
from tests.e2e.conftest import Service

README = Path(__file__).parents[2] / "README.md"
METRICS = Path(__file__).parents[2] / "docs" / "metrics.md"
MARKED = re.compile(r"<!-- run by tests/e2e/test_readme.py -->\n```(\w+)\n(.*?)```", re.S)


@pytest.mark.timeout(600)
def test_the_sequence_of_the_readme_works_as_printed(service: Service, tmp_path: Path) -> None:
    blocks = MARKED.findall(README.read_text())
    assert [language for language, _ in blocks] == ["bash", "python"]
    env = {**os.environ, "PHEMA_URL": service.url}
    for language, code in blocks:
        program = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
        result = subprocess.run([*program, code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert '"title"' not in result.stdout, f"a problem was answered:\n{result.stdout}"
    for picture in ("digits.png", "samples.png"):
        with Image.open(tmp_path / picture) as image:
            assert image.convert("L").getextrema()[1] > 128
    follow_its_requests(service, tmp_path)


def follow_its_requests(service: Service, folder: Path) -> None:
    """What the sequence asked for is found in the logs of all processes, by the command of the documentation."""
    ((language, command),) = MARKED.findall(METRICS.read_text())
    assert language == "bash"
    (folder / ".phema").symlink_to(service.state)
    with phema.Client(service.url) as client:
        jobs = {job.kind: client.jobs.get(job.id) for job in client.jobs.list(run="readme")}
    said_by = {
        "train": {
            "phema.services.trainer.control.reconciler",
            "phema.services.trainer.control.driver",
            "phema.services.trainer.control.worker",
        },
        "reconstruct": {"phema.services.phema_worker.actor_slot", "phema.services.phema_worker.actor"},
        "evaluate": {"phema.services.phema_worker.actor_slot", "phema.services.phema_worker.actor"},
    }
    assert set(jobs) == set(said_by)
    for kind, job in jobs.items():
        env = {**os.environ, "REQUEST": str(job.request_id)}
        found = subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=True)
        lines = [json.loads(line) for line in found.stdout.splitlines()]
        (asked,) = (line for line in lines if line["service"] == "api")
        assert (asked["logger"], asked["method"]) == ("phema.services.api.http.request_metrics", "POST")
        assert {line["logger"] for line in lines} >= said_by[kind]
        ids = {"run_id": job.run_id, "job_id": job.id, "attempt": 1, "request_id": job.request_id}
        assert all(line.items() >= ids.items() for line in lines if line["service"] != "api")
