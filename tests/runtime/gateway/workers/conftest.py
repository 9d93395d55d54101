"""What the tests of workers share: a client's socket."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket, and the client."""
    near, far = socket.socketpair()
    far.settimeout(WAIT_SECONDS)
    with near, far:
        yield near, far
