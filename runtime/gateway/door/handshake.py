"""What a front door and its client say to each other before bytes flow, whatever the protocol is.

Owns the events of a handshake, the kinds of refusal, and how the protocol is told by the first
byte. The protocols themselves are in `socks` and `http_connect`. Pure: bytes in, events and bytes
out; whoever calls it has the socket, the clock and the decisions.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Protocol

MAX_NAME_BYTES = 600
"""The longest text that a client asks by: names of a tunnel and of a service, encoded or not."""


class Denial(Enum):
    """Why a client does not get what it asks for; the value is the label of the metric."""

    PROTOCOL = "protocol"
    """The client breaks the protocol, or wants what a front door does not do."""
    ADDRESS = "address"
    """The client asks for an IP address, and a front door leads to tunnels by their names."""
    LOGIN = "login"
    """The client has not said who it is, or its password is wrong."""
    RULE = "rule"
    """No rule lets this user in."""
    NAME = "name"
    """There is no such tunnel or service, or the tunnel has several services."""
    UNAVAILABLE = "unavailable"
    """The tunnel is not connected, stops, or has all the connections that it may have."""
    ELSEWHERE = "elsewhere"
    """Another gateway of the fleet has it, and cannot be asked from here, or not now."""
    FAILED = "failed"
    """The tunnel could not carry it."""
    BUSY = "busy"
    """The door itself has all that it may have."""


class LoginGiven(NamedTuple):
    """The client says who it is. Answer with `login_checked`."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"LoginGiven({self.user!r}, ...)"


class TargetNamed(NamedTuple):
    """The client says where it wants to go. `port` is the number behind the name, if there is one.

    The last event of a handshake. Answer with `welcome` or `refuse`.
    """

    name: str
    port: int | None


class Malformed(NamedTuple):
    """The client breaks the protocol; answer with `refuse`."""

    refusal: Denial
    text: str


Event = LoginGiven | TargetNamed | Malformed


class Handshake(Protocol):
    """One client's handshake.

        handshake = begin_handshake(first_byte, needs_login=...)
        taken = handshake.receive(data)     # how many of the bytes are the handshake's
        send(handshake.take_output())
        match handshake.next_event():
            case None: ...                  # it needs more bytes
            case LoginGiven(user, password): handshake.login_checked(is_good)
            case TargetNamed(name, port): send(handshake.welcome()), or send(handshake.refuse(...))
            case Malformed(refusal, text): send(handshake.refuse(refusal, text))

    It never takes a byte behind the handshake: that is the application's.
    """

    protocol: str
    """The name of the protocol for people and metrics: `socks5`, `http`, `fleet` or `other`."""

    def receive(self, data: bytes) -> int:
        """Take the bytes of the handshake from the start of `data`; return how many they were.

        At least one, unless `data` is empty or an event waits.
        """

    def next_event(self) -> Event | None:
        """Return the event to answer now; None if more bytes are needed. Each event comes once."""

    def take_output(self) -> bytes:
        """Return what has to be sent to the client now."""

    def login_checked(self, is_good: bool) -> None:
        """Answer `LoginGiven`. After a wrong login comes `Malformed`."""

    def welcome(self) -> bytes:
        """Return what tells the client that its bytes are carried from here on."""

    def refuse(self, refusal: Denial, text: str) -> bytes:
        """Return what tells the client why not, if its protocol can; then the connection ends."""
