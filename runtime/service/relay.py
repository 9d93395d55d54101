"""One tunnel's relay: frames from the source to the destination and back.

Owns which client is attached in which mode, back-pressure between them, bandwidth and delay,
and what the service itself says on a tunnel: SERVICE_IDS, STREAM_RESET, SESSION_RESET. Must
not know tokens or HTTP. All of it runs on the service's loop.

Bounded memory: a client is read only while neither wire is full (128 KiB), at most 16 KiB at a
time; so one direction holds 144 KiB and a partial frame, and no more than 128 KiB above that while
a delay is set. What the service itself says counts as what it relays: a client that does not read
its resets is not read, and one that connects anew while the other side is full waits as its
predecessor did. A service id that is not the tunnel's ends its client, so no client chooses what
is remembered.

docs/protocol.md section 4, on the wire: SERVICE_IDS is a WebSocket message of its own and sent once
a connection; every relayed frame is one WebSocket message, so a start is never joined with DATA;
small DATA that came in one WebSocket message stay in one, up to 4 KiB; in V3 the service's own
STREAM_RESET carries a connection id.

Above 400 lines because back-pressure, bandwidth and delay decide together when a client is read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from tunnelfleet.actors.token_bucket import Throttle
from tunnelfleet.actors.transport.codec import (
    Opcode,
    Role,
    encode,
    encode_tunnel_message,
    frame_header,
)
from tunnelfleet.proto import (
    MAX_ID_CHARACTERS,
    TUNNEL_PREFIX_BYTES,
    DataBurst,
    FrameSplitter,
    Message,
    MessageType,
    Mode,
    RemoteProtocolError,
    counted,
    printable,
)

from .client import Arrived, Client
from .events import ServiceEvent, ServiceEventKind, TunnelSnapshot
from .rules import StreamTable, check_message, reset_for
from .wire import Hold

# As plain names: Python 3.11 takes six times as long to look up the member of an enum.
_BINARY, _SERVICE, _DATA = Opcode.BINARY, Role.SERVICE, MessageType.DATA


class _OneWay:
    """The way towards one side: what it carried, its bandwidth, what waits for its delay."""

    __slots__ = ("payload_bytes", "throttle", "timer", "waiting", "waiting_bytes")

    def __init__(self) -> None:
        self.throttle: Throttle | None = None
        self.payload_bytes = 0
        self.waiting: deque[tuple[float, bytes | bytearray]] = deque()
        self.waiting_bytes = 0
        self.timer: asyncio.TimerHandle | None = None

    def clear(self) -> None:
        self.waiting.clear()
        self.waiting_bytes = 0
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


DELAYED_BYTES: Final = 65_536
"""With so much waiting for its delay, the sender is not read."""
DELAYED_PIECE_BYTES: Final = 128
"""What a delayed message takes besides its own bytes; many small ones count as what they are."""
_OTHER: Final = {Mode.SOURCE: Mode.DESTINATION, Mode.DESTINATION: Mode.SOURCE}


class RelayedTunnel:
    """An open tunnel with up to two clients.

    Args:
        name: its name.
        services: what SERVICE_IDS announces.
        loop: the service's loop.
        emit: takes the tunnel's events.
    """

    def __init__(
        self,
        name: str,
        services: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        emit: Callable[[ServiceEvent], None],
    ) -> None:
        self.name = name
        self.set_services(services)
        self._loop = loop
        self._emit = emit
        self._clients: dict[Mode, Client | None] = dict.fromkeys(Mode)
        self._directions = {mode: _OneWay() for mode in Mode}
        self._streams = StreamTable()
        self._delay_seconds = 0.0
        self._to_corrupt = dict.fromkeys(Mode, 0)
        self._stalled: set[Mode] = set()
        self._dropped_messages = 0

    def set_services(self, services: Sequence[str]) -> None:
        """Announce these to who connects from now on."""
        self.services = tuple(services)
        # A message without a service id means the tunnel's only service (V1).
        self._known_ids = frozenset((*services, ""))

    def clients(self, mode: Mode | None) -> list[Client]:
        """Return the attached clients of this mode, or of both."""
        modes = list(Mode) if mode is None else [mode]
        return [client for each in modes if (client := self._clients[each]) is not None]

    def snapshot(self) -> TunnelSnapshot:
        """Return the tunnel as it is now."""
        source, destination = self._directions[Mode.SOURCE], self._directions[Mode.DESTINATION]
        return TunnelSnapshot(
            self.name,
            self.services,
            self._clients[Mode.SOURCE] is not None,
            self._clients[Mode.DESTINATION] is not None,
            destination.payload_bytes,
            source.payload_bytes,
            self._buffered_bytes(Mode.SOURCE),
            self._buffered_bytes(Mode.DESTINATION),
            len(self._streams),
            self._dropped_messages,
        )

    def _buffered_bytes(self, mode: Mode) -> int:
        client = self._clients[mode]
        on_wire = 0 if client is None else client.wire.buffered_bytes
        return on_wire + self._directions[mode].waiting_bytes

    # clients come and go

    def attach(self, client: Client) -> None:
        """Take a client in. It replaces a former one of its mode (docs/protocol.md section 2)."""
        mode = _mode_of(client)
        former = self._clients[mode]
        if former is not None:
            self._tell(ServiceEventKind.CLIENT_REPLACED, mode)
            former.wire.abort("replaced by a new connection")
        self._clients[mode] = client
        throttle = self._directions[_OTHER[mode]].throttle
        if throttle is not None:
            client.set_throttle(throttle)
        announcement = Message(MessageType.SERVICE_IDS, available_service_ids=self.services)
        client.wire.write(encode_tunnel_message(announcement, _SERVICE))
        if mode in self._stalled:
            client.wire.hold(Hold.STALLED)
        # Its predecessor may have filled the way to the other side.
        self._hold_if_full(client, mode)
        self._tell(ServiceEventKind.CLIENT_CONNECTED, mode, f"channel-id {client.channel_id}")

    def detach(self, client: Client, reason: str) -> None:
        """Let a client go, and reset its streams at the other side."""
        mode = _mode_of(client)
        if self._clients[mode] is not client:
            return
        self._clients[mode] = None
        self._directions[mode].clear()
        self._tell(ServiceEventKind.CLIENT_DISCONNECTED, mode, reason)
        other = _OTHER[mode]
        for reset in self._streams.take_resets(to=other):
            self._say(other, reset)
            self._tell(ServiceEventKind.STREAM_STOPPED, mode, _about(reset))
        self._resume(other)

    def _resume(self, mode: Mode) -> None:
        """Nothing in the service's buffers holds up this side any more."""
        client = self._clients[mode]
        if client is not None:
            client.wire.release(Hold.PEER_FULL)
            client.wire.release(Hold.DELAYED)

    def _release_sender(self, to: Mode) -> None:
        """What was delayed on the way to this side has become less: read those who fill it."""
        if self._is_delayed_full(to):
            return
        receiver, sender = self._clients[to], self._clients[_OTHER[to]]
        if receiver is not None:
            receiver.wire.release(Hold.ANSWERS_DELAYED)
        if sender is not None:
            sender.wire.release(Hold.DELAYED)

    # relaying

    def relay(self, sender: Client, arrived: Sequence[Arrived]) -> None:
        """Pass on what a client sent to the other side, each item as a WebSocket message.

        Raises:
            RemoteProtocolError: it is not for this client to send; what came before it has been
                relayed.
        """
        mode = _mode_of(sender)
        to = _OTHER[mode]
        parts: list[bytes | memoryview] = []
        answers: list[bytearray] = []
        try:
            for item, frames in arrived:
                if self._examine(mode, item, answers):
                    whole = self._spoil(to, frames) if self._to_corrupt[to] else frames
                    parts += (frame_header(_BINARY, len(whole), _SERVICE), whole)
        finally:
            if parts:
                self._send(to, b"".join(parts))
            if answers:
                self._send(mode, b"".join(answers))
            self._hold_if_full(sender, mode)

    def _examine(self, mode: Mode, item: Message | DataBurst, answers: list[bytearray]) -> bool:
        """Check a message or a burst and take note of it; say whether it goes to the other side.

        What the service itself answers is added to ``answers``, to be sent in one piece: a flood of
        starts would else be a flood of calls to the kernel.
        """
        # What differs in a burst is the payload, of which nothing is asked but its size.
        message, more = item if isinstance(item, DataBurst) else (item, ())
        is_data = message.type is _DATA
        if not is_data and not check_message(message, mode):
            return False
        if message.service_id not in self._known_ids:
            name = printable(message.service_id, MAX_ID_CHARACTERS)
            raise RemoteProtocolError(
                f"a {mode} sent {MessageType(message.type).name} for service {name!r}, "
                "which the tunnel does not have"
            )
        if self._clients[_OTHER[mode]] is None:
            # Nobody is there to receive: a start is answered with a reset, the rest is dropped.
            self._dropped_messages += 1 + len(more)
            if message.type is MessageType.STREAM_START:
                answers.append(encode_tunnel_message(reset_for(message), _SERVICE))
            return False
        if is_data:
            size_bytes = len(message.payload)
            if more:
                size_bytes += sum(map(len, more))
            self._directions[_OTHER[mode]].payload_bytes += size_bytes
            if message.ignorable and not message.payload and mode is Mode.DESTINATION:
                self._streams.note_hello(message)
        else:
            self._note(mode, message)
        return True

    def _note(self, mode: Mode, message: Message) -> None:
        self._streams.note(message, mode)
        if message.type is MessageType.STREAM_START:
            self._tell(ServiceEventKind.STREAM_STARTED, mode, _about(message))
        elif message.type is MessageType.STREAM_RESET:
            self._tell(ServiceEventKind.STREAM_STOPPED, mode, _about(message))

    def _say(self, to: Mode, message: Message) -> None:
        """Send a message of the service's own, in its place among the relayed ones."""
        self._send(to, encode_tunnel_message(message, _SERVICE))

    def _send(self, to: Mode, data: bytes | bytearray) -> None:
        client, direction = self._clients[to], self._directions[to]
        if client is None:
            return
        if self._delay_seconds or direction.waiting:
            direction.waiting.append((self._loop.time() + self._delay_seconds, data))
            direction.waiting_bytes += len(data)
            self._wait(to)
        else:
            client.wire.write(data)

    def _hold_if_full(self, sender: Client, mode: Mode) -> None:
        """Do not read a client while what it sends, or what it is answered, waits for others."""
        to = _OTHER[mode]
        receiver = self._clients[to]
        if receiver is not None and receiver.wire.is_full:
            sender.wire.hold(Hold.PEER_FULL)
        if self._directions[to].waiting and self._is_delayed_full(to):
            sender.wire.hold(Hold.DELAYED)
        if self._directions[mode].waiting and self._is_delayed_full(mode):
            sender.wire.hold(Hold.ANSWERS_DELAYED)

    def _is_delayed_full(self, to: Mode) -> bool:
        direction = self._directions[to]
        return (
            direction.waiting_bytes + len(direction.waiting) * DELAYED_PIECE_BYTES > DELAYED_BYTES
        )

    def drained(self, client: Client) -> None:
        """A client's wire can take more: send what was due, then read the other side again."""
        mode = _mode_of(client)
        if self._clients[mode] is not client:
            return
        self._send_due(mode)
        sender = self._clients[_OTHER[mode]]
        if sender is not None and not client.wire.is_full:
            sender.wire.release(Hold.PEER_FULL)

    # delay

    def _wait(self, to: Mode) -> None:
        direction = self._directions[to]
        if direction.timer is None and direction.waiting:
            direction.timer = self._loop.call_at(direction.waiting[0][0], self._on_due, to)

    def _on_due(self, to: Mode) -> None:
        self._directions[to].timer = None
        self._send_due(to)

    def _send_due(self, to: Mode) -> None:
        direction, receiver, now = self._directions[to], self._clients[to], self._loop.time()
        while direction.waiting and receiver is not None and not receiver.wire.is_full:
            due, data = direction.waiting[0]
            if due > now:
                self._wait(to)
                break
            direction.waiting.popleft()
            direction.waiting_bytes -= len(data)
            receiver.wire.write(data)
        self._release_sender(to)

    def set_delay(self, seconds: float) -> None:
        """Hold every message back for so long, in both directions."""
        self._delay_seconds = seconds
        self._tell(ServiceEventKind.DELAYED, None, f"{seconds:g} s")

    # bandwidth

    def set_bandwidth(self, bytes_per_second: float | None) -> None:
        """Limit each direction; None lifts the limit."""
        for mode in Mode:
            throttle = None
            if bytes_per_second is not None:
                throttle = Throttle(bytes_per_second, self._loop.time())
            self._directions[_OTHER[mode]].throttle = throttle
            for client in self.clients(mode):
                client.set_throttle(throttle)
        rate = "off" if bytes_per_second is None else f"{bytes_per_second:g} bytes/s"
        self._tell(ServiceEventKind.THROTTLED, None, rate)

    # what the service does on command

    def reset_session(self) -> None:
        """Send SESSION_RESET to both sides; every stream is over."""
        self._streams.take_resets()
        for mode in Mode:
            self._say(mode, Message(MessageType.SESSION_RESET))
        self._tell(ServiceEventKind.SESSION_RESET, None)

    def reset_streams(self, service_id: str | None) -> int:
        """Send STREAM_RESET of a service's active stream (None: of each) to both sides."""
        resets = self._streams.take_resets(service_id)
        for reset in resets:
            for mode in Mode:
                self._say(mode, reset)
            self._tell(ServiceEventKind.STREAM_STOPPED, None, _about(reset))
        return len(resets)

    def corrupt_next(self, to: Mode, count: int) -> None:
        """Make no messages of the next frames that are relayed to this side."""
        self._to_corrupt[to] = count
        self._tell(ServiceEventKind.CORRUPTED, to, f"the next {counted(count, 'frame')}")

    def _spoil(self, to: Mode, frames: memoryview) -> bytes:
        spoiled: list[bytes | memoryview] = []
        for frame in FrameSplitter().frames(frames):
            if self._to_corrupt[to]:
                self._to_corrupt[to] -= 1
                # No protobuf begins with a field of the wire type 7.
                rest_bytes = len(frame) - TUNNEL_PREFIX_BYTES
                spoiled += (frame[:TUNNEL_PREFIX_BYTES], b"\xff" * rest_bytes)
            else:
                spoiled.append(frame)
        return b"".join(spoiled)

    def stall(self, mode: Mode) -> None:
        """Stop reading this side's client, and its next ones, until resumed."""
        self._stalled.add(mode)
        for client in self.clients(mode):
            client.wire.hold(Hold.STALLED)

    def resume_reading(self, mode: Mode) -> None:
        """Read a stalled side again."""
        self._stalled.discard(mode)
        for client in self.clients(mode):
            client.wire.release(Hold.STALLED)

    def inject(self, mode: Mode, opcode: Opcode, payload: bytes) -> None:
        """Send a WebSocket frame with any payload to a client, now."""
        for client in self.clients(mode):
            client.wire.write(encode(_SERVICE, opcode, payload))

    # events

    def report_protocol_error(self, client: Client, reason: str) -> None:
        """Tell that a client broke the protocol."""
        self._tell(ServiceEventKind.PROTOCOL_ERROR, client.mode, reason)

    def _tell(self, kind: ServiceEventKind, mode: Mode | None, detail: str = "") -> None:
        self._emit(ServiceEvent(kind, self.name, mode, detail))


def _mode_of(client: Client) -> Mode:
    assert client.mode is not None
    return client.mode


def _about(message: Message) -> str:
    service = message.service_id or "the tunnel's service"
    return f"stream {message.stream_id} of {service}"
