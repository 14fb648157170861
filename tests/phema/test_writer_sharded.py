"""`phema.SnapshotWriter` in two processes on the CPU: FSDP2 puts shards together, the first process writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import nn

from phema import SnapshotWriter
from phema.client.client import Client
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from tests.edm2.test_ema_sharded import BATCH, PROCESSES, STEPS, WIDTHS, alone, free_port, made, sharded, train
from tests.phema.service import Service

SEEN = STEPS * BATCH * PROCESSES


def _process(rank: int, port: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES)
    try:
        module, ema = sharded()
        for attempt in range(2):  # a second script finds everything registered and still does not wait for itself
            with SnapshotWriter("fsdp2") as writer:
                assert (writer.run is not None) == (rank == 0)
                if not attempt:
                    train(module, ema, range(STEPS))
                writer.save(SEEN, ema, dtype="float32")
                writer.save(SEEN, module.state_dict(), profile={"kind": "raw"}, dtype="float32", buffers=ema.buffers)
                writer.flush()
                assert writer.counts.objects == (4 if rank == 0 and not attempt else 0)
        wrapped = nn.parallel.DistributedDataParallel(made())
        averages = PowerFunctionEMA(wrapped, WIDTHS)
        train(wrapped, averages, range(STEPS))
        with SnapshotWriter("ddp") as writer:
            writer.save(SEEN, averages, dtype="float32")
            writer.finish()
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_whole_weights_are_written_once(service: Service, client: Client, tmp_path: Path) -> None:
    environment = {"PHEMA_URL": service.url, "PHEMA_STATE_DIR": str(service.settings.state_dir)}
    mp.spawn(_process, (free_port(), environment), nprocs=PROCESSES)  # type: ignore[no-untyped-call]
    expected = alone()
    for run, count in (("fsdp2", 4), ("ddp", 2)):
        rows = client.runs.snapshots(run)
        assert len(rows) == count
        for index, sigma_rel in enumerate(WIDTHS):
            (row,) = [row for row in rows if row.sigma_rel == sigma_rel]
            found = load_file(client.download(row.id, tmp_path / f"{run}-{index}.safetensors"))
            assert found.keys() == expected[index].keys()
            for name, value in found.items():
                torch.testing.assert_close(value, expected[index][name].to(value.dtype), rtol=1e-6, atol=1e-6)
    assert client.runs.get("fsdp2").state == "running"
    assert client.runs.get("ddp").state == "succeeded"
