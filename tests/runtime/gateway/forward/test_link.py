"""What a link to another gateway does before there is one."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from tunnelfleet.runtime.gateway.forward.link import make_link


class Owner:
    """Hears what becomes of the link."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_link_over(self, reason: str) -> None:
        self.heard.append(reason)


def test_who_has_gone_before_tls_began_is_an_end_and_no_failure() -> None:
    """A caller may reset its connection before the turn in which it is taken."""
    sock, owner = socket.socket(), Owner()
    user: Any = owner
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert make_link(user, user, sock, context, is_server=True) is None
    assert sock.fileno() == -1
    assert owner.heard == ["no handshake: Transport endpoint is not connected"]
