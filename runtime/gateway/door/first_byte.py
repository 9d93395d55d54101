"""Which protocol a client of a front door speaks, told by its first byte. Pure."""

from __future__ import annotations

from .handshake import Denial, Event, Handshake, Malformed
from .http_connect import HttpHandshake
from .socks import SOCKS_VERSION, SocksHandshake

_SOCKS4_VERSION = 4
_SOCKS4_REFUSED = bytes((0, 91, 0, 0, 0, 0, 0, 0))
"""The only answer that a SOCKS 4 client understands: rejected or failed."""
_TLS_HANDSHAKE = 0x16
"""The first byte of a record with a ClientHello: RFC 8446 section 5.1."""
_FIRST_PRINTABLE, _LAST_PRINTABLE = 0x21, 0x7E


def begin_handshake(first: int, *, needs_login: bool) -> Handshake:
    """Return the handshake that takes the bytes of a client, the first one included.

    Args:
        first: the first byte.
        needs_login: whether the client must say who it is.
    """
    if first == SOCKS_VERSION:
        return SocksHandshake(needs_login=needs_login)
    if _FIRST_PRINTABLE <= first <= _LAST_PRINTABLE:
        # What begins with a letter and is no HTTP is told so in HTTP.
        return HttpHandshake(needs_login=needs_login)
    if first == _SOCKS4_VERSION:
        return Foreign("SOCKS 4: speak SOCKS 5 with names, as socks5h:// does", _SOCKS4_REFUSED)
    if first == _TLS_HANDSHAKE:
        return Foreign("TLS: a front door speaks SOCKS 5 and HTTP CONNECT, without TLS")
    return Foreign("neither SOCKS 5 nor HTTP")


class Foreign:
    """The handshake of a client that speaks something else.

    Args:
        text: what it speaks, and what it should.
        answer: the bytes that tell it so, if there are any.
    """

    protocol = "other"

    def __init__(self, text: str, answer: bytes = b"") -> None:
        self._text = text
        self._answer = answer
        self._is_told = False

    def receive(self, data: bytes) -> int:
        """See `Handshake`."""
        return min(1, len(data))

    def next_event(self) -> Event | None:
        """See `Handshake`."""
        is_told, self._is_told = self._is_told, True
        return None if is_told else Malformed(Denial.PROTOCOL, self._text)

    def take_output(self) -> bytes:
        """See `Handshake`."""
        return b""

    def login_checked(self, is_good: bool) -> None:
        """Is never called, as this handshake asks nobody who it is."""
        raise NotImplementedError

    def welcome(self) -> bytes:
        """Is never called, as nothing comes of this handshake."""
        raise NotImplementedError

    def refuse(self, refusal: Denial, text: str) -> bytes:  # noqa: ARG002 - it has no words
        """See `Handshake`."""
        return self._answer
