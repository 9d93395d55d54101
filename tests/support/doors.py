"""A fleet with front doors in this process, and clients that speak to them byte by byte."""

from __future__ import annotations

import base64
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from tests.support.actors import crash
from tests.support.fleet import Fleet
from tests.support.rig import connect
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import TcpAddress, UnixAddress
from tunnelfleet.runtime.gateway.door import DOOR, Denied, Door, DoorLimits

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from tunnelfleet.runtime import Address
    from tunnelfleet.runtime.gateway import WantedTunnel
    from tunnelfleet.runtime.gateway.config import DoorRule
    from tunnelfleet.runtime.gateway.door.hall import Crowd
    from tunnelfleet.runtime.gateway.door.resolver import Resolver


class DoorFleet(Fleet):
    """A fleet whose gateway has a door at a free port.

    Args:
        folder: for what is made.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "state")
        self.denied: list[Denied] = []
        self.resolver: Resolver | None = None
        self.limits = DoorLimits()
        self.files.settings = replace(
            self.files.settings, admin=f"unix:{folder}/run/admin.sock", door="127.0.0.1:0"
        )
        self._folder = folder

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def open(self, *tunnels: WantedTunnel, **settings: Any) -> Door:
        """Start the gateway with these tunnels and settings."""
        self.files.tunnels = {each.name: each for each in tunnels}
        self.files.settings = replace(self.files.settings, **settings)
        self.door = Door(self.files.settings, self.limits, self.denied.append, self.resolver)
        self._stack.enter_context(self.door)
        self.start(more_children=lambda gateway: [self.door.child(gateway)])
        return self.door

    def rules(self, *rules: DoorRule) -> None:
        """What the files say of who may reach what, from now on."""
        config = self.gateway.state.config
        self.gateway.state.config = replace(config, door_rules=rules)

    @property
    def address(self) -> TcpAddress:
        """Of the door at a port."""
        assert isinstance(self.door.address, TcpAddress)
        return self.door.address

    @property
    def door_crowd(self) -> Crowd[Any]:
        """Who is at the doors."""
        assert self.door.hall is not None
        return self.door.hall.crowd

    @property
    def private(self) -> UnixAddress:
        """The private door."""
        return UnixAddress(str(self.door.connect_path))

    @contextlib.contextmanager
    def client(self, data: bytes = b"", address: Address | None = None) -> Iterator[socket.socket]:
        """A client that has sent this."""
        with connect(address or self.address, WAIT_SECONDS) as sock:
            sock.sendall(data)
            yield sock

    def ask(self, target: str, *headers: str, address: Address | None = None) -> tuple[int, str]:
        """Ask by HTTP; returns the status and, if it is a refusal, the reason."""
        with self.client(http_request(target, *headers), address) as sock:
            return door_answer(sock)

    def crash(self) -> None:
        """Have the doors' actor fail, and wait for the next one."""
        ref = self.gateway.refs.by_id[DOOR]
        crash(ref)
        eventually(lambda: self.gateway.refs.by_id[DOOR] is not ref)


def http_request(target: str, *headers: str) -> bytes:
    """A request."""
    return "\r\n".join([f"CONNECT {target} HTTP/1.1", *headers, "", ""]).encode()


def basic_login(user: str, password: str) -> str:
    """A header."""
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    return f"Proxy-Authorization: Basic {text}"


def socks_request(name: str, user: str = "", password: str = "") -> bytes:
    """All that a client of SOCKS sends, at once."""
    login = b""
    if user:
        login = bytes((1, len(user))) + user.encode() + bytes((len(password),)) + password.encode()
    target = bytes((len(name),)) + name.encode() + bytes((0, 22))
    return bytes((5, 1, 2 if user else 0)) + login + bytes((5, 1, 0, 3)) + target


def door_answer(sock: socket.socket) -> tuple[int, str]:
    """Read an HTTP answer; of a good one nothing behind its head."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"ended after {head!r}"
        head += byte
    status = int(head.split(b" ", 2)[1])
    text = b""
    while status != 200 and (data := sock.recv(4_096)):
        text += data
    return status, text.decode().strip()
