"""Tables of handlers are keyed by the types that actors really send."""

from __future__ import annotations

from typing import Any

import pytest

from tunnelfleet.actors.local.applications import StreamActor
from tunnelfleet.actors.local.socket_actor import SocketActor
from tunnelfleet.actors.transport.governor import ConnectGovernor
from tunnelfleet.actors.transport.websocket_actor import WebSocketActor
from tunnelfleet.actors.tunnel import messages
from tunnelfleet.actors.tunnel.actor import TunnelActor
from tunnelfleet.actors.tunnel.streams import Streams
from tunnelfleet.proto import events

ACTORS: list[Any] = [ConnectGovernor, SocketActor, StreamActor, TunnelActor, WebSocketActor]


@pytest.mark.parametrize("actor", ACTORS, ids=lambda actor: actor.__name__)
def test_a_table_maps_types_to_functions(actor: Any) -> None:
    table = actor.HANDLERS
    assert table
    assert all(isinstance(type_, type) and callable(handler) for type_, handler in table.items())


def test_every_message_has_someone_who_handles_it() -> None:
    handled = {type_ for actor in ACTORS for type_ in actor.HANDLERS}
    elsewhere = {
        messages.ConnectionKey,  # a value, not a message
        messages.SetAccepting,  # ListenerActor
        messages.Quiesced,  # TunnelSupervisor
    }
    sent = {getattr(messages, name) for name in messages.__all__}
    assert sent - handled == elsewhere


def test_the_tunnel_handles_every_event_of_the_session() -> None:
    # Bytes go to their connection past the streams.
    assert {*Streams.EVENTS, events.DataReceived} == set(events.Event.__args__)
