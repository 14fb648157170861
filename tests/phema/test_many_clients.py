"""The short version of `tests/e2e/test_many_clients.py`: an API alone, with the rows that a training writes."""

from __future__ import annotations

import threading

from benchmarks.many_clients import poll_and_post
from phema.shared.catalog import JobKind, Run
from tests.phema.service import Service


def test_clients_beside_a_training_meet_no_error(service: Service, trained: Run) -> None:
    service.clear_queue()
    ended = threading.Event()

    def train() -> None:
        with service.catalog.transaction() as tx:
            run = tx.run_control.resume(trained.id)
        job = service.claim(JobKind.TRAIN)
        seen = 0
        while not ended.wait(0.02):
            seen += 64
            service.progress(run.id, seen)
            service.heartbeat(job, 0.5)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        answers = poll_and_post(service.url, trained.id, clients=20, seconds=0, pause=0.05)
    finally:
        ended.set()
        trainer.join()
    assert answers.errors == []
    assert len(answers.seconds) == 20 * 8, "every client has asked everything"
