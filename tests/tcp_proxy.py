"""A network between a client and a server on a Unix socket, which can be cut and come back."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path


class Proxy:
    """Forwards what is sent to `port` on localhost.

    Attributes:
        flows: cleared, nothing is forwarded, and connections stay open, as behind a dead switch.
        answers: cleared, what the server sends is lost.
    """

    def __init__(self, server: Path):
        self._server = server
        self.flows, self.answers = threading.Event(), threading.Event()
        self.flows.set()
        self.answers.set()
        self._lock, self._pairs = threading.Lock(), list[tuple[socket.socket, socket.socket]]()
        self.port = 0
        self.back()

    def back(self) -> None:
        """Take connections, on the same port as ever."""
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        self.flows.set()
        self.answers.set()
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self, *, reset: bool) -> None:
        """End all connections, by a reset or in order, and refuse others."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                if reset and end.family == socket.AF_INET:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                end.close()
        self.flows.set()  # whoever waits finds its connection closed

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listening.accept()[0]
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server))
                with self._lock:
                    self._pairs.append((client, server))
                for end in (client, server):
                    end.settimeout(0.1)  # a socket is closed, and resets, once nobody waits at it
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := self._received(source):
                self.flows.wait()
                if self.answers.is_set() or source.family == socket.AF_INET:
                    target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _received(self, source: socket.socket) -> bytes:
        while True:
            with contextlib.suppress(TimeoutError):
                return source.recv(65536)


@contextlib.contextmanager
def proxy(server: Path) -> Iterator[Proxy]:
    """As `Proxy`; its connections end with it."""
    running = Proxy(server)
    try:
        yield running
    finally:
        with contextlib.suppress(OSError):
            running.cut(reset=True)
