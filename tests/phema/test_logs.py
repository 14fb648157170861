"""Logs of attempts through the client, its awaited form, and the command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import phema
from phema import errors
from phema.client.client import Client
from phema.shared.catalog import JobKind, submission_id
from phema.shared.service_runtime.attempt_logs import AttemptLog
from tests.phema.service import Service

TEXT = "worker 0 of 1 trains on cpu\nσ_rel 0.05 is durable\n"


@pytest.fixture
def job_id(service: Service, client: Client, name: str) -> str:
    """A training with an attempt that has failed, and one that runs."""
    client.runs.create(name)
    job = service.claim(JobKind.TRAIN)
    AttemptLog(service.store, str(job.run_id), submission_id(job.id, 1)).complete(TEXT.encode())
    with service.catalog.transaction() as tx:
        tx.leases.fail(job.id, 1, "The disk is full.", retry=True)
    return job.id


def test_the_client_reads_logs(client: Client, job_id: str, name: str) -> None:
    assert "".join(client.jobs.logs(job_id)) == TEXT
    assert client.runs.logs(name, 1, follow=True).text() == TEXT
    with pytest.raises(errors.NotFound, match="attempt 3 of job"):
        client.runs.logs(name, attempt=3)
    (attempt,) = client.jobs.get(job_id).attempt_history
    assert (attempt.number, attempt.outcome, attempt.error) == (1, "failed", "The disk is full.")


def test_logs_in_an_event_loop(service: Service, job_id: str, name: str) -> None:
    async def read() -> str:
        async with phema.AsyncClient() as client:
            return "".join([text async for text in await client.runs.logs(name)])

    assert asyncio.run(read()) == TEXT


def test_the_command_prints_logs_and_attempts(cli: Callable[..., Any], job_id: str, name: str) -> None:
    assert cli("runs", "logs", name)[:2] == (0, TEXT)
    assert cli("runs", "logs", "-f", "--attempt", "1", name)[:2] == (0, TEXT)
    code, out, sentence = cli("runs", "logs", name, "--attempt", "3")
    assert (code, out) == (2, "")
    assert "there are attempts 1 to 1" in sentence
    shown = cli("runs", "show", name)[1]
    assert "ATTEMPT" in shown
    assert "The disk is full." in shown
    assert "The disk is full." in cli("jobs", "show", job_id)[1]
