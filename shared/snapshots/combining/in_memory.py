"""Combines stored snapshots into the bytes of one snapshot file, without storing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from phema.shared.snapshots.combining.aligned_inputs import read_inputs
from phema.shared.snapshots.combining.block_reader import BlockReader, BlockSizes
from phema.shared.snapshots.combining.combiner import Combiner, OutputSpec, coefficients_of
from phema.shared.snapshots.combining.thread_pool import compute_pool, thread_pool
from phema.shared.snapshots.files.header import build_header
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.stores.hashed_bytes import Data
from phema.shared.snapshots.stores.interface import RangedReader


def combine_in_memory(
    store: RangedReader,
    inputs: Sequence[StoredSnapshot],
    output: OutputSpec,
    *,
    memory_bytes: int,
    check: Callable[[], object] = lambda: None,
) -> bytes:
    """The bytes that `reconstruct` would store for this output, bit for bit.

    `inputs` are in order of time. `memory_bytes` bounds the buffers, beside the result. `check` is called between
    blocks; what it raises ends the work. Every input is verified: raises CorruptObject, ObjectMissing and the store's
    other errors, and ValueError for a memory bound that is too small.
    """
    file = _Bytes()
    with ExitStack() as stack:
        readers = stack.enter_context(thread_pool(store.reads_in_flight, "combine-read"))
        writers = stack.enter_context(thread_pool(1, "combine-write"))
        compute = stack.enter_context(compute_pool())
        aligned = read_inputs(store, inputs, readers)
        names, segments = aligned.averaged_names(), aligned.segments()
        item_bytes = max((s.item_bytes(i) for s in segments for i in range(len(s.locations)) if s.averaged), default=4)
        sizes = BlockSizes.within(
            memory_bytes,
            store,
            inputs=len(inputs),
            outputs=1,
            item_bytes=item_bytes,
            threads=compute.count,
            coefficient_sets=len({coefficients_of([output], name) for name in names}),
            writer_memory_bytes=0,
        )
        reader = BlockReader(store, aligned, sizes, item_bytes, readers)
        combiner = Combiner([output], names, sizes, writers, compute)
        stack.callback(combiner.drain)
        file.write(build_header(output.metadata, aligned.output_tensors(output.dtype)))
        for segment in segments:
            combiner.finish_writes()
            if not segment.averaged:
                combiner.copy([file], reader.last_snapshot_bytes(segment))
                continue
            for _ in combiner.average([file], segment, reader.blocks(segment, 0, segment.count)):
                check()
        combiner.finish_writes()
        reader.check_inputs()
    return bytes(file.data)


class _Bytes:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: Data) -> None:
        self.data += data
