"""Name look-ups: joined, dropped, fair over tunnels and names, and nobody ever waits for one."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import Log
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.addresses import TcpAddress, UnixAddress
from tunnelfleet.actors.net import name_lookup
from tunnelfleet.actors.net.name_lookup import (
    LOOKUPS_PER_NAME,
    NameLookups,
    Resolved,
    known_addresses,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

V4, V6 = socket.AF_INET, socket.AF_INET6


class NameServer:
    """Stands for getaddrinfo: names that begin with `slow` are not answered before `answer`."""

    def __init__(self) -> None:
        self.asked = Log()
        self.answer = threading.Event()

    def __call__(self, host: str, port: int, *_args: Any, **_named: Any) -> list[Any]:
        self.asked.add((host, port))
        if host.startswith("slow"):
            assert self.answer.wait(WAIT_SECONDS)
        if host.startswith("none"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host.startswith("broken"):
            raise RuntimeError("a bug of the host's")
        return [(V4, socket.SOCK_STREAM, 6, "", ("127.0.0.9", port))] * 2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    made = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.answer.set()


@pytest.fixture
def names(server: NameServer) -> Iterator[NameLookups]:
    made = NameLookups(6)
    yield made
    server.answer.set()
    made.close()


def answer(names: NameLookups, host: str, port: int = 22, tunnel: str = "t") -> Resolved:
    return names.look_up(host, port, tunnel).outcome.result(WAIT_SECONDS)


# -- what needs no look-up


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (TcpAddress("127.0.0.1", 22), ((V4, ("127.0.0.1", 22)),)),
        (TcpAddress("127.1", 22), ((V4, ("127.0.0.1", 22)),)),
        (TcpAddress("0x7f000001", 22), ((V4, ("127.0.0.1", 22)),)),
        (TcpAddress("::1", 22), ((V6, ("::1", 22, 0, 0)),)),
        (TcpAddress("fe80::1%1", 22), ((V6, ("fe80::1", 22, 0, 1)),)),
        (UnixAddress("/run/app.sock"), ((socket.AF_UNIX, "/run/app.sock"),)),
        (
            TcpAddress("localhost", 22),
            ((V6, ("::1", 22, 0, 0)), (V4, ("127.0.0.1", 22))),
        ),
        (TcpAddress("LOCALHOST.", 0), ((V6, ("::1", 0, 0, 0)), (V4, ("127.0.0.1", 0)))),
        (TcpAddress("localhost.example", 22), None),
        (TcpAddress("1e100.net", 22), None),
        (TcpAddress("1.2.3.4.5", 22), None),
        (TcpAddress("fe80::1%no-such-interface", 22), None),
        (TcpAddress("press-4", 22), None),
    ],
    ids=str,
)
def test_numbers_paths_and_localhost_need_no_look_up(
    server: NameServer, address: Any, expected: Any
) -> None:
    assert known_addresses(address) == expected
    assert server.asked.items == []


# -- answers


def test_a_name_is_looked_up_and_each_address_told_once(names: NameLookups) -> None:
    assert answer(names, "press-4", 99) == Resolved(((V4, ("127.0.0.9", 99)),), "")


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("none.example", "cannot look up 'none.example': Name or service not known"),
        ("broken.example", "cannot look up 'broken.example': RuntimeError: a bug of the host's"),
    ],
)
def test_a_failure_is_an_answer(names: NameLookups, host: str, text: str) -> None:
    assert answer(names, host) == Resolved((), text)


def test_a_name_that_cannot_be_encoded_is_an_answer() -> None:
    names = NameLookups()
    resolved = answer(names, "x" * 70 + ".example")
    names.close()
    assert resolved.error


def test_a_replaced_getaddrinfo_is_used_from_then_on(
    names: NameLookups, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(names, "press-4")
    other = [(V4, socket.SOCK_STREAM, 6, "", ("127.0.0.77", 1))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: other)
    assert answer(names, "press-4").addresses == ((V4, ("127.0.0.77", 1)),)


# -- joined and dropped


def test_those_who_ask_for_the_same_are_answered_together(
    names: NameLookups, server: NameServer
) -> None:
    askers = [names.look_up("slow.example", 22, f"tunnel {number}") for number in range(40)]
    server.asked.wait(1)
    server.answer.set()
    for asker in askers:
        assert asker.outcome.result(WAIT_SECONDS).addresses
    assert server.asked.items == [("slow.example", 22)]


def test_what_nobody_wants_any_more_is_dropped(names: NameLookups, server: NameServer) -> None:
    running = [names.look_up("slow.example", port, "t") for port in range(LOOKUPS_PER_NAME)]
    server.asked.wait(LOOKUPS_PER_NAME - 1)
    waiting = [names.look_up("slow.example", port, "t") for port in range(100, 140)]
    for asker in waiting:
        asker.give_up()
        asker.give_up()
    server.answer.set()
    for asker in running:
        asker.outcome.result(WAIT_SECONDS)
    assert answer(names, "slow.example", 7).addresses
    assert {port for _host, port in server.asked.items} == {*range(LOOKUPS_PER_NAME), 7}
    assert not names._queries
    assert not names._entered
    assert not names._held_back


def test_one_who_gives_up_takes_nothing_from_the_others(
    names: NameLookups, server: NameServer
) -> None:
    first = names.look_up("slow.example", 22, "t")
    second = names.look_up("slow.example", 22, "t")
    first.give_up()
    server.answer.set()
    assert second.outcome.result(WAIT_SECONDS).addresses
    assert not first.outcome.done()


def test_one_that_runs_is_joined_although_those_who_wanted_it_have_gone(
    names: NameLookups, server: NameServer
) -> None:
    names.look_up("slow.example", 22, "t").give_up()
    server.asked.wait(1)
    later = names.look_up("slow.example", 22, "t")
    server.answer.set()
    assert later.outcome.result(WAIT_SECONDS).addresses
    assert server.asked.items == [("slow.example", 22)]


def test_too_many_are_refused(
    names: NameLookups, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_lookup, "MAX_WAITING_LOOKUPS", 10)
    for number in range(10):
        names.look_up(f"slow-{number}.example", 22, "t")
    assert "10 other names" in answer(names, "one-more.example").error


# -- fairness


def test_one_name_does_not_occupy_the_threads(names: NameLookups, server: NameServer) -> None:
    for port in range(40):
        names.look_up("slow.example", port, f"tunnel {port}")
    assert answer(names, "quick.example", tunnel="another").addresses
    assert sum(host == "slow.example" for host, _ in server.asked.items) <= LOOKUPS_PER_NAME


def test_one_tunnel_does_not_occupy_the_threads(names: NameLookups, server: NameServer) -> None:
    for number in range(40):
        names.look_up(f"slow-{number}.example", 22, "bad")
    assert answer(names, "quick.example", tunnel="good").addresses


def test_a_name_that_was_quick_finds_a_thread_whatever_the_others_do(
    names: NameLookups, server: NameServer
) -> None:
    answer(names, "service.example", 443, "good")
    for number in range(40):
        names.look_up(f"slow-{number}.example", 22, f"bad {number}")
    eventually(lambda: len(server.asked.items) >= 6)
    assert answer(names, "service.example", 443, "good").addresses


# -- the end


def test_closing_waits_for_no_look_up(names: NameLookups, server: NameServer) -> None:
    running = names.look_up("slow.example", 22, "t")
    server.asked.wait(1)
    waiting = [names.look_up(f"slow-{number}.example", 22, "t") for number in range(40)]
    names.close()
    assert not server.answer.is_set(), "the server is still silent"
    server.answer.set()
    eventually(lambda: not names._queries)
    assert not any(asker.outcome.done() for asker in (running, *waiting))


def test_after_the_end_a_look_up_fails(names: NameLookups) -> None:
    names.close()
    assert "cannot look up" in answer(names, "press-4").error
