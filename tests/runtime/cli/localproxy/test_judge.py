"""When `tunnelfleet localproxy` ends, and what it advises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import TunnelConfig
from tunnelfleet.actors.events import (
    ListenerOpened,
    ServiceIdsReceived,
    TunnelState,
    TunnelStateChanged,
)
from tunnelfleet.proto import Endpoint, Mode
from tunnelfleet.runtime.cli.errors import CommandFailed
from tunnelfleet.runtime.cli.localproxy.config import NOWHERE, Plan
from tunnelfleet.runtime.cli.localproxy.run import Judge, advice_on

ADDRESS = TcpAddress("127.0.0.1", 22)
CONFIG = TunnelConfig(
    name="localproxy",
    mode=Mode.DESTINATION,
    endpoint=Endpoint.parse("ws://127.0.0.1:1"),
    access_token="token",
    services={"": ADDRESS},
)
PLAN = Plan(config=CONFIG, verbosity=4, ca_path=None, verify=True, retry_count=-1, reconnect=True)
CONNECTED = TunnelStateChanged("localproxy", TunnelState.CONNECTED)


def backoff(reason: str) -> TunnelStateChanged:
    return TunnelStateChanged("localproxy", TunnelState.BACKOFF, reason)


def announced(*service_ids: str) -> ServiceIdsReceived:
    return ServiceIdsReceived("localproxy", service_ids, "c")


def mapped(*service_ids: str) -> Plan:
    return replace(PLAN, config=replace(CONFIG, services=dict.fromkeys(service_ids, ADDRESS)))


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (
            (
                "TLS with wss://h: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
                "unable to get local issuer certificate (_ssl.c:1006)"
            ),
            "-c FILE",
        ),
        ("certificate verify failed: self-signed certificate in certificate chain", "-c FILE"),
        ("certificate verify failed: self signed certificate (_ssl.c:1)", "-c FILE"),
        ("certificate verify failed: Hostname mismatch, certificate is not valid", "with -e"),
        ("certificate verify failed: IP address mismatch, certificate is not valid for", "with -e"),
        ("certificate verify failed: certificate has expired (_ssl.c:1)", "clock"),
        ("TLS with wss://h: [SSL: WRONG_VERSION_NUMBER] wrong version number", "ws://HOST:PORT"),
        ("cannot reach wss://h: Name or service not known", "(-r)"),
        ("cannot reach wss://h: Temporary failure in name resolution", "DNS"),
        ("cannot reach wss://h: Connection refused", "HTTPS_PROXY"),
        ("cannot reach the proxy h:3128: Connection refused", "that the proxy runs"),
        ("cannot reach the proxy h:3128: Name or service not known", "that the proxy runs"),
        ("the service sent no SERVICE_IDS within 15 s", ""),
    ],
)
def test_what_can_be_done_about_a_failed_connect(reason: str, advice: str) -> None:
    found = advice_on(reason)
    assert advice in found
    assert bool(found) is bool(advice)


def test_whoever_has_given_authorities_is_told_where_to_put_another() -> None:
    judge = Judge(replace(PLAN, ca_path="/etc/ca.pem"))
    (advice,) = judge.judge(backoff("certificate verify failed: self-signed certificate"))
    assert advice == "/etc/ca.pem has other authorities: put the service's into it"


def test_advice_is_given_once() -> None:
    judge = Judge(PLAN)
    refused = backoff("cannot reach ws://h: Connection refused; retry in 0.5 s")
    assert len(judge.judge(refused)) == 1
    assert judge.judge(refused) == []
    assert len(judge.judge(backoff("certificate verify failed: self-signed certificate"))) == 1


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "no answer; retry in 0.0 s",
            (
                "gave up after 1 failed connect: no answer; "
                "start it again, or raise websocket.connect_retry_count"
            ),
        ),
        ("retry in 12.5 s", "gave up after 1 failed connect: ; start it again, or raise"),
        (
            "certificate verify failed: self-signed certificate; retry in 0.1 s",
            (
                "gave up after 1 failed connect: certificate verify failed: self-signed "
                "certificate; if the service's authority is one of your own, "
            ),
        ),
    ],
)
def test_a_final_error_promises_no_other_try_and_says_what_to_do(reason: str, said: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        Judge(replace(PLAN, retry_count=1)).judge(backoff(reason))
    assert str(caught.value).startswith(said)
    assert "retry in" not in str(caught.value)


def test_a_lost_connection_that_is_final_promises_nothing_either() -> None:
    judge = Judge(replace(PLAN, reconnect=False))
    judge.judge(CONNECTED)
    with pytest.raises(CommandFailed) as caught:
        judge.judge(backoff("the service closed the TCP connection; retry in 0.0 s"))
    assert str(caught.value).startswith(
        "the connection was lost: the service closed the TCP connection; the settings say"
    )


def test_no_advice_on_a_connection_that_stood() -> None:
    judge = Judge(PLAN)
    judge.judge(CONNECTED)
    assert judge.judge(backoff("cannot reach ws://h: Connection refused")) == []


def test_services_that_do_not_fit_end_it() -> None:
    plan = mapped("X")
    with pytest.raises(CommandFailed) as caught:
        Judge(plan).judge(announced("SSH"))
    assert str(caught.value) == plan.config.mismatch(("SSH",))


@pytest.mark.parametrize(
    ("service_ids", "said"),
    [
        (("SSH", "WEB"), "services are SSH, WEB; give -d SSH=HOST:PORT,WEB=HOST:PORT, or"),
        ((), "services are none; give -d HOST:PORT, or"),
    ],
)
def test_a_destination_without_a_mapping_ends_when_it_knows_the_services(
    service_ids: tuple[str, ...], said: str
) -> None:
    config = replace(CONFIG, services={"": NOWHERE})
    judge = Judge(replace(PLAN, config=config, is_mapped=False))
    with pytest.raises(CommandFailed) as caught:
        judge.judge(announced(*service_ids))
    assert str(caught.value).startswith("nothing to connect to: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("plan", "service_ids", "notes"),
    [
        (mapped("SSH"), ("SSH",), []),
        (mapped("SSH"), ("SSH", "WEB"), ["the tunnel's service 'WEB' has no mapping and"]),
        (mapped("SSH", "X"), ("SSH",), ["'X' is mapped and is no service of this tunnel"]),
        (mapped(""), ("SSH",), []),
        (mapped(""), ("SSH", "WEB"), ["every service of the tunnel (SSH, WEB) has this address"]),
        (
            replace(mapped("SSH", "port"), from_files=True),
            ("SSH", "WEB"),
            ["the tunnel's service 'WEB' has no mapping", "SSH connects to 127.0.0.1:22"],
        ),
    ],
)
def test_what_is_mapped_is_compared_once(
    plan: Plan, service_ids: tuple[str, ...], notes: list[str]
) -> None:
    judge = Judge(plan)
    found = judge.judge(announced(*service_ids))
    assert len(found) == len(notes)
    assert all(line.startswith(note) for line, note in zip(found, notes, strict=True))
    assert judge.judge(announced(*service_ids)) == []


def test_other_events_mean_nothing() -> None:
    assert Judge(PLAN).judge(ListenerOpened("localproxy", "SSH", ADDRESS)) == []
