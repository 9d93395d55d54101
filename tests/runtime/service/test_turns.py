"""A client that floods the service with tiny frames holds up no other client for long."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.frames import masked
from tests.support.service_client import TunnelClient
from tests.support.tracing import check_processor_seconds
from tests.support.wire import data, stream_start
from tunnelfleet.proto import Mode, encode_frame
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.client import Client
from tunnelfleet.runtime.service.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TURN_SECONDS = 0.05
FLOOD_BYTES = 200_000


def repeated(frame: bytes) -> bytes:
    return frame * (FLOOD_BYTES // len(frame))


FLOODS: dict[str, Callable[[], bytes]] = {
    "pings": lambda: repeated(masked(9)),
    "pongs": lambda: repeated(masked(10)),
    "empty frames": lambda: repeated(masked(2)),
    "empty fragments": lambda: masked(2, fin=False) + repeated(masked(0, fin=False)),
    "DATA of a byte": lambda: repeated(masked(2, encode_frame(data(b"x")))),
    # After frames that reads end with.
    "pings behind large frames": lambda: (
        masked(2, encode_frame(data(bytes(64_512)))) * 3 + repeated(masked(9))
    ),
    "pings after the half of a large message": lambda: (
        masked(2, encode_frame(data(bytes(64_512)))[:40_000], fin=False)
        + repeated(masked(9))
        + masked(0, bytes(24_520))
    ),
    "DATA of a byte behind a large message": lambda: masked(
        2, encode_frame(data(bytes(64_512))) + encode_frame(data(b"x")) * 4_000
    ),
    "STREAM_START": lambda: b"".join(
        masked(2, encode_frame(stream_start(stream=number))) for number in range(1, 8_000)
    ),
}


def timed(turn: Callable[[Any], None], turns: list[float]) -> Callable[[Any], None]:
    """A turn of the service that notes the time that it takes."""

    def run(owner: Any) -> None:
        began = time.thread_time()
        turn(owner)
        turns.append(time.thread_time() - began)

    return run


@pytest.mark.parametrize("has_peer", [False, True], ids=["alone", "with a destination"])
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_no_flood_makes_a_long_turn(
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    flood: Callable[[], bytes],
    has_peer: bool,
) -> None:
    turns: list[float] = []
    for owner, name in ((Wire, "_on_readable"), (Client, "_go_on")):
        monkeypatch.setattr(owner, name, timed(getattr(owner, name), turns))
    # A full collection of what all tests have left is none of the flood's.
    gc.disable()
    request.addfinalizer(gc.enable)
    with TunnelService(tls=False, port=0) as service:
        tokens = service.open_tunnel("press-4", ["SSH"])
        clients = [TunnelClient(service, Mode.SOURCE, tokens.source_token)]
        if has_peer:
            clients.append(TunnelClient(service, Mode.DESTINATION, tokens.destination_token))
        readers = [threading.Thread(target=drain, args=(client,)) for client in clients]
        for reader in readers:
            reader.start()
        # The service ends the connection when it has taken all of it.
        clients[0].ws.sock.sendall(flood() + masked(8))
        readers[0].join()
    for reader in readers:
        reader.join()
    for client in clients:
        client.close()
    check_processor_seconds(max(turns), MAX_TURN_SECONDS)


def drain(client: TunnelClient) -> None:
    """Read what comes until the service ends."""
    try:
        while client.ws.sock.recv(65_536):
            pass
    except ConnectionResetError:
        return
