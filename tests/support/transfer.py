"""Traffic through a gateway that goes on while the test does something to it."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

from tests.support.gateway import WAIT_SECONDS
from tests.support.rig import connect, receive_exactly

if TYPE_CHECKING:
    from tunnelfleet.runtime import TcpAddress


class Transfer:
    """A transfer in both directions that goes on until it is told to end."""

    BLOCK = 16_384

    def __init__(self, address: TcpAddress) -> None:
        self.sock = connect(address)
        self._end = threading.Event()
        self.sent = hashlib.sha256()
        self.received = hashlib.sha256()
        self.blocks = 0
        self._moved = threading.Condition()
        self._sender = threading.Thread(target=self._run, name="transfer")
        self._sender.start()

    def _run(self) -> None:
        number = 0
        while not self._end.is_set():
            data = number.to_bytes(8, "big") * (self.BLOCK // 8)
            self.sock.sendall(data)
            self.sent.update(data)
            self.received.update(receive_exactly(self.sock, len(data)))
            number += 1
            with self._moved:
                self.blocks = number
                self._moved.notify_all()

    def wait_more(self, count: int = 5) -> None:
        """Wait until so many more blocks have gone there and back."""
        with self._moved:
            target = self.blocks + count
            assert self._moved.wait_for(lambda: self.blocks >= target, WAIT_SECONDS)

    def finish(self) -> None:
        """End it; every byte must have come back."""
        self._end.set()
        self._sender.join(WAIT_SECONDS)
        assert not self._sender.is_alive()
        self.sock.close()
        assert self.blocks > 0
        assert self.sent.hexdigest() == self.received.hexdigest()
