"""A TCP forwarder in front of a real server, so that a test can cut the server off and connect it again."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Tunnel:
    """Listens on a free port of 127.0.0.1 while it is up; `down` refuses new connections and cuts all others.

    While it is `silent`, it accepts connections and bytes and passes none on, as a half-open connection does.
    """

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._speaks = threading.Event()
        self._speaks.set()
        self.port = 0
        self.up()

    def up(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = int(self._listener.getsockname()[1])
        self._spawn(self._accept, self._listener)

    def silent(self) -> None:
        self._speaks.clear()

    def speak(self) -> None:
        self._speaks.set()

    def down(self) -> None:
        self.speak()
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        _cut(listener)
        listener.close()
        with self._lock:
            cut, self._open = self._open, set()
        for each in cut:
            _cut(each)
        for thread in self._threads:
            thread.join()
        for each in cut:
            each.close()
        self._threads.clear()

    def _spawn(self, *call: object) -> None:
        function, *arguments = call
        thread = threading.Thread(target=function, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                with self._lock:
                    self._open |= {near, far}
                self._spawn(self._pump, near, far)
                self._spawn(self._pump, far, near)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                self._speaks.wait()
                sink.sendall(data)
        for end in (source, sink):
            _cut(end)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def tunnel(target_port: int) -> Iterator[Tunnel]:
    made = Tunnel(target_port)
    try:
        yield made
    finally:
        made.down()
