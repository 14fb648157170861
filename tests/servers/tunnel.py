"""A TCP forwarder in front of a real server, so that a test can cut the server off and connect it again."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator

NEVER_OUTGOING = (20_000, 32_768)
"""Linux takes ports from 32,768 on for outgoing connections."""


class Tunnel:
    """Listens on a free port of 127.0.0.1 while it is up; `down` refuses new connections and cuts all others.

    While it is `silent`, it accepts connections and bytes and passes none on, as a half-open connection does.
    `delay_s` holds back every piece of data for so long. `cut` drops the connections that are open, and no others.
    """

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._accepting: threading.Thread
        self._serving: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._speaks = threading.Event()
        self._speaks.set()
        self.delay_s = 0.0
        self.port = 0
        self.up()

    def up(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port)) if self.port else _listener()
        self.port = int(self._listener.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._accepting.start()

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
        self._accepting.join()  # no thread is added from now on
        self.cut()
        with self._lock:
            serving = list(self._serving)
        for thread in serving:
            thread.join()

    def cut(self) -> None:
        with self._lock:
            for each in self._open:
                _cut(each)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()  # the server is down: its client learns it, and the tunnel waits for its return
                    continue
                thread = threading.Thread(target=self._serve, args=(near, far), daemon=True)
                with self._lock:
                    self._open |= {near, far}
                    self._serving.add(thread)
                thread.start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
        back.start()
        self._pump(near, far)
        back.join()
        with self._lock:
            self._open -= {near, far}
            near.close()
            far.close()
            self._serving.discard(threading.current_thread())

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                self._speaks.wait()
                if self.delay_s:
                    time.sleep(self.delay_s)
                sink.sendall(data)
        for end in (source, sink):
            _cut(end)


def _listener() -> socket.socket:
    """On a port that no outgoing connection gets: such a one could have it while the tunnel is down."""
    for port in random.sample(range(*NEVER_OUTGOING), 100):
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    raise OSError("no free port for a tunnel")


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
