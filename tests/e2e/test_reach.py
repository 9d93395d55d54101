"""A destination connects to the addresses of its configuration, whatever it is asked for."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.support.faulty_server import ScriptedService
from tests.support.rig import FAST_LIMITS
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import Message, MessageType, ProtocolVersion
from tunnelfleet.runtime import Mode, TcpAddress, TunnelConfig, UnixAddress

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.faulty_server import FaultyPeer
    from tests.support.rig import Rig

T = MessageType


@pytest.mark.parametrize("version", [ProtocolVersion.V2, ProtocolVersion.V3])
def test_no_other_address_is_reached(
    plain_rig: Rig, tmp_path: Path, version: ProtocolVersion
) -> None:
    """A service of somebody else announces addresses as services, and starts streams to them."""
    target = plain_rig.backends.echo()
    decoy, local = plain_rig.backends.echo(), UnixAddress(str(tmp_path / "decoy.sock"))
    hidden = plain_rig.backends.echo(local)
    assert isinstance(decoy.address, TcpAddress)
    wishes = [
        str(decoy.address),
        f"{decoy.address.port}",
        f"localhost:{decoy.address.port}",
        f"tcp://{decoy.address}",
        f"SSH={decoy.address}",
        f"SSH\0{decoy.address}",
        str(local),
        f"unix:{local}",
        "ssh",
        "SSH ",
        " SSH",
        "../SSH",
    ]

    def tempt(peer: FaultyPeer) -> None:
        peer.upgrade()
        peer.announce("SSH", *wishes)
        numbers = itertools.count(1)
        for wish in [*wishes, "SSH"]:
            stream = next(numbers)
            connection = stream if version is ProtocolVersion.V3 else 0
            for kind, payload in ((T.STREAM_START, b""), (T.DATA, b"x")):
                message = Message(kind, stream, False, payload, wish, (), connection)
                peer.message(message)
        peer.wait_closed()

    with ScriptedService(tempt) as service:
        config = TunnelConfig(
            name="tempted",
            mode=Mode.DESTINATION,
            endpoint=service.endpoint,
            access_token="a-token-of-somebody",
            services={"SSH": target.address},
            limits=FAST_LIMITS,
        )
        tunnel = plain_rig.runtime.open_tunnel(config)
        # The last of them is the only one that is configured; then all others were looked at.
        target.wait_for(lambda: target.accepted == 1, WAIT_SECONDS, "the configured one")
        plain_rig.runtime.close_tunnel(tunnel.name)
    assert decoy.accepted == hidden.accepted == 0
