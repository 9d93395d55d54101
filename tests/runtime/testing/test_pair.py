"""A pair: connections through it, faults between its ends, and what is left of it."""

from __future__ import annotations

import socket

import pytest

from tests.support.sockets import read_to_end
from tunnelfleet.proto import ConfigError, HandshakeError
from tunnelfleet.runtime.testing import ConnectedPair, LocalService


@pytest.mark.parametrize("tls", [False, True])
def test_many_connections_at_once_belong_together(tls: bool) -> None:
    with LocalService(tls=tls) as service, ConnectedPair(service, ["SSH", "HTTP"]) as pair:
        opened = [(sid, *pair.open(sid)) for sid in ("SSH", "HTTP") * 10]
        for number, (sid, near, _) in enumerate(opened):
            near.sendall(f"{sid} {number}".encode())
            near.shutdown(socket.SHUT_WR)
        for number, (sid, _, far) in enumerate(opened):
            assert read_to_end(far) == f"{sid} {number}".encode()


def test_who_connects_to_its_port(service: LocalService) -> None:
    with ConnectedPair(service) as pair:
        assert (pair.address().host, pair.address().port) == ("127.0.0.1", pair.port())
        with socket.create_connection(("127.0.0.1", pair.port())) as near, pair.accept() as far:
            near.sendall(b"x")
            assert far.recv(1) == b"x"


def test_a_server_of_ones_own(service: LocalService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        with ConnectedPair(service, {"HTTP": where, "SSH": None}) as pair:
            near = pair.connect("HTTP")
            server.settimeout(10)
            far, _ = server.accept()
            with far:
                far.sendall(b"x")
                assert near.recv(1) == b"x"
            with pytest.raises(ConfigError, match=f"HTTP leads to {where}"):
                pair.accept("HTTP")
            with pytest.raises(ConfigError, match=r"which service\? this pair has HTTP, SSH"):
                pair.open()


def test_nothing_is_left_of_it(service: LocalService) -> None:
    with ConnectedPair(service) as pair:
        near, far = pair.open()
        port = pair.port()
        assert service.service.open_names() == [pair.name]
    assert (near.fileno(), far.fileno()) == (-1, -1)
    assert service.service.open_names() == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_test_may_close_the_tunnel_itself(service: LocalService) -> None:
    with ConnectedPair(service) as pair:
        service.service.close_tunnel(pair.name)


def test_its_service_may_end_first() -> None:
    with LocalService() as service, ConnectedPair(service) as pair:
        near, far = pair.open()
        # What comes from there says that the other end tells a cut from an end.
        far.sendall(b"x")
        assert near.recv(1) == b"x"
        service.stop()
        with pytest.raises(ConnectionResetError):
            near.recv(1)


def test_one_that_cannot_connect_leaves_nothing(service: LocalService) -> None:
    service.service.refuse_next(None, 403, "not today", 2)
    with pytest.raises(HandshakeError, match="not today"), ConnectedPair(service):
        pass
    assert service.service.open_names() == []


def test_a_connection_that_does_not_arrive(service: LocalService) -> None:
    with ConnectedPair(service, timeout_seconds=0.2) as pair:
        service.service.black_hole(pair.name)
        with pytest.raises(TimeoutError, match="no connection of TEST arrives"):
            pair.open()


@pytest.mark.parametrize(
    ("services", "messages", "text"),
    [
        ("SSH", [], "as a list"),
        (["SSH"], "SSH", "as a list"),
        (["SSH", "SSH"], ["SSH"], "given twice: SSH, SSH"),
        (["SSH"], ["SSH"], "given twice"),
    ],
)
def test_services_that_cannot_be(
    service: LocalService, services: list[str] | str, messages: list[str] | str, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        ConnectedPair(service, services, messages=messages)


def test_it_says_what_it_is(service: LocalService) -> None:
    with ConnectedPair(service, ["SSH"], messages=["CHAT"]) as pair:
        assert repr(pair) == f"<ConnectedPair {pair.name} SSH, CHAT>"
        assert pair.source.wait_connected(10) == ("SSH", "CHAT")
