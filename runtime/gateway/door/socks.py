"""SOCKS 5: the server's side of RFC 1928 (CONNECT to a name) and of RFC 1929 (user and password).

Owns the bytes of a SOCKS handshake. Three messages come from the client, each as long as its own
bytes say, so that nothing behind it is ever taken:

    GREETING   version, number of methods, methods               RFC 1928 section 3
    LOGIN      version, length, user, length, password           RFC 1929 section 2
    REQUEST    version, command, reserved, type, address, port   RFC 1928 section 4

Addresses are understood, so that they can be refused by the reply that says so: a tunnel has a
name, and what a client has looked up is none. Pure; see `handshake`.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from enum import Enum, auto

from .handshake import Denial, Event, LoginGiven, Malformed, TargetNamed

_NO_LOGIN, _PASSWORD, _NO_METHOD = 0x00, 0x02, 0xFF
_IPV4, _NAME, _IPV6 = 1, 3, 4


class _Awaited(Enum):
    GREETING = auto()
    LOGIN = auto()
    REQUEST = auto()
    OVER = auto()


SOCKS_VERSION = 5
_LOGIN_VERSION = 1
_CONNECT = 1
_ADDRESS_BYTES = {_IPV4: 4, _IPV6: 16}
_PORT_BYTES = 2
_BOUND = bytes((0, _IPV4, 0, 0, 0, 0, 0, 0))
"""Reserved, and the address 0.0.0.0:0: a tunnel has none that would tell a client anything."""
_REPLIES = {
    Denial.PROTOCOL: 7,
    Denial.ADDRESS: 8,
    Denial.LOGIN: 2,
    Denial.RULE: 2,
    Denial.NAME: 4,
    Denial.UNAVAILABLE: 3,
    Denial.ELSEWHERE: 3,
    Denial.FAILED: 5,
    Denial.BUSY: 1,
}
"""RFC 1928 section 6: 1 general failure, 2 not allowed, 3 network unreachable, 4 host unreachable,
5 refused, 7 command not supported, 8 address type not supported."""


class SocksHandshake:
    """One client of SOCKS 5.

    Args:
        needs_login: whether it must say who it is. If it need not and wants to all the same, any
            password will do, and its name counts for nothing.
    """

    protocol = "socks5"

    def __init__(self, *, needs_login: bool) -> None:
        self._needs_login = needs_login
        self._awaited = _Awaited.GREETING
        self._have = bytearray()
        """The bytes of the present message that have come."""
        self._is_answerable = False
        """Whether a request has come; only a request has a reply that can say no."""
        self._output = bytearray()
        self._events: deque[Event] = deque()

    # -- in

    def receive(self, data: bytes) -> int:
        """See `Handshake`."""
        taken = 0
        while not self._events and self._awaited is not _Awaited.OVER:
            missing = self._missing()
            if missing == 0:
                message, self._have = bytes(self._have), bytearray()
                self._STEPS[self._awaited](self, message)
                continue
            if taken == len(data):
                break
            piece = data[taken : taken + missing]
            self._have += piece
            taken += len(piece)
        return taken

    def _missing(self) -> int:
        """How many bytes of the present message are known to be missing; 0 if it is whole."""
        have = self._have
        if not have:
            return 1
        if self._awaited is _Awaited.GREETING:
            if have[0] != SOCKS_VERSION:
                return 0
            return 1 if len(have) < 2 else 2 + have[1] - len(have)
        if self._awaited is _Awaited.LOGIN:
            return self._missing_of_login()
        return self._missing_of_request()

    def _missing_of_login(self) -> int:
        have = self._have
        if have[0] != _LOGIN_VERSION:
            return 0
        if len(have) < 2:
            return 1
        password_at = 2 + have[1] + 1
        if len(have) < password_at:
            return password_at - len(have)
        return password_at + have[password_at - 1] - len(have)

    def _missing_of_request(self) -> int:
        have = self._have
        if have[0] != SOCKS_VERSION:
            return 0
        if len(have) < 5:
            return 5 - len(have)
        kind = have[3]
        if kind == _NAME:
            size = 1 + have[4]
        elif kind in _ADDRESS_BYTES:
            size = _ADDRESS_BYTES[kind]
        else:
            return 0
        return 4 + size + _PORT_BYTES - len(have)

    # -- whole messages

    def _on_greeting(self, message: bytes) -> None:
        if message[0] != SOCKS_VERSION:
            self._end(Denial.PROTOCOL, f"SOCKS version {message[0]}, where there should be 5")
            return
        methods = message[2:]
        if not self._needs_login and _NO_LOGIN in methods:
            self._choose(_NO_LOGIN, _Awaited.REQUEST)
        elif _PASSWORD in methods:
            self._choose(_PASSWORD, _Awaited.LOGIN)
        else:
            self._output += bytes((SOCKS_VERSION, _NO_METHOD))
            refusal = Denial.LOGIN if self._needs_login else Denial.PROTOCOL
            self._end(refusal, "the client offers no way to log in that this door knows")

    def _choose(self, method: int, phase: _Awaited) -> None:
        self._output += bytes((SOCKS_VERSION, method))
        self._awaited = phase

    def _on_login(self, message: bytes) -> None:
        if message[0] != _LOGIN_VERSION:
            self._end(Denial.PROTOCOL, f"login version {message[0]}, where there should be 1")
            return
        size = message[1]
        try:
            user, password = message[2 : 2 + size].decode(), message[3 + size :].decode()
        except UnicodeDecodeError:
            self._output += bytes((_LOGIN_VERSION, 1))
            self._end(Denial.LOGIN, "user and password are no UTF-8")
            return
        if self._needs_login:
            self._events.append(LoginGiven(user, password))
        else:
            self.login_checked(True)

    def login_checked(self, is_good: bool) -> None:
        """See `Handshake`."""
        self._output += bytes((_LOGIN_VERSION, 0 if is_good else 1))
        if is_good:
            self._awaited = _Awaited.REQUEST
        else:
            self._end(Denial.LOGIN, "wrong user or password")

    def _on_request(self, message: bytes) -> None:
        self._is_answerable = True
        if message[0] != SOCKS_VERSION:
            self._end(Denial.PROTOCOL, f"SOCKS version {message[0]}, where there should be 5")
            return
        _version, command, _reserved, kind, *_rest = message
        if command != _CONNECT:
            self._end(Denial.PROTOCOL, f"SOCKS command {command}: only CONNECT (1) is possible")
        elif kind == _NAME:
            self._on_name(message[5:-_PORT_BYTES], int.from_bytes(message[-_PORT_BYTES:], "big"))
        elif kind in _ADDRESS_BYTES:
            address = ipaddress.ip_address(message[4:-_PORT_BYTES])
            text = f"{address} is an address: have the name sent here, as socks5h:// does"
            self._end(Denial.ADDRESS, text)
        else:
            self._end(Denial.ADDRESS, f"address type {kind}, where there should be 3, a name")

    def _on_name(self, name: bytes, port: int) -> None:
        self._awaited = _Awaited.OVER
        try:
            self._events.append(TargetNamed(name.decode(), port))
        except UnicodeDecodeError:
            self._end(Denial.NAME, "the name is no UTF-8")

    def _end(self, refusal: Denial, text: str) -> None:
        self._awaited = _Awaited.OVER
        self._events.append(Malformed(refusal, text))

    _STEPS = {
        _Awaited.GREETING: _on_greeting,
        _Awaited.LOGIN: _on_login,
        _Awaited.REQUEST: _on_request,
    }

    # -- out

    def next_event(self) -> Event | None:
        """See `Handshake`."""
        return self._events.popleft() if self._events else None

    def take_output(self) -> bytes:
        """See `Handshake`."""
        output, self._output = bytes(self._output), bytearray()
        return output

    def welcome(self) -> bytes:
        """See `Handshake`."""
        return bytes((SOCKS_VERSION, 0)) + _BOUND

    def refuse(self, refusal: Denial, text: str) -> bytes:  # noqa: ARG002 - SOCKS has no text
        """See `Handshake`. Before the request no reply of SOCKS could say why."""
        if not self._is_answerable:
            return b""
        return bytes((SOCKS_VERSION, _REPLIES[refusal])) + _BOUND
