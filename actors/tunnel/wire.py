"""The layer of TunnelActor that sends: fair queue to WebSocket, credit back, holding the WebSocket.

It decides when, never what: what a piece is on the wire is the session's word. docs/architecture.md
section 6.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from tunnelfleet.proto import End, LocalProtocolError, MessageType, ProtocolVersion

from .connections import EndPhase
from .core import CheckHello, CheckStalled, HalfCloseEnded, PumpAgain, TunnelCore
from .messages import (
    BytesDelivered,
    ConnectionKey,
    EventsTaken,
    PauseReading,
    RemoteEnded,
    ResumeReading,
    SetLowWater,
    Transmit,
    Written,
)
from .sender import Credit

if TYPE_CHECKING:
    from tunnelfleet.actors.kernel.actor import Handlers
    from tunnelfleet.proto import Message

    from .connections import Connection

__all__ = [
    "TunnelWire",
]


SLOWER_AT_LEAST = 2
"""TCP_NOTSENT_LOWAT is set when the rate has changed by this factor, not at every measurement."""


class TunnelWire(TunnelCore):
    """Sends, and holds back."""

    # -- to the wire

    def _to_messages(self, key: ConnectionKey, payload: bytes | None) -> list[Message]:
        """What a piece of the fair queue is on the wire."""
        connection = self._connections.get(key)
        if connection is None:
            return []
        if payload is None:
            return self._end_on_wire(connection)
        try:
            message = self._session.data(key.service_id, key.connection_id, payload)
        except LocalProtocolError as error:
            self._stats.count_failed_send()
            self._give_credit([Credit(key, len(payload))])
            if self._api is not None:
                self._api.on_unsendable(key, error)
            return []
        if self._api is not None:
            self._api.on_taken(key)
        self._stats.service(key.service_id).count_sent(len(payload))
        connection.live.sent_bytes += len(payload)
        return [message]

    def _end_on_wire(self, connection: Connection) -> list[Message]:
        key = connection.key
        connection.end_phase = EndPhase.SENT
        messages, session_events = self._session.reset_connection(
            key.service_id, key.connection_id, is_orderly=connection.is_orderly
        )
        if self._api is not None:
            self._api.on_end_taken(key, is_sent=bool(messages))
        if connection.gone:
            self._session.leave_connection(*key[:3])
        self._settle_end(connection)
        self._handle_events(session_events)
        return messages

    def _settle_end(self, connection: Connection) -> None:
        """After an end of this side: is there another direction left?"""
        key = connection.key
        if not self._session.is_known(*key[:3]):
            # After an orderly end of the peer the local socket takes its time to write what came.
            end = connection.remote_end or End.BOTH
            self._release(connection, end if connection.is_orderly else End.CUT)
        else:
            self._watch_half_closed(connection)

    def _watch_half_closed(self, connection: Connection) -> None:
        """Before V3 nobody may tell a half-closed end that the other one has died."""
        is_v3 = self._session.version is ProtocolVersion.V3
        if not is_v3 and connection.half_close_timer is None:
            seconds = self._limits.half_close_seconds
            message = HalfCloseEnded(connection.key)
            connection.half_close_timer = self.schedule(seconds, message)

    def _on_half_close_ended(self, message: HalfCloseEnded) -> None:
        connection = self._connections.get(message.key)
        if connection is not None and connection.end_phase is not EndPhase.OVER:
            seconds = self._limits.half_close_seconds
            self._abort(connection, f"closed in one direction alone for {seconds:g} s")
            self._pump()

    def _abort(self, connection: Connection, reason: str) -> None:
        """End a connection now, whatever it has waiting, and not in good order."""
        key = connection.key
        connection.is_orderly = False
        connection.reason = connection.reason or reason
        connection.ended_by = connection.ended_by or "local"
        if connection.end_phase is EndPhase.OVER:
            # The peer may have used its ids again: only the socket here is left to be cut.
            connection.tell(RemoteEnded(key, End.CUT, reason))
            return
        self._discard(connection)
        messages, session_events = self._session.reset_connection(
            key.service_id, key.connection_id, is_orderly=False
        )
        for item in messages:
            self._wire.control(item)
        self._release(connection, End.CUT)
        self._handle_events(session_events)

    def _discard(self, connection: Connection) -> None:
        """Throw away what a connection has waiting: nobody takes it any more."""
        self._give_credit([self._wire.discard(connection.key)])
        if self._api is not None:
            self._api.on_discarded(connection.key)

    def _pump(self) -> None:
        if self._websocket is None:
            return
        now = time.monotonic()
        messages = self._wire.take_control(now)
        while (piece := self._wire.next_piece(now)) is not None:
            for message in self._to_messages(piece.flow.key, piece.payload):
                self._wire.sent(message, piece.flow.key, now)
                messages.append(message)
        if messages:
            self._websocket.tell(Transmit(messages))
        wait_seconds = self._wire.wait_seconds
        if wait_seconds and not self._pump_timer_on:
            self._pump_timer_on = True
            self.schedule(wait_seconds, PumpAgain())
        self._finish_if_done()

    def _send_at_once(self, key: ConnectionKey, payload: bytes) -> None:
        assert self._websocket is not None
        now = time.monotonic()
        for message in self._to_messages(key, payload):
            self._wire.sent(message, key, now)
            self._stats.observe_queue_wait(0.0)
            self._websocket.tell(Transmit([message]))

    def _on_pump_again(self, _message: PumpAgain) -> None:
        self._pump_timer_on = False
        self._pump()

    def _on_written(self, message: Written) -> None:
        if message.epoch != self._epoch or self._websocket is None:
            return
        now = time.monotonic()
        self._give_credit(self._wire.written(message.messages, now, blocked=message.blocked))
        if self._api is not None:
            self._api.on_written()
        if self._starts_on_their_way:
            self._note_starts_written(now)
        self._adapt_low_water()
        self._pump()

    def _adapt_low_water(self) -> None:
        wanted, present = self._wire.low_water_bytes, self._low_water_bytes
        is_far = wanted * SLOWER_AT_LEAST <= present or wanted >= present * SLOWER_AT_LEAST
        if is_far and self._websocket is not None:
            self._low_water_bytes = wanted
            self._websocket.tell(SetLowWater(wanted))

    def _give_credit(self, items: list[Credit]) -> None:
        for credit in items:
            connection = self._connections.get(credit.key)
            if connection is not None:
                connection.give_credit(credit.size_bytes)

    # -- waiting for the hello

    def _send_start(self, start: Message, key: ConnectionKey) -> None:
        """Send a STREAM_START or CONNECTION_START, queued under `key`."""
        self._wire.control(start, key)
        if start.ignorable:
            self._mark_trial.sent(time.monotonic())
        is_stream = start.type is MessageType.STREAM_START
        service_id = start.service_id or key.service_id
        if is_stream and self._session.awaits_hello(service_id, start.stream_id):
            self._starts_on_their_way[key] = (service_id, start.stream_id)

    def _note_starts_written(self, now: float) -> None:
        for key in self._wire.messages_left:
            ids = self._starts_on_their_way.pop(key, None)
            if ids is not None and self._session.awaits_hello(*ids):
                self._hello_clock.started(*ids, now)
        self._wait_for_hello(now)

    def _wait_for_hello(self, now: float) -> None:
        wait_seconds = self._hello_clock.wait_seconds(now)
        if wait_seconds is not None and not self._hello_timer_on:
            self._hello_timer_on = True
            self.schedule(wait_seconds, CheckHello())

    def _on_check_hello(self, _message: CheckHello) -> None:
        self._hello_timer_on = False
        now = time.monotonic()
        for ids in self._hello_clock.take_overdue(now):
            self._handle_events(self._session.hello_overdue(*ids))
        self._wait_for_hello(now)
        self._pump()

    # -- holding the WebSocket

    def _on_bytes_delivered(self, message: BytesDelivered) -> None:
        connection = self._connections.get(message.key)
        if connection is not None:
            self._connections.delivered(connection, message.size_bytes, time.monotonic())
            if self._paused:
                self._check_backlog()
            if self._quiesce is not None:
                self._finish_if_done()

    def _check_backlog(self) -> None:
        must_pause = self._connections.must_pause or self._callbacks_are_full()
        if must_pause == self._paused or self._websocket is None:
            return
        self._paused = must_pause
        self._websocket.tell(PauseReading() if must_pause else ResumeReading())
        now = time.monotonic()
        if must_pause:
            self._hello_clock.hold(now)
        else:
            self._hello_clock.go_on(now)
            self._wait_for_hello(now)
        if must_pause and not self._stall_check_on:
            self._stall_check_on = True
            self.schedule(self._limits.stall_timeout_seconds, CheckStalled())

    def _callbacks_are_full(self) -> bool:
        is_full = self._api is not None and self._api.must_hold_back()
        lane = self._context.lane
        if lane is not None and lane.is_full:
            tunnel = self.actor_ref
            is_full = lane.when_room(lambda: tunnel.cell.send(EventsTaken())) or is_full
        return is_full

    def _on_events_taken(self, _message: EventsTaken) -> None:
        self._check_backlog()

    def _on_check_stalled(self, message: CheckStalled) -> None:
        self._stall_check_on = False
        if not self._paused:
            return
        # Callbacks that hold up the tunnel are the user's to look after: they are counted, not cut.
        is_by_socket = self._connections.must_pause
        for connection in self._connections.stalled(time.monotonic()) if is_by_socket else ():
            connection.stalled = True
            self._stats.count_stalled()
            connection.reason = "stalled: the local application took no byte"
            self._abort(connection, connection.reason)
        self._pump()
        self._stall_check_on = True
        self.schedule(max(self._limits.stall_timeout_seconds / 4, 0.05), message)

    HANDLERS: ClassVar[Handlers] = {
        **TunnelCore.HANDLERS,
        Written: _on_written,
        BytesDelivered: _on_bytes_delivered,
        EventsTaken: _on_events_taken,
        PumpAgain: _on_pump_again,
        CheckStalled: _on_check_stalled,
        CheckHello: _on_check_hello,
        HalfCloseEnded: _on_half_close_ended,
    }
