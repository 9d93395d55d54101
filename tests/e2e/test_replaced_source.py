"""A source that takes the place of another: what is under way for that one is nothing for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.support.rig import connect
from tests.support.service_client import TunnelClient
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import MessageType as T
from tunnelfleet.runtime import Mode, TcpAddress, TunnelConfig

if TYPE_CHECKING:
    from tests.support.rig import Rig


def test_late_bytes_of_its_streams_reach_nobody(rig: Rig) -> None:
    tokens = rig.service.open_tunnel("replaced", ["SSH"])
    peer = TunnelClient(rig.service, Mode.DESTINATION, tokens.destination_token)
    config = TunnelConfig(
        name="before",
        mode=Mode.SOURCE,
        endpoint=rig.endpoint,
        access_token=tokens.source_token,
        services={"SSH": TcpAddress("127.0.0.1", 0)},
        ssl_context=rig.service.ssl_context(),
    )
    before = rig.runtime.open_tunnel(config)
    with connect(before.wait_listening("SSH", WAIT_SECONDS)):
        old = peer.message()
        assert old.type is T.STREAM_START
    rig.runtime.close_tunnel("before")
    token = rig.service.rotate("replaced", Mode.SOURCE).source_token
    after = rig.runtime.open_tunnel(replace(config, name="after", access_token=token))
    with connect(after.wait_listening("SSH", WAIT_SECONDS)) as client:
        new = peer.message()
        while new.type is not T.STREAM_START:
            new = peer.message()
        for start, payload in ((old, b"of another one"), (new, b"mine")):
            # With the ids of the start.
            peer.send(start._replace(type=T.DATA, ignorable=False, payload=payload))
        assert client.recv(100) == b"mine"
    peer.close()
