"""The faults that a service commits on command: by calls, over HTTP and from standard input.

Owns what may be done to a running tunnel (drop, black hole, delay, throttle, reset, messages of any
content) and to the handshakes to come; and of each fault the name, the parameters and how they are
read. It does not know sockets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tunnelfleet.actors.token_bucket import parse_rate
from tunnelfleet.actors.transport.codec import Opcode
from tunnelfleet.proto import (
    MAX_ID_CHARACTERS,
    ConfigError,
    Message,
    Mode,
    counted,
    encode_frame,
    printable,
)

from .events import ServiceEventKind
from .handshake import FaultPlan, Refusal
from .relay import RelayedTunnel

_Result = TypeVar("_Result")


class ServiceControls:
    """Commands to a service, callable from any thread.

    All raise ConfigError when the tunnel is not open or the service not running.
    """

    def _do(self, work: Callable[[], _Result]) -> _Result:
        raise NotImplementedError

    def _tunnel(self, name: str) -> RelayedTunnel:
        raise NotImplementedError

    def _tell(
        self, kind: ServiceEventKind, name: str, detail: str = "", mode: Mode | None = None
    ) -> None:
        raise NotImplementedError

    def _remember_bandwidth(self, name: str, bytes_per_second: float | None) -> None:
        raise NotImplementedError

    def _faults(self) -> FaultPlan:
        raise NotImplementedError

    def drop(self, name: str, mode: Mode | None = None) -> None:
        """Reset the TCP connection of a client (None: of both), without a CLOSE."""

        def drop_it() -> None:
            for client in self._tunnel(name).clients(mode):
                self._tell(ServiceEventKind.DROPPED, name, mode=client.mode)
                client.wire.abort("dropped on command")

        self._do(drop_it)

    def black_hole(self, name: str, mode: Mode | None = None) -> None:
        """Keep the TCP connection of a client (None: of both), and never read or write it again."""

        def silence_it() -> None:
            for client in self._tunnel(name).clients(mode):
                self._tell(ServiceEventKind.BLACK_HOLED, name, mode=client.mode)
                client.wire.silence()

        self._do(silence_it)

    def session_reset(self, name: str) -> None:
        """Send SESSION_RESET to both clients."""
        self._do(lambda: self._tunnel(name).reset_session())

    def stream_reset(self, name: str, service_id: str | None = None) -> int:
        """Send STREAM_RESET of a service's active stream (None: of each) to both clients.

        Returns:
            How many streams were reset.
        """
        return self._do(lambda: self._tunnel(name).reset_streams(service_id))

    def corrupt_next(self, name: str, mode: Mode, count: int = 1) -> None:
        """Make no messages of the next frames that are relayed to a side; their length stays."""
        self._do(lambda: self._tunnel(name).corrupt_next(mode, count))

    def stall(self, name: str, mode: Mode) -> None:
        """Stop reading a side's client, and those that come after it, until ``resume_reading``."""
        self._do(lambda: self._tunnel(name).stall(mode))

    def resume_reading(self, name: str, mode: Mode) -> None:
        """Read a stalled side again."""
        self._do(lambda: self._tunnel(name).resume_reading(mode))

    def delay(self, name: str, seconds: float) -> None:
        """Hold every message of a tunnel back for so long, in each direction; 0 ends it."""
        if not 0 <= seconds < float("inf"):
            raise ConfigError(f"a delay must be 0 or more seconds, not {seconds}")
        self._do(lambda: self._tunnel(name).set_delay(seconds))

    def throttle(self, name: str, bytes_per_second: float | None) -> None:
        """Limit each direction of a tunnel; None lifts the limit."""

        def throttle_it() -> None:
            self._tunnel(name).set_bandwidth(bytes_per_second)
            self._remember_bandwidth(name, bytes_per_second)

        self._do(throttle_it)

    def refuse_next(
        self,
        name: str | None,
        status: int,
        body: str = "",
        count: int = 1,
        retry_after: float | None = None,
    ) -> None:
        """Refuse the next requests of a tunnel (None: of anybody) with a status.

        Args:
            name: the tunnel, or None.
            status: HTTP status, 400 to 599.
            body: HTTP body.
            count: how many requests.
            retry_after: seconds for a ``Retry-After`` header, or None for no header.
        """
        if not 400 <= status <= 599:
            raise ConfigError(f"a request is refused with a status of 400 to 599, not {status}")

        def plan() -> None:
            if name is not None:
                self._tunnel(name)
            self._faults().refusals[name] = Refusal(status, body, count, retry_after)

        self._do(plan)

    def silence_next(self, count: int = 1) -> None:
        """Accept the next connections and requests, and never answer them."""
        self._do(lambda: setattr(self._faults(), "silences_left", count))

    def garbage_next(self, count: int = 1) -> None:
        """Answer the next requests with bytes that are not HTTP, and close."""
        self._do(lambda: setattr(self._faults(), "garbage_left", count))

    def send_message(self, name: str, mode: Mode, message: Message) -> None:
        """Send a tunnel message to a client, whether or not the protocol allows it."""
        self.send_raw(name, mode, encode_frame(message))

    def send_raw(self, name: str, mode: Mode, websocket_payload: bytes) -> None:
        """Send a binary WebSocket message with any payload to a client."""
        self._do(lambda: self._tunnel(name).inject(mode, Opcode.BINARY, websocket_payload))

    def send_text(self, name: str, mode: Mode, text: str) -> None:
        """Send a WebSocket text message, which is a protocol error, to a client."""
        self._do(lambda: self._tunnel(name).inject(mode, Opcode.TEXT, text.encode()))

    def send_ping(self, name: str, mode: Mode) -> None:
        """Send an empty ping to a client."""
        self._do(lambda: self._tunnel(name).inject(mode, Opcode.PING, b""))

    def send_close(self, name: str, mode: Mode) -> None:
        """Send an empty CLOSE to a client and leave the connection open."""
        self._do(lambda: self._tunnel(name).inject(mode, Opcode.CLOSE, b""))


ANY_TUNNEL: Final = "any"
MAX_COUNT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class FaultParameter:
    """What a fault is told.

    Attributes:
        name: of the JSON member.
        read: makes the value of a text or a number; raises ValueError or ConfigError.
        takes: what it takes, for people.
        is_optional: whether it may be left out.
    """

    name: str
    read: Callable[[Any], Any]
    takes: str
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault.

    Attributes:
        what: what happens, for people.
        parameters: what it is told, in the order of the command on standard input.
        do: causes it, and returns what to answer.
    """

    what: str
    parameters: tuple[FaultParameter, ...]
    do: Callable[..., str]

    def to_json(self) -> dict[str, object]:
        """Return what it is and what it takes."""
        return {
            "what": self.what,
            "parameters": {each.name: each.takes for each in self.parameters},
            "required": [each.name for each in self.parameters if not each.is_optional],
        }

    @property
    def usage(self) -> str:
        """Return its parameters as the help of the commands shows them."""
        return " ".join(
            f"[{each.name.upper()}]" if each.is_optional else each.name.upper()
            for each in self.parameters
        )


def _count(value: object) -> int:
    number = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else 0
    if not 1 <= number <= MAX_COUNT:
        raise ValueError(value)
    return number


def _seconds(value: object) -> float:
    number = float(value) if isinstance(value, str | int | float) else math.nan
    if not 0 <= number < math.inf:
        raise ValueError(value)
    return number


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _rate(value: object) -> float | None:
    text = str(value) if isinstance(value, int | float) else _text(value)
    return None if text == "off" else parse_rate(text)


_TUNNEL: Final = FaultParameter("tunnel", _text, "the name of a tunnel")
_MODE: Final = FaultParameter("mode", Mode, "source or destination")
_MAYBE_MODE: Final = FaultParameter("mode", Mode, "source or destination; both without it", True)
_MAYBE_COUNT: Final = FaultParameter("count", _count, "how many; 1 without it", True)


def _drop(service: ServiceControls, tunnel: str, mode: Mode | None = None) -> str:
    service.drop(tunnel, mode)
    return f"dropped {tunnel}"


def _black_hole(service: ServiceControls, tunnel: str, mode: Mode | None = None) -> str:
    service.black_hole(tunnel, mode)
    return f"black-holed {tunnel}"


def _session_reset(service: ServiceControls, tunnel: str) -> str:
    service.session_reset(tunnel)
    return f"session of {tunnel} reset"


def _stream_reset(service: ServiceControls, tunnel: str, service_id: str | None = None) -> str:
    count = service.stream_reset(tunnel, service_id)
    return f"{counted(count, 'stream')} of {tunnel} reset"


def _throttle(service: ServiceControls, tunnel: str, rate: float | None) -> str:
    service.throttle(tunnel, rate)
    return f"{tunnel} throttled: {'off' if rate is None else f'{rate:g} bytes/s'}"


def _delay(service: ServiceControls, tunnel: str, seconds: float) -> str:
    service.delay(tunnel, seconds)
    return f"{tunnel} delayed by {seconds:g} s"


def _refuse(
    service: ServiceControls,
    tunnel: str,
    status: int,
    count: int = 1,
    retry_after: float | None = None,
) -> str:
    name = None if tunnel == ANY_TUNNEL else tunnel
    service.refuse_next(name, status, count=count, retry_after=retry_after)
    return f"next {counted(count, 'request')} of {tunnel} will be refused with {status}"


def _corrupt(service: ServiceControls, tunnel: str, mode: Mode, count: int = 1) -> str:
    service.corrupt_next(tunnel, mode, count)
    return f"next {counted(count, 'frame')} to the {mode} of {tunnel} will be corrupted"


def _stall(service: ServiceControls, tunnel: str, mode: Mode) -> str:
    service.stall(tunnel, mode)
    return f"{mode} of {tunnel} is not read"


def _resume(service: ServiceControls, tunnel: str, mode: Mode) -> str:
    service.resume_reading(tunnel, mode)
    return f"{mode} of {tunnel} is read again"


FAULTS: Final[dict[str, Fault]] = {
    "drop": Fault("the TCP connection is cut, without a CLOSE", (_TUNNEL, _MAYBE_MODE), _drop),
    "black-hole": Fault(
        "the connection stays open and is never served again", (_TUNNEL, _MAYBE_MODE), _black_hole
    ),
    "session-reset": Fault("SESSION_RESET to both clients", (_TUNNEL,), _session_reset),
    "stream-reset": Fault(
        "STREAM_RESET of active streams to both clients",
        (_TUNNEL, FaultParameter("service_id", _text, "of one service; of all without it", True)),
        _stream_reset,
    ),
    "throttle": Fault(
        "each direction is limited",
        (_TUNNEL, FaultParameter("rate", _rate, "100kB/s, 800kbit/s, 12500, or off")),
        _throttle,
    ),
    "delay": Fault(
        "each message is late",
        (_TUNNEL, FaultParameter("seconds", _seconds, "0 or more; 0 ends it")),
        _delay,
    ),
    "refuse": Fault(
        "the next handshakes are refused",
        (
            FaultParameter("tunnel", _text, f"the name of a tunnel, or {ANY_TUNNEL}"),
            FaultParameter("status", _count, "of HTTP, 400 to 599"),
            _MAYBE_COUNT,
            FaultParameter("retry_after", _seconds, "seconds of a Retry-After header", True),
        ),
        _refuse,
    ),
    "corrupt": Fault(
        "the next frames relayed to that side are no messages any more",
        (_TUNNEL, _MODE, _MAYBE_COUNT),
        _corrupt,
    ),
    "stall": Fault("that side is not read", (_TUNNEL, _MODE), _stall),
    "resume": Fault("it is read again", (_TUNNEL, _MODE), _resume),
}


def run_fault(service: ServiceControls, name: str, given: Mapping[str, object]) -> str:
    """Cause a fault; return what to answer.

    Args:
        service: whose.
        name: of a fault.
        given: its parameters by name.

    Raises:
        ConfigError: a parameter is missing, unknown or wrong; or there is no such tunnel.
    """
    fault = FAULTS[name]
    known = {each.name: each for each in fault.parameters}
    if unknown := [key for key in given if key not in known]:
        shown = printable(", ".join(unknown), MAX_ID_CHARACTERS)
        raise ConfigError(f"{name} takes {', '.join(known)}, not {shown}")
    values: dict[str, Any] = {}
    for parameter in fault.parameters:
        value = given.get(parameter.name)
        if value is None:
            if not parameter.is_optional:
                raise ConfigError(f"{name}: {parameter.name} is missing: {parameter.takes}")
            continue
        try:
            values[parameter.name] = parameter.read(value)
        except (ValueError, TypeError, OverflowError):
            raise ConfigError(f"{name}: {parameter.name} takes {parameter.takes}") from None
    return fault.do(service, **values)


def run_words(service: ServiceControls, name: str, words: list[str]) -> str:
    """Cause a fault whose parameters are given by position, as on standard input.

    Raises:
        ConfigError: as ``run_fault``, or there are too many words.
    """
    parameters = FAULTS[name].parameters
    if len(words) > len(parameters):
        raise ConfigError(f"{name} takes {FAULTS[name].usage}")
    names = [each.name for each in parameters]
    return run_fault(service, name, dict(zip(names, words, strict=False)))
