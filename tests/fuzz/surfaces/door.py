"""Who comes to a gateway's door, by SOCKS, HTTP or something else (runtime/gateway/door)."""

from __future__ import annotations

from tests.fuzz.harness import TURNS, Harness, Source, clock_of, cut, is_line
from tunnelfleet.proto.text import MAX_REASON_CHARACTERS
from tunnelfleet.runtime.gateway.config.fleet import DoorRule
from tunnelfleet.runtime.gateway.door.first_byte import begin_handshake
from tunnelfleet.runtime.gateway.door.handshake import (
    MAX_NAME_BYTES,
    Denial,
    Handshake,
    LoginGiven,
    Malformed,
    TargetNamed,
)
from tunnelfleet.runtime.gateway.door.http_connect import MAX_HEAD_BYTES
from tunnelfleet.runtime.gateway.door.names import (
    DoorRefused,
    TunnelNames,
    choose_service,
    find_tunnel,
    may_reach,
)

SERVICES = {"press-4": ("SSH", "HTTP"), "a.b:c": ("22",), "Free": ()}
RULES = (
    DoorRule(("ann",), ("press-*",), ("SSH",)),
    DoorRule((), ("Free",), ()),
)
NAMES = TunnelNames(SERVICES)
MAX_OUTPUT_BYTES = 8_192
END = b"\r\n\r\n"

Taken = tuple[list[object], bytes, int]
"""What was said, what was answered, and how many bytes were the handshake's."""


def run(data: bytes) -> None:
    source = Source(data)
    options, sizes = source.byte(), source.take(3)
    needs_login, is_good = bool(options & 1), bool(options & 2)
    wire = source.rest()
    if not wire:
        return
    whole = talk(wire, [wire], needs_login=needs_login, is_good=is_good)
    assert whole == talk(wire, cut(wire, sizes), needs_login=needs_login, is_good=is_good)
    said, _output, taken = whole
    assert taken <= min(len(wire), MAX_HEAD_BYTES)
    logins = [each for each in said if isinstance(each, LoginGiven)]
    targets = [each for each in said if isinstance(each, TargetNamed)]
    if needs_login and targets:
        # Nobody comes through without a login that was found good.
        assert len(logins) == 1
        assert is_good
    for target in targets:
        find(target, logins[0].user if logins else "")


def talk(wire: bytes, pieces: list[bytes], *, needs_login: bool, is_good: bool) -> Taken:
    handshake = begin_handshake(wire[0], needs_login=needs_login)
    said: list[object] = []
    output, taken, waiting = b"", 0, b""
    clock = clock_of(pieces)
    for piece in pieces:
        waiting += piece
        while waiting and not is_over(said):
            with clock:
                count = handshake.receive(waiting)
            assert 0 <= count <= len(waiting)
            waiting, taken = waiting[count:], taken + count
            answered = answer(handshake, said, is_good=is_good)
            output += answered
            assert count or answered or said, "it takes nothing and says nothing"
    assert len(output) <= MAX_OUTPUT_BYTES
    return said, output, taken


def is_over(said: list[object]) -> bool:
    return bool(said) and isinstance(said[-1], TargetNamed | Malformed)


def answer(handshake: Handshake, said: list[object], *, is_good: bool) -> bytes:
    """Do what a visitor does with each event; return what was sent."""
    output = handshake.take_output()
    while (event := handshake.next_event()) is not None:
        said.append(event)
        if isinstance(event, LoginGiven):
            # Not that it has no password in it: a user may be called as the password is.
            assert repr(event) == repr(LoginGiven(event.user, ""))
            handshake.login_checked(is_good)
        elif isinstance(event, TargetNamed):
            assert 0 < len(event.name.encode()) <= MAX_NAME_BYTES or handshake.protocol == "socks5"
            assert event.port is None or 0 <= event.port <= 65_535
            output += handshake.welcome()
        else:
            assert len(event.text) <= MAX_REASON_CHARACTERS
            output += refused(handshake, event.refusal, event.text)
        output += handshake.take_output()
    return output


def refused(handshake: Handshake, refusal: Denial, text: str) -> bytes:
    output = handshake.refuse(refusal, text)
    if handshake.protocol == "http":
        head, body = output.split(END, 1)
        lines = head.split(b"\r\n")
        assert b"\n" not in head.replace(b"\r\n", b"")
        assert not any(each.startswith((b" ", b"\t")) for each in lines)
        assert f"Content-Length: {len(body)}".encode() in lines
    return output


def find(target: TargetNamed, user: str) -> None:
    """The name leads to a tunnel that there is, or to a refusal."""
    try:
        with TURNS:
            asked = find_tunnel(target.name, target.port, NAMES, SERVICES.get)
            service = choose_service(asked, SERVICES[asked.tunnel])
    except DoorRefused as error:
        assert is_line(error.text, 4 * MAX_REASON_CHARACTERS)
        return
    assert not SERVICES[asked.tunnel] or service in SERVICES[asked.tunnel]
    if may_reach(RULES, user, asked.tunnel, service):
        assert asked.tunnel != "a.b:c"
        assert (user, service) == ("ann", "SSH") or asked.tunnel == "Free"


def connect(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"CONNECT {target} HTTP/1.1", *headers, "", "rest"]).encode()


LOGIN = "Proxy-Authorization: Basic YW5uOnNlY3JldA=="
SOCKS = b"\5\2\0\2"
NAMED = b"\5\1\0\3\x07press-4\0\x16rest"
HARNESS = Harness(
    run=run,
    covers=[
        "runtime/gateway/door/handshake.py",
        "runtime/gateway/door/first_byte.py",
        "runtime/gateway/door/socks.py",
        "runtime/gateway/door/http_connect.py",
        "runtime/gateway/door/names.py",
    ],
    seeds=[
        b"\0\1\2\3" + SOCKS + NAMED,
        b"\3\1\2\3" + SOCKS + b"\1\3ann\6secret" + NAMED,
        b"\1\1\2\3" + SOCKS + b"\1\3ann\6secret" + NAMED,
        b"\0\1\2\3" + SOCKS + b"\5\1\0\1\x7f\0\0\1\0\x16",
        b"\0\1\2\3" + SOCKS + b"\5\1\0\4" + bytes(15) + b"\1\0\x16",
        b"\0\1\2\3" + connect("press-4:SSH"),
        b"\3\1\2\3" + connect("ssh.press-4:22", LOGIN),
        b"\3\1\2\3" + connect("ssh.press-4:22"),
        b"\0\1\2\3" + connect("Fr%65e:x", "Content-Length: 0"),
        b"\0\1\2\3" + connect("a.b:c:22", "Transfer-Encoding: chunked"),
        b"\0\1\2\3" + connect("127.0.0.1:22").replace(b"\r\n", b"\n"),
        b"\0\1\2\3GET / HTTP/1.1\r\n\r\n",
        b"\0\1\2\3\4\1\0\x16\x7f\0\0\1\0",
        b"\0\1\2\3\x16\3\1",
    ],
    words=[b"CONNECT ", b" HTTP/1.1", b"\r\n", LOGIN.encode(), b"press-4", b"%2e", b"\5\1\0\3"],
    max_bytes=1_024,
)
