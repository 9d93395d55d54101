"""What clients of a front door call a tunnel, which one they mean, and who may reach it.

Owns the rules of names (docs/gateway.md, "Front doors"):

- `press-4` is a tunnel, `press-4:SSH` and `ssh.press-4` are a service of it. A dot at the end does
  not count.
- A tunnel is found by its exact name; if there is none, by its name in whatever case, if that is
  one tunnel's alone: browsers write host names in lower case. The longest name of a tunnel counts,
  so that names may have dots and colons in them.
- Service ids are compared without case. A tunnel with one service needs none. A tunnel that was
  opened without service ids takes any.
- A number is a port, which clients have to send. It does not count, unless a service has that name.

Owns also what `[[door_rule]]` means. Pure: it is given what there is.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from tunnelfleet.actors.addresses import parse_ip, without_brackets
from tunnelfleet.proto import TunnelError, printable

from .handshake import Denial

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from tunnelfleet.runtime.gateway.config import DoorRule


def may_reach(rules: Iterable[DoorRule], user: str, tunnel: str, service: str | None) -> bool:
    """Return whether a user may reach a service.

    Args:
        rules: all that there are.
        user: who it is; empty if nobody knows, which no rule with `users` matches.
        tunnel: its name, whether there is such a tunnel or not.
        service: its id; None if any of the tunnel's will do.
    """
    rules = list(rules)
    return not rules or any(_matches(rule, user, tunnel, service) for rule in rules)


def _matches(rule: DoorRule, user: str, tunnel: str, service: str | None) -> bool:
    if rule.users and not (user and _is_one_of(user, rule.users)):
        return False
    if rule.tunnels and not _is_one_of(tunnel, rule.tunnels):
        return False
    if not rule.services or service is None:
        return True
    return _is_one_of(service.casefold(), [each.casefold() for each in rule.services])


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


MAX_PORT_DIGITS = 5
SHOWN_SERVICES = 20
"""How many services of a tunnel a message names."""


class DoorRefused(TunnelError):  # noqa: N818 - says what was decided
    """A client does not get what it asks for.

    Args:
        refusal: the kind.
        text: why, and what to do, for people.
    """

    def __init__(self, refusal: Denial, text: str) -> None:
        super().__init__(refusal, text)
        self.refusal = refusal
        self.text = text

    def __str__(self) -> str:
        return self.text


class Asked(NamedTuple):
    """What a client asks for: the tunnel by its own name, the service as the client wrote it."""

    tunnel: str
    service: str | None


class TunnelNames:
    """Finds names without case among those of a fleet.

    Args:
        names: of all tunnels.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = frozenset(names)
        self._folded: dict[str, str | None] = {}
        for name in self._exact:
            folded = name.casefold()
            # None: two tunnels are called so, and neither is meant.
            self._folded[folded] = None if folded in self._folded else name

    def __call__(self, name: str) -> str | None:
        """Return the tunnel that a name means, or None."""
        return name if name in self._exact else self._folded.get(name.casefold())


def find_tunnel(
    text: str,
    port: int | None,
    find: Callable[[str], str | None],
    services_of: Callable[[str], Collection[str] | None],
) -> Asked:
    """Find the tunnel that a client means.

    Args:
        text: what the client asked for, without the number behind it.
        port: the number behind it.
        find: tells of a name which tunnel it is.
        services_of: tells the services of a tunnel; None if they are not known yet.

    Raises:
        DoorRefused: there is no such tunnel.
    """
    first: Asked | None = None
    for name, service, number in readings(text, port):
        tunnel = find(name)
        if tunnel is None:
            continue
        services = services_of(tunnel)
        if service is None:
            return Asked(tunnel, _service_of_port(number, services))
        asked = Asked(tunnel, service)
        if not services or match_service(service, services) is not None:
            return asked
        first = first or asked
    if first is not None:
        return first
    shown = printable(text)
    if parse_ip(without_brackets(text)) is not None:
        reason = f"{shown} is an address: a front door leads to tunnels by their names"
        raise DoorRefused(Denial.ADDRESS, reason)
    raise DoorRefused(Denial.NAME, f"there is no tunnel {shown!r} in this fleet")


def readings(text: str, port: int | None) -> Iterator[tuple[str, str | None, int | None]]:
    """How a text can be read: the names of a tunnel and of a service, and a port; best first."""
    yield text, None, port
    text = text.removesuffix(".")
    yield text, None, port
    for at in reversed([at for at, char in enumerate(text) if char == ":"]):
        name, behind = text[:at], text[at + 1 :]
        if behind.isascii() and behind.isdecimal() and len(behind) <= MAX_PORT_DIGITS:
            yield name, None, int(behind)
        else:
            yield name, behind, None
    for at in [at for at, char in enumerate(text) if char == "."]:
        yield text[at + 1 :], text[:at], None


def _service_of_port(port: int | None, services: Collection[str] | None) -> str | None:
    if port is None or not services:
        return None
    return match_service(str(port), services)


def match_service(service: str, services: Collection[str]) -> str | None:
    """Return the service id that a text means, in whatever case; None if there is none."""
    if service in services:
        return service
    folded = service.casefold()
    return next((each for each in services if each.casefold() == folded), None)


def choose_service(asked: Asked, services: Collection[str]) -> str:
    """Return the service id that a client means.

    Args:
        asked: the tunnel, and what the client called the service.
        services: of the tunnel; empty if it was opened without service ids.

    Returns:
        One of `services`; `ANY_SERVICE` for the only one of a tunnel that has no ids.

    Raises:
        DoorRefused: the tunnel has no such service, or several and none was named.
    """
    tunnel, service = printable(asked.tunnel), asked.service
    if service is None:
        if len(services) > 1:
            one = next(iter(services))
            reason = (
                f"tunnel {tunnel} has several services: {_listed(services)}; "
                f"ask for one of them, as {tunnel}:{one} or {one}.{tunnel}"
            )
            raise DoorRefused(Denial.NAME, reason)
        return next(iter(services), "")
    if not services:
        return service
    found = match_service(service, services)
    if found is None:
        reason = f"tunnel {tunnel} has no service {printable(service)!r}, but {_listed(services)}"
        raise DoorRefused(Denial.NAME, reason)
    return found


def _listed(services: Collection[str]) -> str:
    names = sorted(services)
    more = ", ..." if len(names) > SHOWN_SERVICES else ""
    return ", ".join(map(printable, names[:SHOWN_SERVICES])) + more
