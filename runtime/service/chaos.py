"""The faults that a service commits on command, by name: over HTTP and from standard input.

Owns each fault's name, its parameters and how they are read. What a fault does is in ``controls``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tunnelfleet.proto import MAX_ID_CHARACTERS, ConfigError, Mode, printable

from .service import TunnelService
from .throttle import parse_rate

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


def _drop(service: TunnelService, tunnel: str, mode: Mode | None = None) -> str:
    service.drop(tunnel, mode)
    return f"dropped {tunnel}"


def _black_hole(service: TunnelService, tunnel: str, mode: Mode | None = None) -> str:
    service.black_hole(tunnel, mode)
    return f"black-holed {tunnel}"


def _session_reset(service: TunnelService, tunnel: str) -> str:
    service.session_reset(tunnel)
    return f"session of {tunnel} reset"


def _stream_reset(service: TunnelService, tunnel: str, service_id: str | None = None) -> str:
    count = service.stream_reset(tunnel, service_id)
    return f"{count} streams of {tunnel} reset"


def _throttle(service: TunnelService, tunnel: str, rate: float | None) -> str:
    service.throttle(tunnel, rate)
    return f"{tunnel} throttled: {'off' if rate is None else f'{rate:g} bytes/s'}"


def _delay(service: TunnelService, tunnel: str, seconds: float) -> str:
    service.delay(tunnel, seconds)
    return f"{tunnel} delayed by {seconds:g} s"


def _refuse(
    service: TunnelService,
    tunnel: str,
    status: int,
    count: int = 1,
    retry_after: float | None = None,
) -> str:
    name = None if tunnel == ANY_TUNNEL else tunnel
    service.refuse_next(name, status, count=count, retry_after=retry_after)
    return f"next {count} requests of {tunnel} will be refused with {status}"


def _corrupt(service: TunnelService, tunnel: str, mode: Mode, count: int = 1) -> str:
    service.corrupt_next(tunnel, mode, count)
    return f"next {count} frames to the {mode} of {tunnel} will be corrupted"


def _stall(service: TunnelService, tunnel: str, mode: Mode) -> str:
    service.stall(tunnel, mode)
    return f"{mode} of {tunnel} is not read"


def _resume(service: TunnelService, tunnel: str, mode: Mode) -> str:
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


def run_fault(service: TunnelService, name: str, given: Mapping[str, object]) -> str:
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


def run_words(service: TunnelService, name: str, words: list[str]) -> str:
    """Cause a fault whose parameters are given by position, as on standard input.

    Raises:
        ConfigError: as ``run_fault``, or there are too many words.
    """
    parameters = FAULTS[name].parameters
    if len(words) > len(parameters):
        raise ConfigError(f"{name} takes {FAULTS[name].usage}")
    names = [each.name for each in parameters]
    return run_fault(service, name, dict(zip(names, words, strict=False)))
