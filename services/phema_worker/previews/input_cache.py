"""Snapshots and basis vectors that an actor keeps in memory, so that previews of one run read them once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore


class InputCache:
    """A reader of a store that keeps whole objects, the latest used, up to `most_bytes` in total.

    One thread calls `load` and `forget`; any thread reads. Objects that are not kept are read from the store. Their
    bytes are not verified here: combining verifies what it reads, also what it reads from memory.
    """

    def __init__(self, store: ObjectStore, most_bytes: int) -> None:
        self._store, self._most_bytes = store, most_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self.url = store.url
        self.read_bytes = store.read_bytes
        self.reads_in_flight = store.reads_in_flight
        self.read_memory_bytes = store.read_memory_bytes

    @property
    def num_bytes(self) -> int:
        """Memory of what is kept."""
        return sum(map(len, self._kept.values()))

    def load(self, inputs: Sequence[StoredSnapshot], check: Callable[[], object]) -> int:
        """Read those of the inputs that are not kept and that there is room for. Returns the bytes that all reads of
        these inputs together take from the store.

        `check` is called before each read; what it raises ends the reading. Raises the errors of the store.
        """
        for key in (each.key for each in inputs if each.key in self._kept):
            self._kept.move_to_end(key)
        missing = [each for each in inputs if each.key not in self._kept]
        wanted = {each.key for each in inputs}
        room = self._most_bytes - sum(len(data) for key, data in self._kept.items() if key in wanted)
        fitting: list[StoredSnapshot] = []
        for each in missing:
            if each.size <= room:
                fitting.append(each)
                room -= each.size
        self._drop_old(sum(each.size for each in fitting))

        def read(each: StoredSnapshot) -> bytes:
            check()
            return self._store.get(each.key)

        with ThreadPoolExecutor(self.reads_in_flight, thread_name_prefix="preview-read") as pool:
            for each, data in zip(fitting, pool.map(read, fitting), strict=True):
                self._kept[each.key] = data
        return sum(each.size for each in missing)

    def forget(self, inputs: Sequence[StoredSnapshot]) -> None:
        """Drop objects, because some of their bytes are damaged."""
        for each in inputs:
            self._kept.pop(each.key, None)

    def _drop_old(self, needed: int) -> None:
        while self._kept and self.num_bytes + needed > self._most_bytes:
            self._kept.popitem(last=False)

    def head(self, key: str) -> ObjectInfo | None:
        data = self._kept.get(key)
        return self._store.head(key) if data is None else ObjectInfo(key, len(data))

    def peek(self, key: str, length: int) -> tuple[ObjectInfo, bytes]:
        data = self._kept.get(key)
        return self._store.peek(key, length) if data is None else (ObjectInfo(key, len(data)), data[:length])

    def read_range(self, key: str, start: int, length: int) -> bytes:
        buffer = bytearray(length)
        self.read_into(key, start, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        data = self._kept.get(key)
        if data is None:
            self._store.read_into(key, start, buffer)
            return
        part = memoryview(data)[start : start + len(buffer)]
        if len(part) < len(buffer):
            raise CorruptObject(
                f"object {key} in {self.url} ends at byte {len(data)}, {start + len(buffer)} were expected"
            )
        buffer[:] = part
