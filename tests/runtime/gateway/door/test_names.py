"""What clients of a front door call a tunnel and its service."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.runtime.gateway.config import DoorRule
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.door.names import (
    Asked,
    DoorRefused,
    TunnelNames,
    choose_service,
    find_tunnel,
    may_reach,
)

if TYPE_CHECKING:
    from collections.abc import Collection

FLEET: dict[str, list[str] | None] = {
    "press-4": ["SSH", "APP"],
    "press-5": ["SSH"],
    "ssh.press-5": ["HTTP"],
    "Halle:4": ["SSH"],
    "ports": ["22", "80"],
    "plain": [],
    "soon": None,
    "Twin": ["SSH"],
    "TWIN": ["SSH"],
    "dotted.services": ["a.b", "SSH"],
    "10.0.0.9": ["SSH"],
}


def find(text: str, port: int | None = None) -> Asked:
    return find_tunnel(text, port, TunnelNames(FLEET), FLEET.__getitem__)


@pytest.mark.parametrize(
    ("text", "port", "asked"),
    [
        ("press-4", 22, Asked("press-4", None)),
        ("press-4", None, Asked("press-4", None)),
        ("PRESS-4", 22, Asked("press-4", None)),
        ("press-4.", 22, Asked("press-4", None)),
        ("press-4:SSH", None, Asked("press-4", "SSH")),
        ("press-4:22", None, Asked("press-4", None)),
        ("ssh.press-4", 22, Asked("press-4", "ssh")),
        ("SSH.Press-4.", 443, Asked("press-4", "SSH")),
        # A tunnel of that name comes before a service of another one.
        ("ssh.press-5", 22, Asked("ssh.press-5", None)),
        ("http.ssh.press-5", 22, Asked("ssh.press-5", "http")),
        ("press-5:ssh", 22, Asked("press-5", "ssh")),
        ("Halle:4", None, Asked("Halle:4", None)),
        ("halle:4:SSH", None, Asked("Halle:4", "SSH")),
        ("ssh.halle:4", None, Asked("Halle:4", "ssh")),
        ("ports", 22, Asked("ports", "22")),
        ("ports:80", None, Asked("ports", "80")),
        ("ports", 443, Asked("ports", None)),
        ("22.ports", 1, Asked("ports", "22")),
        ("plain", 22, Asked("plain", None)),
        ("any.plain", 22, Asked("plain", "any")),
        ("soon", 22, Asked("soon", None)),
        ("x.soon", 22, Asked("soon", "x")),
        ("Twin", 22, Asked("Twin", None)),
        ("TWIN:SSH", 22, Asked("TWIN", "SSH")),
        ("a.b.dotted.services", 22, Asked("dotted.services", "a.b")),
        ("10.0.0.9", 22, Asked("10.0.0.9", None)),
        # The service is not there, which is said with the services that are.
        ("ftp.press-4", 22, Asked("press-4", "ftp")),
        ("press-4:FTP", None, Asked("press-4", "FTP")),
    ],
)
def test_a_tunnel_is_found(text: str, port: int | None, asked: Asked) -> None:
    assert find(text, port) == asked


@pytest.mark.parametrize(
    ("text", "refusal", "says"),
    [
        ("press-9", Denial.NAME, "there is no tunnel 'press-9' in this fleet"),
        ("", Denial.NAME, "there is no tunnel"),
        (".", Denial.NAME, "there is no tunnel"),
        (":", Denial.NAME, "there is no tunnel"),
        ("ssh.", Denial.NAME, "there is no tunnel"),
        ("twin", Denial.NAME, "there is no tunnel"),
        ("10.0.0.1", Denial.ADDRESS, "10.0.0.1 is an address"),
        ("[::1]", Denial.ADDRESS, "[::1] is an address"),
    ],
)
def test_a_tunnel_is_not_found(text: str, refusal: Denial, says: str) -> None:
    with pytest.raises(DoorRefused) as caught:
        find(text, 22)
    assert caught.value.refusal is refusal
    assert says in str(caught.value)


@given(st.text(max_size=80), st.none() | st.integers(0, 65_535))
def test_whatever_is_asked_for_is_found_or_refused(text: str, port: int | None) -> None:
    with contextlib.suppress(DoorRefused):
        assert find(text, port).tunnel in FLEET


@pytest.mark.parametrize(
    ("service", "services", "chosen"),
    [
        (None, ["SSH"], "SSH"),
        (None, [], ""),
        ("any", [], "any"),
        ("ssh", ["APP", "SSH"], "SSH"),
        ("ssh", ["SSH", "ssh"], "ssh"),
        ("straße", ["STRASSE"], "STRASSE"),
    ],
)
def test_a_service_is_chosen(service: str | None, services: Collection[str], chosen: str) -> None:
    assert choose_service(Asked("press-4", service), services) == chosen


@pytest.mark.parametrize(
    ("service", "services", "says"),
    [
        (
            None,
            ["SSH", "APP"],
            "APP, SSH; ask for one of them, as press-4:SSH or SSH.press-4",
        ),
        ("ftp", ["SSH", "APP"], "tunnel press-4 has no service 'ftp', but APP, SSH"),
        (None, [str(each) for each in range(30)], ", ..."),
    ],
)
def test_the_services_are_listed_where_none_can_be_chosen(
    service: str | None, services: Collection[str], says: str
) -> None:
    with pytest.raises(DoorRefused) as caught:
        choose_service(Asked("press-4", service), services)
    assert caught.value.refusal is Denial.NAME
    assert says in str(caught.value)


ALICE_SSH = DoorRule(("alice",), ("press-*",), ("SSH",))
ALL_APP = DoorRule((), (), ("app",))
OPS = DoorRule(("ops-*",), (), ())


@pytest.mark.parametrize(
    ("rules", "user", "tunnel", "service", "may"),
    [
        ([], "", "x", "SSH", True),
        ([ALICE_SSH], "alice", "press-4", "ssh", True),
        ([ALICE_SSH], "alice", "press-4", None, True),
        ([ALICE_SSH], "alice", "press-4", "APP", False),
        ([ALICE_SSH], "alice", "PRESS-4", "SSH", False),
        ([ALICE_SSH], "alice", "cutter", "SSH", False),
        ([ALICE_SSH], "bob", "press-4", "SSH", False),
        ([ALICE_SSH], "", "press-4", "SSH", False),
        ([ALICE_SSH, ALL_APP], "", "cutter", "APP", True),
        ([ALICE_SSH, ALL_APP], "", "cutter", "SSH", False),
        ([ALL_APP], "", "cutter", None, True),
        ([ALL_APP], "", "cutter", "", False),
        ([OPS], "ops-1", "anything", "", True),
        ([OPS], "", "anything", "", False),
        ([DoorRule(("*",), (), ())], "", "x", "SSH", False),
        ([DoorRule(("*",), (), ())], "any", "x", "SSH", True),
    ],
)
def test_rules(
    rules: list[DoorRule], user: str, tunnel: str, service: str | None, may: bool
) -> None:
    assert may_reach(rules, user, tunnel, service) is may
